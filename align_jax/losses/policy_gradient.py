"""REINFORCE and its relatives: policy gradients on sampled rewards.

Only the gradient of such a loss is meaningful, not its value.
"""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import advantages as adv
from align_jax.losses.kl import as_outputs, penalty_of
from align_jax.losses.surrogate import (
  clipped_loss,
  gradient,
  metrics_of,
  paid,
  per_sequence_sum,
  per_token,
  single,
  weighed,
)
from align_jax.types import Batch, Outputs, Scored

# --- The whole completion as one action ---------------------------------------


def _reinforce(out, batch, advantages, penalty):
  advantages = jax.lax.stop_gradient(advantages)[:, None]
  losses = penalty - advantages * out.logps
  loss, weight = per_sequence_sum(weighed(losses, batch), batch)
  return loss, metrics_of(weight, out, batch)


def reinforce(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
) -> Scored:
  """REINFORCE without a baseline (Williams 1992).

  Maximises E[r] - beta KL(policy || reference). The gradient is unbiased and
  has a high variance.

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: needs `ref_logps`; `rewards` f32 [B].
    beta: price of a nat, in units of reward.
    kl: a name in `kl.KL_TERMS`.
  Returns:
    scalar, {weight: rows, reward, kl: mean log-ratio in nats}.
  """
  out = as_outputs(logps)
  return _reinforce(out, batch, *paid(out, batch, beta, kl))


def mean_baseline(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
) -> dict[str, jax.Array]:
  """The batch's mean reward, repeated for every row: {'baseline': f32 [B]}."""
  rewards, _ = paid(as_outputs(logps), batch, beta, kl)
  # Subtracting the first reward makes equal rewards exactly their mean.
  mean = rewards[0] + (rewards - rewards[0]).mean()
  return {'baseline': jnp.broadcast_to(mean, rewards.shape)}


def reinforce_mean(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
) -> Scored:
  """REINFORCE with the batch's mean reward as the baseline.

  The baseline includes the row itself, so the expected gradient is that of
  `reinforce` times (B - 1) / B. A `kl` in the loss has no baseline and is not
  scaled.

  Args:
    batch: as prepared by `mean_baseline`; the rest as in `reinforce`.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  return _reinforce(out, batch, rewards - batch.prepared['baseline'], penalty)


def reinforce_ema(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
  baseline: float = 0.0,
  decay: float = 0.95,
) -> Scored:
  """REINFORCE with a moving average of earlier rewards as the baseline.

  Args:
    baseline: the average so far. The train state carries it between steps, as
      the statistic of that name.
    decay: weight of the old average. The rest as in `reinforce`.
  Returns:
    scalar, and metrics with the `baseline` for the next step.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  loss, metrics = _reinforce(out, batch, rewards - baseline, penalty)
  average = decay * baseline + (1 - decay) * rewards.mean()
  return loss, {**metrics, 'baseline': jax.lax.stop_gradient(average)}


