"""Attention over tokens that are split over devices: a ring.

Queries stay where they are. Keys and values travel, a block at a time, round
the devices that share a row (Liu et al. 2023, arXiv 2310.01889). A device adds
each block to a softmax over those before. So it never holds all keys of a row,
nor all scores of a query. The backward pass stores no block either: they travel
once more, and their gradients with them.

Every block is computed, also where all of its keys are later than the queries:
the device of a row's last tokens needs every block, and the others wait for it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import sharding
from align_jax.models import cpu
from align_jax.models.attention import MASKED, OWN, PROMPT, SHARED, masked
from align_jax.sharding import shard

HIDDEN = jnp.iinfo(jnp.int32).max  # the position of a key that nobody sees


class _Ring(NamedTuple):
  """What is the same in every turn."""

  axes: tuple[str, ...]  # of the mesh
  devices: int
  equations: tuple  # of each part, see `attention.attend`
  softcap: float | None


def check(attention: str, context: int) -> None:
  """Refuses a ring over one device.

  Args:
    attention: `model.attention`.
    context: `mesh.context`.
  Raises:
    ValueError: nothing would travel.
  """
  if attention == 'ring' and context == 1:
    raise ValueError(
      "model.attention='ring' sends keys round mesh.context=1, expected 2 or "
      'more devices there'
    )


def runs(c):
  """Whether a ModelConfig's keys travel: on a mesh that splits rows."""
  return c.attention == 'ring' and sharding.ways('context') > 1


def over_prompts(q, kv, layer, positions, valid, c):
  """Prompts attend to themselves.

  Args:
    q: [P, S, K, R, H], scaled.
    kv: keys and values [P, K, S, H].
    layer: the parameters of one, and its window if it has one.
    positions, valid: of the slots, [P, S].
  Returns:
    the shape of q; garbage on padding.
  """
  q = jnp.moveaxis(q, 1, 3)  # [P, K, R, S, H]
  seen = _sight(positions[:, None, None, :, None], layer)
  parts = [(PROMPT, *kv, _places(positions, valid)[:, None, None, None])]
  return jnp.moveaxis(attend(q, seen, parts, c.attention_softcap), 3, 1)


def over_completions(q, k, v, layer, positions, prompt, prompt_kv, valid, c):
  """Completions attend to their prompt and to themselves.

  Args:
    q: [P, G, T, K, R, H], scaled.
    k, v: [P, G, T, K, H].
    layer: see `over_prompts`.
    positions, valid: of the slots, [P, G, T].
    prompt: valid and positions of its slots, [P, S].
    prompt_kv: its keys and values [P, K, S, H].
  Returns:
    the shape of q; garbage on padding.
  """
  q = q.transpose(0, 3, 1, 4, 2, 5)  # [P, K, G, R, T, H]
  k, v = (x.transpose(0, 3, 1, 2, 4) for x in (k, v))  # [P, K, G, T, H]
  seen = _sight(positions[:, None, :, None, :, None], layer)
  prompt_valid, prompt_positions = prompt
  shared = _places(prompt_positions, prompt_valid)
  own = _places(positions, valid)
  parts = [
    (SHARED, *prompt_kv, shared[:, None, None, None, None]),
    (OWN, k, v, own[:, None, :, None, None]),
  ]
  attended = attend(q, seen, parts, c.attention_softcap)
  return attended.transpose(0, 2, 4, 1, 3, 5)


def _sight(positions, layer):
  """The first and the last position that queries at `positions` see."""
  window = layer.get('window')
  first = (
    jnp.zeros_like(positions) if window is None else positions - window + 1
  )
  return first, positions


def _places(positions, valid):
  """Positions of keys, `HIDDEN` where there is no token."""
  return jnp.where(valid, positions, HIDDEN)


@jax.named_scope('attention')
def attend(q, seen, parts, softcap=None):
  """`attention.attend`, of tokens that are split over the mesh.

  Slots are added up to a multiple of the devices, as padding.

  Args:
    q: [..., T, H], scaled.
    seen: int32 [..., T, 1] twice, see `_sight`. They broadcast to the scores.
    parts: as those of `attention.attend`, with int32 [..., 1, keys] in place of
      masks, see `_places`.
    softcap: of the scores, see `layers.soft_cap`.
  Returns:
    the shape and dtype of q. Finite also where a query sees no key.
  """
  if not q.size:
    return q
  parts = [part for part in parts if part[1].shape[-2]]  # not empty
  size = sharding.ways('context')
  equations, blocks = zip(*((part[0], part[1:]) for part in parts))
  ring = _Ring(sharding.over('context'), size, equations, softcap)
  slots = functools.partial(_padded, size=size)
  laid = lambda x: shard(slots(x, -2), 'batch', 'heads', *_between(x))
  own = laid(q), tuple(slots(x, -2) for x in seen)
  blocks = tuple(
    (laid(k), laid(v), slots(at, -1, fill=HIDDEN)) for k, v, at in blocks
  )
  f = jax.shard_map(
    functools.partial(_attend, ring),
    in_specs=(
      *jax.tree.map(lambda x: _lies(x, -2), own),
      tuple(tuple(map(_lies, block, (-2, -2, -1))) for block in blocks),
    ),
    out_specs=_lies(q, -2),
    axis_names=set(ring.axes),  # XLA splits rows and heads
    check_vma=False,
  )
  return f(*own, blocks)[..., : q.shape[-2], :]


