"""Any model with a pure apply, such as a Flax module's, as a policy or scorer.

This module makes what `models.interface` asks for from `Adapter.init` and
`Adapter.apply` alone. It appends every completion to a copy of its prompt, and
sampling runs the whole row again for every token. This is slow, and right for
any `apply`. A model with a cache of its own registers functions like these with
`interface.of`.

Parameters are {'module': what `init` returned}, with a 'head' [D] beside it for
scalar scores.
"""

import dataclasses

import jax
import jax.numpy as jnp

from align_jax import ops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
  """What a user writes: a frozen dataclass with `init` and `apply`.

  Its fields define the model. Two with equal fields are one model and share
  compiled programs.
  """

  vocab_size: int  # V
  head: str = 'lm'  # 'lm': logits [V] per token | 'scalar': one score
  # Ids that are no tokens and never drawn, as (first, after) in order.
  no_tokens: tuple[tuple[int, int], ...] = ()

  def init(self, key):
    """-> a dict of arrays."""
    raise NotImplementedError

  def apply(self, tree, tokens, positions, valid):
    """Logits or hidden states after each token, computed causally.

    Args:
      tree: as `init` returns it.
      tokens: int32 [B, N].
      positions: int32 [B, N], of each token among the valid ones of its row.
      valid: bool [B, N], False on padding, which may be anywhere. No token may
        attend to padding.
    Returns:
      logits [B, N, V], or hidden states [B, N, D] for `head_weights`.
    """
    raise NotImplementedError

  def head_weights(self, tree):
    """[D, V] if `apply` returns hidden states, None if it returns logits."""
    return None

  def axes(self, tree):
    """Logical axes of each array, see `sharding.RULES`. Default: replicated."""
    return jax.tree.map(lambda x: (None,) * x.ndim, tree)


def init(key, c):
  """Parameters. A scalar head starts at zero."""
  params = {'module': jax.jit(c.init)(key)}
  if c.head == 'scalar':
    params['head'] = jnp.zeros(width(c))
  return params


def _abstract(c):
  return jax.eval_shape(c.init, jax.random.key(0))


def axes(c):
  """Logical axes of each parameter, for `sharding.place`."""
  table = {'module': c.axes(_abstract(c))}
  return table | ({'head': (None,)} if c.head == 'scalar' else {})


def width(c):
  """D: the size of what `apply` returns per token."""
  row = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  valid = jax.ShapeDtypeStruct((1, 1), bool)
  return jax.eval_shape(c.apply, _abstract(c), row, row, valid).shape[-1]


def laid_out(params, c):
  """The parameters as they are: `Adapter.axes` says how they lie."""
  return params


def matrix_dims(path, shape, c):
  """(stacked, input) dimensions of the matrix at `path`, for LoRA.

  Raises:
    ValueError: not a matrix.
  """
  if len(shape) != 2:
    raise ValueError(
      f'{path} of shape {tuple(shape)} is no matrix [inputs, outputs]'
    )
  return 0, 1


def _states(params, c, tokens, valid):
  """[..., N] -> [..., N, D], whatever the leading dimensions."""
  flat = lambda x: x.reshape(-1, x.shape[-1])
  tokens, valid, shape = flat(tokens), flat(valid), tokens.shape
  out = c.apply(params['module'], tokens, ops.positions(valid), valid)
  if out.ndim != 3 or out.shape[:2] != tokens.shape:
    raise ValueError(
      f'{type(c).__name__}.apply returned shape {out.shape} for tokens '
      f'{tokens.shape}, expected (*tokens.shape, vocabulary or width)'
    )
  return out.reshape(*shape, out.shape[-1])


def _rows(prompts, completions):
  """[P, S] and [P, G, T] -> [P, G, S + T]."""
  shape = (*completions.shape[:2], prompts.shape[-1])
  copies = jnp.broadcast_to(prompts[:, None], shape)
  return jnp.concatenate([copies, completions], -1)


def hidden_states(
  params, c, prompts, prompt_valid, completions, valid, last=None
):
  """See `transformer.hidden_states`: [P, last, D] and [P, G, T, D]."""
  rows = _rows(prompts, completions), _rows(prompt_valid, valid)
  states, size = _states(params, c, *rows), prompts.shape[1]
  return ops.last_slots(states[:, 0, :size], last), states[:, :, size:]


def prefill(params, c, prompts, prompt_valid, cache_dtype=None):
  """The state after each prompt [P, D], and the prompts as their own cache."""
  if cache_dtype is not None:
    raise ValueError(f'cache_dtype={cache_dtype!r}: an Adapter keeps no keys')
  return _states(params, c, prompts, prompt_valid)[:, -1], ((prompts,),)


def empty_cache(c, num_prompts, group_size, size, cache_dtype=None):
  """The tokens so far, int32 [P, G, size]."""
  return jnp.zeros((num_prompts, group_size, size), jnp.int32)


def split_layers(params, c):
  """The parameters as they are."""
  return params


def decode_step(
  params, c, tokens, index, prompt_kv, prompt_valid, cache, cache_dtype=None
):
  """Feeds completion token number `index`, and all before it once more.

  Args:
    tokens: int32 [P, G].
    index: int [], the same for all rows, or int [P].
  """
  slots, index = jnp.arange(cache.shape[-1]), jnp.reshape(index, (-1, 1, 1))
  cache = jnp.where(slots == index, tokens[..., None], cache)
  valid = jnp.broadcast_to(slots <= index, cache.shape)
  rows = _rows(prompt_kv[0][0], cache), _rows(prompt_valid, valid)
  states = _states(params, c, *rows)[:, :, prompt_valid.shape[1] :]
  last = jnp.broadcast_to(index, (len(cache), 1, 1))[..., None]
  return jnp.take_along_axis(states, last, axis=2)[:, :, 0], cache


def head_weights(params, c):
  """See `Adapter.head_weights`."""
  return c.head_weights(params['module'])


decode_head = head_weights


def logits(states, weights, c):
  """Float32 logits [..., V] of states [..., D]; -inf where no token is."""
  if weights is not None:
    states = states @ weights.astype(states.dtype)
  return ops.forbid(states.astype(jnp.float32), c.no_tokens)
