"""Writes tiny random checkpoints of every family, and what transformers says.

  python tests/golden/make_hf.py [NAME ...]

Needs torch and transformers. Each folder holds what `save_pretrained` writes
(weights in float16) and golden.npz: tokens, logits and greedy continuations in
float32, the prompts left-padded. Every parameter is random, norms and biases
too, so that none may be forgotten.
"""

import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)
P, G, S, T, NEW = 2, 2, 7, 8, 32
SIZES = dict(
  vocab_size=47,
  hidden_size=24,
  intermediate_size=20,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=10,
  max_position_embeddings=64,
  bos_token_id=1,
  eos_token_id=2,
  pad_token_id=0,
)
NO_HEAD_DIM = {k: v for k, v in SIZES.items() if k != 'head_dim'}
NEOX = {k: v for k, v in NO_HEAD_DIM.items() if k != 'num_key_value_heads'}
ROPE = dict(rope_theta=500.0)
LLAMA3 = dict(
  rope_type='llama3',
  factor=4.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=16)
LONG = dict(
  rope_type='longrope',
  short_factor=[1.0, 1.5],
  long_factor=[2.0, 5.0],
)
HALF = dict(partial_rotary_factor=0.5)
GEMMA3_ROPE = dict(
  full_attention=dict(rope_type='linear', factor=4.0, rope_theta=1e4),
  sliding_attention=dict(rope_type='default', rope_theta=100.0),
)
WINDOW = dict(sliding_window=5)
EXPERTS = dict(num_experts_per_tok=2, num_hidden_layers=2)

# name: (model_type, fields of its config)
CASES = {
  'llama': ('llama', SIZES | dict(rope_parameters=ROPE)),
  'llama_linear_biases': (
    'llama',
    SIZES
    | dict(rope_parameters=ROPE | dict(rope_type='linear', factor=3.0))
    | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
  ),
  'llama_llama3': ('llama', SIZES | dict(rope_parameters=ROPE | LLAMA3)),
  'llama_yarn': ('llama', SIZES | dict(rope_parameters=ROPE | YARN)),
  'llama_dynamic': (
    'llama',
    SIZES
    | dict(max_position_embeddings=16)
    | dict(rope_parameters=ROPE | dict(rope_type='dynamic', factor=3.0)),
  ),
  'mistral': ('mistral', SIZES | WINDOW),
  'qwen2': (
    'qwen2',
    NO_HEAD_DIM
    | WINDOW
    | dict(use_sliding_window=True, max_window_layers=1)
    | dict(tie_word_embeddings=True),
  ),
  'qwen3': ('qwen3', SIZES | dict(tie_word_embeddings=True)),
  'qwen3_moe': (
    'qwen3_moe',
    SIZES
    | EXPERTS
    | dict(moe_intermediate_size=12, num_experts=5, norm_topk_prob=False),
  ),
  'mixtral': ('mixtral', SIZES | EXPERTS | dict(num_local_experts=4)),
  'gemma2': (
    'gemma2',
    SIZES
    | WINDOW
    | dict(query_pre_attn_scalar=13)
    | dict(final_logit_softcapping=8.0, attn_logit_softcapping=1.5),
  ),
  'gemma3': (
    'gemma3_text',
    SIZES
    | WINDOW
    | dict(query_pre_attn_scalar=13, rope_parameters=GEMMA3_ROPE)
    | dict(layer_types=['sliding_attention', 'full_attention'] * 2)
    | dict(num_hidden_layers=4),
  ),
  'phi3': ('phi3', NO_HEAD_DIM | WINDOW | dict(hidden_size=32)),
  'phi3_longrope': (
    'phi3',
    NO_HEAD_DIM
    | dict(hidden_size=32, num_attention_heads=4)
    | dict(original_max_position_embeddings=16)
    | dict(rope_parameters=LONG | HALF | ROPE),
  ),
  'gpt2': (
    'gpt2',
    dict(vocab_size=47, n_positions=64, n_embd=24, n_layer=3, n_head=3)
    | dict(n_inner=20, bos_token_id=1, eos_token_id=2, pad_token_id=0),
  ),
  'gpt_neox': (
    'gpt_neox',
    NEOX
    | dict(hidden_size=32)
    | dict(rope_parameters=dict(rope_theta=100.0) | HALF),
  ),
  'gpt_neox_sequential': (
    'gpt_neox',
    NEOX
    | dict(hidden_size=32, use_parallel_residual=False)
    | dict(tie_word_embeddings=True, hidden_act='gelu_new')
    | dict(rope_parameters=dict(rope_theta=100.0, partial_rotary_factor=1.0)),
  ),
  'qwen2_scores': (
    'qwen2',
    NO_HEAD_DIM | dict(num_labels=1, tie_word_embeddings=False),
  ),
}
# RoPE that depends on the sequence's length is fixed for this many tokens.
LENGTH = S + NEW
SHARDED = {'llama': '20KB', 'mixtral': '40KB'}


