"""What losses on sampled rewards are made of.

A method combines an advantage, a surrogate, a reduction over tokens and a KL
term (`losses.kl`).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses.kl import EXACT, KL_TERMS, log_weights, penalty_of
from align_jax.losses.preference import log_ratios
from align_jax.losses.row import Loss
from align_jax.types import Batch, Metrics, Outputs, Scored

# --- Reductions of token losses: (x [B, T], batch) -> scalar, weight ----------


def per_sequence_sum(x: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Sum over a row's tokens, mean over rows: the sequence is the action."""
  rows = ops.masked_sum(x, batch.mask)
  return rows.mean(), jnp.float32(rows.size)


def per_sequence_mean(
  x: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
  """Mean over a row's tokens, then over rows: short rows' tokens weigh more."""
  rows = ops.masked_mean(x, batch.mask)
  return rows.mean(), jnp.float32(rows.size)


def weighed(losses: jax.Array, batch: Batch) -> jax.Array:
  """Token losses f32 [B, T] times `batch.weights`, where there are some."""
  if batch.weights is None:
    return losses
  return jnp.where(batch.mask, batch.weights, 0) * losses


def per_token(x: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Mean over all tokens of the batch: every token weighs the same."""
  weight = batch.mask.sum().astype(jnp.float32)
  return ops.token_mean(x, batch.mask), weight


# --- Rewards and metrics ------------------------------------------------------


def metrics_of(
  weight: jax.Array, out: Outputs, batch: Batch, **more: jax.Array
) -> Metrics:
  """What every loss on sampled rewards reports: means over rows, and `more`.

  `importance` is the mean weight of a row's tokens, 1 for a row without any.
  """
  if batch.weights is not None:
    excess = ops.masked_mean(batch.weights - 1, batch.mask)
    more['importance'] = 1 + excess.mean()
  return {
    'weight': weight,
    'reward': batch.rewards.mean(),
    'kl': jax.lax.stop_gradient(log_ratios(out.logps, batch)).mean(),
    **more,
  }


def paid(
  out: Outputs, batch: Batch, beta: float, kl: str
) -> tuple[jax.Array, jax.Array]:
  """Rewards f32 [B] less the KL term, and the term's losses f32 [B, T]."""
  penalty = penalty_of(kl, out, batch, beta)
  rewards = batch.rewards.astype(jnp.float32)
  return rewards - penalty.reward.sum(1), penalty.loss


# --- The surrogate ------------------------------------------------------------


def clipped(
  log_weight: jax.Array,
  advantages: jax.Array,
  clip_low: float,
  clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """-min(w A, clip(w, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).

  Returns:
    the losses, and an array that is 1 where clipping is active, else 0. They
    are infinite only where a negative advantage has an infinite weight.
  """
  weight = jnp.exp(log_weight)
  good, bad = advantages > 0, advantages < 0
  active = (good & (weight > 1 + clip_high)) | (bad & (weight < 1 - clip_low))
  limit = jnp.where(good, 1 + clip_high, 1 - clip_low)
  weight = _weights(log_weight, ~active & (advantages != 0))
  gain = jnp.where(active, limit, weight) * advantages
  return -gain, active.astype(jnp.float32)


def blocked(
  log_weight: jax.Array, advantages: jax.Array, outside: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """-w A, and 0 where it would push further out (Qi et al. 2026, eq. 12).

  Args:
    outside: bool [B, T], whether a token is outside of the trust region.
  Returns:
    the losses, and an array that is 1 where they are blocked, else 0.
  """
  away = log_weight * jnp.sign(advantages) > 0
  active = away & outside
  weight = _weights(log_weight, ~active & (advantages != 0))
  return -weight * advantages, active.astype(jnp.float32)


def _weights(log_weight, acts):
  """exp(log_weight) where it acts, else 0: there it may be infinite."""
  return jnp.where(acts, jnp.exp(jnp.where(acts, log_weight, 0)), 0)


def reduced(
  out: Outputs,
  batch: Batch,
  losses: jax.Array,
  active: jax.Array,
  reduce: Callable,
) -> Scored:
  """Token losses as the scalar of a loss, with its metrics.

  Args:
    losses, active: f32 [B, T]; `active` is 1 where a token was clipped.
    reduce: a reduction of token losses, see above.
  Returns:
    scalar, {weight, reward, kl, clipped: share of tokens}.
  """
  loss, weight = reduce(weighed(losses, batch), batch)
  # The metric shares the loss's weight, so it is a mean over the same units.
  share = per_token if reduce is per_token else per_sequence_mean
  return loss, metrics_of(weight, out, batch, clipped=share(active, batch)[0])


def clipped_loss(
  out: Outputs,
  batch: Batch,
  advantages: jax.Array,
  penalty: jax.Array,
  low: float,
  high: float,
  reduce: Callable,
) -> Scored:
  """The mean of clipped surrogates of tokens and of their penalties.

  Args:
    advantages: f32 [B, T] or [B, 1], constant.
    penalty: f32 [B, T], the KL term's losses.
    low, high: see `clipped`.
    reduce: a reduction of token losses, see above.
  Returns:
    scalar, {weight, reward, kl, clipped: share of tokens}.
  """
  advantages = jax.lax.stop_gradient(advantages)
  losses, active = clipped(log_weights(out.logps, batch), advantages, low, high)
  return reduced(out, batch, losses + penalty, active, reduce)


# --- Rows ---------------------------------------------------------------------


def with_kl(*needs: str) -> Callable:
  """Needs of a loss with a KL term: `kls` too, if the term is exact."""
  return lambda hparams: (*needs, *(['kls'] if hparams['kl'] in EXACT else []))


gradient = functools.partial(
  Loss,
  needs=with_kl('logps'),
  choices={'kl': KL_TERMS},
  off={'beta': 0.0},
  weighted=True,
)
single = functools.partial(gradient, rows='single')
