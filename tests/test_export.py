"""Runs as folders that transformers loads, and what it makes of them."""

import dataclasses
import importlib
import json
import pathlib

import jax
import numpy as np
import pytest
import tiny_checkpoints
from conftest import TORCH, needs_torch
from preference_files import hh, tldr_comparisons, ultrafeedback, write
from runs import setup_of, stage_of, train_arm

from align_jax import data, tasks
from align_jax.lab import setups
from align_jax.learn import kept
from align_jax.learn.checkpoint import params_of
from align_jax.models import hf
from align_jax.policy.programs import policy_of, sampler
from align_jax.tools import check_model, export
from configs import base
from experiments import common, online_vs_offline, resume

JUDGE = dict(
  dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=16
)
PIPELINES = {  # config: family of its checkpoint, rows of its file
  'hh': (None, hh),
  'pythia_1b_tldr': ('gpt_neox', tldr_comparisons),
  'qwen2_5_0_5b_hh': ('qwen2', hh),
  'llama3_8b_ultrafeedback': ('llama', ultrafeedback),
}


ENDS = 259, 65, 66  # of Qwen's texts: <|endoftext|>, and two letters
MORE_ROWS = 7  # of Qwen's embedding than it has tokens


def checkpoint_of(folder, family):
  if family != 'qwen2':
    return tiny_checkpoints.make(folder / family, family)
  made = tiny_checkpoints.make(folder / family, family, MORE_ROWS)
  how = json.dumps({'eos_token_id': ENDS})
  (made / 'generation_config.json').write_text(how, 'utf-8')
  return made


def tiny(name, folder):
  """The config with what is on the hub, and sizes, replaced."""
  family, row = PIPELINES[name]
  c = importlib.import_module(f'configs.{name}').get_config()
  steps = min(c.sft.steps, 2)
  c = base.smoke(c)
  c.sft.steps = steps
  c.task.judge = dict(kind='', checkpoint='')
  c.task.update(
    data=str(write(folder / 'pairs.jsonl', row, 30)),
    prompt_len=120,
    completion_len=10,
    long_completion='right',
    heldout_prompts=6,
    eval_prompts=4,
    judge=dict(kind='pairs', checkpoint=''),
    judge_share=0.5,
    judge_model=JUDGE,
    judge_steps=2,
    judge_batch_size=4,
    judge_learning_rate=1e-3,
  )
  if family:
    c.model.checkpoint = str(checkpoint_of(folder, family))
    c.model.dtype = 'float32'
  else:
    c.model.update(JUDGE, vocab_size=300)
    c.task.pretrain_steps = 1
  c.proxy.update(verifier='transformer', num_microbatches=1, batch_size=4)
  c.arm.update(steps=2, batch_size=2, num_microbatches=1, warmup_steps=0)
  c.eval.update(samples=1, points=2, pairs=4)
  c.golden.pairs = 4
  c.mesh.update(fsdp=1, rollout=1)
  c.seeds = 1
  return common.as_dict(c)


@pytest.fixture(scope='module', params=PIPELINES)
def pipeline(request, tmp_path_factory):
  """A finished offline and online run of a config: its folder and fields."""
  folder = tmp_path_factory.mktemp(request.param)
  with jax.default_prng_impl('unsafe_rbg'):
    cfg = tiny(request.param, folder)
    control = 'offline' if request.param == 'hh' else 'file pairs'
    cfg['report']['control'] = control
    cfg['arms'] = {
      name: {**arm, 'sweep': ({**arm['sweep'][0], 'learning_rate': 1e-2},)}
      for name, arm in cfg['arms'].items()
      if name in ('online', control)
    }
    runs = online_vs_offline.runs(cfg)
    common.check(cfg, runs)
    common.execute(cfg, runs, folder / 'work')
  return folder / 'work', cfg


def run_of(pipeline, arm):
  return next((pipeline[0] / 'seed0' / arm).iterdir())


