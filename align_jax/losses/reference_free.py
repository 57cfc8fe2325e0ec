"""Losses on pairs that read log-probs alone, and no reference."""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses.preference import (
  best_and_worst,
  best_minus_worst,
  best_nll,
  pair_metrics,
)
from align_jax.losses.row import Loss
from align_jax.types import Batch, Scored


def raft(logps: jax.Array, batch: Batch) -> Scored:
  """Negative log-likelihood of each group's best row (Dong et al. 2023).

  With two samples per prompt it is the best-of-2 of Tang et al. 2024 (4.4).
  No term keeps the policy near the reference: stop early.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: the loss fits each group's best row by `rewards`. Groups of equal
      rewards have no weight.
  Returns:
    scalar (nats per completion), {weight: groups, accuracy, margin}.
  """
  margin, weight = best_minus_worst(ops.masked_sum(logps, batch.mask), batch)
  loss = best_nll(ops.masked_sum, logps, batch)
  return loss, pair_metrics(margin, weight)


def slic(
  logps: jax.Array, batch: Batch, *, margin: float = 1.0, alpha: float = 1.0
) -> Scored:
  """SLiC-HF: hinge on log-probs and NLL (Zhao et al. 2023, eq. 1).

  max(0, margin - log pi(best) + log pi(worst)) + alpha NLL(best). The paper
  regularises towards the SFT targets; here the best row replaces them.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: each group's best and worst row form the pair.
    margin: nats by which the best must lead.
    alpha: weight of the NLL, a mean over the completion's tokens.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats}.
  """
  lead, weight = best_minus_worst(ops.masked_sum(logps, batch.mask), batch)
  loss = ops.weighted_mean(jax.nn.relu(margin - lead), weight)
  nll = best_nll(ops.masked_mean, logps, batch)
  return loss + alpha * nll, pair_metrics(lead, weight)


def cpo(
  logps: jax.Array, batch: Batch, *, beta: float = 0.1, alpha: float = 1.0
) -> Scored:
  """Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417).

  DPO with a uniform reference, plus the NLL of the best row (eq. 6).

  Args:
    beta: scale of the log-prob margin, per nat.
    alpha: weight of the NLL, a mean over the completion's tokens. The rest as
      in `slic`.
  """
  margin, weight = best_minus_worst(ops.masked_sum(logps, batch.mask), batch)
  loss = ops.weighted_mean(jax.nn.softplus(-beta * margin), weight)
  nll = best_nll(ops.masked_mean, logps, batch)
  return loss + alpha * nll, pair_metrics(margin, weight)


def simpo(
  logps: jax.Array, batch: Batch, *, beta: float = 2.0, gamma: float = 1.0
) -> Scored:
  """SimPO (Meng et al. 2024, eq. 6): mean log-probs and a target margin.

  -log sigmoid(beta * (mean log pi(best) - mean log pi(worst)) - gamma).

  Args:
    beta: scale of the mean log-probs.
    gamma: target margin after scaling. The rest as in `slic`.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats per token}.
  """
  margin, weight = best_minus_worst(ops.masked_mean(logps, batch.mask), batch)
  loss = ops.weighted_mean(jax.nn.softplus(gamma - beta * margin), weight)
  return loss, pair_metrics(margin, weight)


def log_odds(mean_logps: jax.Array) -> jax.Array:
  """log p - log(1 - p), where p = exp(mean_logps) < 1."""
  return mean_logps - jnp.log(-jnp.expm1(mean_logps))


def orpo(logps: jax.Array, batch: Batch, *, beta: float = 0.1) -> Scored:
  """Odds ratio preference optimisation (Hong et al. 2024, eq. 6 and 7).

  NLL(best) - beta log sigmoid(log odds(best) - log odds(worst)). The odds of a
  completion are those of its geometric mean token probability.

  Args:
    beta: weight of the odds ratio (lambda in the paper). The rest as in `slic`.
  Returns:
    scalar, {weight: pairs, accuracy, margin of the log odds}.
  """
  means = ops.masked_mean(logps.astype(jnp.float32), batch.mask)
  # Probability 1 has infinite odds, so stop at the next float32 below.
  odds = log_odds(jnp.minimum(means, -(2.0**-24)))
  margin, weight = best_minus_worst(odds, batch)
  loss = beta * ops.weighted_mean(jax.nn.softplus(-margin), weight)
  nll = best_nll(ops.masked_mean, logps, batch)
  return nll + loss, pair_metrics(margin, weight)


def cpl(
  logps: jax.Array,
  batch: Batch,
  *,
  alpha: float = 0.1,
  gamma: float = 1.0,
  bias: float = 0.5,
) -> Scored:
  """Contrastive preference learning (Hejna et al. 2023, eq. 5 and app. A).

  -log e^S(best) / (e^S(best) + e^(bias S(worst))), where S is the discounted
  sum of alpha log pi. The model explains preferences by regret, not return.

  Args:
    alpha: temperature of the regret model.
    gamma: discount per token.
    bias: 1 is the plain loss. Below 1 the best row must win by more, which
      keeps the policy near the data. The rest as in `slic`.
  Returns:
    scalar, {weight: pairs, accuracy, margin of S without bias}.
  """
  index = jnp.maximum(jnp.cumsum(batch.mask, 1) - 1, 0)
  discounted = alpha * gamma ** index.astype(jnp.float32) * logps
  best, worst, weight = best_and_worst(
    ops.masked_sum(discounted, batch.mask), batch
  )
  loss = ops.weighted_mean(jax.nn.softplus(bias * worst - best), weight)
  return loss, pair_metrics(best - worst, weight)


LOSSES = {
  'raft': Loss(raft, 'Dong et al. 2023', reference=False),
  'slic': Loss(slic, 'Zhao et al. 2023 (SLiC-HF), eq. 1', reference=False),
  'cpo': Loss(cpo, 'Xu et al. 2024, arXiv 2401.08417, eq. 6', reference=False),
  'simpo': Loss(simpo, 'Meng et al. 2024, eq. 6', reference=False),
  'orpo': Loss(orpo, 'Hong et al. 2024, eq. 6 and 7', reference=False),
  'cpl': Loss(cpl, 'Hejna et al. 2023, eq. 5 and app. A', reference=False),
}
