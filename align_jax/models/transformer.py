"""A decoder-only transformer in which a prompt is shared by its completions.

Grouped-query attention, RoPE, RMSNorm, SwiGLU, unless the switches of its
ModelConfig say otherwise. models/hf.py sets these for published checkpoints.
Parameters are a dict of arrays (models/weights.py), with layers stacked on the
first axis. There are three ways through the same layer:

  hidden_states   prompts and all completion tokens at once (scoring, training)
  prefill         prompts, keeping their keys and values
  decode_step     one more token for every completion

Completions read their prompt's keys and values in place. Nothing is repeated
per completion, unless a fused kernel needs whole rows (models/fused.py).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops, sharding
from align_jax.models import cache, cpu, fused, ring, weights
from align_jax.models.attention import OWN, PROMPT, SHARED, attend, masked
from align_jax.models.config import ModelConfig  # noqa: F401
from align_jax.models.layers import mlp, norm, project, soft_cap, with_bias
from align_jax.models.rope import frequencies, rope, table

# The rest of what `interface.of` finds in this module.
from align_jax.models.weights import (  # noqa: F401
  INPUTS,
  WHOLE,
  axes,
  init,
  laid_out,
  matrix_dims,
  plain_inputs,
  whole,
  width,
)
from align_jax.sharding import shard, ways


def _rows(x):
  """Activations [P, S, D] or [P, G, T, D] where their tokens live."""
  return shard(x, 'batch', *[None] * (x.ndim - 3), 'context')


def _whole(layer, c):
  """One layer's weights as its products read them."""
  names = {k: names[1:] for k, names in axes(c)['layers'].items()}
  return whole(layer, names, c)


def _over_layers(body, x, params, c, last=None):
  """`cpu.over_layers`, with what a backward pass shall compute anew."""
  if c.remat:
    policy = jax.checkpoint_policies.nothing_saveable
  elif ways('embed') > 1:  # else it would store every layer's whole weights
    policy = jax.checkpoint_policies.save_anything_except_these_names(WHOLE)
  else:
    return cpu.over_layers(body, x, _layers(params, c), last)

  def again(x, layer, last=None):
    f = functools.partial(body, last=last)
    unrolled = cpu.unrolls(c.num_layers)
    return jax.checkpoint(f, policy=policy, prevent_cse=unrolled)(x, layer)

  return cpu.over_layers(again, x, _layers(params, c), last)


def _layers(params, c):
  """The stacked layers, with each layer's window and kind of RoPE."""
  layers = params['layers']
  if c.windows:
    endless = jnp.iinfo(jnp.int32).max
    windows = [w or endless for w in c.windows]
    layers = {**layers, 'window': jnp.asarray(windows, jnp.int32)}
  if c.local_rope_theta is not None:
    layers = {**layers, 'local': jnp.asarray([w > 0 for w in c.windows])}
  return layers


class _Places(NamedTuple):
  """Positions of tokens [...], and the rotations of RoPE there."""

  index: jax.Array
  rotations: (
    tuple  # of (cos, sin), [..., 1, 1, h]: one for all layers, or two, for
  )
  # layers without a window and layers with one. () for learned positions


def _places(positions, c, size):
  """Of positions below `size`."""
  if c.num_positions:
    return _Places(positions, ())
  kinds = [(c.rope_theta, c.rope_scaling)]
  if c.local_rope_theta is not None:
    kinds.append((c.local_rope_theta, ()))
  # A table, since XLA would compute the cosines anew in every head and layer.
  tables = [table(size, *frequencies(c.rotary_dim, *kind)) for kind in kinds]
  at = lambda x: x[positions][..., None, None, :]
  return _Places(positions, jax.tree.map(at, tuple(tables)))


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
def _qkv(x, layer, places, c):
  """x [..., D] -> q [..., K, R, H], scaled, and k and v [..., K, H]."""
  x = norm(x, layer, 'attention_norm', c)
  size = c.num_heads // c.num_kv_heads
  qkv = with_bias(project(x, layer['qkv']), layer, 'qkv_bias')
  q, k, v = jnp.split(qkv, (size, size + 1), axis=-2)
  if c.qk_norm:
    q, k = norm(q, layer, 'q_norm', c), norm(k, layer, 'k_norm', c)
  q, k = _rotate(q, layer, places), _rotate(k, layer, places)
  scale = c.attention_scale
  scale = c.head_dim**-0.5 if scale is None else scale
  return q * scale, k[..., 0, :], v[..., 0, :]


