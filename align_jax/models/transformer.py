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

import jax
import jax.numpy as jnp

from align_jax import ops, sharding
from align_jax.models import blocks, cache, cpu, fused, weights
from align_jax.models.attention import masked
from align_jax.models.config import ModelConfig  # noqa: F401
from align_jax.models.layers import norm, project, soft_cap

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
  return blocks.by_tokens(x)


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
  length = completions.shape[2]
  if kernel:
    completions, valid = (fused.even(x) for x in (completions, valid))
  prompt_positions = ops.positions(prompt_valid)
  prompt = prompt_valid, prompt_positions
  offset = prompt_valid.sum(-1)[:, None, None]
  completion_positions = offset + ops.positions(valid)
  places = [
    blocks.places_of(x, c, size)
    for x in (prompt_positions, completion_positions)
  ]

  def body(carry, layer, last=None):
    (x, y), layer = carry, blocks.whole_layer(layer, c)
    x, kv = blocks.prompt_layer(
      x, layer, places[0], prompt_valid, c, kernel, last
    )
    y = blocks.completion_layer(
      y, layer, places[1], prompt, kv, valid, c, kernel
    )
    return (x, y), None

  x = _embed(params, prompts, prompt_positions, c)
  y = _embed(params, completions, completion_positions, c)
  (x, y), _ = blocks.over_layers(body, (x, y), params, c, last)
  x, y = ops.last_slots(x, last), y[:, :, :length]
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
  places = blocks.places_of(positions, c, prompts.shape[1])
  body = lambda x, layer, last=None: blocks.prompt_layer(
    x, blocks.whole_layer(layer, c), places, prompt_valid, c, kernel, last
  )
  x = _embed(params, prompts, positions, c)
  x, kv = blocks.over_layers(body, x, params, c, last=1)
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
  layers = blocks.layers_of(params, c)
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
  places = blocks.places_of(positions, c, prompt_valid.shape[1] + size)
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
  q, k, v = blocks.qkv(x, layer, places, c)
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
  prompt_mask = blocks.prompt_mask(layer, places.index, *prompt)[..., 0, :]
  attended = cache.attend(
    q.swapaxes(1, 2),
    prompt_kv,
    own,
    lambda scores: masked(scores, prompt_mask, c.attention_softcap),
    lambda scores: masked(scores, seen, c.attention_softcap),
  )
  return blocks.after_attention(x, attended.swapaxes(1, 2), layer, c), caches


def decode_head(params, c):
  """Weights for `logits` of a few states at a time, as in decoding."""
  transposed = cpu.decodes_transposed(params)
  if c.tie_embeddings and (transposed or sharding.platform() != 'cpu'):
    return cpu.Transposed(params['embed'])  # not a second, transposed copy
  if transposed:
    return cpu.separate(cpu.transpose(params['head']))
  return cpu.separate(head_weights(params, c))


def head_weights(params, c):
  """[D, V]: the output matrix, tied to the embedding or not."""
  head = weights.head(params, c)
  return cpu.transposed_embedding(head) if c.tie_embeddings else head


@jax.named_scope('head')
def logits(states, weights, c):
  """Float32 logits [..., V] of states [..., D]; -inf where no token is."""
  product = project(states, weights).astype(jnp.float32)
  return ops.forbid(soft_cap(product, c.logit_softcap), c.no_tokens)
