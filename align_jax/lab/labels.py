"""Labellers of a run's samples, by the names that configs use."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from align_jax import hosts, judges
from align_jax.files import read_record
from align_jax.learn import rewards
from align_jax.learn.rewards import REWARDS
from align_jax.policy.programs import policy_in, policy_programs

# In a variant's folder: the day of its first start, for templates that ask.
DATE = 'date.json'


class Label(NamedTuple):
  """A way to label samples."""

  make: Callable  # (stage, judge) -> reward: Batch -> f32 [B]
  reads_state: bool = (
    False  # True: the reward is (Batch, TrainState) -> f32 [B]
  )


def proxy(stage, judge):
  """The reward of the seed's proxy."""
  return stage.proxy


def gold(stage, judge):
  """The reward of the task's gold judge."""
  return stage.task.gold


def by_judge(stage, judge):
  """The reward of a published checkpoint, see `judges`."""
  path = stage.folder.parent / DATE  # earlier versions keep none
  if path.exists() and 'date' in judges.knobs(judge['kind']):
    judge = {**read_record(path), **judge}
  return judges.as_reward(judges.make(judge), stage.task.decode)


def rule(name):
  """A label that is a rule of REWARDS over texts."""
  return lambda stage, judge: rewards.from_text(
    REWARDS[name], stage.task.decode
  )


def implicit(stage, judge):
  """The implicit reward of the current policy, in nats."""
  logps, _, _ = policy_programs(stage.task.model)
  return rewards.implicit(logps, policy_in)


LABELS = {
  'proxy': Label(proxy),
  'gold': Label(gold),
  'judge': Label(by_judge),
  'implicit': Label(implicit, reads_state=True),
  **{name: Label(rule(name)) for name in REWARDS},
}


def published_judges(run):
  """{field: its `judge`} of the published checkpoints that judge a run."""
  found = {'task.judge': run.shared.task.get('judge')}
  if run.labels.name == 'judge':
    found[run.where('judge')] = run.labels.judge
  return {k: x for k, x in found.items() if x and x.get('checkpoint')}


def of_reference(stage, reward):
  """The reward standardised by the reference's mean and standard deviation."""
  values = np.float64(hosts.fetch(reward(stage.pairs)))
  if not values.std():
    raise ValueError(
      "reward_scale='reference': all samples of the reference score "
      f'{values.mean():g}'
    )
  return rewards.standardised(reward, values.mean(), values.std())


def as_preferences(stage, reward):
  """Mean win probabilities within the group.

  A proxy that is a preference model gives them directly.
  """
  if reward is stage.proxy:
    return stage.preferences
  return rewards.preferences(reward)


REWARD_SCALES = {
  'none': lambda stage, reward: reward,
  'reference': of_reference,
  'preference': as_preferences,
}


def reward_of(stage, labels):
  """The scaled reward, without reading the state: Batch -> f32 [B].

  Args:
    labels: settings.Labels.
  """
  reward = LABELS[labels.name].make(stage, labels.judge)
  return REWARD_SCALES[labels.scale](stage, reward)


def labelled_by(stage, labels):
  """The labeller of a run's samples: (Batch, state) -> f32 [B].

  Args:
    labels: settings.Labels.
  """
  row, scaled = LABELS[labels.name], REWARD_SCALES[labels.scale]
  if not row.reads_state:
    return rewards.stateless(reward_of(stage, labels))
  reward = row.make(stage, labels.judge)
  at = lambda state: lambda batch: reward(batch, state)
  return lambda batch, state: scaled(stage, at(state))(batch)
