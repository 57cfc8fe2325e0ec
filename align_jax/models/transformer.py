"""A decoder-only transformer in which a prompt is shared by its completions.

Grouped-query attention, RoPE, RMSNorm, SwiGLU. Parameters are a dict of
arrays, laid out by one table of `Spec` rows (`specs`); layers are stacked on
the first axis. Three ways through the same layer:

  hidden_states   prompts and all completion tokens at once (scoring, training)
  prefill         prompts, keeping their keys and values
  decode_step     one more token for every completion

Completions read the keys and values of their prompt where they are; nothing is
ever repeated per completion.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.sharding import shard

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite
UNROLLED = 4  # layers; a stack no deeper compiles and runs faster unrolled


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  vocab_size: int
  dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tie_embeddings: bool = True
  head: str = 'lm'  # 'lm': logits [V] per token | 'scalar': one score
  dtype: str = 'float32'  # of activations; parameters stay float32

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim={self.head_dim} is odd; RoPE turns pairs')
    if self.head not in ('lm', 'scalar'):
      raise ValueError(f"head={self.head!r} is neither 'lm' nor 'scalar'")


class Spec(NamedTuple):
  shape: tuple[int, ...]
  axes: tuple[str | None, ...]  # logical names, see sharding.RULES
  init: Callable  # (key, shape) -> array


def _normal(scale):
  return lambda key, shape: scale * jax.random.normal(key, shape)


_ones = lambda key, shape: jnp.ones(shape)
_zeros = lambda key, shape: jnp.zeros(shape)


def specs(c: ModelConfig):
  """The one table of parameters: shape, logical axes, initialiser."""
  L, D, K, H, F = c.num_layers, c.dim, c.num_kv_heads, c.head_dim, c.mlp_dim
  R = c.num_heads // K
  out = 1 / (2 * L) ** 0.5  # keeps the residual stream's size at init
  layers = {
    # R query heads, one key head and one value head per kv head: one matmul.
    'qkv': Spec(
      (L, D, K, R + 2, H),
      (None, 'embed', 'heads', None, None),
      _normal(D**-0.5),
    ),
    'o': Spec(
      (L, K, R, H, D),
      (None, 'heads', None, None, 'embed'),
      _normal(out * (K * R * H) ** -0.5),
    ),
    'gate_up': Spec(
      (L, D, 2, F), (None, 'embed', None, 'mlp'), _normal(D**-0.5)
    ),
    'down': Spec((L, F, D), (None, 'mlp', 'embed'), _normal(out * F**-0.5)),
    'attention_norm': Spec((L, D), (None, None), _ones),
    'mlp_norm': Spec((L, D), (None, None), _ones),
  }
  table = {
    'embed': Spec((c.vocab_size, D), ('vocab', 'embed'), _normal(0.02)),
    'layers': layers,
    'norm': Spec((D,), (None,), _ones),
  }
  if c.head == 'scalar':
    table['head'] = Spec((D,), ('embed',), _zeros)
  elif not c.tie_embeddings:
    table['head'] = Spec((D, c.vocab_size), ('embed', 'vocab'), _normal(0.02))
  return table


def _is_spec(x):
  return isinstance(x, Spec)


def init(key, c: ModelConfig):
  """Parameters float32, drawn from `specs`."""
  table, treedef = jax.tree.flatten(specs(c), is_leaf=_is_spec)
  keys = jax.random.split(key, len(table))
  return treedef.unflatten(s.init(k, s.shape) for s, k in zip(table, keys))


def axes(c: ModelConfig):
  """Logical axes of each parameter, for `sharding.place`."""
  return jax.tree.map(lambda s: s.axes, specs(c), is_leaf=_is_spec)


def rms_norm(x, scale, eps):
  x32 = x.astype(jnp.float32)
  variance = jnp.mean(jnp.square(x32), -1, keepdims=True)
  return (x32 * jax.lax.rsqrt(variance + eps) * scale).astype(x.dtype)


def rope(x, positions, theta):
  """Rotary embedding (Su et al. 2021), half-split as in Llama.

  Args:
    x: [..., H].
    positions: int, broadcastable to x.shape[:-1].
  """
  half = x.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions[..., None] * frequencies
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
    x.dtype
  )


def _project(x, weights, contracted=1):
  """x [..., *in] by weights [*in, *out] -> [..., *out], as one plain GEMM."""
  inputs, outputs = weights.shape[:contracted], weights.shape[contracted:]
  rows = x.shape[: x.ndim - contracted]
  weights = weights.astype(x.dtype).reshape(math.prod(inputs), -1)
  return (x.reshape(-1, len(weights)) @ weights).reshape(*rows, *outputs)


def _qkv(x, layer, positions, c):
  """x [..., D] -> q [..., K, R, H], k and v [..., K, H]; q scaled."""
  x = rms_norm(x, layer['attention_norm'], c.norm_eps)
  size = c.num_heads // c.num_kv_heads
  q, k, v = jnp.split(_project(x, layer['qkv']), (size, size + 1), axis=-2)
  turn = lambda x: rope(x, positions[..., None, None], c.rope_theta)
  return turn(q) * c.head_dim**-0.5, turn(k)[..., 0, :], v[..., 0, :]


def _attention_out(x, attended, layer):
  return shard(x + _project(attended, layer['o'], contracted=3), 'batch')


def _mlp(x, layer, c):
  h = rms_norm(x, layer['mlp_norm'], c.norm_eps)
  gate, up = jnp.split(_project(h, layer['gate_up']), 2, axis=-2)
  h = (jax.nn.silu(gate) * up)[..., 0, :]
  return shard(x + _project(h, layer['down']), 'batch')


def _mask(scores, mask):
  return jnp.where(mask, scores.astype(jnp.float32), MASKED)


def _prompt_layer(x, layer, positions, valid, c):
  """x [P, S, D] -> x, and this layer's keys and values [P, K, S, H]."""
  q, k, v = _qkv(x, layer, positions, c)
  q = jnp.moveaxis(q, 1, 3)  # [P, K, R, S, H]
  k, v = jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2)
  size = valid.shape[1]
  mask = jnp.tril(jnp.ones((size, size), bool)) & valid[:, None]
  scores = jnp.einsum('pkrsh,pkth->pkrst', q, k)
  weights = jax.nn.softmax(_mask(scores, mask[:, None, None]), -1)
  weights = weights.astype(x.dtype)
  attended = jnp.einsum('pkrst,pkth->pskrh', weights, v)
  return _mlp(_attention_out(x, attended, layer), layer, c), (k, v)


