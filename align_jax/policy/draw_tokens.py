"""Drawing a token from logits: truncation, one uniform number, mixtures."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops

# Tokens of a vocabulary that are searched together, and the largest vocabulary
# that is searched as one. Of 4096 tokens, as in the benchmark's size S, there
# are as many blocks as tokens in one. Both are chosen, not measured.
BLOCK = 64
MAX_WHOLE = 4 * BLOCK


class Truncation(NamedTuple):
  """Tokens outside of it are never drawn. Its numbers are traced.

  The three are applied in this order, after the temperature, each to the tokens
  that are left. Tokens of equal probability stay or go together.
  """

  top_k: jax.Array | int = 2**30  # the k likeliest tokens, k >= 1
  top_p: jax.Array | float = 1.0  # the fewest that hold this much, in (0, 1]
  min_p: jax.Array | float = 0.0  # at least this much of the likeliest's chance


def _ordered(x):
  """float32 -> uint32 in the same order."""
  # Both zeros are one number.
  bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), jnp.uint32)
  return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(2**31))


def _fewest(codes, enough):
  """The fewest of the likeliest tokens that are enough: bool [..., V].

  Bisects over the bit patterns of floats. This is exact, and several times
  cheaper than a sort.

  Args:
    codes: uint32 [..., V], greater for a likelier token.
    enough: bool [..., V] -> bool [..., 1]; true of all tokens.
  """

  def halve(_, bounds):
    low, high = bounds
    middle = high - (high - low) // 2
    yes = enough(codes >= middle)
    return jnp.where(yes, middle, low), jnp.where(yes, high, middle - 1)

  bounds = codes.min(-1, keepdims=True), codes.max(-1, keepdims=True)
  return codes >= jax.lax.fori_loop(0, 32, halve, bounds)[0]


def truncate(logits: jax.Array, truncation: Truncation) -> jax.Array:
  """Logits f32 [..., V] with -inf outside of the truncation."""
  top_k, top_p, min_p = truncation
  codes, best = _ordered(logits), logits.max(-1, keepdims=True)
  kept = _fewest(codes, lambda x: x.sum(-1, keepdims=True) >= top_k)
  probs = jnp.where(kept, jnp.exp(logits - best), 0)
  mass = lambda x: jnp.where(x, probs, 0).sum(-1, keepdims=True)
  wanted = top_p * mass(kept)
  # With top_p = 1 nothing is cut, and rounding must not drop a token.
  kept &= _fewest(codes, lambda x: mass(x) >= wanted) | (top_p >= 1)
  kept &= logits >= best + jnp.log(min_p)
  return jnp.where(kept, logits, -jnp.inf)


def _first_beyond(shares, masses):
  """Where the running sum first exceeds a share of the whole.

  Args:
    shares: f32 [...] in [0, 1).
    masses: f32 [..., N], not negative.
  Returns:
    a place int32 [...] of positive mass, and the part of that mass, in [0, 1),
    that lies below the share.
  """
  # A parallel cumsum is not quite monotone. So places without mass are struck
  # out, and the first place beyond is taken, not the count of places before it.
  cdf = jnp.where(masses > 0, jnp.cumsum(masses, axis=-1), 0)
  wanted = shares * cdf.max(-1)
  place = (cdf > wanted[..., None]).argmax(-1).astype(jnp.int32)
  mass, end = ops.pick(masses, place), ops.pick(cdf, place)
  return place, jnp.clip(1 - (end - wanted) / mass, 0, 1 - 2.0**-24)


def inverse_cdf(
  uniforms: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One token per row from one uniform number per row.

  Exact up to float32. Never returns a token of probability zero. A large
  vocabulary is searched by blocks, then within one block, because a running sum
  over all tokens costs more than the sums of blocks.

  Args:
    uniforms: f32 [...] in [0, 1).
    logits: f32 [..., V].
  Returns:
    int32 [...], and their log-probs f32 [...].
  """
  best = logits.max(-1, keepdims=True)
  masses = jnp.exp(logits - best)
  size = logits.shape[-1]
  width = size if size <= MAX_WHOLE else BLOCK
  pad = [(0, 0)] * uniforms.ndim + [(0, -size % width)]
  blocks = jnp.pad(masses, pad).reshape(*uniforms.shape, -1, width)
  sums = blocks.sum(-1)
  block, within = _first_beyond(uniforms, sums)
  chosen = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)
  tokens = block * width + _first_beyond(within, chosen[..., 0, :])[0]
  return tokens, ops.pick(logits - best, tokens) - jnp.log(sums.sum(-1))


def row_uniforms(
  key: jax.Array, prompt_ids: jax.Array, group_size: int, length: int
) -> jax.Array:
  """One number in [0, 1) per token: f32 [P, G, T].

  A row's numbers depend only on the key, its prompt's id and its place in the
  group. They do not depend on the batch or on its other rows.
  """

  def row(prompt_id, place):
    own = jax.random.fold_in(jax.random.fold_in(key, prompt_id), place)
    return jax.random.uniform(own, (length,))

  group = jax.vmap(row, (None, 0))
  return jax.vmap(group, (0, None))(prompt_ids, jnp.arange(group_size))


def geometric_mixture(
  logits: Sequence[jax.Array], shares: Sequence[jax.Array | float]
) -> jax.Array:
  """The normalised product of policies, each to the power of its share.

  Args:
    logits: a list of f32 [..., V], one per policy.
    shares: as many numbers that sum to one.
  Returns:
    f32 [..., V], log-probs. A token is forbidden where a policy with a share
    forbids it.
  """
  # 0 * -inf, where a policy without a share forbids a token, is 0 here.
  part = lambda w, logps: jnp.where(w == 0, 0, w * logps)
  logps = map(jax.nn.log_softmax, logits)
  return jax.nn.log_softmax(sum(map(part, shares, logps)))
