"""One layer of the transformer, for prompts and for their completions.

Shapes: P prompts of S slots, G completions of T tokens each, K heads of keys
with R of queries, H numbers a head, D a state. `c` is a ModelConfig, `layer` a
layer's parameters.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.models import cpu, ring
from align_jax.models.attention import OWN, PROMPT, SHARED, attend
from align_jax.models.layers import mlp, norm, project, with_bias
from align_jax.models.rope import frequencies, rope, table
from align_jax.models.weights import WHOLE, axes, whole
from align_jax.sharding import shard, ways


def by_tokens(x):
  """Activations [P, S, D] or [P, G, T, D] where their tokens live."""
  return shard(x, 'batch', *[None] * (x.ndim - 3), 'context')


def whole_layer(layer, c):
  """One layer's weights as its products read them."""
  names = {k: names[1:] for k, names in axes(c)['layers'].items()}
  return whole(layer, names, c)


def over_layers(body, x, params, c, last=None):
  """`cpu.over_layers`, with what a backward pass shall compute anew."""
  if c.remat:
    policy = jax.checkpoint_policies.nothing_saveable
  elif ways('embed') > 1:  # else it would store every layer's whole weights
    policy = jax.checkpoint_policies.save_anything_except_these_names(WHOLE)
  else:
    return cpu.over_layers(body, x, layers_of(params, c), last)

  def again(x, layer, last=None):
    f = functools.partial(body, last=last)
    unrolled = cpu.unrolls(c.num_layers)
    return jax.checkpoint(f, policy=policy, prevent_cse=unrolled)(x, layer)

  return cpu.over_layers(again, x, layers_of(params, c), last)


def layers_of(params, c):
  """The stacked layers, with each layer's window and kind of RoPE."""
  layers = params['layers']
  if c.windows:
    endless = jnp.iinfo(jnp.int32).max
    windows = [w or endless for w in c.windows]
    layers = {**layers, 'window': jnp.asarray(windows, jnp.int32)}
  if c.local_rope_theta is not None:
    layers = {**layers, 'local': jnp.asarray([w > 0 for w in c.windows])}
  return layers


class Places(NamedTuple):
  """Where tokens are, and the rotations of RoPE there.

  Attributes:
    index: positions [...].
    rotations: pairs (cos, sin) of [..., 1, 1, h]: one for all layers, or two,
      for layers without a window and layers with one. () for learned positions.
  """

  index: jax.Array
  rotations: tuple


def places_of(positions, c, size):
  """The Places of positions [...] below `size`."""
  if c.num_positions:
    return Places(positions, ())
  kinds = [(c.rope_theta, c.rope_scaling)]
  if c.local_rope_theta is not None:
    kinds.append((c.local_rope_theta, ()))
  # A table, since XLA would compute the cosines anew in every head and layer.
  tables = [table(size, *frequencies(c.rotary_dim, *kind)) for kind in kinds]
  at = lambda x: x[positions][..., None, None, :]
  return Places(positions, jax.tree.map(at, tuple(tables)))


def _rotate(x, layer, places):
  """RoPE for heads [..., heads, H]."""
  if not places.rotations:
    return x
  whole, *local = places.rotations
  if local:
    choose = lambda a, b: jnp.where(layer['local'], a, b)
    whole = jax.tree.map(choose, local[0], whole)
  return rope(x, *whole)


@jax.named_scope('qkv')
def qkv(x, layer, places, c):
  """x [..., D] -> q [..., K, R, H], scaled, and k and v [..., K, H]."""
  x = norm(x, layer, 'attention_norm', c)
  size = c.num_heads // c.num_kv_heads
  heads = with_bias(project(x, layer['qkv']), layer, 'qkv_bias')
  q, k, v = jnp.split(heads, (size, size + 1), axis=-2)
  if c.qk_norm:
    q, k = norm(q, layer, 'q_norm', c), norm(k, layer, 'k_norm', c)
  q, k = _rotate(q, layer, places), _rotate(k, layer, places)
  scale = c.attention_scale
  scale = c.head_dim**-0.5 if scale is None else scale
  return q * scale, k[..., 0, :], v[..., 0, :]


def after_attention(x, attended, layer, c):
  """The rest of a layer: heads [..., K, R, H] and its input x [..., D]."""
  out = project(attended, layer['o'], contracted=3)
  out = with_bias(out, layer, 'o_bias')
  if c.post_norms:
    out = norm(out, layer, 'attention_post_norm', c)
  y = by_tokens(x + out)
  out = mlp(norm(x if c.parallel else y, layer, 'mlp_norm', c), layer, c)
  if c.post_norms:
    out = norm(out, layer, 'mlp_post_norm', c)
  return by_tokens(y + out)


