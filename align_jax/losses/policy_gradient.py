"""Policy gradients on sampled rewards, from REINFORCE to PPO.

A method combines an advantage, a surrogate, a reduction over tokens and a KL
term (`losses.kl`). Each is a parameter here or a function of its own. Only the
gradient of such a loss is meaningful, not its value.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import advantages as adv
from align_jax.losses.kl import (
  EXACT,
  KL_TERMS,
  as_outputs,
  log_weights,
  penalty_of,
)
from align_jax.losses.preference import log_ratios
from align_jax.losses.row import Loss
from align_jax.types import Batch, Outputs, Scored

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


def per_token(x: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Mean over all tokens of the batch: every token weighs the same."""
  weight = batch.mask.sum().astype(jnp.float32)
  return ops.token_mean(x, batch.mask), weight


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
  # The weight acts on no other rows. There it may be infinite, and 0 * inf.
  acts = ~active & (advantages != 0)
  weight = jnp.where(acts, jnp.exp(jnp.where(acts, log_weight, 0)), 0)
  limit = jnp.where(good, 1 + clip_high, 1 - clip_low)
  gain = jnp.where(active, limit, weight) * advantages
  return -gain, active.astype(jnp.float32)


def _metrics(weight, out, batch, **more):
  return {
    'weight': weight,
    'reward': batch.rewards.mean(),
    'kl': jax.lax.stop_gradient(log_ratios(out.logps, batch)).mean(),
    **more,
  }


def _rewards(out, batch, beta, kl):
  """Rewards f32 [B] less the KL term, and the term's losses f32 [B, T]."""
  penalty = penalty_of(kl, out, batch, beta)
  rewards = batch.rewards.astype(jnp.float32)
  return rewards - penalty.reward.sum(1), penalty.loss


# --- The whole completion as one action ---------------------------------------


def _reinforce(out, batch, advantages, penalty):
  advantages = jax.lax.stop_gradient(advantages)[:, None]
  losses = penalty - advantages * out.logps
  loss, weight = per_sequence_sum(losses, batch)
  return loss, _metrics(weight, out, batch)


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
  return _reinforce(out, batch, *_rewards(out, batch, beta, kl))


def mean_baseline(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
) -> dict[str, jax.Array]:
  """The batch's mean reward, repeated for every row: {'baseline': f32 [B]}."""
  rewards, _ = _rewards(as_outputs(logps), batch, beta, kl)
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
  rewards, penalty = _rewards(out, batch, beta, kl)
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
  rewards, penalty = _rewards(out, batch, beta, kl)
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
  rewards, penalty = _rewards(out, batch, beta, kl)
  advantages = adv.leave_one_out(rewards, batch.group_size)
  return _reinforce(out, batch, advantages, penalty)


# --- Clipped, the token as the action -----------------------------------------


