"""Masked reductions, groups, positions and KL estimators."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from align_jax.types import Batch


def masked_sum(x: jax.Array, mask: jax.Array, axis: int = -1) -> jax.Array:
  """Sum of `x` where `mask`; what lies outside never enters, NaN included."""
  return jnp.where(mask, x, 0).sum(axis)


def masked_mean(x: jax.Array, mask: jax.Array, axis: int = -1) -> jax.Array:
  """Mean of `x` over `mask`; 0 where the mask is empty."""
  return masked_sum(x, mask, axis) / jnp.maximum(mask.sum(axis), 1)


def token_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `x` over all of `mask`, whatever row it is in; 0 if it is empty."""
  return masked_sum(x, mask).sum() / jnp.maximum(mask.sum(), 1)


def weighted_mean(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Sum of `weight * x` over the sum of `weight`; 0 if no weight is left."""
  return (x * weight).sum() / jnp.where(weight.sum() > 0, weight.sum(), 1)


def by_group(x: jax.Array, group_size: int) -> jax.Array:
  """[B, ...] -> [P, G, ...]."""
  return x.reshape(-1, group_size, *x.shape[1:])


def pick(x: jax.Array, index: jax.Array) -> jax.Array:
  """x [..., V] at index, int [...]: [...]."""
  return jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]


def positions(valid: jax.Array) -> jax.Array:
  """Index of each token among the valid ones of its row; 0 on left padding."""
  return jnp.maximum(jnp.cumsum(valid, axis=-1) - 1, 0)


def last_slots(x: jax.Array, number: int | None) -> jax.Array:
  """x [P, S, ...] of that many of its last slots; None: of all."""
  return x if number is None else x[:, max(x.shape[1] - number, 0) :]


def there(x: jax.Array | None, name: str) -> jax.Array:
  """An optional array of a Batch or of Outputs that a loss cannot do without.

  Raises:
    ValueError: it is None; names it.
  """
  if x is None:
    raise ValueError(f'expected {name}, got None')
  return x


def require_own_samples(batch: Batch) -> None:
  """Refuses completions that no KL can be estimated from.

  Raises:
    ValueError: they were drawn at a temperature of their own or truncated, so
      they are not the policy's, and no `weights` correct this.
  """
  if batch.policy_logps is not None and batch.weights is None:
    raise ValueError(
      'a KL is estimated from samples at temperature 1 and untruncated; these '
      'were drawn with a temperature or a truncation'
    )


def insert(
  context: ArrayLike, prompts: jax.Array, valid: jax.Array, after: int = 0
) -> tuple[jax.Array, jax.Array]:
  """Left-padded prompts with the same tokens put into each.

  Args:
    context: int [C].
    prompts, valid: [P, S], left-padded; at least `after` tokens each.
    after: tokens of a prompt that stay in front, such as BOS.
  Returns:
    prompts and valid, [P, S + C].
  """
  context = jnp.asarray(context, prompts.dtype)
  size, more = prompts.shape[1], len(context)
  padding = size - valid.sum(1, keepdims=True)
  place = jnp.arange(size + more) - padding  # within the longer prompt
  own = jnp.where(place < after, place, place - more) + padding
  tokens = jnp.take_along_axis(prompts, jnp.clip(own, 0, size - 1), axis=1)
  inside = (place >= after) & (place < after + more)
  added = context[jnp.clip(place - after, 0, more - 1)]
  return jnp.where(inside, added, tokens), place >= 0


def token_kl(logits: jax.Array, ref_logits: jax.Array) -> jax.Array:
  """Exact KL(policy || reference) of the next token over the whole vocabulary.

  Summed over a sampled completion this is the unbiased, Rao-Blackwellised
  estimator of the sequence KL (Tang et al. 2024, app. D; Amini et al. 2025).

  Args:
    logits, ref_logits: [..., V], any float dtype; computed in float32. -inf
      forbids a token.
  Returns:
    f32 [...], nats. It is infinite where the policy has mass on a token that
    the reference forbids, see `scoring.forbidden_draw`.
  """
  logp = jax.nn.log_softmax(logits.astype(jnp.float32))
  ref_logp = jax.nn.log_softmax(ref_logits.astype(jnp.float32))
  live, logp = with_mass(logp)
  ref_logp = jnp.where(live, ref_logp, 0)
  return jnp.where(live, jnp.exp(logp) * (logp - ref_logp), 0).sum(-1)


def forbid(logits: jax.Array, ranges: Sequence[tuple[int, int]]) -> jax.Array:
  """Logits [..., V] with -inf at the ids of `ranges`, ((first, after), ...)."""
  if not ranges:
    return logits
  never = np.zeros(logits.shape[-1], bool)
  for first, after in ranges:
    never[first:after] = True
  return jnp.where(never, -jnp.inf, logits)


def entropy(logits: jax.Array) -> jax.Array:
  """Exact entropy of the next token: f32 [..., V] -> f32 [...], nats."""
  live, logp = with_mass(jax.nn.log_softmax(logits))
  return -jnp.where(live, jnp.exp(logp) * logp, 0).sum(-1)


def with_mass(logp: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Where a token has mass, and log-probs that are 0 and constant elsewhere.

  Such a token must add its limit, 0, to sums over tokens and to their
  gradients, not 0 * inf.
  """
  live = jnp.exp(logp) > 0
  return live, jnp.where(live, logp, 0)


def k1(logps: jax.Array, ref_logps: jax.Array) -> jax.Array:
  """Log-ratio: unbiased for KL(policy || reference), high variance."""
  return logps - ref_logps


def k2(logps: jax.Array, ref_logps: jax.Array) -> jax.Array:
  """Half the squared log-ratio: biased, but the right gradient on policy."""
  return 0.5 * jnp.square(logps - ref_logps)


def k3(logps: jax.Array, ref_logps: jax.Array) -> jax.Array:
  """ratio - 1 - log ratio (Schulman 2020): unbiased and never negative."""
  log_ratio = ref_logps - logps
  return jnp.expm1(log_ratio) - log_ratio
