"""Losses on the best and the worst completion of each group."""

import jax
import jax.numpy as jnp

from align_jax import ops


def best_minus_worst(x, batch):
  """Difference of `x` between each group's best and worst row by reward.

  Args:
    x: f32 [B].
    batch: groups of at least two; `rewards` f32 [B].
  Returns:
    f32 [P], and weight f32 [P]: 0 where all rewards of the group are equal.
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
  margin = pick(rewards.argmax(1)) - pick(rewards.argmin(1))
  return margin, (rewards.max(1) > rewards.min(1)).astype(jnp.float32)


def log_ratios(logps, batch):
  """log pi(y|x) - log ref(y|x) per row, summed over the completion: f32 [B]."""
  return ops.masked_sum(logps - batch.ref_logps, batch.mask)


def pair_metrics(margin, weight):
  return {
    'weight': weight.sum(),
    'accuracy': ops.weighted_mean(margin > 0, weight),
    'margin': ops.weighted_mean(margin, weight),
  }


def dpo(logps, batch, *, beta=0.1):
  """Direct preference optimisation (Rafailov et al. 2023, eq. 7).

  -log sigmoid(beta * Delta), Delta the difference of summed log-ratios.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`; each group's best and worst row form the pair.
    beta: strength of the KL term, per nat.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats}.
  """
  margin, weight = best_minus_worst(log_ratios(logps, batch), batch)
  loss = ops.weighted_mean(jax.nn.softplus(-beta * margin), weight)
  return loss, pair_metrics(margin, weight)


def ipo(logps, batch, *, beta=0.1, logp_reduction='sum'):
  """Identity preference optimisation (Azar et al. 2023, eq. 17, tau = beta).

  (Delta - 1 / (2 beta))^2. Summed log-ratios are the form that Tang et al. 2024
  use online and offline alike; TRL's offline and HALOs' IPO average them over
  the tokens, where beta then differs by about the completion length.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`; each group's best and worst row form the pair.
    beta: strength of the KL term; the margin aimed at is 1 / (2 beta) nats.
    logp_reduction: 'sum' | 'mean' over a completion's tokens.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats (per token for 'mean')}.
  """
  reduce = LOGP_REDUCTIONS[logp_reduction]
  ratios = reduce(logps - batch.ref_logps, batch.mask)
  margin, weight = best_minus_worst(ratios, batch)
  loss = ops.weighted_mean(jnp.square(margin - 0.5 / beta), weight)
  return loss, pair_metrics(margin, weight)


def best_of_2(logps, batch):
  """Likelihood of each group's best completion alone (Tang et al. 2024, 4.4).

  The loss of RAFT and best-of-n distillation when groups hold n samples.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: each group's best row by `rewards` is fitted; groups with equal
      rewards weigh nothing.
  Returns:
    scalar (nats per completion), {weight: groups, accuracy, margin}.
  """
  seq_logps = ops.masked_sum(logps, batch.mask)
  margin, weight = best_minus_worst(seq_logps, batch)
  rewards = ops.by_group(batch.rewards, batch.group_size)
  best = jnp.take_along_axis(
    ops.by_group(seq_logps, batch.group_size),
    rewards.argmax(1)[:, None],
    axis=1,
  )[:, 0]
  return -ops.weighted_mean(best, weight), pair_metrics(margin, weight)


LOGP_REDUCTIONS = {'sum': ops.masked_sum, 'mean': ops.masked_mean}

LOSSES = {
  'dpo': dpo,
  'ipo': ipo,
  'best_of_2': best_of_2,
}