def test_every_arm_is_measured(pipeline):
  workdir, cfg = pipeline
  points = common.read_points(workdir, online_vs_offline.runs(cfg))
  assert {p['arm'] for p in points} == set(cfg['arms'])
  moved = [p['kl_seq_nats'] for p in points if p['step']]
  assert all(np.isfinite(moved)) and min(moved) > 0


@pytest.fixture(scope='module')
def exported(pipeline, tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported')
  export.export(run_of(pipeline, 'online'), folder)
  return folder


def test_a_policy_comes_back_as_it_was(pipeline, exported):
  """The weights, the tokenizer, the template, and how it was sampled."""
  workdir, cfg = pipeline
  policy = policy_of(export.final_params(run_of(pipeline, 'online')))
  loaded = hf.load(exported)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, policy)
  task = setups.make_task(setup_of(cfg, workdir), 0)
  same = dataclasses.replace(loaded.config, remat=task.model.remat)
  assert same == task.model
  how = json.loads((exported / 'generation_config.json').read_text())
  assert (
    np.ravel(how['eos_token_id']).tolist() == np.ravel(task.eos_id).tolist()
  )
  assert how['top_k'] == 0
  assert how['temperature'] == 1.0 and how['do_sample'] is True
  assert how['max_new_tokens'] == 10
  assert (exported / 'tokenizer.json').is_file()


@needs_torch
def test_transformers_decodes_the_same_tokens(exported, capsys):
  assert check_model.main([str(exported), '--tokens', '6']) == 0
  assert 'greedy tokens that differ: 0' in capsys.readouterr().out


@needs_torch
def test_transformers_finds_every_weight_and_the_same_prompt(
  pipeline, exported
):
  import transformers

  workdir, cfg = pipeline
  _, info = transformers.AutoModelForCausalLM.from_pretrained(
    exported, output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
  assert tokenizer.eos_token is not None
  if not tokenizer.chat_template:
    return
  task = tasks.make_task(seed=0, **setups.task_knobs(setup_of(cfg, workdir)))
  known = {
    tuple(t[v].tolist())
    for t, v in zip(task.train_prompts.tokens, task.train_prompts.valid)
  }
  row = PIPELINES[pipeline_name(cfg)][1]
  ask = lambda i: [{'role': 'user', 'content': question(row, i)}]
  found = {
    tuple(
      tokenizer.apply_chat_template(
        ask(i), add_generation_prompt=True, return_dict=False
      )
    )
    for i in range(30)
  }
  assert known <= found


def pipeline_name(cfg):
  reads = {'hh': 'qwen2_5_0_5b_hh', 'ultrafeedback': 'llama3_8b_ultrafeedback'}
  return reads[cfg['task']['dataset']]


def question(row, i):
  if row is hh:
    return f'what is number {i}?'
  return row(i)['prompt']


def test_halves_are_halves(pipeline, tmp_path):
  run = run_of(pipeline, 'online')
  export.main([str(run), str(tmp_path), '--dtype', 'bfloat16'])
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['dtype'] == 'bfloat16'
  whole = export.final_params(run)
  half = hf.load(tmp_path).params
  for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(half), strict=True):
    np.testing.assert_allclose(x, y, rtol=2**-8)


@pytest.mark.parametrize('which', ['task', 'seed0/proxy0'])
def test_a_reward_model_is_a_classifier(pipeline, which, tmp_path):
  export.export(pipeline[0] / which, tmp_path)
  loaded = hf.load(tmp_path)
  assert loaded.config.head == 'scalar'
  if TORCH:
    assert check_model.main([str(tmp_path)]) == 0


@pytest.mark.parametrize('which', ['task', 'seed0/proxy0'])
def test_a_reward_model_never_pads_with_what_ends_a_text(
  pipeline, which, tmp_path
):
  """Else transformers would read its scores before the end."""
  export.export(pipeline[0] / which, tmp_path)
  fields = json.loads((tmp_path / 'config.json').read_text('utf-8'))
  settings = json.loads((tmp_path / 'tokenizer_config.json').read_text('utf-8'))
  loaded = data.load_tokenizer(tmp_path, needs_bos=False)
  pad, name = fields['pad_token_id'], settings['pad_token']
  assert pad not in (loaded.eos_id, *np.ravel(fields['eos_token_id'] or ()))
  assert name == (None if pad is None else loaded.tokenizer.id_to_token(pad))
  # Of the checkpoints, only Llama's has a BOS that is not its EOS.
  assert (pad is None) == (
    pipeline_family(pipeline[1]) in ('gpt_neox', 'qwen2')
  )