def _in_sight(mask, layer, queries, keys):
  """`mask` [..., q, k] within the layer's window, by positions [..., q], k."""
  if 'window' not in layer:
    return mask
  distance = queries[..., :, None] - keys[..., None, :]
  return mask & (distance < layer['window'])


@jax.named_scope('layer')
def prompt_layer(x, layer, places, valid, c, kernel, last=None):
  """x [P, S, D] -> x, and this layer's keys and values [P, K, S, H].

  Given `last`, the x returned is [P, last, D], of the last slots.
  """
  q, k, v = qkv(x, layer, places, c)
  heads_first = lambda x: jnp.moveaxis(x, 1, 2)
  slots = 'context' if ring.runs(c) else None  # None: of all tokens
  kv = tuple(shard(heads_first(x), 'batch', 'heads', slots) for x in (k, v))
  x = ops.last_slots(x, last)
  if ring.runs(c):  # on devices that all have queries, whatever is wanted
    attended = ring.over_prompts(q, kv, layer, places.index, valid, c)
    attended = ops.last_slots(attended, last)
  elif kernel and last is None:
    attended = kernel(q, k, v, valid, valid)
  else:
    q = ops.last_slots(q, last)
    attended = _attend_prompts(q, kv, layer, places.index, valid, c)
  return after_attention(x, attended, layer, c), kv


def _attend_prompts(q, kv, layer, positions, valid, c):
  """q [P, T, K, R, H] of the last T of S slots -> the same."""
  q = jnp.moveaxis(q, 1, 3)  # [P, K, R, T, H]
  size, first = valid.shape[1], valid.shape[1] - q.shape[3]
  mask = jnp.tril(jnp.ones((size, size), bool))[first:] & valid[:, None]
  mask = _in_sight(mask, layer, positions[:, first:], positions)
  parts = [(PROMPT, *kv, mask[:, None, None])]
  return jnp.moveaxis(attend(q, parts, c.attention_softcap), 3, 1)


@jax.named_scope('layer')
def completion_layer(x, layer, places, prompt, prompt_kv, valid, c, kernel):
  """x [P, G, T, D] attends to its prompt (valid and positions) and itself."""
  q, k, v = qkv(x, layer, places, c)
  if kernel:
    attended = _attend_rows(q, k, v, prompt[0], prompt_kv, valid, kernel)
  else:
    over = ring.over_completions if ring.runs(c) else _attend_completions
    attended = over(q, k, v, layer, places.index, prompt, prompt_kv, valid, c)
  return after_attention(x, attended, layer, c)


def _attend_rows(q, k, v, prompt_valid, prompt_kv, valid, kernel):
  """As `_attend_completions`, with a copy of the prompt for each completion."""
  flat = lambda x: x.reshape(math.prod(x.shape[:2]), *x.shape[2:])

  def rows(prompt, own):
    shape = *own.shape[:2], *prompt.shape[1:]
    copies = jnp.broadcast_to(prompt[:, None], shape)
    return flat(jnp.concatenate([copies, own], 2))

  keys, values = (
    rows(jnp.moveaxis(prompt, 2, 1), own)
    for prompt, own in zip(prompt_kv, (k, v))
  )
  seen = rows(prompt_valid, valid)
  return kernel(flat(q), keys, values, flat(valid), seen).reshape(q.shape)


def _attend_completions(q, k, v, layer, positions, prompt, prompt_kv, valid, c):
  """q [P, G, T, K, R, H], k and v [P, G, T, K, H] -> as q."""
  q = q.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, R, T, H]
  # [P, K, G, T, H], of all tokens.
  k, v = (shard(a.transpose(0, 3, 1, 2, 4), 'batch', 'heads') for a in (k, v))
  size = valid.shape[2]
  causal = jnp.tril(jnp.ones((size, size), bool)) & valid[:, :, None]
  causal = _in_sight(causal, layer, positions, positions)
  parts = [
    (SHARED, *prompt_kv, prompt_mask(layer, positions, *prompt)),
    (OWN, k, v, causal[:, None, :, None]),
  ]
  attended = attend(q, parts, c.attention_softcap)
  return attended.transpose(0, 2, 4, 1, 3, 5)


def prompt_mask(layer, positions, prompt_valid, prompt_positions):
  """Where a token at [P, G(, T)] sees its prompt: [P, 1, G, 1, T, S]."""
  mask = prompt_valid[:, None, None, None, None]
  if 'window' not in layer:
    return mask
  queries = positions.reshape(*positions.shape[:2], -1)[:, None, :, None]
  return _in_sight(mask, layer, queries, prompt_positions[:, None, None, None])
