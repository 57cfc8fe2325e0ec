"""Maximum likelihood of completions, and the losses of scalar-head models."""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import preference


def sft(logps, batch):
  """Negative log-likelihood, a mean over completion tokens.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: read at `mask` only; rewards are ignored.
  Returns:
    scalar, {weight: number of tokens}.
  """
  weight = batch.mask.sum()
  loss = -ops.masked_sum(logps, batch.mask).sum() / jnp.maximum(weight, 1)
  return loss, {'weight': weight}


def binary_cross_entropy(scores, batch):
  """Logistic classification of single completions.

  Args:
    scores: f32 [B], logit that the row is good.
    batch: `rewards` f32 [B] in [0, 1] are the (soft) labels.
  Returns:
    scalar, {weight: rows, accuracy}.
  """
  labels = batch.rewards
  losses = jax.nn.softplus(scores) - labels * scores
  return losses.mean(), {
    'weight': jnp.float32(scores.size),
    'accuracy': ((scores > 0) == (labels > 0.5)).mean(),
  }


def bradley_terry(scores, batch):
  """Bradley-Terry: -log sigmoid(best - worst) (Ouyang et al. 2022, eq. 1).

  Args:
    scores: f32 [B], one score per completion.
    batch: each group's best and worst row by `rewards` form the pair; groups
      with equal rewards weigh nothing.
  Returns:
    scalar, {weight: pairs, accuracy, margin in score units}.
  """
  margin, weight = preference.best_minus_worst(scores, batch)
  loss = ops.weighted_mean(jax.nn.softplus(-margin), weight)
  return loss, preference.pair_metrics(margin, weight)


def preference_model(scores, batch):
  """Pairwise preference model seen in both orders (Tang et al. 2024, sec. 3).

  -1/2 log r(x, winner, loser) - 1/2 log(1 - r(x, loser, winner)).

  Args:
    scores: f32 [B], logit that the first completion of the row's pair is
      preferred; rows as `rewards.ordered_pairs` lays them out.
    batch: `rewards` f32 [B], probability that the first one is preferred;
      0.5 is a tie and weighs nothing.
  Returns:
    scalar, {weight: rows, accuracy}.
  """
  labels = batch.rewards
  weight = (labels != 0.5).astype(jnp.float32)
  losses = jax.nn.softplus(scores) - labels * scores
  correct = (scores > 0) == (labels > 0.5)
  return ops.weighted_mean(losses, weight), {
    'weight': weight.sum(),
    'accuracy': ops.weighted_mean(correct, weight),
  }


LOSSES = {
  'sft': sft,
  'binary_cross_entropy': binary_cross_entropy,
  'bradley_terry': bradley_terry,
  'preference_model': preference_model,
}