def _padded(x, axis, size, fill=0):
  """x with slots added at the end of an axis, up to a multiple of `size`."""
  more = [(0, 0)] * x.ndim
  more[axis] = (0, -x.shape[axis] % size)
  return jnp.pad(x, more, constant_values=fill)


def _between(x):
  """Axes of x [P, K, ..., slots, H] after the first two."""
  return *[None] * (x.ndim - 4), 'context', None


def _lies(x, axis):
  """On which devices the slots of x are."""
  names = [None] * x.ndim
  names[axis] = 'context'
  return sharding.spec(names)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring, q, seen, blocks):
  """On each device: its queries, and its blocks (keys, values, places)."""
  return _forward(ring, q, seen, blocks)[0]


def _forward(ring, q, seen, blocks):
  kept = q, seen, blocks
  # Masks depend on no layer: JAX would compute those of all turns beforehand.
  q, seen, blocks = cpu.separate(kept)

  def turn(running, blocks):
    top, total, values = running
    scores = _scores(ring, q, seen, blocks)
    tops = [s.max(-1, keepdims=True) for s in scores]
    new = jax.tree.reduce(jnp.maximum, tops, top)
    kept = jnp.exp(top - new)
    more = _sums(ring, scores, blocks, new, q.dtype)
    return new, total * kept + more[0], values * kept + more[1]

  def step(carry, _):
    running, blocks = carry
    return (turn(running, blocks), _pass_on(ring, blocks)), None

  zeros = jnp.zeros(q.shape, jnp.float32)
  start = zeros[..., :1] + MASKED, zeros[..., :1], zeros
  carry, _ = jax.lax.scan(step, (start, blocks), length=ring.devices - 1)
  top, total, values = turn(*carry)
  out = (values / total).astype(q.dtype)
  return out, (*kept, top, total, out)


def _backward(ring, kept, cotangent):
  q, seen, blocks, top, total, out = kept
  cotangent = cotangent.astype(jnp.float32)
  of_total = -(cotangent * out).sum(-1, keepdims=True) / total
  of_sums = of_total, cotangent / total

  def turn(dq, blocks):
    """Adds to dq, and returns the gradients of the blocks at hand."""

    def sums(q, moving):
      whole = [(k, v, at) for (k, v), (_, _, at) in zip(moving, blocks)]
      scores = _scores(ring, q, seen, whole)
      return _sums(ring, scores, whole, top, q.dtype)

    moving = tuple((k, v) for k, v, _ in blocks)
    more, of_blocks = jax.vjp(sums, q, moving)[1](of_sums)
    return dq + more, of_blocks

  def step(carry, _):
    dq, blocks, d_blocks = carry
    dq, more = turn(dq, blocks)
    d_blocks = _add(_pass_on(ring, d_blocks), more)
    return (dq, _pass_on(ring, blocks), d_blocks), None

  zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
  start = zeros(q), blocks, tuple((zeros(k), zeros(v)) for k, v, _ in blocks)
  carry, _ = jax.lax.scan(step, start, length=ring.devices - 1)
  dq, blocks, d_blocks = carry
  dq, more = turn(dq, blocks)
  # The block at hand is the next device's: it goes home.
  d_blocks = _pass_on(ring, _add(_pass_on(ring, d_blocks), more))
  like = lambda dx, x: dx.astype(x.dtype)
  d_blocks = tuple(
    (like(dk, k), like(dv, v), None)
    for (dk, dv), (k, v, _) in zip(d_blocks, blocks)
  )
  return like(dq, q), None, d_blocks


_attend.defvjp(_forward, _backward)


def _scores(ring, q, seen, blocks):
  """Float32 scores of each part, masked."""
  first, last = seen
  return [
    masked(
      jnp.einsum(equations[0], q, k), (first <= at) & (at <= last), ring.softcap
    )
    for equations, (k, _, at) in zip(ring.equations, blocks)
  ]


def _sums(ring, scores, blocks, top, dtype):
  """Sums of the weights exp(scores - top), and of the values they weigh."""
  weights = [jnp.exp(s - top) for s in scores]
  total = sum(w.sum(-1, keepdims=True) for w in weights)
  values = sum(
    jnp.einsum(
      equations[1], w.astype(dtype), v, preferred_element_type=jnp.float32
    )
    for w, equations, (_, v, _) in zip(weights, ring.equations, blocks)
  )
  return total, values


def _pass_on(ring, tree):
  """Every device's arrays, to the next."""
  n = ring.devices
  to_next = [(i, (i + 1) % n) for i in range(n)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, ring.axes, to_next), tree)


def _add(x, y):
  return jax.tree.map(jnp.add, x, y)
