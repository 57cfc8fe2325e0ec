"""Losses that bound an update otherwise than by clipping its ratios.

CISPO bounds the weight of a token and keeps its gradient. DPPO blocks a token
whose probability has moved too far, however large its ratio.
"""

import jax
import jax.numpy as jnp

from align_jax.losses import advantages as adv
from align_jax.losses.kl import as_outputs, log_weights, writer_logps
from align_jax.losses.surrogate import (
  blocked,
  gradient,
  paid,
  per_sequence_sum,
  per_token,
  reduced,
)
from align_jax.types import Batch, Outputs, Scored


def cispo(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'loss_k3',
  clip_high: float = 0.2,
) -> Scored:
  """CISPO (MiniMax 2025, arXiv 2506.13585, eq. 4 and 5).

  A score function whose constant weight is the ratio, at most 1 + clip_high. No
  token loses its gradient. The weight has no lower bound, as in the paper's
  experiments.

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: needs `ref_logps`, `sampler_logps` and group_size >= 2.
    beta: price of a nat, in standard deviations of reward.
    kl: a name in `kl.KL_TERMS`.
    clip_high: the token's probability ratio weighs at most 1 + clip_high.
  Returns:
    scalar, {weight: tokens, reward, kl, clipped: share of tokens}.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)[:, None]
  ratio = jnp.exp(jax.lax.stop_gradient(log_weights(out.logps, batch)))
  weight = jnp.minimum(ratio, 1 + clip_high)
  losses = penalty - weight * jax.lax.stop_gradient(advantages) * out.logps
  over = (ratio > 1 + clip_high).astype(jnp.float32)
  return reduced(out, batch, losses, over, per_token)


def binary_tv(logps: jax.Array, old: jax.Array) -> jax.Array:
  """Total variation of a token and all others (Qi et al. 2026, eq. 13)."""
  return jnp.abs(jnp.exp(old) - jnp.exp(logps))


def binary_kl(logps: jax.Array, old: jax.Array) -> jax.Array:
  """KL(old || policy) of a token and all others (Qi et al. 2026, eq. 14)."""
  share = jnp.exp(old)
  others = lambda x: jnp.log(jnp.maximum(-jnp.expm1(x), 0))
  rest = jnp.where(share < 1, (1 - share) * (others(old) - others(logps)), 0)
  return share * (old - logps) + rest


def _dppo(divergence, logps, batch, beta, kl, threshold, length):
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.group_centred(rewards, batch.group_size)[:, None]
  moved = divergence(out.logps.astype(jnp.float32), writer_logps(batch))
  losses, active = blocked(
    log_weights(out.logps, batch),
    jax.lax.stop_gradient(advantages),
    moved > threshold,
  )
  loss, metrics = reduced(
    out, batch, losses + penalty, active, per_sequence_sum
  )
  return loss / length, metrics


def dppo_tv(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'loss_k2',
  threshold: float = 0.15,
  length: float = 1.0,
) -> Scored:
  """DPPO, binary total variation (Qi et al. 2026, arXiv 2602.04879, eq. 12).

  A token has no gradient where it would move on from its writer's probability,
  and is `threshold` away already. Advantages and the sum over tokens are those
  of `dr_grpo`, as its authors advise.

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: needs `ref_logps`, `sampler_logps` and group_size >= 2.
    beta: price of a nat, in units of reward.
    kl: a name in `kl.KL_TERMS`.
    threshold: change of a token's probability, in [0, 1].
    length: constant divisor of sums over tokens.
  Returns:
    scalar, {weight: rows, reward, kl, clipped: share of a row's tokens}.
  """
  return _dppo(binary_tv, logps, batch, beta, kl, threshold, length)


def dppo_kl(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'loss_k2',
  threshold: float = 0.05,
  length: float = 1.0,
) -> Scored:
  """DPPO, binary KL (Qi et al. 2026, arXiv 2602.04879, eq. 12 and 14).

  Args:
    threshold: KL(writer || policy) of the token and all others, in nats. The
      rest as in `dppo_tv`.
  """
  return _dppo(binary_kl, logps, batch, beta, kl, threshold, length)


PAPER = 'Qi et al. 2026, arXiv 2602.04879, eq. 12'

LOSSES = {
  'cispo': gradient(cispo, 'MiniMax 2025, arXiv 2506.13585, eq. 4 and 5'),
  'dppo_tv': gradient(dppo_tv, f'{PAPER} and 13'),
  'dppo_kl': gradient(dppo_kl, f'{PAPER} and 14'),
}