def _after_attention(x, attended, layer, c):
  """The rest of a layer: heads [..., K, R, H] and its input x [..., D]."""
  out = project(attended, layer['o'], contracted=3)
  out = with_bias(out, layer, 'o_bias')
  if c.post_norms:
    out = norm(out, layer, 'attention_post_norm', c)
  y = _rows(x + out)
  out = mlp(norm(x if c.parallel else y, layer, 'mlp_norm', c), layer, c)
  if c.post_norms:
    out = norm(out, layer, 'mlp_post_norm', c)
  return _rows(y + out)


def _in_sight(mask, layer, queries, keys):
  """`mask` [..., q, k] within the layer's window, by positions [..., q], k."""
  if 'window' not in layer:
    return mask
  distance = queries[..., :, None] - keys[..., None, :]
  return mask & (distance < layer['window'])


@jax.named_scope('layer')
def _prompt_layer(x, layer, places, valid, c, kernel, last=None):
  """x [P, S, D] -> x, and this layer's keys and values [P, K, S, H].

  Given `last`, the x returned is [P, last, D], of the last slots.
  """
  q, k, v = _qkv(x, layer, places, c)
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
  return _after_attention(x, attended, layer, c), kv


def _attend_prompts(q, kv, layer, positions, valid, c):
  """q [P, T, K, R, H] of the last T of S slots -> the same."""
  q = jnp.moveaxis(q, 1, 3)  # [P, K, R, T, H]
  size, first = valid.shape[1], valid.shape[1] - q.shape[3]
  mask = jnp.tril(jnp.ones((size, size), bool))[first:] & valid[:, None]
  mask = _in_sight(mask, layer, positions[:, first:], positions)
  parts = [(PROMPT, *kv, mask[:, None, None])]
  return jnp.moveaxis(attend(q, parts, c.attention_softcap), 3, 1)


@jax.named_scope('layer')
def _completion_layer(x, layer, places, prompt, prompt_kv, valid, c, kernel):
  """x [P, G, T, D] attends to its prompt (valid and positions) and itself."""
  q, k, v = _qkv(x, layer, places, c)
  if kernel:
    attended = _attend_rows(q, k, v, prompt[0], prompt_kv, valid, kernel)
  else:
    over = ring.over_completions if ring.runs(c) else _attend_completions
    attended = over(q, k, v, layer, places.index, prompt, prompt_kv, valid, c)
  return _after_attention(x, attended, layer, c)


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
  prompt_mask = _prompt_mask(layer, positions, *prompt)
  parts = [
    (SHARED, *prompt_kv, prompt_mask),
    (OWN, k, v, causal[:, None, :, None]),
  ]
  attended = attend(q, parts, c.attention_softcap)
  return attended.transpose(0, 2, 4, 1, 3, 5)


def _prompt_mask(layer, positions, prompt_valid, prompt_positions):
  """Where a token at [P, G(, T)] sees its prompt: [P, 1, G, 1, T, S]."""
  mask = prompt_valid[:, None, None, None, None]
  if 'window' not in layer:
    return mask
  queries = positions.reshape(*positions.shape[:2], -1)[:, None, :, None]
  return _in_sight(mask, layer, queries, prompt_positions[:, None, None, None])


@jax.named_scope('embed')
def _embed(params, tokens, positions, c):
  x = params['embed'][tokens].astype(c.dtype)
  if ways('embed') > 1:
    # Else the table would be gathered, not the states.
    between = [None] * (tokens.ndim - 2)
    x = shard(x, 'replica', *between, 'context', 'embed')
  if c.embed_scale is not None:
    x = x * jnp.asarray(c.embed_scale, c.dtype)
  if c.num_positions:
    x = x + params['positions'][positions].astype(c.dtype)
  return _rows(x)


def _check_length(c, size):
  """Learned positions are finite, and JAX indexes beyond them silently."""
  if c.num_positions and size > c.num_positions:
    raise ValueError(
      f'{size} slots of prompt and completion, but the model has '
      f'num_positions={c.num_positions}'
    )


