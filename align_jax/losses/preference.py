"""Losses on the best and the worst completion of each group."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses.row import Loss
from align_jax.types import Batch, Scored


def best_and_worst(
  x: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`x` of each group's best and worst row by reward.

  Args:
    x: f32 [B].
    batch: groups of at least two, with `rewards` f32 [B].
  Returns:
    f32 [P] of the best, f32 [P] of the worst, and a weight f32 [P] that is 0
    for groups of equal rewards.
  Raises:
    ValueError: the group size is 1.
  """
  if batch.group_size < 2:
    raise ValueError(
      'a pairwise loss needs group_size >= 2, got a batch with group_size 1'
    )
  rewards = ops.by_group(batch.rewards, batch.group_size)
  x = ops.by_group(x, batch.group_size)
  pick = lambda index: jnp.take_along_axis(x, index[:, None], axis=1)[:, 0]
  weight = (rewards.max(1) > rewards.min(1)).astype(jnp.float32)
  return pick(rewards.argmax(1)), pick(rewards.argmin(1)), weight


def best_minus_worst(x: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """`x` of the best minus the worst row, and weight: f32 [P], f32 [P]."""
  best, worst, weight = best_and_worst(x, batch)
  return best - worst, weight


def log_ratios(logps: jax.Array, batch: Batch) -> jax.Array:
  """log pi(y|x) - log ref(y|x) per row, summed over the completion: f32 [B]."""
  ref_logps = ops.there(batch.ref_logps, 'ref_logps')
  return ops.masked_sum(logps - ref_logps, batch.mask)


def pair_metrics(margin: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
  """Metrics of pairs, from their margins and weights f32 [P]."""
  return {
    'weight': weight.sum(),
    'accuracy': ops.weighted_mean(margin > 0, weight),
    'margin': ops.weighted_mean(margin, weight),
  }


def best_nll(reduce: Callable, logps: jax.Array, batch: Batch) -> jax.Array:
  """Mean over groups of the best row's negative log-probs: f32 [].

  Args:
    reduce: (f32 [B, T], mask) -> f32 [B], over a completion's tokens.
  """
  best, _, weight = best_and_worst(reduce(logps, batch.mask), batch)
  return -ops.weighted_mean(best, weight)


def _on_log_ratios(logps, batch, of_margin):
  """Mean over pairs of a function of the log-ratio margins f32 [P]."""
  margin, weight = best_minus_worst(log_ratios(logps, batch), batch)
  loss = ops.weighted_mean(of_margin(margin), weight)
  return loss, pair_metrics(margin, weight)


# --- On log-ratios to the reference -------------------------------------------


def dpo(logps: jax.Array, batch: Batch, *, beta: float = 0.1) -> Scored:
  """Direct preference optimisation (Rafailov et al. 2023, eq. 7).

  -log sigmoid(beta * Delta), where Delta is the difference of summed
  log-ratios.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`. Each group's best and worst row form the pair.
    beta: strength of the KL term, per nat.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats}.
  """
  return _on_log_ratios(logps, batch, lambda m: jax.nn.softplus(-beta * m))


def cdpo(
  logps: jax.Array,
  batch: Batch,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.1,
) -> Scored:
  """DPO with smoothed labels (Mitchell 2023), of which a share is wrong.

  Args:
    label_smoothing: that share, in [0, 0.5). The rest as in `dpo`.
  """
  return _on_log_ratios(
    logps,
    batch,
    lambda m: (
      (1 - label_smoothing) * jax.nn.softplus(-beta * m)
      + label_smoothing * jax.nn.softplus(beta * m)
    ),
  )


def rdpo(
  logps: jax.Array,
  batch: Batch,
  *,
  beta: float = 0.1,
  label_smoothing: float = 0.1,
) -> Scored:
  """Robust DPO (Chowdhury et al. 2024, eq. 12): unbiased under wrong labels.

  Its expectation over labels flipped with that probability is DPO's loss on the
  true labels. The loss may be negative.

  Args:
    label_smoothing: share of wrong labels, in [0, 0.5). The rest as in `dpo`.
  """
  return _on_log_ratios(
    logps,
    batch,
    lambda m: (
      (
        (1 - label_smoothing) * jax.nn.softplus(-beta * m)
        - label_smoothing * jax.nn.softplus(beta * m)
      )
      / (1 - 2 * label_smoothing)
    ),
  )


def ipo(
  logps: jax.Array,
  batch: Batch,
  *,
  beta: float = 0.1,
  logp_reduction: str = 'sum',
) -> Scored:
  """Identity preference optimisation (Azar et al. 2023, eq. 17, tau = beta).

  (Delta - 1 / (2 beta))^2. Tang et al. 2024 sum the log-ratios, online and
  offline. TRL's offline IPO and HALOs average them over tokens, so their beta
  differs by about the completion length.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`. Each group's best and worst row form the pair.
    beta: strength of the KL term. The target margin is 1 / (2 beta) nats.
    logp_reduction: 'sum' | 'mean' over a completion's tokens.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats (per token for 'mean')}.
  """
  reduce = LOGP_REDUCTIONS[logp_reduction]
  ratios = reduce(logps - ops.there(batch.ref_logps, 'ref_logps'), batch.mask)
  margin, weight = best_minus_worst(ratios, batch)
  loss = ops.weighted_mean(jnp.square(margin - 0.5 / beta), weight)
  return loss, pair_metrics(margin, weight)


def slic_norm(logps: jax.Array, batch: Batch, *, beta: float = 0.1) -> Scored:
  """SLiC's hinge on the log-ratio margin (Liu et al. 2023, RSO, eq. 9).

  max(0, 1 - beta * Delta). `slic` has the margin on log-probs.

  Args: as in `dpo`.
  """
  return _on_log_ratios(logps, batch, lambda m: jax.nn.relu(1 - beta * m))


def rpo(
  logps: jax.Array, batch: Batch, *, beta: float = 0.1, alpha: float = 1.0
) -> Scored:
  """DPO + alpha NLL of the best, per token (Pang et al. 2024, eq. 1).

  Args:
    alpha: weight of the NLL, a mean over the completion's tokens. The rest as
      in `dpo`.
  """
  loss, metrics = dpo(logps, batch, beta=beta)
  nll = best_nll(ops.masked_mean, logps, batch)
  return loss + alpha * nll, metrics


def hypo(
  logps: jax.Array, batch: Batch, *, beta: float = 0.1, kl_coef: float = 0.1
) -> Scored:
  """HyPO: offline DPO, and an on-policy KL term (Song et al. 2024, eq. 7).

  The gradient of the KL is the score function times the log-ratio, which is
  unbiased on fresh rows.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`. The first two rows of every group are the pair.
      All others are fresh samples of the policy, whose rewards are not read.
    beta: strength of DPO's KL term, per nat.
    kl_coef: price of a nat of KL(policy || reference).
  Returns:
    scalar, {weight: groups, accuracy and margin of the pairs, kl: of the fresh
    rows in nats}. A group with a tied pair has only the KL term.
  """
  if batch.group_size < 3:
    raise ValueError(
      'hypo needs group_size >= 3: a pair and at least one fresh completion, '
      f'got group_size {batch.group_size}'
    )
  grouped = ops.by_group(log_ratios(logps, batch), batch.group_size)
  rewards = ops.by_group(batch.rewards, batch.group_size)[:, :2]
  sign = jnp.sign(rewards[:, 0] - rewards[:, 1])
  margin = sign * (grouped[:, 0] - grouped[:, 1])
  decided = (sign != 0).astype(jnp.float32)
  fresh = grouped[:, 2:]
  preference = (decided * jax.nn.softplus(-beta * margin)).mean()
  penalty = 0.5 * jnp.square(fresh).mean()  # gradient: E[ratio * score]
  groups = jnp.float32(len(margin))
  return preference + kl_coef * penalty, {
    'weight': groups,
    'accuracy': (decided * (margin > 0)).mean(),
    'margin': (decided * margin).mean(),
    'kl': jax.lax.stop_gradient(fresh).mean(),
  }


# --- Without pairs ------------------------------------------------------------


def mismatch_kl(
  logps: jax.Array, batch: Batch, *, beta: float = 0.1
) -> dict[str, jax.Array]:
  """KTO's reference point, from the whole batch: {'z0': f32 [B]}.

  It is the mean log-ratio of the groups' last rows, at least 0, without
  gradient. It is a biased estimate of the KL: never report it as the KL.
  """
  ratios = ops.by_group(log_ratios(logps, batch), batch.group_size)[:, -1]
  z0 = jax.lax.stop_gradient(jnp.maximum(ratios.mean(), 0))
  return {'z0': jnp.broadcast_to(z0, batch.rewards.shape)}


def kto(
  logps: jax.Array,
  batch: Batch,
  *,
  beta: float = 0.1,
  desirable: float = 1.0,
  undesirable: float = 1.0,
) -> Scored:
  """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 8).

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: as prepared by `mismatch_kl`. Needs `ref_logps`. The last row of
      every group completes another prompt (`sources.mismatched`). Other rows
      are desirable if their reward is above 0.5, undesirable below, and have
      no weight at 0.5.
    beta: strength of the KL term, per nat.
    desirable, undesirable: weights of the two kinds of row.
  Returns:
    scalar, {weight: labelled rows, accuracy, z0 in nats}.
  """
  if batch.group_size < 2:
    raise ValueError(
      'kto needs group_size >= 2: labelled completions and one of another '
      'prompt, got group_size 1'
    )
  labelled = lambda x: ops.by_group(x, batch.group_size)[:, :-1].reshape(-1)
  ratios, rewards, z0 = map(
    labelled, (log_ratios(logps, batch), batch.rewards, batch.prepared['z0'])
  )
  sign = jnp.sign(rewards - 0.5)
  weight = (sign != 0).astype(jnp.float32)
  cost = jnp.where(sign > 0, desirable, undesirable)
  losses = cost * (1 - jax.nn.sigmoid(beta * sign * (ratios - z0)))
  return ops.weighted_mean(losses, weight), {
    'weight': weight.sum(),
    'accuracy': ops.weighted_mean(sign * ratios > 0, weight),
    'z0': batch.prepared['z0'].mean(),
  }


LOGP_REDUCTIONS = {'sum': ops.masked_sum, 'mean': ops.masked_mean}

LOSSES = {
  'dpo': Loss(dpo, 'Rafailov et al. 2023, eq. 7'),
  'cdpo': Loss(cdpo, 'Mitchell 2023'),
  'rdpo': Loss(rdpo, 'Chowdhury et al. 2024, eq. 12'),
  'ipo': Loss(
    ipo,
    'Azar et al. 2023, eq. 17',
    choices={'logp_reduction': LOGP_REDUCTIONS},
  ),
  'slic_norm': Loss(slic_norm, 'Liu et al. 2023 (RSO), eq. 9'),
  'rpo': Loss(rpo, 'Pang et al. 2024, eq. 1'),
  'hypo': Loss(
    hypo, 'Song et al. 2024, eq. 7', rows='hybrid', off={'kl_coef': 0.0}
  ),
  'kto': Loss(
    kto,
    'Ethayarajh et al. 2024, eq. 8',
    rows='mismatched',
    rewards='chances',
    prepare=mismatch_kl,
  ),
}
