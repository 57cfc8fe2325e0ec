"""Numbers that are none: they stop a run before it keeps what they made."""

import jax.numpy as jnp
import numpy as np

from align_jax import hosts

# Fields of a point: texts, and a strength that is infinite at the reference.
UNCHECKED = 'shown', 'beta'
FINITE = 'finite'  # the metric that says whether all others are


class NotFinite(ValueError):
  """A loss, gradient, reward, KL or score that is infinite or NaN."""


def flag(metrics, rewards):
  """Whether all metrics and rewards of a step are finite: a bool on the device.

  Args:
    metrics: {name: array}.
    rewards: f32 [B].
  """
  leaves = [*metrics.values(), rewards]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def check_step(names, step, metrics, rewards):
  """Refuses a step whose numbers are not finite.

  Args:
    names: of the runs, one for each element of a stacked metric.
    step: number of updates.
    metrics: of the step, with FINITE.
    rewards: the batch's, [B] or stacked.
  Raises:
    NotFinite: names run, step and numbers.
  """
  right = np.atleast_1d(np.asarray(metrics[FINITE]))
  if right.all():
    return
  index, rewards = int(np.argmin(right)), hosts.fetch(rewards)
  own = lambda x: np.asarray(x).reshape(len(right), -1)[index]
  told = {k: own(v) for k, v in metrics.items() if k != FINITE}
  wrong = [f'{k}={v[0]:g}' for k, v in told.items() if not np.isfinite(v).all()]
  bad = int((~np.isfinite(own(rewards))).sum())
  if bad:
    wrong.append(f'{bad} of {own(rewards).size} rewards')
  raise NotFinite(
    f'{names[index]}: step {step}: {", ".join(wrong)}: expected finite '
    'numbers. The update is not kept; the last checkpoint is'
  )


def check_points(names, step, points):
  """Refuses a point with a number that is not finite.

  Args:
    names: of the runs.
    points: a point for each of them, or the only one's.
  Raises:
    NotFinite: names run, step and the point's field.
  """
  each = points if isinstance(points, list) else [points]
  for name, point in zip(names, each, strict=True):
    for field, value in _numbers(point):
      if not np.isfinite(value).all():
        raise NotFinite(
          f'{name}: step {step}: {field} of the point is infinite or NaN, '
          'expected finite numbers. The last checkpoint is kept'
        )


def _numbers(point, prefix=''):
  for field, value in point.items():
    if isinstance(value, dict):
      yield from _numbers(value, f'{prefix}{field}.')
    elif field not in UNCHECKED:
      yield f'{prefix}{field}', np.asarray(value, float)


def check_scores(what, scores):
  """Returns scores if they are finite.

  Args:
    what: whose scores they are, for the error.
    scores: array.
  Raises:
    NotFinite: says how many are not.
  """
  bad = int((~np.isfinite(hosts.fetch(scores))).sum())
  if bad:
    raise NotFinite(
      f'{what}: {bad} of {np.size(scores)} scores are infinite or NaN, '
      'expected finite numbers'
    )
  return scores