def hidden_states(
  params, c, prompts, prompt_valid, completions, valid, last=None
):
  """Final hidden states of prompts and of their completions.

  Args:
    prompts, prompt_valid: [P, S], left-padded.
    completions, valid: [P, G, T]; row p, g follows prompt p.
    last: how many of a prompt's states are wanted, from its end. None: S. The
      others need not run through all of the last layer.
  Returns:
    [P, last, D] and [P, G, T, D], after the last norm. Garbage on padding.
  """
  size = prompts.shape[1] + completions.shape[2]
  _check_length(c, size)
  kernel = fused.choose(c, len(prompts), size)
  prompt_positions = ops.positions(prompt_valid)
  prompt = prompt_valid, prompt_positions
  offset = prompt_valid.sum(-1)[:, None, None]
  completion_positions = offset + ops.positions(valid)
  places = [
    _places(x, c, size) for x in (prompt_positions, completion_positions)
  ]

  def body(carry, layer, last=None):
    (x, y), layer = carry, _whole(layer, c)
    x, kv = _prompt_layer(x, layer, places[0], prompt_valid, c, kernel, last)
    y = _completion_layer(y, layer, places[1], prompt, kv, valid, c, kernel)
    return (x, y), None

  x = _embed(params, prompts, prompt_positions, c)
  y = _embed(params, completions, completion_positions, c)
  (x, y), _ = _over_layers(body, (x, y), params, c, last)
  x = ops.last_slots(x, last)
  return norm(x, params, 'norm', c), norm(y, params, 'norm', c)


def prefill(params, c, prompts, prompt_valid, cache_dtype=None):
  """Hidden state after each prompt, and the prompts' keys and values.

  Args:
    cache_dtype: a name in `cache.STORES`. None: the dtype of activations.
  Returns:
    [P, D], and keys and values by layer, see `cache.store_prompt`.
  """
  _check_length(c, prompts.shape[1])
  kernel = fused.choose(c, *prompts.shape)
  positions = ops.positions(prompt_valid)
  places = _places(positions, c, prompts.shape[1])
  body = lambda x, layer, last=None: _prompt_layer(
    x, _whole(layer, c), places, prompt_valid, c, kernel, last
  )
  x = _embed(params, prompts, positions, c)
  x, kv = _over_layers(body, x, params, c, last=1)
  kept = cache.store_prompt(*kv, cache_dtype or c.dtype)
  if _scans_decoding(c):
    by_prompt = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), kept)
    return norm(x[:, -1], params, 'norm', c), cache.Stacked(by_prompt)
  layers = (jax.tree.map(lambda a: a[i], kept) for i in range(c.num_layers))
  return norm(x[:, -1], params, 'norm', c), tuple(layers)


def _scans_decoding(c):
  """Whether one body decodes all layers, else each is compiled by itself.

  A CPU would copy what a scan reads, and so would a GPU.
  """
  return sharding.platform() == 'tpu' and not cpu.unrolls(c.num_layers)


def empty_cache(c, num_prompts, group_size, size, cache_dtype=None):
  """Per layer, room for `size` keys and values of every completion."""
  shape = (num_prompts, c.num_kv_heads * group_size, size, c.head_dim)
  if _scans_decoding(c):
    shape = (num_prompts, c.num_layers, *shape[1:])
  zeros = lambda: cache.empty(shape, cache_dtype or c.dtype)
  if _scans_decoding(c):
    return cache.Stacked((zeros(), zeros()))
  return tuple((zeros(), zeros()) for _ in range(c.num_layers))


def split_layers(params, c):
  """The parameters as `decode_step` needs them: a tuple of layers, or a stack.

  Called outside of the loop over tokens, which would split them in every step.
  """
  layers = _layers(params, c)
  if _scans_decoding(c):
    return {**params, 'layers': layers}
  split = [jax.tree.map(lambda a: a[i], layers) for i in range(c.num_layers)]
  if cpu.decodes_transposed(params):
    split = [_transpose(layer, c) for layer in split]
  return {**params, 'layers': tuple(cpu.separate(split))}


def _transpose(layer, c):
  """A layer with its matrices transposed, except those of experts."""
  inputs = plain_inputs(layer, c)
  return layer | {k: cpu.transpose(layer[k], n) for k, n in inputs.items()}


