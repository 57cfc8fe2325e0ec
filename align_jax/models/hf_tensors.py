"""Which tensor of a published checkpoint is which part of which parameter.

A family is a table of rows: the tensor's name, the parameter, the part of it
that the tensor fills, and how to convert its layout to ours and back. Rows of
parameters that a model does not have (`weights.specs`) are skipped.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from align_jax.models import weights

ALL = ()  # the part that is the whole parameter


class Form(NamedTuple):
  """Two views of the same numbers; `shape` is that of our part."""

  ours: Callable  # (theirs, shape) -> ours
  theirs: Callable  # ours -> theirs


class Tensor(NamedTuple):
  """A stored tensor, and the part of a parameter that it is."""

  name: str
  path: tuple[str, ...]  # of the parameter
  start: tuple[int, ...]  # of the part, in the stacked parameter
  size: tuple[int, ...]
  part: tuple[int, ...]  # shape of the part without its indexed dimensions
  form: Form

  @property
  def shape(self):
    """The tensor's shape in the checkpoint."""
    nothing = np.broadcast_to(np.int8(0), self.part)
    return self.form.theirs(nothing).shape


def _linear(inputs=1):
  """torch's Linear [out, in] <-> [*in, *out]."""

  def ours(x, shape):
    x = x.reshape(*shape[inputs:], *shape[:inputs])
    last = tuple(range(x.ndim - inputs, x.ndim))
    return x.transpose(*last, *range(x.ndim - inputs))

  def theirs(y):
    rows, columns = y.shape[inputs:], y.shape[:inputs]
    y = y.transpose(*range(inputs, y.ndim), *range(inputs))
    return y.reshape(math.prod(rows), math.prod(columns))

  return Form(ours, theirs)


def _flat(inputs=0):
  """The same order: [in, out] <-> [*in, *out], or [out] <-> [*out]."""

  def theirs(y):
    rows, columns = y.shape[:inputs], y.shape[inputs:]
    sizes = (math.prod(rows),) if inputs else ()
    return y.reshape(*sizes, math.prod(columns))

  return Form(lambda x, shape: x.reshape(shape), theirs)


def _q_then_k_then_v(rows):
  """Our (..., K, R + 2, H) <-> all queries, all keys, all values.

  Args:
    rows: the Form between the fused tensor's [..., (K R H), ] and ours.
  """

  def ours(x, shape):
    *front, K, size, H = shape
    R = size - 2
    x = rows.ours(x, (*front, K * size * H))
    q, k, v = np.split(x, [K * R * H, K * (R + 1) * H], axis=-1)
    heads = lambda y, n: y.reshape(*front, K, n, H)
    return np.concatenate([heads(q, R), heads(k, 1), heads(v, 1)], -2)

  def theirs(y):
    *front, K, size, H = y.shape
    parts = np.split(y, [size - 2, size - 1], axis=-2)
    flat = [x.reshape(*front, -1) for x in parts]
    return rows.theirs(np.concatenate(flat, -1))

  return Form(ours, theirs)


SAME = Form(lambda x, shape: x, lambda y: y)
LINEAR, FLAT = _linear(), _flat()
SCORE = Form(lambda x, shape: x[0], lambda y: y[None])


def _llama_top(base='model.', head='lm_head.weight'):
  return {
    f'{base}embed_tokens.weight': ('embed', ALL, SAME),
    f'{base}norm.weight': ('norm', ALL, SAME),
    head: ('head', ALL, LINEAR),
  }