def _attend_both(q, prompt_kv, kv, prompt_mask, mask):
  """Attention over the shared prompt and the row's own completion.

  Args:
    q: [P, K, G, R, T, H].
    prompt_kv: keys and values [P, K, S, H].
    kv: keys and values [P, K, G, U, H].
    prompt_mask: broadcastable to [P, K, G, R, T, S].
    mask: broadcastable to [P, K, G, R, T, U].
  Returns:
    [P, K, G, R, T, H].
  """
  scores = jnp.concatenate(
    [
      _mask(jnp.einsum('pkgrth,pksh->pkgrts', q, prompt_kv[0]), prompt_mask),
      _mask(jnp.einsum('pkgrth,pkguh->pkgrtu', q, kv[0]), mask),
    ],
    -1,
  )
  weights = jax.nn.softmax(scores, -1).astype(q.dtype)
  size = prompt_kv[0].shape[2]
  return jnp.einsum(
    'pkgrts,pksh->pkgrth', weights[..., :size], prompt_kv[1]
  ) + jnp.einsum('pkgrtu,pkguh->pkgrth', weights[..., size:], kv[1])


def _completion_layer(x, layer, positions, prompt_kv, prompt_valid, valid, c):
  """x [P, G, T, D] attends to its prompt and to itself."""
  q, k, v = _qkv(x, layer, positions, c)
  q = q.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, R, T, H]
  k, v = (a.transpose(0, 3, 1, 2, 4) for a in (k, v))  # [P, K, G, T, H]
  size = x.shape[2]
  causal = jnp.tril(jnp.ones((size, size), bool)) & valid[:, :, None]
  attended = _attend_both(
    q,
    prompt_kv,
    (k, v),
    prompt_valid[:, None, None, None, None],
    causal[:, None, :, None],
  ).transpose(0, 2, 4, 1, 3, 5)
  return _mlp(_attention_out(x, attended, layer), layer, c)