def decode_step(
  params, c, tokens, index, prompt_kv, prompt_valid, caches, cache_dtype=None
):
  """Feeds completion token number `index` of every row.

  Args:
    params: as `split_layers` returns them.
    tokens: int32 [P, G].
    index: int [], the same for all rows, or int [P], one per prompt.
    prompt_kv: as `prefill` returns them.
    caches: as `empty_cache` returns them. Nothing beyond `index` is read.
  Returns:
    hidden states [P, G, D] that predict the next token, and the caches.
  """
  size = caches[0][0].numbers.shape[-2]
  _check_length(c, prompt_valid.shape[1] + size)
  positions = jnp.broadcast_to(
    (prompt_valid.sum(-1) + index)[:, None], tokens.shape
  )
  places = _places(positions, c, prompt_valid.shape[1] + size)
  x = _embed(params, tokens, positions, c)
  prompt = prompt_valid, ops.positions(prompt_valid) if c.windows else None
  decode = functools.partial(
    _decode_layer,
    places=places,
    index=index,
    prompt=prompt,
    c=c,
    dtype=cache_dtype or c.dtype,
  )
  over = _scanned if isinstance(caches, cache.Stacked) else _one_by_one
  x, caches = over(decode, x, params['layers'], prompt_kv, caches)
  return norm(x, params, 'norm', c), caches


def _one_by_one(decode, x, layers, prompt_kv, caches):
  """Decodes layer after layer, each with a cache of its own."""
  kept = []
  for layer, kv, own in zip(layers, prompt_kv, caches):
    x, own = decode(x, layer, kv, own)
    kept.append(own)
  return x, tuple(kept)


def _scanned(decode, x, layers, prompt_kv, caches):
  """Decodes by a scan that carries the caches, else it would copy them."""

  def body(carry, inputs):
    number, layer = inputs
    kv = prompt_kv.of(number)
    x, caches = decode(carry[0], layer, kv, carry[1], number)
    return (x, caches), None

  count = jnp.arange(len(jax.tree.leaves(layers)[0]))
  (x, caches), _ = jax.lax.scan(body, (x, caches), (count, layers))
  return x, caches


@jax.named_scope('layer')
def _decode_layer(
  x, layer, prompt_kv, caches, number=None, *, places, index, prompt, c, dtype
):
  """x [P, G, D] -> x, and the caches with the keys and values of x.

  Args:
    caches: the layer's, or those of all layers, of which it is `number`.
  """
  q, k, v = _qkv(x, layer, places, c)
  by_row = lambda x: x.swapaxes(1, 2).reshape(len(x), -1, c.head_dim)
  caches = caches if number is None else caches.layers
  caches = own = tuple(
    cache.put(old, cache.store(by_row(new), dtype), index, number)
    for old, new in zip(caches, (k, v))
  )
  if number is not None:
    caches = cache.Stacked(own)
    own = caches.of(number)
  slots = jnp.arange(own[0].numbers.shape[2])
  last = jnp.reshape(index, (-1, 1, 1, 1, 1))
  seen = slots <= last
  if c.windows:
    seen &= last - slots < layer['window']
  prompt_mask = _prompt_mask(layer, places.index, *prompt)[..., 0, :]
  attended = cache.attend(
    q.swapaxes(1, 2),
    prompt_kv,
    own,
    lambda scores: masked(scores, prompt_mask, c.attention_softcap),
    lambda scores: masked(scores, seen, c.attention_softcap),
  )
  return _after_attention(x, attended.swapaxes(1, 2), layer, c), caches


def decode_head(params, c):
  """Weights for `logits` of a few states at a time, as in decoding."""
  if not cpu.decodes_transposed(params):
    return cpu.separate(head_weights(params, c))
  if c.tie_embeddings:
    return cpu.Transposed(params['embed'])
  return cpu.separate(cpu.transpose(params['head']))


def head_weights(params, c):
  """[D, V]: the output matrix, tied to the embedding or not."""
  head = weights.head(params, c)
  return cpu.transposed_embedding(head) if c.tie_embeddings else head


@jax.named_scope('head')
def logits(states, weights, c):
  """Float32 logits [..., V] of states [..., D]; -inf where no token is."""
  product = project(states, weights).astype(jnp.float32)
  return ops.forbid(soft_cap(product, c.logit_softcap), c.no_tokens)
