"""Sizes of published checkpoints, so that `align fit` downloads none.

The fields are those of their config.json. Llama's are behind a form. Sizes
of Pythia are those of github.com/EleutherAI/pythia, sizes of Qwen those of
github.com/google/tunix.
"""

import jax.numpy as jnp

from align_jax import paths
from align_jax.models import hf, hf_config
from align_jax.models.interface import from_fields, size

LLAMA_3 = dict(
  model_type='llama',
  architectures=['LlamaForCausalLM'],
  vocab_size=128256,
  num_key_value_heads=8,
  hidden_act='silu',
  rms_norm_eps=1e-5,
  rope_theta=500000.0,
  max_position_embeddings=8192,
)
LLAMA_3_8B = dict(
  LLAMA_3,
  hidden_size=4096,
  intermediate_size=14336,
  num_hidden_layers=32,
  num_attention_heads=32,
  tie_word_embeddings=False,
)
LLAMA_3_1_8B = dict(
  LLAMA_3_8B,
  max_position_embeddings=131072,
  rope_scaling=dict(
    rope_type='llama3',
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
  ),
)


def _pythia(dim, layers, heads, vocab=50304, kind='CausalLM'):
  """The fields of a config.json of Pythia."""
  return dict(
    model_type='gpt_neox',
    architectures=[f'GPTNeoXFor{kind}'],
    vocab_size=vocab,
    hidden_size=dim,
    intermediate_size=4 * dim,
    num_hidden_layers=layers,
    num_attention_heads=heads,
    hidden_act='gelu',
    layer_norm_eps=1e-5,
    rotary_pct=0.25,
    rotary_emb_base=10000,
    use_parallel_residual=True,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
  )


QWEN = dict(
  vocab_size=151936,
  hidden_act='silu',
  rms_norm_eps=1e-6,
  rope_theta=1000000.0,
  tie_word_embeddings=True,
)
# Of 6.9B the vocabulary is padded to a multiple of 256, since two devices
# shared it.
PYTHIA_6_9B = dict(dim=4096, layers=32, heads=32, vocab=50432)
KNOWN = {
  'EleutherAI/pythia-31m': _pythia(256, 6, 8),
  'EleutherAI/pythia-410m-deduped': _pythia(1024, 24, 16),
  'EleutherAI/pythia-1b-deduped': _pythia(2048, 16, 8),
  'EleutherAI/pythia-1.4b': _pythia(2048, 24, 16),
  'EleutherAI/pythia-2.8b-deduped': _pythia(2560, 32, 32),
  'EleutherAI/pythia-6.9b-deduped': _pythia(**PYTHIA_6_9B),
  'cleanrl/EleutherAI_pythia-6.9b-deduped__reward__tldr': _pythia(
    **PYTHIA_6_9B, kind='SequenceClassification'
  ),
  'Qwen/Qwen2.5-0.5B': dict(
    QWEN,
    model_type='qwen2',
    architectures=['Qwen2ForCausalLM'],
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
  ),
  'Skywork/Skywork-Reward-V2-Qwen3-0.6B': dict(
    QWEN,
    model_type='qwen3',
    architectures=['Qwen3ForSequenceClassification'],
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
  ),
  'meta-llama/Llama-3.2-1B-Instruct': dict(
    LLAMA_3,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    head_dim=64,
    tie_word_embeddings=True,
  ),
  'meta-llama/Meta-Llama-3-8B-Instruct': LLAMA_3_8B,
  'meta-llama/Llama-3.1-8B-Instruct': LLAMA_3_1_8B,
  'Skywork/Skywork-Reward-Llama-3.1-8B-v0.2': dict(
    LLAMA_3_8B, architectures=['LlamaForSequenceClassification']
  ),
  'meta-llama/Meta-Llama-3-70B-Instruct': dict(
    LLAMA_3,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    tie_word_embeddings=False,
  ),
}


def fields(model):
  """The fields of ModelConfig for a config's `model`; None: not known here."""
  if model.get('checkpoint') not in KNOWN:
    return None
  given = {k: model[k] for k in ('attention', 'remat') if k in model}
  dtype = model.get('dtype') or 'float32'
  known = hf_config.from_hf(KNOWN[model['checkpoint']], dtype=dtype, **given)
  return vars(known)


def judge_bytes(judge):
  """Bytes of a published judge's parameters; None: not known here.

  Args:
    judge: a config's `judge`.
  """
  name = judge['checkpoint']
  found = KNOWN.get(name)
  if found is None and paths.path(name).expanduser().is_dir():
    found = hf.read_config(hf.fetch(name))
  if found is None:
    return None
  model = from_fields(**vars(hf_config.from_hf(found)))
  return jnp.dtype(judge.get('dtype', 'float32')).itemsize * size(model)
