"""Keys and values that are stored while completions grow.

`STORES` has the ways to store them. Sums over them are float32. A prompt's keys
and values are stored once for its G completions. Keys have the tokens on the
last axis, the layout that the product of every step reads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax.sharding import shard


class Stored(NamedTuple):
  """Keys or values of tokens: of completions [P, K * G, T, H]."""

  numbers: jax.Array
  scales: jax.Array | None = None  # f32, without the last axis. None: 1


class Stacked(NamedTuple):
  """Keys and values of all layers, [P, L, ...] each, for a scan over layers."""

  layers: tuple[Stored, Stored]

  def of(self, layer):
    """Those of one layer."""
    pick = lambda x: jax.lax.dynamic_index_in_dim(x, layer, 1, keepdims=False)
    return jax.tree.map(pick, self.layers)


def _cast(dtype):
  return lambda x: Stored(x.astype(dtype))


def _int8(x):
  """Eight bits per number and a scale per token and head."""
  x = x.astype(jnp.float32)
  scales = jnp.abs(x).max(-1) / 127
  steps = x / jnp.where(scales > 0, scales, 1)[..., None]
  return Stored(jnp.round(steps).astype(jnp.int8), scales)


def store(x, dtype):
  """x [..., H] as `STORES[dtype]` stores it.

  Raises:
    ValueError: `dtype` is none of `STORES`.
  """
  if dtype not in STORES:
    raise ValueError(f'cache_dtype={dtype!r} is none of {list(STORES)}')
  return STORES[dtype](x)


def store_prompt(keys, values, dtype):
  """Keys and values [P, K, S, H]. The keys are stored as [P, K, H, S]."""
  keys, values = store(keys, dtype), store(values, dtype)
  return keys._replace(numbers=keys.numbers.swapaxes(-1, -2)), values


def empty(shape, dtype):
  """Zeros of a shape (P, K * G, T, H), or (P, L, K * G, T, H)."""
  like = jax.ShapeDtypeStruct(shape, jnp.float32)
  kept = jax.eval_shape(lambda x: store(x, dtype), like)
  axes = 'batch', *[None] * (len(shape) - 4), 'heads'
  zeros = lambda x: shard(jnp.zeros(x.shape, x.dtype), *axes)
  return jax.tree.map(zeros, kept)


def grow(caches, size):
  """Any tree of Stored or Stacked, padded to room for `size` tokens."""
  stacked = lambda x: isinstance(x, Stacked)

  def pad(x, axis):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths)

  def grown(x):
    return jax.tree.map(lambda a: pad(a, 3 if stacked(x) else 2), x)

  return jax.tree.map(grown, caches, is_leaf=stacked)


def put(cache, new, index, layer=None):
  """Writes `new`, a token [P, K * G, H], at `index`: int [] or int [P].

  Args:
    layer: int [], where `cache` is of all layers, [P, L, ...].
  """

  def write(x, y):
    if layer is not None and jnp.ndim(index):
      return x.at[jnp.arange(len(x)), layer, :, index].set(y)
    if layer is not None:
      start = (0, layer, 0, index, *[0] * (x.ndim - 4))
      return jax.lax.dynamic_update_slice(x, y[:, None, :, None], start)
    if jnp.ndim(index):
      return x.at[jnp.arange(len(x)), :, index].set(y)
    y = jnp.expand_dims(y, 2)
    return jax.lax.dynamic_update_slice_in_dim(x, y, index, axis=2)

  return jax.tree.map(write, cache, new)


def _scores(form, q, keys):
  scores = jnp.einsum(form, q, keys.numbers.astype(q.dtype))
  scores = scores.astype(jnp.float32)
  return scores if keys.scales is None else scores * keys.scales[..., None, :]


def _mix(weights, values, dtype):
  if values.scales is not None:
    weights = weights * values.scales[..., None, :]
  return jnp.einsum(
    'pkmt,pkth->pkmh', weights.astype(dtype), values.numbers.astype(dtype)
  )


@jax.named_scope('attention')
def attend(q, prompt, own, see_prompt, see_own):
  """Attention of one token per row to its prompt and its completion.

  Args:
    q: [P, K, G, R, H].
    prompt: keys and values as `store_prompt` returns them.
    own: keys and values, Stored.
    see_prompt, see_own: mask scores, f32 [P, K, G, R, S or T] -> the same.
  Returns:
    [P, K, G, R, H].
  """
  size = q.shape[:-1]
  # No axis of the cache may be reshaped: XLA would copy it in every step.
  by_row = lambda x: x.reshape(len(q), -1, size[-1], x.shape[-1])
  by_prompt = lambda x: x.reshape(*size[:2], -1, x.shape[-1])
  split = lambda x: x.reshape(*size, -1)
  scores = (
    see_prompt(split(_scores('pkmh,pkht->pkmt', by_prompt(q), prompt[0]))),
    see_own(split(_scores('pkmh,pkth->pkmt', by_row(q), own[0]))),
  )
  best = jnp.maximum(*(s.max(-1, keepdims=True) for s in scores))
  weights = [jnp.exp(s - best) for s in scores]
  total = sum(w.sum(-1, keepdims=True) for w in weights)
  mixed = split(_mix(by_prompt(weights[0]), prompt[1], q.dtype))
  mixed += split(_mix(by_row(weights[1]), own[1], q.dtype))
  return (mixed / total).astype(q.dtype)


STORES = {  # x [..., H] -> Stored
  'float32': _cast(jnp.float32),
  'bfloat16': _cast(jnp.bfloat16),
  'float16': _cast(jnp.float16),
  'int8': _int8,
}
