"""Maximum likelihood, distillation, and the losses of scalar-head models."""

import functools

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import preference
from align_jax.losses.row import Loss
from align_jax.types import Batch, Scored


def sft(logps: jax.Array, batch: Batch) -> Scored:
  """Negative log-likelihood, a mean over the tokens of `mask`.

  In a conversation the mask contains only the assistant's turns.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: only `mask` is read.
  Returns:
    scalar, {weight: number of tokens}.
  """
  return -ops.token_mean(logps, batch.mask), {'weight': batch.mask.sum()}


def forward_kl(kls: jax.Array, batch: Batch) -> Scored:
  """Distillation by KL(teacher || policy) at each token (Hinton et al. 2015).

  On completions of the teacher or a data set it covers the teacher's whole
  distribution. On the policy's own completions it is GKD with the forward KL
  (Agarwal et al. 2023).

  Args:
    kls: f32 [B, T], exact KL from teacher to policy, with its gradient.
    batch: only `mask` is read.
  Returns:
    scalar (nats per token), {weight: number of tokens}.
  """
  return ops.token_mean(kls, batch.mask), {'weight': batch.mask.sum()}


def reverse_kl(kls: jax.Array, batch: Batch) -> Scored:
  """Distillation by KL(policy || teacher) at each token (Gu et al. 2023).

  As in GKD, no gradient flows through the sampling of the policy's own
  completions: each step ignores its effect on later steps.

  Args:
    kls: f32 [B, T], exact KL from policy to teacher, with its gradient.
    batch: only `mask` is read.
  Returns:
    scalar (nats per token), {weight: number of tokens}.
  """
  return forward_kl(kls, batch)


def binary_cross_entropy(scores: jax.Array, batch: Batch) -> Scored:
  """Logistic classification of single completions.

  Args:
    scores: f32 [B], logits that the rows are good.
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


def verifier(scores: jax.Array, batch: Batch) -> Scored:
  """Correctness, predicted after every token (Cobbe et al. 2021, sec. 4.2).

  Args:
    scores: f32 [B, T], logit after each token that the completion is correct.
    batch: `rewards` f32 [B] in [0, 1] say whether it is.
  Returns:
    scalar, a mean over tokens, {weight: number of tokens, accuracy}.
  """
  labels = batch.rewards[:, None]
  scores = jnp.where(batch.mask, scores, 0)
  losses = jax.nn.softplus(scores) - labels * scores
  correct = ((scores > 0) == (labels > 0.5)).astype(jnp.float32)
  return ops.token_mean(losses, batch.mask), {
    'weight': batch.mask.sum(),
    'accuracy': ops.token_mean(correct, batch.mask),
  }


def bradley_terry(
  scores: jax.Array,
  batch: Batch,
  *,
  margin: float = 0.0,
  label_smoothing: float = 0.0,
  centring: float = 0.0,
) -> Scored:
  """Bradley-Terry: -log sigmoid(best - worst) (Ouyang et al. 2022, eq. 1).

  Args:
    scores: f32 [B], one score per completion.
    batch: each group's best and worst row by `rewards` form the pair. Groups of
      equal rewards have no weight.
    margin: required lead of the best score, per unit of difference in `rewards`
      (Touvron et al. 2023, eq. 2).
    label_smoothing: share of labels believed wrong, in [0, 0.5).
    centring: weight of (best + worst)^2, which keeps scores around zero
      (Eisenstein et al. 2023).
  Returns:
    scalar, {weight: pairs, accuracy, margin in score units}.
  """
  best, worst, weight = preference.best_and_worst(scores, batch)
  gap, _ = preference.best_minus_worst(batch.rewards, batch)
  lead = best - worst - margin * gap
  losses = (1 - label_smoothing) * jax.nn.softplus(-lead)
  losses = losses + label_smoothing * jax.nn.softplus(lead)
  losses = losses + centring * jnp.square(best + worst)
  loss = ops.weighted_mean(losses, weight)
  return loss, preference.pair_metrics(best - worst, weight)


def preference_model(scores: jax.Array, batch: Batch) -> Scored:
  """Pairwise preference model seen in both orders (Tang et al. 2024, sec. 3).

  -1/2 log r(x, winner, loser) - 1/2 log(1 - r(x, loser, winner)).

  Args:
    scores: f32 [B], logit that the first completion of the row's pair is
      preferred. `pair_model.ordered_pairs` gives the order of rows.
    batch: `rewards` f32 [B], probability that the first one is preferred. 0.5
      is a tie and has no weight.
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


_imitates = functools.partial(
  Loss, rows='single', rewards='unread', reference=False
)
_scores = functools.partial(Loss, needs=('scores',), reference=False)

LOSSES = {
  'sft': _imitates(sft, ''),
  'forward_kl': _imitates(
    forward_kl, 'Hinton et al. 2015', needs=('kls_from_teacher',)
  ),
  'reverse_kl': _imitates(
    reverse_kl, 'Gu et al. 2023', needs=('kls_to_teacher',)
  ),
  'binary_cross_entropy': _scores(
    binary_cross_entropy, '', rows='single', rewards='absolute'
  ),
  'verifier': _scores(
    verifier,
    'Cobbe et al. 2021, sec. 4.2',
    needs=('token_scores',),
    rows='single',
    rewards='absolute',
  ),
  'bradley_terry': _scores(bradley_terry, 'Ouyang et al. 2022, eq. 1'),
  'preference_model': _scores(
    preference_model,
    'Tang et al. 2024, sec. 3',
    rows='ordered',
    rewards='chances',
  ),
}
