"""Published families: what transformers says of tiny random checkpoints.

tests/golden/make_hf.py wrote the checkpoints and the goldens with transformers;
nothing here needs torch, and what can use it is skipped without.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from align_jax.models import (
  hf,
  hf_config,
  hf_export,
  hf_fields,
  initial,
  lora,
  transformer,
)
from align_jax.policy import scoring
from align_jax.tools import check_model
from align_jax.types import Batch

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'hf'
NAMES = sorted(p.parent.name for p in GOLDEN.glob('*/golden.npz'))
SCORES = [n for n in NAMES if n.endswith('_scores')]
NAMES = [n for n in NAMES if n not in SCORES]
# One for each way that tensors are laid out.
LAYOUTS = ['llama_linear_biases', 'qwen3', 'qwen3_moe', 'mixtral', 'gemma2']
LAYOUTS += ['phi3', 'gpt2', 'gpt_neox', *SCORES]
NEW = 32
LENGTH = 7 + NEW  # what length-dependent RoPE was fixed for in the goldens
TORCH = importlib.util.find_spec('torch') is not None
needs_torch = pytest.mark.skipif(not TORCH, reason='needs torch')


def golden(name):
  return dict(np.load(GOLDEN / name / 'golden.npz'))


@functools.cache
def load(name):
  return hf.load(GOLDEN / name, max_length=LENGTH)


@functools.partial(jax.jit, static_argnums=1)
def everything(params, c, prompts, valid, completions):
  """Greedy decoding; one full forward over it and the given completions."""
  tokens, decoded = check_model.greedy(params, c, prompts, valid, NEW)
  size = completions.shape[-1]
  padded = jnp.pad(completions, ((0, 0), (0, 0), (0, NEW - size)))
  own = jnp.concatenate([padded, tokens[:, None]], 1)
  lengths = jnp.array([size] * completions.shape[1] + [NEW])
  own_valid = jnp.arange(NEW) < lengths[None, :, None]
  own_valid = jnp.broadcast_to(own_valid, own.shape)
  states = transformer.hidden_states(params, c, prompts, valid, own, own_valid)
  prompt, own = (check_model.head_outputs(params, c, h) for h in states)
  again = jnp.concatenate([prompt[:, -1:], own[:, -1, :-1]], 1)
  return prompt, own[:, :-1, :size], tokens, decoded, again


def close(x, y, tolerance=1e-4):
  """Relative to the largest of the numbers compared."""
  np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


@pytest.mark.parametrize('name', NAMES)
def test_logits_and_greedy_tokens_are_those_of_transformers(name):
  g, model = golden(name), load(name)
  arrays = g['prompts'], g['valid'], g['completions']
  assert not g['valid'].all() and g['valid'].any(1).all()
  prompt, own, tokens, decoded, again = everything(*model[:2], *arrays)
  P, G, T = g['completions'].shape
  want = g['logits'].reshape(P, G, -1, g['logits'].shape[-1])
  size = want.shape[2] - T
  close(own, want[:, :, size:])
  close(prompt[g['valid']], want[:, 0, :size][g['valid']])
  np.testing.assert_array_equal(tokens, g['greedy'])
  close(decoded, again, 1e-5)


@pytest.mark.parametrize('name', SCORES)
def test_scores_are_those_of_transformers(name):
  g, model = golden(name), load(name)
  assert model.config.head == 'scalar'
  close(scores_of(model, g), g['scores'])


def scores_of(model, g):
  completions = g['completions'].reshape(-1, g['completions'].shape[-1])
  valid = np.ones(completions.shape, bool)
  batch = Batch(
    prompts=g['prompts'],
    prompt_valid=g['valid'],
    completions=completions,
    valid=valid,
    mask=valid,
    rewards=np.zeros(len(completions)),
    group_size=g['completions'].shape[1],
  )
  score = jax.jit(functools.partial(scoring.scores, config=model.config))
  return score(model.params, batch)


def bits(tree):
  return {
    jax.tree_util.keystr(path): (str(x.dtype), np.asarray(x).tobytes())
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize(
  'name, dtype',
  [(n, 'float32') for n in LAYOUTS] + [(n, 'bfloat16') for n in LAYOUTS[-2:]],
)
def test_export_loads_back_to_the_bit(name, dtype, tmp_path):
  model = hf.load(GOLDEN / name, dtype=dtype)
  noise = np.random.default_rng(0).normal
  # Numbers that float16 does not hold.
  shift = lambda x: jnp.asarray(x + noise(size=x.shape), x.dtype)
  params = jax.tree.map(shift, jax.tree.map(np.asarray, model.params))
  size = 20_000 if dtype == 'float32' else 2**31
  source = GOLDEN / name
  hf_export.export(
    tmp_path, params, *model[1:], source=source, shard_bytes=size
  )
  assert (tmp_path / hf.INDEX).exists() == (dtype == 'float32')
  again = hf.load(tmp_path, dtype=dtype)
  assert bits(again.params) == bits(params)
  assert again.config == model.config
  assert str(again.hf_config['dtype']) == dtype
  assert (tmp_path / 'generation_config.json').exists()


def test_the_docs_import_and_export(tmp_path):
  """The blocks of docs/models.md, in their order; B of the adapters is zero."""
  page = (GOLDEN.parents[2] / 'docs' / 'models.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', page, re.S)
  load, merge = (b for b in blocks if 'hf_export.export' in b)
  names = {'folder': GOLDEN / 'qwen3', 'out': tmp_path}
  exec(load, names)
  again = hf.load(tmp_path, dtype='bfloat16')
  assert bits(again.params) == bits(names['params'])
  assert names['config'].dtype == 'bfloat16'
  settings = lora.Lora(rank=2)
  names['adapters'] = lora.init(
    jax.random.key(0), names['params'], names['config'], settings
  )
  exec(merge, names)
  again = hf.load(tmp_path, dtype='bfloat16')
  assert bits(again.params) == bits(names['params'])


def test_a_toy_is_exported_as_llama(config, params, tmp_path):
  hf_export.export(tmp_path, params, config)
  again = hf.load(tmp_path)
  assert bits(again.params) == bits(params) and again.config == config
  strange = dataclasses.replace(config, activation='relu', norm_offset=1.0)
  with pytest.raises(ValueError, match='norm_offset=0.0, the model has 1.0'):
    hf_export.export(tmp_path / 'strange', params, strange)


def test_a_language_model_gets_a_scalar_head(tmp_path):
  model = hf.load(GOLDEN / 'llama', head='scalar')
  assert model.config.head == 'scalar' and (model.params['head'] == 0).all()
  assert bits(model.params['layers']) == bits(load('llama').params['layers'])
  unsaid = {k: v for k, v in model.hf_config.items() if k != 'pad_token_id'}
  with pytest.raises(ValueError, match='pad_token_id'):
    hf_export.export(tmp_path, *model[:2], unsaid)
  hf_export.export(tmp_path, *model[:2], unsaid | {'pad_token_id': None})
  assert hf.load(tmp_path).config.head == 'scalar'


def test_names_without_a_prefix(tmp_path):
  """As the first published GPT-2 has them, with its buffers."""
  shutil.copytree(GOLDEN / 'gpt2', tmp_path, dirs_exist_ok=True)
  edit(tmp_path, lambda t: {bare(k): v for k, v in t.items()} | BUFFER)
  assert bits(hf.load(tmp_path).params) == bits(load('gpt2').params)


BUFFER = {'h.0.attn.bias': np.zeros((1, 1, 4, 4), np.float32)}
bare = lambda name: name.removeprefix('transformer.')


def edit(folder, change):
  path = folder / 'model.safetensors'
  tensors = change(safetensors.numpy.load_file(path))
  safetensors.numpy.save_file(tensors, path)


def without(name):
  return lambda t: {k: v for k, v in t.items() if k != name}


NORM = 'model.layers.1.input_layernorm.weight'
HALF = np.zeros(12, np.float16)
WHOLE = np.zeros(24, np.int32)


@pytest.mark.parametrize(
  'change, message',
  [
    (without(NORM), f'missing: {NORM}'),
    (lambda t: t | {'model.more': HALF}, 'not expected: model.more'),
    (lambda t: t | {NORM: HALF}, rf'{NORM} is \(12,\) of F16, expected \(24,'),
    (lambda t: t | {NORM: WHOLE}, f'{NORM} is .* of I32, expected'),
    (lambda t: {'x': HALF}, 'missing: .* and [0-9]+ more; not expected: x'),
    (
      lambda t: t | {'lm_head.weight': 0 * t['model.embed_tokens.weight']},
      'lm_head.weight differs from model.embed_tokens.weight',
    ),
  ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
  shutil.copytree(GOLDEN / 'qwen3', tmp_path, dirs_exist_ok=True)
  edit(tmp_path, change)
  with pytest.raises(ValueError, match=message) as error:
    hf.load(tmp_path)
  assert '\n' not in str(error.value)


def test_broken_folders_are_named(tmp_path):
  shutil.copytree(GOLDEN / 'qwen3', tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(ValueError, match='model.safetensors: not a whole'):
    hf.load(tmp_path)
  path.unlink()
  with pytest.raises(ValueError, match='no such file; .* safetensors only'):
    hf.load(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json: not JSON'):
    hf.load(tmp_path)


def fields(name, **changes):
  return json.loads((GOLDEN / name / 'config.json').read_text()) | changes


@pytest.mark.parametrize(
  'name, changes, message',
  [
    ('llama', {'model_type': 'mamba'}, "model_type='mamba' is none of"),
    ('llama', {'quantization_config': {'bits': 4}}, 'quantization_config='),
    ('llama', {'no_rope_layers': [1]}, r'no_rope_layers=\[1\] is not'),
    ('llama', {'hidden_act': 'mish'}, "hidden_act='mish' is none of"),
    ('llama', {'vocab_size': None}, "'vocab_size' is missing"),
    (
      'llama',
      {'rope_scaling': {'type': 'axial'}, 'rope_parameters': None},
      "rope_type='axial' is none of",
    ),
    (
      'llama',
      {'rope_parameters': {'rope_type': 'linear', 'factor': 2, 'speed': 3}},
      "speed=3 is not an option of rope_type='linear'",
    ),
    ('gemma2', {'layer_types': ['chunked_attention'] * 3}, 'layer_types='),
    ('gemma2', {'use_bidirectional_attention': True}, 'use_bidirectional'),
    ('gpt2', {'scale_attn_weights': False}, 'scale_attn_weights=False'),
    ('qwen3_moe', {'decoder_sparse_step': 2}, 'decoder_sparse_step=2'),
    ('qwen3_moe', {'mlp_only_layers': [0]}, r'mlp_only_layers=\[0\]'),
    ('phi3', {'attention_bias': True}, 'attention_bias=True'),
  ],
)
def test_what_the_model_does_not_do_is_named(name, changes, message):
  hf_config.from_hf(fields(name))
  with pytest.raises(ValueError, match=message) as error:
    hf_config.from_hf(fields(name, **changes))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name, changes',
  [
    ('gpt2', {'tokenizer_revision': 'main', 'is_decoder': True}),
    ('llama', {'rope_interleaved': False, 'max_grad_norm': 1.0}),
    ('llama', {'attn_kernel_dropout': 0.3, 'lr_scale': 2, 'best_metric': 0.7}),
    ('llama', {'logits_scaling': 1.0, 'embedding_multiplier': 1}),
    ('llama', {'layer_types': ['full_attention'] * 2, 'use_qk_norm': False}),
    ('qwen2', {'use_flash_attention_2': True, 'vision_start_token_id': 9}),
    ('qwen3', {'num_nextn_predict_layers': 0, 'output_attentions': True}),
    ('mistral', {'quantization_config': {}, 'adapters': None}),
    ('mixtral', {'router_z_loss_coef': 0.1, 'expert_dropout': 0.1}),
    ('gemma2', {'summary_activation': 'tanh', 'image_token_index': 7}),
    ('phi3', {'position_embedding_type': 'rope', 'attention_type': 'full'}),
    ('gpt2', {'position_embedding_type': 'absolute', 'use_rope': False}),
    ('gpt_neox', {'head_dim': 6, 'rope_scaling': {'type': 'default'}}),
  ],
)
def test_what_says_nothing_of_the_forward_pass_is_ignored(name, changes):
  changes = {k: v for k, v in changes.items() if k != 'head_dim'} | (
    {'head_dim': hf_config.from_hf(fields(name)).head_dim}
    if 'head_dim' in changes
    else {}
  )
  assert hf_config.from_hf(fields(name, **changes)) == hf_config.from_hf(
    fields(name)
  )


@pytest.mark.parametrize(
  'name, changes',
  [
    ('llama', {'rope_interleaved': True}),
    ('llama', {'quantization_config': {'quant_method': 'awq'}}),
    ('llama', {'attention_multiplier': 1.0}),  # instead of 1 / sqrt(size)
    ('llama', {'residual_multiplier': 0.22}),
    ('llama', {'logits_scaling': 8.0}),
    ('llama', {'use_rope': False}),
    ('llama', {'is_causal': False}),
    ('llama', {'layer_types': ['full_attention', 'sliding_attention']}),
    ('llama', {'head_dim_v': 12}),
    ('qwen2', {'dual_chunk_attention_config': {'chunk_size': 9}}),
    ('qwen2', {'useQkNorm': True}),
    ('qwen3', {'attn_output_gate': True}),
    ('mistral', {'use_alibi': True}),
    ('mixtral', {'n_shared_experts': 1}),
    ('gemma2', {'altup_active_idx': 0, 'laurel_rank': 0, 'mup_scale': 2}),
    ('phi3', {'num_nextn_predict_layers': 1}),
    ('gpt2', {'position_embedding_type': 'relative_key'}),
    ('gpt2', {'pruned_heads': {'0': [1]}}),
    ('gpt_neox', {'use_rotary': False}),
  ],
)
def test_what_could_change_the_forward_pass_is_refused(name, changes):
  with pytest.raises(ValueError, match='is not supported by this model') as e:
    hf_config.from_hf(fields(name, **changes))
  assert any(f'{k}=' in str(e.value) for k in changes)


def test_all_that_transformers_reads_of_a_config_is_read_or_refused():
  """But what has no part in the forward pass of a language model."""
  package = importlib.util.find_spec('transformers')
  if package is None:
    pytest.skip('needs transformers')
  idle = """
    attention_dropout attn_pdrop classifier_dropout embd_pdrop get_text_config
    hidden_dropout image_token_id initializer_range is_decoder
    mm_tokens_per_image num_labels output_router_logits pad_token_id
    problem_type
    reorder_and_upcast_attn resid_pdrop router_aux_loss_coef router_jitter_noise
    summary_first_dropout summary_last_dropout summary_proj_to_labels
    summary_use_proj text_config use_cache vision_config _attn_implementation
  """.split()
  for name, family in hf_config.CONFIGS.items():
    folder = name.removesuffix('_text')
    path = pathlib.Path(package.origin).parent / 'models' / folder
    source = (path / f'modeling_{folder}.py').read_text('utf-8')
    f = hf_config.Fields(fields(name.removesuffix('_text')))
    config = family(f, 0)
    for field in {*re.findall(r'config\.(\w+)', source)} - {*idle}:
      known = field in f.seen or field in hf_fields.OURS
      assert known or hf_fields.changes(field, 2, config), (name, field)


SIZES = 'vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads'
SIZES += 'num_key_value_heads', 'intermediate_size', 'head_dim'


@pytest.mark.parametrize(
  'field, wrong',
  [
    *((field, wrong) for field in SIZES for wrong in (0, -4, '24', 2.5, True)),
    ('rope_theta', 0),
    ('rms_norm_eps', 'small'),
    ('rms_norm_eps', float('nan')),
    ('tie_word_embeddings', 'yes'),
    ('attention_bias', 1),
    ('rope_scaling', 'linear'),
    ('architectures', 'LlamaForCausalLM'),
    ('model_type', ['llama']),
    ('num_key_value_heads', 3),
  ],
)
def test_values_that_a_field_cannot_have_are_named(field, wrong, tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(fields('llama') | {field: wrong}), 'utf-8')
  with pytest.raises(ValueError) as error:
    hf.load(tmp_path)
  assert str(error.value).startswith(f'{path}: {field}=')
  assert '\n' not in str(error.value) and 'expected' in str(error.value)


@pytest.mark.parametrize(
  'text', ['[]', '"llama"', 'null', '7', 'true', '{', '']
)
def test_a_config_that_is_no_object_is_named(text, tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(text, 'utf-8')
  with pytest.raises(ValueError, match='JSON') as error:
    hf.load(tmp_path)
  assert str(error.value).startswith(f'{path}: ')
  assert '\n' not in str(error.value)


def test_an_export_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
  shutil.copytree(GOLDEN / 'qwen3', tmp_path, dirs_exist_ok=True)
  model = hf.load(tmp_path)

  def full(*args):
    raise OSError('no space left')

  monkeypatch.setattr(safetensors.numpy, 'save_file', full)
  with pytest.raises(OSError, match='no space'):
    hf_export.export(tmp_path, *model, source=tmp_path)
  monkeypatch.undo()
  assert bits(hf.load(tmp_path).params) == bits(model.params)
  hf_export.export(tmp_path, *model, source=tmp_path)
  assert bits(hf.load(tmp_path).params) == bits(model.params)
  assert not list(tmp_path.glob('*.part'))


def test_either_spelling_of_rope():
  """The hub's older files keep it in other fields than transformers 5."""
  for name, old in (
    ('llama_yarn', {'rope_theta': 500.0, 'rope_scaling': 'rope_parameters'}),
    ('gemma3', {'rope_theta': 1e4, 'rope_local_base_freq': 100.0}),
    ('gpt_neox', {'rotary_emb_base': 100, 'rotary_pct': 0.5}),
  ):
    new = fields(name)
    rope = new['rope_parameters']
    if 'rope_scaling' in old:
      keep = {k: v for k, v in rope.items() if k not in ('rope_theta',)}
      old['rope_scaling'] = {'type': keep.pop('rope_type'), **keep}
    if name == 'gemma3':
      old['rope_scaling'] = {'rope_type': 'linear', 'factor': 4.0}
    legacy = {k: v for k, v in new.items() if k != 'rope_parameters'} | old
    assert hf_config.from_hf(legacy) == hf_config.from_hf(new)


