"""Rewards: `reward(batch) -> f32 [B]`, from rules, texts or trained models.

A source calls `reward(batch, state)`, for rewards that change with the policy;
`stateless` makes one of those that do not.
"""

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import hosts, ops, sharding
from align_jax.learn.batches import take


def stateless(reward):
  """A reward of the batch alone as one of the batch and the run's state."""
  return lambda batch, state: reward(batch)


def implicit(logps, read, beta=1.0):
  """What the policy itself prefers: beta log(pi / pi_ref) of a completion.

  The reward that the policy is optimal for, up to a constant of the prompt
  (Rafailov et al. 2023, arXiv 2305.18290, eq. 5), as labels of its own samples
  (Chen et al. 2024, arXiv 2406.09760). It moves with the policy.

  Args:
    logps: (params, batch) -> f32 [B, T], nats, 0 on padding.
    read: state -> params of the policy; those of the reference are the anchor
      'ref'.
    beta: the reward of a nat.
  Returns:
    (Batch, TrainState) -> f32 [B].
  """

  def reward(batch, state):
    ratios = logps(read(state), batch) - logps(state.anchors['ref'], batch)
    return beta * ratios.sum(1)

  return reward


def from_model(scores, params):
  """The score of a trained reward model.

  Args:
    scores: jitted (params, batch) -> f32 [B].
  """
  return lambda batch: scores(params, batch)


def from_text(fn, decode):
  """A rule over texts, run on the host.

  Args:
    fn: (prompts, completions), lists of str -> one number per completion.
    decode: Batch -> (prompts, completions), a text per row.
  Raises:
    ValueError: `fn` returned another count than one number per completion, or
      a number that is not finite.
  """

  def score(batch):
    prompts, completions = decode(batch)
    values = np.asarray(fn(prompts, completions), np.float32)
    if values.shape != (len(completions),) or not np.isfinite(values).all():
      raise ValueError(
        f'reward {fn.__name__!r} must return {len(completions)} finite '
        f'numbers, returned shape {values.shape}: {values}'
      )
    return values

  return on_hosts(score)


def on_hosts(score):
  """A reward that is computed on the host: of several, each has a part.

  Args:
    score: Batch -> f32 [B], numpy, a row's score independent of other groups.
  """

  def reward(batch):
    if hosts.count() == 1:
      return jnp.asarray(score(batch))
    batch = hosts.fetch(batch)
    size = -(-batch.num_prompts // hosts.count())
    own = hosts.index() * size + np.arange(size)
    with sharding.alone():  # parts of one size: the last wraps around
      values = score(hosts.fetch(take(batch, own % batch.num_prompts)))
    return jnp.asarray(hosts.gather(values)[: len(batch.rewards)])

  return reward


def from_pairwise(judge, decode):
  """How likely each completion wins against its group's others, in [0, 1].

  With G = 2 these are the judge's probability and what is left of one: labels
  of online DPO from AI feedback (Guo et al. 2024, arXiv 2402.04792).

  Args:
    judge: (prompts, firsts, seconds), lists of str -> f32 [B], the probability
      that the first is better, whatever the order.
    decode: Batch -> (prompts, completions), a text per row.
  Raises:
    ValueError: groups of one; not a probability for every pair.
  """

  def score(batch):
    size = batch.group_size
    if size < 2:
      raise ValueError('pairs need group_size >= 2, got group_size 1')
    prompts, completions = decode(batch)
    starts = np.arange(0, len(completions), size)[:, None]
    i, j = ((starts + x).ravel() for x in np.triu_indices(size, 1))
    pick = lambda texts, index: [texts[k] for k in index]
    chances = np.asarray(
      judge(pick(prompts, i), pick(completions, i), pick(completions, j)),
      np.float32,
    )
    if chances.shape != i.shape or not ((chances >= 0) & (chances <= 1)).all():
      raise ValueError(
        f'judge {judge.__name__!r} must return {len(i)} probabilities, '
        f'returned shape {chances.shape}: {chances}'
      )
    wins = np.zeros(len(completions), np.float32)
    np.add.at(wins, i, chances)
    np.add.at(wins, j, 1 - chances)
    return wins / (size - 1)

  return on_hosts(score)


def preferences(reward):
  """Rewards as probabilities to win, under Bradley-Terry: in (0, 1).

  A completion's is the mean over its group's others of sigmoid(r - r'), which
  is what the losses of games and of labelled rows expect; 0.5 is a tie.

  Args:
    reward: Batch of groups of at least two -> f32 [B].
  """

  def wins(batch):
    rewards = ops.by_group(reward(batch), batch.group_size)
    chances = jax.nn.sigmoid(rewards[:, :, None] - rewards[:, None])
    # The diagonal is a tie with oneself: half a win too many.
    return ((chances.sum(2) - 0.5) / (batch.group_size - 1)).reshape(-1)

  return wins


def standardised(reward, mean, deviation):
  """The reward in units of a fixed deviation around a fixed mean.

  With the reference's mean and deviation the reference scores 0 (Huang et al.
  2024, detail 3).
  """
  return lambda batch: (reward(batch) - mean) / deviation


# --- Ensembles: rewards of M members f32 [M, B] -> f32 [B] --------------------


def ensemble_mean(scores, weight):
  """The members' mean (Coste et al. 2023, eq. 2)."""
  return scores.mean(0)


def worst_case(scores, weight):
  """The least of the members' scores (Coste et al. 2023, eq. 3)."""
  return scores.min(0)


def uncertainty_weighted(scores, weight):
  """Mean less `weight` times the variance (Coste et al. 2023, eq. 4)."""
  return scores.mean(0) - weight * scores.var(0)


def ensemble(members, combine, weight=0.5):
  """Several reward models as one.

  Args:
    members: a list of rewards, Batch -> f32 [B].
    combine: a function of ENSEMBLES.
    weight: of the variance, where `combine` uses it.
  """
  return lambda batch: combine(jnp.stack([r(batch) for r in members]), weight)


ENSEMBLES = {
  'mean': ensemble_mean,
  'worst_case': worst_case,
  'uncertainty_weighted': uncertainty_weighted,
}


# --- Rules over texts -------------------------------------------------------


def brevity(prompts, completions):
  """Minus the number of words."""
  return [-len(text.split()) for text in completions]


REWARDS = {  # rules over texts, by the name configs use
  'brevity': brevity,
}