def randomise(model, seed):
  """Random values that float16 holds exactly; norms about what they were."""
  generator = torch.Generator().manual_seed(seed)
  # A tied model with large embeddings says the same word for ever.
  embedding = 0.5 if model.config.tie_word_embeddings else 2.0
  with torch.no_grad():
    for name, x in model.named_parameters():
      noise = torch.randn(x.shape, generator=generator)
      if x.ndim == 1:
        x.add_(0.3 * noise)
      else:
        is_table = any(n in name for n in ('embed', 'wte', 'wpe'))
        x.copy_((embedding if is_table else 1.5 * x.shape[-1] ** -0.5) * noise)
      x.copy_(x.half().float())


def forward(model, tokens, valid):
  """Of rows padded on the right up to LENGTH: [B, n] -> logits [B, n, V]."""
  more = LENGTH - tokens.shape[1]
  pad = lambda x, value: torch.nn.functional.pad(x, (0, more), value=value)
  positions = (pad(valid, 1).cumsum(-1) - 1).clamp(min=0)
  # Without padding the last position is LENGTH - 1, or less in a padded row.
  with torch.no_grad():
    out = model(
      pad(tokens, 0),
      attention_mask=pad(valid, 1),
      position_ids=positions,
      use_cache=False,
    )
  return out.logits[:, : tokens.shape[1]]


def continuations(model, prompts, valid):
  """Greedy: [P, NEW] tokens, and the least gap between the best two."""
  tokens, mask, gap = prompts, valid, np.inf
  for _ in range(NEW):
    logits = forward(model, tokens, mask)[:, -1]
    best = logits.topk(2).values
    gap = min(gap, float((best[:, 0] - best[:, 1]).min()))
    tokens = torch.cat([tokens, logits.argmax(-1)[:, None]], 1)
    mask = torch.nn.functional.pad(mask, (0, 1), value=1)
  return tokens[:, S:], gap


def rows(seed, vocab_size):
  """Prompts [P, S] left-padded, and their completions [P, G, T]."""
  rng = np.random.default_rng(seed)
  tokens = lambda *shape: rng.integers(3, vocab_size, shape)
  valid = np.arange(S) >= np.array([[0], [3]])
  return np.where(valid, tokens(P, S), 0), valid, tokens(P, G, T)


def glued(prompts, valid, completions):
  repeat = lambda x: np.repeat(x, G, 0)
  tokens = np.concatenate([repeat(prompts), completions.reshape(P * G, T)], 1)
  mask = np.concatenate([repeat(valid), np.ones((P * G, T), bool)], 1)
  return torch.tensor(tokens), torch.tensor(mask.astype(np.int64))


def make(name):
  kind, fields = CASES[name]
  config = transformers.AutoConfig.for_model(kind, **fields)
  config._attn_implementation = 'eager'
  scores = 'num_labels' in fields
  auto = transformers.AutoModelForCausalLM
  if scores:
    auto = transformers.AutoModelForSequenceClassification
  model = auto.from_config(config).float().eval()
  for seed in range(100):
    randomise(model, seed)
    prompts, valid, completions = rows(seed, config.vocab_size)
    tokens, mask = glued(prompts, valid, completions)
    golden = dict(prompts=prompts, valid=valid, completions=completions)
    if scores:
      with torch.no_grad():
        golden['scores'] = model(tokens, attention_mask=mask).logits[:, 0]
      break
    golden['logits'] = forward(model, tokens, mask)
    left = torch.tensor(prompts), torch.tensor(valid.astype(np.int64))
    golden['greedy'], gap = continuations(model, *left)
    if gap > 1e-3 and len(np.unique(golden['greedy'])) > 3:
      break
  else:
    raise ValueError(f'{name}: no seed whose greedy tokens are sure')
  folder = HERE / 'hf' / name
  shutil.rmtree(folder, ignore_errors=True)
  size = SHARDED.get(name, '5GB')
  model.half().save_pretrained(folder, max_shard_size=size)
  small = lambda x: x.astype(np.int32) if x.dtype.kind == 'i' else x
  golden = {k: small(np.asarray(v)) for k, v in golden.items()}
  np.savez_compressed(folder / 'golden.npz', **golden)
  print(name, f'seed {seed}', {k: v.shape for k, v in golden.items()})


if __name__ == '__main__':
  for name in sys.argv[1:] or CASES:
    make(name)