def _clipped_loss(out, batch, advantages, penalty, low, high, reduce):
  advantages = jax.lax.stop_gradient(advantages)
  losses, active = clipped(log_weights(out.logps, batch), advantages, low, high)
  loss, weight = reduce(losses + penalty, batch)
  # The metric shares the loss's weight, so it is a mean over the same units.
  share = per_token if reduce is per_token else per_sequence_mean
  return loss, _metrics(weight, out, batch, clipped=share(active, batch)[0])


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
  return _clipped_loss(out, batch, advantages, penalty, clip, clip, per_token)


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
  rewards, _ = _rewards(as_outputs(logps), batch, beta, kl)
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
    batch: as prepared by `baseline_advantages`, with group_size >= 2. The rest
      as in `reinforce_pp`.
  """
  return reinforce_pp(logps, batch, beta=beta, kl=kl, clip=clip)


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
  rewards, penalty = _rewards(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)[:, None]
  return _clipped_loss(
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
    length: constant divisor of sums over tokens. The paper uses the maximum
      completion length. The rest as in `grpo`.
  """
  out = as_outputs(logps)
  rewards, penalty = _rewards(out, batch, beta, kl)
  advantages = adv.group_centred(rewards, batch.group_size)[:, None]
  loss, metrics = _clipped_loss(
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
  rewards, penalty = _rewards(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)[:, None]
  return _clipped_loss(
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
  rewards, penalty = _rewards(out, batch, beta, kl)
  advantages = adv.group_normalised(rewards, batch.group_size)
  log_weight = ops.masked_mean(log_weights(out.logps, batch), batch.mask)
  losses, active = clipped(log_weight, advantages, clip_low, clip_high)
  losses = losses + ops.masked_mean(penalty, batch.mask)
  rows = jnp.float32(losses.size)
  return losses.mean(), _metrics(rows, out, batch, clipped=active.mean())


# --- With a critic ------------------------------------------------------------


def gae_targets(
  outputs: Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
  gamma: float = 1.0,
  lam: float = 0.95,
  whiten: float = 1.0,
) -> dict[str, jax.Array]:
  """Advantages, returns and old values of a rollout, each f32 [B, T].

  The last token gets the reward. Each token gets its own KL term.
  """
  penalty = penalty_of(kl, outputs, batch, beta)
  rewards = adv.at_last_token(batch.rewards, batch.mask) - penalty.reward
  old = ops.there(outputs.values, 'values')
  values = jax.lax.stop_gradient(jnp.where(batch.mask, old, 0))
  advantages, returns = adv.gae(
    rewards, values, batch.mask, gamma=gamma, lam=lam
  )
  white = adv.whiten(advantages, batch.mask)
  return {
    'advantages': whiten * white + (1 - whiten) * advantages,
    'returns': returns,
    'values': values,
  }


def ppo(
  outputs: Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
  gamma: float = 1.0,
  lam: float = 0.95,
  clip: float = 0.2,
  value_clip: float = 0.2,
  value_coef: float = 0.1,
  whiten: float = 1.0,
) -> Scored:
  """Proximal policy optimisation with a value head (Schulman et al. 2017).

  As used for RLHF (Ouyang et al. 2022, Huang et al. 2024, arXiv 2403.17031):
  per-token KL in the reward, GAE, clipped values, several epochs over a
  rollout. Assume gamma = 1, and either lam = 1 or an exact critic. Then, in the
  first epoch and a large batch, the policy's expected gradient is that of
  E[r] - beta KL divided by the mean length. Otherwise the critic's error
  enters. Whitening only divides by the advantages' standard deviation.

  Args:
    outputs: `Outputs` with `values` (and `kls` for an exact `kl`).
    batch: as prepared by `gae_targets`. Needs `ref_logps`, `sampler_logps`.
    beta: price of a nat, in units of reward.
    kl: a name in `kl.KL_TERMS`.
    gamma, lam: discount, and decay of GAE.
    clip: the token's probability ratio is clipped to 1 -+ clip.
    value_clip: a value is clipped to its value at the rollout -+ value_clip.
    value_coef: weight of the critic's loss.
    whiten: 1 standardises advantages over the batch's tokens, 0 does not.
  Returns:
    scalar, {weight: tokens, reward, kl, clipped, value_loss}.
  """
  penalty = penalty_of(kl, outputs, batch, beta).loss
  prepared = batch.prepared
  loss, metrics = _clipped_loss(
    outputs, batch, prepared['advantages'], penalty, clip, clip, per_token
  )
  values = ops.there(outputs.values, 'values').astype(jnp.float32)
  values = jnp.where(batch.mask, values, 0)
  near = jnp.clip(
    values, prepared['values'] - value_clip, prepared['values'] + value_clip
  )
  error = jnp.maximum(
    jnp.square(values - prepared['returns']),
    jnp.square(near - prepared['returns']),
  )
  value_loss = 0.5 * per_token(error, batch)[0]
  metrics = {**metrics, 'value_loss': value_loss}
  return loss + value_coef * value_loss, metrics


def with_kl(*needs: str) -> Callable:
  """Needs of a loss with a KL term: `kls` too, if the term is exact."""
  return lambda hparams: (*needs, *(['kls'] if hparams['kl'] in EXACT else []))


_gradient = functools.partial(
  Loss, needs=with_kl('logps'), choices={'kl': KL_TERMS}, off={'beta': 0.0}
)
_single = functools.partial(_gradient, rows='single')

LOSSES = {
  'reinforce': _single(reinforce, 'Williams 1992', rewards='absolute'),
  'reinforce_mean': _single(reinforce_mean, '', prepare=mean_baseline),
  'reinforce_ema': _single(
    reinforce_ema, '', rewards='absolute', carries=('baseline',)
  ),
  'rloo': _gradient(rloo, 'Ahmadian et al. 2024, eq. 6'),
  'reinforce_pp': _single(
    reinforce_pp,
    'Hu et al. 2025, arXiv 2501.03262, eq. 5 to 7',
    prepare=token_advantages,
  ),
  'reinforce_pp_baseline': _gradient(
    reinforce_pp_baseline,
    'Hu et al. 2025, eq. 8 and 9',
    prepare=baseline_advantages,
  ),
  'grpo': _gradient(grpo, 'Shao et al. 2024, eq. 3 and 4'),
  'dr_grpo': _gradient(dr_grpo, 'Liu et al. 2025, arXiv 2503.20783'),
  'dapo': _gradient(dapo, 'Yu et al. 2025, arXiv 2503.14476, eq. 8'),
  'gspo': _gradient(gspo, 'Zheng et al. 2025, arXiv 2507.18071, eq. 5 and 7'),
  'ppo': _single(
    ppo,
    'Schulman et al. 2017',
    needs=with_kl('logps', 'values'),
    rewards='absolute',
    prepare=gae_targets,
  ),
}