def test_check_says_pass_or_fail(capsys, tmp_path):
  assert check_model.main([str(GOLDEN / 'qwen3'), '--tokens=6']) == 0
  out = capsys.readouterr().out
  assert 'pass  cached decoding' in out and ('KL per token' in out) == TORCH
  assert out.endswith('\npass\n' if TORCH else '\nnot compared\n')
  with pytest.raises(SystemExit, match='FAIL  .*config.json: no such file'):
    check_model.main([str(tmp_path)])
  for gone in (tmp_path / 'gone', './gone', 'some/where/gone', '~/gone'):
    with pytest.raises(SystemExit, match='FAIL  .*gone: no such folder'):
      check_model.main([str(gone)])


@pytest.mark.skipif(not TORCH, reason='needs torch')
def test_what_transformers_refuses_is_one_line(monkeypatch):
  transformers = pytest.importorskip('transformers')

  def refuse(*args, **kwargs):
    raise KeyError('rope_type')

  auto = transformers.AutoModelForCausalLM
  monkeypatch.setattr(auto, 'from_pretrained', refuse)
  with pytest.raises(SystemExit, match="transformers refuses it: KeyError: 'r"):
    check_model.main([str(GOLDEN / 'qwen3'), '--tokens=6'])


@pytest.mark.parametrize(
  ('name', 'tokens', 'status', 'said'),
  [
    ('qwen3', 0, 2, '--tokens: 0, expected a whole number'),
    ('qwen3', -3, 2, '--tokens: -3, expected a whole number'),
    ('gpt2', 53, 'FAIL  --tokens=53, expected at most 52', ''),
  ],
)
def test_tokens_that_cannot_be_checked_are_refused(
  name, tokens, status, said, capsys
):
  with pytest.raises(SystemExit) as ended:
    check_model.main([str(GOLDEN / name), f'--tokens={tokens}'])
  assert str(ended.value.code).startswith(str(status))
  assert said in capsys.readouterr().err