def pipeline_family(cfg):
  checkpoint = cfg['model']['checkpoint']
  return pathlib.Path(checkpoint).name if checkpoint else None


@pytest.mark.parametrize('pipeline', ['qwen2_5_0_5b_hh'], indirect=True)
def test_an_export_never_replaces_what_it_is_made_of(pipeline):
  workdir, cfg = pipeline
  run, checkpoint = run_of(pipeline, 'online'), cfg['model']['checkpoint']
  before = hf.load(checkpoint).params['embed']
  for folder in (
    checkpoint,
    f'{checkpoint}/../{pathlib.Path(checkpoint).name}',
    pathlib.Path(checkpoint).parent,
    run,
    workdir,
    workdir / 'task',
  ):
    with pytest.raises(SystemExit, match='which the run is made of'):
      export.main([str(run), str(folder)])
  np.testing.assert_array_equal(hf.load(checkpoint).params['embed'], before)


def test_an_export_goes_into_an_empty_folder(tmp_path):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'model-00001-of-00002.safetensors').write_text('')
  (tmp_path / 'file').write_text('')
  for name, said in (('full', 'holds model-00001'), ('file', 'a file')):
    with pytest.raises(ValueError, match=f'{said}.*expected an empty folder'):
      export.check_folder(tmp_path / name, [])
  (tmp_path / 'empty').mkdir()
  export.check_folder(tmp_path / 'empty', [])


@pytest.mark.parametrize('kl', ['nan', '-5', 'inf'])
def test_a_kl_is_no_less_than_0(kl, capsys):
  with pytest.raises(SystemExit):
    export.main(['run', 'folder', f'--kl={kl}'])
  assert 'argument --kl' in capsys.readouterr().err


def test_all_folders_that_settings_name_are_kept(tmp_path):
  """Such as those of a judge, of a tokenizer and of a run's own judge."""
  home, run = tmp_path / 'home', tmp_path / 'home' / 'run'
  run.mkdir(parents=True)
  for path, names in ((home, ('judge', 'tokenizer')), (run, ('other',))):
    named = [{'checkpoint': str(tmp_path / name)} for name in names]
    (path / 'settings.json').write_text(json.dumps({'x': named}), 'utf-8')
  for name in ('judge', 'tokenizer', 'other'):
    (tmp_path / name).mkdir()
    sources = export._folders_in(home, run)
    export.check_folder(tmp_path / 'elsewhere', sources)
    with pytest.raises(ValueError, match=f'{name}, which the run is made of'):
      export.check_folder(tmp_path / name, sources)


@pytest.mark.parametrize('pipeline', ['qwen2_5_0_5b_hh'], indirect=True)
def test_a_checkpoint_s_ends_are_the_run_s_and_the_export_s(pipeline, tmp_path):
  """It has rows without tokens too, which transformers may not draw either."""
  workdir, cfg = pipeline
  setup = setup_of(cfg, workdir)
  task = setups.make_task(setup, 0)
  assert task.eos_id[1:] == ENDS and task.eos_id[0] not in ENDS
  run = next(r for r in online_vs_offline.runs(cfg) if r.arm == 'online')
  batch = sampler(task, 8)(
    hf.load(cfg['model']['checkpoint']).params,
    *task.eval_prompts[:],
    jax.random.key(0),
  )
  rows = zip(np.asarray(batch.completions), np.asarray(batch.valid))
  for tokens, valid in rows:
    ends = np.isin(tokens, task.eos_id)
    assert valid.sum() == (ends.argmax() + 1 if ends.any() else len(tokens))
  export.export(run_of(pipeline, run.arm), tmp_path)
  how = json.loads((tmp_path / 'generation_config.json').read_text('utf-8'))
  assert how['eos_token_id'] == [*task.eos_id]
  size = task.model.vocab_size
  assert how['suppress_tokens'] == [*range(size - MORE_ROWS, size)]
  assert hf.load(tmp_path).config.no_tokens == task.model.no_tokens