def _embed(params, tokens, c):
  return shard(params['embed'][tokens].astype(c.dtype), 'batch')


def _over_layers(body, x, params, c):
  unroll = c.num_layers if c.num_layers <= UNROLLED else 1
  return jax.lax.scan(body, x, params['layers'], unroll=unroll)


def hidden_states(params, c, prompts, prompt_valid, completions, valid):
  """Final hidden states of prompts and of their completions.

  Args:
    prompts, prompt_valid: [P, S], left-padded.
    completions, valid: [P, G, T]; row p, g follows prompt p.
  Returns:
    [P, S, D] and [P, G, T, D], after the last norm; garbage on padding.
  """
  prompt_positions = ops.positions(prompt_valid)
  offset = prompt_valid.sum(-1)[:, None, None]
  completion_positions = offset + ops.positions(valid)

  def body(carry, layer):
    x, y = carry
    x, kv = _prompt_layer(x, layer, prompt_positions, prompt_valid, c)
    y = _completion_layer(
      y, layer, completion_positions, kv, prompt_valid, valid, c
    )
    return (x, y), None

  x, y = _embed(params, prompts, c), _embed(params, completions, c)
  (x, y), _ = _over_layers(body, (x, y), params, c)
  norm = lambda h: rms_norm(h, params['norm'], c.norm_eps)
  return norm(x), norm(y)


def prefill(params, c, prompts, prompt_valid):
  """Hidden state after each prompt, and the prompts' keys and values.

  Returns:
    [P, D]; keys and values [L, P, K, S, H].
  """
  positions = ops.positions(prompt_valid)
  body = lambda x, layer: _prompt_layer(x, layer, positions, prompt_valid, c)
  x, kv = _over_layers(body, _embed(params, prompts, c), params, c)
  return rms_norm(x[:, -1], params['norm'], c.norm_eps), kv


def empty_cache(c, num_prompts, group_size, size):
  """Per layer, keys and values [P, K, G, size, H] of the completions."""
  shape = (num_prompts, c.num_kv_heads, group_size, size, c.head_dim)
  return tuple(
    (jnp.zeros(shape, c.dtype), jnp.zeros(shape, c.dtype))
    for _ in range(c.num_layers)
  )


def decode_step(params, c, tokens, index, prompt_kv, prompt_valid, cache):
  """Feeds completion token number `index` of every row.

  Layers are unrolled: a scan would copy the cache once per token.

  Args:
    tokens: int32 [P, G].
    index: int [], the same for all rows.
    prompt_kv: as `prefill` returns it.
    cache: as `empty_cache` returns it, filled below `index`.
  Returns:
    hidden states [P, G, D] that predict the next token, and the cache.
  """
  x = _embed(params, tokens, c)
  positions = jnp.broadcast_to(
    prompt_valid.sum(-1)[:, None] + index, tokens.shape
  )
  seen = jnp.arange(cache[0][0].shape[3]) <= index
  new_cache = []
  for i in range(c.num_layers):
    layer = jax.tree.map(lambda a: a[i], params['layers'])
    q, k, v = _qkv(x, layer, positions, c)
    own = tuple(
      jax.lax.dynamic_update_slice_in_dim(
        old, new.swapaxes(1, 2)[:, :, :, None], index, axis=3
      )
      for old, new in zip(cache[i], (k, v))
    )
    new_cache.append(own)
    attended = _attend_both(
      q.swapaxes(1, 2)[:, :, :, :, None],
      (prompt_kv[0][i], prompt_kv[1][i]),
      own,
      prompt_valid[:, None, None, None, None],
      seen,
    )[:, :, :, :, 0].swapaxes(1, 2)
    x = _mlp(_attention_out(x, attended, layer), layer, c)
  x = rms_norm(x, params['norm'], c.norm_eps)
  return x, tuple(new_cache)


def head_weights(params, c):
  """[D, V]: the output matrix, tied to the embedding or not."""
  return params['embed'].T if c.tie_embeddings else params['head']
