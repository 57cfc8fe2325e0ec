"""GRPO and its relatives: advantages within a group, clipped ratios."""

import jax

from align_jax import ops
from align_jax.losses import advantages as adv
from align_jax.losses.kl import as_outputs, log_weights
from align_jax.losses.surrogate import (
  clipped,
  clipped_loss,
  gradient,
  metrics_of,
  paid,
  per_sequence_mean,
  per_sequence_sum,
  per_token,
  weighed,
)
from align_jax.types import Batch, Outputs, Scored


def grpo(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.04,
  kl: str = 'loss_k3',
  clip: float = 0.2,
) -> Scored:
  """Group relative policy optimisation (Shao et al. 2024, eq. 3 and 4).

  It does not optimise E[r] - beta KL, for three reasons. Dividing by the
  group's standard deviation weighs prompts by the inverse spread of their
  rewards. 1 / |y| favours long completions among the bad and short ones among
  the good. k3 as a loss has the gradient of the forward KL. For one-token
  completions and large groups the fixed point is
  ref / (1 - (r - mean) / (beta std)) instead of ref * exp(r / beta).

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: needs `ref_logps`, `sampler_logps` and group_size >= 2.
    beta: price of a nat, in standard deviations of reward.
    kl: a name in `kl.KL_TERMS`.
    clip: the token's probability ratio is clipped to 1 -+ clip.
  Returns:
    scalar, {weight: rows, reward, kl, clipped: share of a row's tokens}.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)[:, None]
  return clipped_loss(
    out, batch, advantages, penalty, clip, clip, per_sequence_mean
  )


def dr_grpo(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'loss_k2',
  clip: float = 0.2,
  length: float = 1.0,
) -> Scored:
  """GRPO done right (Liu et al. 2025, arXiv 2503.20783): no std, no 1 / |y|.

  At the sampling policy its gradient is that of E[r] times (G - 1) / G, because
  the baseline includes the row itself.

  Args:
    beta: price of a nat, in units of reward.
    length: constant divisor of sums over tokens. The paper uses the maximum
      completion length. The rest as in `grpo`.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.group_centred(rewards, batch.group_size)[:, None]
  loss, metrics = clipped_loss(
    out, batch, advantages, penalty, clip, clip, per_sequence_sum
  )
  return loss / length, metrics


def dapo(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'loss_k3',
  clip_low: float = 0.2,
  clip_high: float = 0.28,
) -> Scored:
  """DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 8): clip-higher, token mean.

  All tokens weigh the same, and rare tokens have more room to grow. The paper
  has two further parts. Dynamic sampling redraws prompts whose group has equal
  rewards; here such a group has no gradient. Overlong completions are up to the
  source (`truncated`).

  Args:
    clip_low, clip_high: the ratio is clipped to [1 - low, 1 + high]. The rest
      as in `grpo`.
  Returns:
    scalar, {weight: tokens, reward, kl, clipped: share of tokens}.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)[:, None]
  return clipped_loss(
    out, batch, advantages, penalty, clip_low, clip_high, per_token
  )


def gspo(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'loss_k3',
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
) -> Scored:
  """GSPO (Zheng et al. 2025, arXiv 2507.18071, eq. 5 and 7).

  A completion has one importance weight, the geometric mean over its tokens.

  Args:
    clip_low, clip_high: bounds of that weight. The rest as in `grpo`.
  Returns:
    scalar, {weight: rows, reward, kl, clipped: share of rows}.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)
  log_weight = ops.masked_mean(log_weights(out.logps, batch), batch.mask)
  losses, active = clipped(log_weight, advantages, clip_low, clip_high)
  losses = weighed(losses[:, None] + penalty, batch)
  loss, rows = per_sequence_mean(losses, batch)
  return loss, metrics_of(rows, out, batch, clipped=active.mean())


LOSSES = {
  'grpo': gradient(grpo, 'Shao et al. 2024, eq. 3 and 4'),
  'dr_grpo': gradient(dr_grpo, 'Liu et al. 2025, arXiv 2503.20783'),
  'dapo': gradient(dapo, 'Yu et al. 2025, arXiv 2503.14476, eq. 8'),
  'gspo': gradient(gspo, 'Zheng et al. 2025, arXiv 2507.18071, eq. 5 and 7'),
}