def rloo(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
) -> Scored:
  """REINFORCE leave-one-out (Ahmadian et al. 2024, eq. 6).

  Maximises E[r] - beta KL(policy || reference). The gradient is unbiased on
  samples of the current policy. The whole completion is one action.

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: needs `ref_logps`; group_size >= 2; `rewards` f32 [B].
    beta: price of a nat, in units of reward.
    kl: a name in `kl.KL_TERMS`.
  Returns:
    scalar, {weight: rows, reward, kl: mean log-ratio in nats}.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  advantages = adv.leave_one_out(rewards, batch.group_size)
  return _reinforce(out, batch, advantages, penalty)


def max_rl(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.0,
  kl: str = 'reward_k1',
) -> Scored:
  """Maximum-likelihood RL (Tajwar et al. 2026, arXiv 2602.02710).

  For rewards 0 and 1. With p the chance of a success, the expected gradient is
  (1 - (1 - p)^(G - 1)) / p times that of p, and that of log p for large groups.
  Rare successes weigh more. A group without any has no gradient.

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: needs `ref_logps`; group_size >= 2; `rewards` f32 [B], at least 0.
    beta: price of a nat, in units of reward; a term taken from the rewards is
      divided by the group's mean as they are.
    kl: a name in `kl.KL_TERMS`.
  Returns:
    scalar, {weight: rows, reward, kl: mean log-ratio in nats, unsolved: share
    of groups whose mean reward is not above 0}.
  """
  out = as_outputs(logps)
  rewards, penalty = paid(out, batch, beta, kl)
  centred = adv.group_centred(rewards, batch.group_size)
  grouped = ops.by_group(batch.rewards.astype(jnp.float32), batch.group_size)
  mean = jnp.repeat(grouped.mean(1), batch.group_size)
  solved = mean > 0
  advantages = jnp.where(solved, centred / jnp.where(solved, mean, 1), 0)
  loss, metrics = _reinforce(out, batch, advantages, penalty)
  return loss, {**metrics, 'unsolved': (~solved).mean()}


# --- Clipped, the token as the action -----------------------------------------


def token_advantages(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
) -> dict[str, jax.Array]:
  """Advantages of REINFORCE++: {'advantages': f32 [B, T]}.

  r - beta * (sum of log-ratios from the token onwards), standardised over all
  tokens of the batch.
  """
  penalty = penalty_of(kl, as_outputs(logps), batch, beta)
  rewards = adv.at_last_token(batch.rewards, batch.mask)
  to_go = adv.reward_to_go(rewards - penalty.reward, batch.mask)
  return {'advantages': adv.whiten(to_go, batch.mask)}


def reinforce_pp(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
  clip: float = 0.2,
) -> Scored:
  """REINFORCE++ (Hu et al. 2025, arXiv 2501.03262, eq. 5 to 7).

  Statistics are of the batch, not of the group, so one completion per prompt is
  enough. Standardisation and the token mean divide the gradient of
  E[r] - beta KL by statistics of the batch. In a small batch this is a bias, in
  a large one only a scale, for completions of any length.

  Args:
    logps: f32 [B, T], or `Outputs` with `kls` for an exact `kl`.
    batch: as prepared by `token_advantages`; needs `ref_logps` and
      `sampler_logps`.
    beta: price of a nat, in units of reward.
    kl: a name in `kl.KL_TERMS`.
    clip: the token's probability ratio is clipped to 1 -+ clip.
  Returns:
    scalar, {weight: tokens, reward, kl, clipped: share of tokens}.
  """
  out = as_outputs(logps)
  penalty = penalty_of(kl, out, batch, beta).loss
  advantages = batch.prepared['advantages']
  return clipped_loss(out, batch, advantages, penalty, clip, clip, per_token)


def baseline_advantages(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'loss_k2',
) -> dict[str, jax.Array]:
  """Group-centred rewards, standardised over the batch.

  Returns:
    {'advantages': f32 [B, T]}.
  """
  rewards, _ = paid(as_outputs(logps), batch, beta, kl)
  centred = adv.group_centred(rewards, batch.group_size)[:, None]
  wide = jnp.broadcast_to(centred, batch.mask.shape)
  return {'advantages': adv.whiten(wide, batch.mask)}


def reinforce_pp_baseline(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'loss_k2',
  clip: float = 0.2,
) -> Scored:
  """REINFORCE++ with a group baseline (Hu et al. 2025, eq. 8 and 9).

  Rewards lose their group's mean and are divided by the batch's standard
  deviation. The KL is a separate loss.

  Args:
    batch: as prepared by `baseline_advantages`, with group_size >= 2.
    beta: price of a nat, in standard deviations of the batch's rewards less
      their group's mean. The rest as in `reinforce_pp`.
  """
  return reinforce_pp(logps, batch, beta=beta, kl=kl, clip=clip)


LOSSES = {
  'reinforce': single(reinforce, 'Williams 1992', rewards='absolute'),
  'reinforce_mean': single(reinforce_mean, '', prepare=mean_baseline),
  'reinforce_ema': single(
    reinforce_ema, '', rewards='absolute', carries=('baseline',)
  ),
  'rloo': gradient(rloo, 'Ahmadian et al. 2024, eq. 6'),
  'max_rl': gradient(
    max_rl, 'Tajwar et al. 2026, arXiv 2602.02710', rewards='successes'
  ),
  'reinforce_pp': single(
    reinforce_pp,
    'Hu et al. 2025, arXiv 2501.03262, eq. 5 to 7',
    prepare=token_advantages,
  ),
  'reinforce_pp_baseline': gradient(
    reinforce_pp_baseline,
    'Hu et al. 2025, eq. 8 and 9',
    prepare=baseline_advantages,
  ),
}