def test_nothing_is_no_distance():
  zeros = np.zeros(3)
  assert check_model.relative(zeros, zeros) == 0
  assert check_model.relative(zeros + 1, zeros) == 1
  assert np.isnan(check_model.relative(zeros + np.nan, zeros))


def test_learned_positions_end():
  c = load('gpt2').config
  prompts = jnp.zeros((1, c.num_positions + 1), jnp.int32)
  with pytest.raises(ValueError, match='65 slots .* num_positions=64'):
    transformer.prefill(load('gpt2').params, c, prompts, prompts == 0)
  policy = {'checkpoint': str(GOLDEN / 'gpt2')}
  assert initial.model_fields(policy, 64)['num_positions'] == 64
  said = r'num_positions=64, expected at least 65: a prompt with its completion'
  with pytest.raises(ValueError, match=rf'^model\.{said}'):
    initial.model_fields(policy, 65)
  with pytest.raises(ValueError, match=rf'^proxy\.model\.{said}'):
    initial.scorer(policy, c, 'proxy.model', 65)


@needs_torch
@pytest.mark.parametrize('name', LAYOUTS)
def test_transformers_loads_the_export(name, tmp_path):
  import torch
  import transformers

  torch.set_num_threads(1)
  model, g = load(name), golden(name)
  hf_export.export(tmp_path, *model, shard_bytes=20_000)
  auto = transformers.AutoModelForCausalLM
  if model.config.head == 'scalar':
    auto = transformers.AutoModelForSequenceClassification
  theirs, info = auto.from_pretrained(tmp_path, output_loading_info=True)
  for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    assert not info[kind], (kind, info[kind])
  P, G, T = g['completions'].shape
  repeat = lambda x: np.repeat(x, G, 0)
  rows = g['completions'].reshape(P * G, T)
  tokens = np.concatenate([repeat(g['prompts']), rows], 1)
  valid = np.concatenate([repeat(g['valid']), np.ones_like(rows)], 1)
  positions = np.maximum(valid.cumsum(1) - 1, 0)
  if model.config.head == 'lm':
    # Length-dependent RoPE: one more position than the goldens' last.
    more = np.zeros((P * G, LENGTH - tokens.shape[1]), int)
    tokens, valid = np.hstack([tokens, more]), np.hstack([valid, more + 1])
    positions = np.maximum(valid.cumsum(1) - 1, 0)
  with torch.no_grad():
    out = theirs.eval()(
      torch.tensor(tokens, dtype=torch.int64),
      attention_mask=torch.tensor(valid.astype(np.int64)),
      position_ids=torch.tensor(positions),
    ).logits.numpy()
  if model.config.head == 'scalar':
    close(out[:, 0], g['scores'])
  else:
    keep = repeat(g['valid'])
    size = keep.shape[1]
    close(out[:, size : size + T], g['logits'][:, size:])
    close(out[:, :size][keep], g['logits'][:, :size][keep])