def test_the_reference_is_exported_too(pipeline, tmp_path):
  if not pipeline[1]['sft']['steps']:
    pytest.skip('the checkpoint itself')
  export.export(pipeline[0] / 'seed0' / 'sft', tmp_path)
  assert hf.load(tmp_path).config.head == 'lm'


def test_what_is_no_run_is_refused(tmp_path):
  with pytest.raises(SystemExit, match='error: .*no directory of a run'):
    export.main([str(tmp_path / 'x'), str(tmp_path / 'y')])


@pytest.mark.parametrize('pipeline', ['llama3_8b_ultrafeedback'], indirect=True)
def test_adapters_are_merged(pipeline, tmp_path):
  workdir, cfg = pipeline
  run = next(r for r in online_vs_offline.runs(cfg) if r.arm == 'online')
  run = run.but(lora=dict(rank=2, alpha=6.0), name='online/adapters')
  directory = run.directory(workdir)
  resume.write(directory, resume.settings_of(run))
  train_arm(cfg, run, workdir)
  export.export(directory, tmp_path)
  got = hf.load(tmp_path).params['layers']['down']
  pair = export.final_params(directory)['lora']['pairs']['layers']['down']
  low_rank = np.einsum('...fr,...rd->...fd', pair['a'], pair['b'])
  assert np.abs(low_rank).max() > 0
  base = stage_of(cfg, 0, workdir).reference['layers']['down']
  np.testing.assert_allclose(got, base + 3.0 * low_rank, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('pipeline', ['hh'], indirect=True)
def test_an_earlier_policy_is_exported(pipeline, tmp_path, capsys):
  workdir, cfg = pipeline
  run = next(r for r in online_vs_offline.runs(cfg) if r.arm == 'online')
  run = run.but(steps=3, keep=dict(steps=(1, 2)), name='online/keeps')
  directory = run.directory(workdir)
  resume.write(directory, resume.settings_of(run))
  train_arm(cfg, run, workdir)
  kls = kept.measured(directory)
  assert kls.keys() == {0, 2, 3}  # the first is kept and not measured
  near = [export.choose(directory, kl=kl) for kl in (0.0, kls[2], 1e6)]
  assert near == [min((2, 3), key=kls.get), 2, max((2, 3), key=kls.get)]
  export.main([str(directory), str(tmp_path / 'first'), '--step=1'])
  told = capsys.readouterr().out
  assert 'written, of step 1, KL not measured' in told
  policies = [params_of(directory, step) for step in (1, 3)]
  got = hf.load(tmp_path / 'first').params['embed']
  np.testing.assert_array_equal(got, policies[0]['embed'])
  assert not np.array_equal(got, policies[1]['embed'])
  export.main([str(directory), str(tmp_path / 'next'), f'--kl={kls[2]}'])
  assert f'of step 2, KL {kls[2]:.4g} nats' in capsys.readouterr().out


@pytest.mark.parametrize('pipeline', ['hh'], indirect=True)
def test_a_checkpoint_that_is_not_there_is_refused(pipeline):
  run = run_of(pipeline, 'online')
  with pytest.raises(ValueError, match='=1, there are: step 2, KL .* nats'):
    export.choose(run, step=1)
  with pytest.raises(ValueError, match='expected one of them'):
    export.choose(run, step=2, kl=1.0)
  sft = pipeline[0] / 'seed0' / 'sft'
  with pytest.raises(ValueError, match=r'kl=1, there are: .* KL not measured'):
    export.choose(sft, kl=1.0)
  with pytest.raises(ValueError, match='step=2, there are: none'):
    export.choose(pipeline[0] / 'task', step=2)