def _llama_layer(c):
  R, s = c.num_heads // c.num_kv_heads, np.s_
  table = {
    'input_layernorm.weight': ('attention_norm', ALL, SAME),
    'post_attention_layernorm.weight': ('mlp_norm', ALL, SAME),
    'self_attn.q_norm.weight': ('q_norm', ALL, SAME),
    'self_attn.k_norm.weight': ('k_norm', ALL, SAME),
    'self_attn.o_proj.weight': ('o', ALL, _linear(3)),
    'self_attn.o_proj.bias': ('o_bias', ALL, FLAT),
    'mlp.gate_proj.weight': ('gate_up', s[:, 0], LINEAR),
    'mlp.gate_proj.bias': ('gate_up_bias', (0,), FLAT),
    'mlp.up_proj.weight': ('gate_up', s[:, 1], LINEAR),
    'mlp.up_proj.bias': ('gate_up_bias', (1,), FLAT),
    'mlp.down_proj.weight': ('down', ALL, LINEAR),
    'mlp.down_proj.bias': ('down_bias', ALL, FLAT),
  }
  for name, heads in (('q', s[:R]), ('k', s[R : R + 1]), ('v', s[R + 1 :])):
    weight, bias = (slice(None), slice(None), heads), (slice(None), heads)
    table[f'self_attn.{name}_proj.weight'] = ('qkv', weight, LINEAR)
    table[f'self_attn.{name}_proj.bias'] = ('qkv_bias', bias, FLAT)
  return table


def llama(c):
  """Llama's tensors, and those of all families that name theirs alike."""
  return _llama_top(), 'model.layers.{}.', _llama_layer(c)


def gemma(c):
  """Gemma's tensors: Llama's, with norms on the way out too."""
  norms = {
    'post_attention_layernorm.weight': ('attention_post_norm', ALL, SAME),
    'pre_feedforward_layernorm.weight': ('mlp_norm', ALL, SAME),
    'post_feedforward_layernorm.weight': ('mlp_post_norm', ALL, SAME),
  }
  return _llama_top(), 'model.layers.{}.', _llama_layer(c) | norms


def phi3(c):
  """Phi's tensors: Llama's, with q, k and v fused, and gate and up."""
  keep = ('input_', 'post_', 'self_attn.o', 'mlp.down')
  table = {n: r for n, r in _llama_layer(c).items() if n.startswith(keep)}
  table |= {
    'self_attn.qkv_proj.weight': ('qkv', ALL, _q_then_k_then_v(LINEAR)),
    'mlp.gate_up_proj.weight': ('gate_up', ALL, LINEAR),
  }
  return _llama_top(), 'model.layers.{}.', table


def _with_experts(c, router, expert, gate, up, down):
  table = _llama_layer(c)
  table = {n: r for n, r in table.items() if not n.startswith('mlp.')}
  table[router] = ('router', ALL, LINEAR)
  for e in range(c.num_experts):
    part, name = (e, slice(None)), expert.format(e)
    table[f'{name}.{gate}.weight'] = ('gate_up', (*part, 0), LINEAR)
    table[f'{name}.{up}.weight'] = ('gate_up', (*part, 1), LINEAR)
    table[f'{name}.{down}.weight'] = ('down', (e,), LINEAR)
  return _llama_top(), 'model.layers.{}.', table


def mixtral(c):
  """Mixtral's tensors: Llama's, with experts for an MLP."""
  moe = 'block_sparse_moe.'
  return _with_experts(
    c, f'{moe}gate.weight', moe + 'experts.{}', 'w1', 'w3', 'w2'
  )


def qwen3_moe(c):
  """Qwen 3's tensors with experts for an MLP."""
  names = ('gate_proj', 'up_proj', 'down_proj')
  return _with_experts(c, 'mlp.gate.weight', 'mlp.experts.{}', *names)


def gpt2(c):
  """Conv1D keeps its weights as [in, out]."""
  top = {
    'transformer.wte.weight': ('embed', ALL, SAME),
    'transformer.wpe.weight': ('positions', ALL, SAME),
    'transformer.ln_f.weight': ('norm', ALL, SAME),
    'transformer.ln_f.bias': ('norm_bias', ALL, SAME),
    'lm_head.weight': ('head', ALL, LINEAR),
  }
  layer = {
    'ln_1.weight': ('attention_norm', ALL, SAME),
    'ln_1.bias': ('attention_norm_bias', ALL, SAME),
    'ln_2.weight': ('mlp_norm', ALL, SAME),
    'ln_2.bias': ('mlp_norm_bias', ALL, SAME),
    'attn.c_attn.weight': ('qkv', ALL, _q_then_k_then_v(_flat(1))),
    'attn.c_attn.bias': ('qkv_bias', ALL, _q_then_k_then_v(FLAT)),
    'attn.c_proj.weight': ('o', ALL, _flat(3)),
    'attn.c_proj.bias': ('o_bias', ALL, FLAT),
    'mlp.c_fc.weight': ('up', ALL, SAME),
    'mlp.c_fc.bias': ('up_bias', ALL, FLAT),
    'mlp.c_proj.weight': ('down', ALL, SAME),
    'mlp.c_proj.bias': ('down_bias', ALL, FLAT),
  }
  return top, 'transformer.h.{}.', layer


