"""Sizes of published checkpoints, so that `align fit` downloads none.

The fields are those of their config.json; Llama's are behind a form.
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
KNOWN = {
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