def gpt_neox(c):
  """Query, key and value of a head are adjacent, as in our layout."""
  top = {
    'gpt_neox.embed_in.weight': ('embed', ALL, SAME),
    'gpt_neox.final_layer_norm.weight': ('norm', ALL, SAME),
    'gpt_neox.final_layer_norm.bias': ('norm_bias', ALL, SAME),
    'embed_out.weight': ('head', ALL, LINEAR),
  }
  layer = {
    'input_layernorm.weight': ('attention_norm', ALL, SAME),
    'input_layernorm.bias': ('attention_norm_bias', ALL, SAME),
    'post_attention_layernorm.weight': ('mlp_norm', ALL, SAME),
    'post_attention_layernorm.bias': ('mlp_norm_bias', ALL, SAME),
    'attention.query_key_value.weight': ('qkv', ALL, LINEAR),
    'attention.query_key_value.bias': ('qkv_bias', ALL, FLAT),
    'attention.dense.weight': ('o', ALL, _linear(3)),
    'attention.dense.bias': ('o_bias', ALL, FLAT),
    'mlp.dense_h_to_4h.weight': ('up', ALL, LINEAR),
    'mlp.dense_h_to_4h.bias': ('up_bias', ALL, FLAT),
    'mlp.dense_4h_to_h.weight': ('down', ALL, LINEAR),
    'mlp.dense_4h_to_h.bias': ('down_bias', ALL, FLAT),
  }
  return top, 'gpt_neox.layers.{}.', layer


def _tensor(name, path, index, shape, form):
  index = (*index, *(slice(None),) * (len(shape) - len(index)))
  start, size, part = [], [], []
  for i, n in zip(index, shape):
    first, last, _ = (i, i + 1, 1) if isinstance(i, int) else i.indices(n)
    start.append(first)
    size.append(last - first)
    if not isinstance(i, int):
      part.append(last - first)
  return Tensor(name, path, tuple(start), tuple(size), tuple(part), form)


def tensors(c, family):
  """Every tensor of a checkpoint of this family: a list of Tensor.

  Args:
    c: ModelConfig.
    family: name in FAMILIES.
  """
  specs = weights.specs(c)
  top, prefix, layer = FAMILIES[family](c)
  rows = []
  for name, (leaf, part, form) in top.items():
    if leaf in specs and (leaf, c.head) != ('head', 'scalar'):
      rows.append(_tensor(name, (leaf,), part, specs[leaf].shape, form))
  if c.head == 'scalar':
    rows.append(_tensor('score.weight', ('head',), (), (c.dim,), SCORE))
  for i in range(c.num_layers):
    for name, (leaf, part, form) in layer.items():
      if leaf in specs['layers']:
        shape = specs['layers'][leaf].shape
        full = prefix.format(i) + name
        rows.append(_tensor(full, ('layers', leaf), (i, *part), shape, form))
  return rows


def head_name(c, family):
  """The name of the output matrix, whether the model has its own or not."""
  top = FAMILIES[family](c)[0]
  return next(name for name, (leaf, *_) in top.items() if leaf == 'head')


def base_prefix(c, family):
  """The prefix of all names except the head's, such as 'model.'."""
  return FAMILIES[family](c)[1].split('.')[0] + '.'


FAMILIES = {
  'llama': llama,
  'mistral': llama,
  'mixtral': mixtral,
  'qwen2': llama,
  'qwen3': llama,
  'qwen3_moe': qwen3_moe,
  'gemma2': gemma,
  'gemma3_text': gemma,
  'phi3': phi3,
  'gpt2': gpt2,
  'gpt_neox': gpt_neox,
}
