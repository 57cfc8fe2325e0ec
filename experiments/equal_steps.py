"""The comparison after equally many updates, which ignores the KL.

An arm may win it by moving further from the reference, or lose it by moving too
far.
"""

import dataclasses

from align_jax.compare import readings, words
from align_jax.compare.report import decimals, show

NEAR = 1.1  # ratio of KLs up to which two arms count as equally far


@dataclasses.dataclass(frozen=True)
class Step:
  """Two arms after equally many updates.

  Attributes:
    number: number of updates.
    difference: Estimate of first - second, in gold reward.
    scores, kls: Estimates of the first and of the second arm.
  """

  number: int
  difference: object
  scores: tuple
  kls: tuple

  @property
  def kl_apart(self):
    a, b = (kl.value for kl in self.kls)
    return abs(a - b)

  @property
  def near(self):
    """Whether the arms have moved about equally far."""
    low, high = sorted(kl.value for kl in self.kls)
    return high <= NEAR * low


def steps_of(comparison, first, second):
  """A Step for each number of updates at which all runs were measured."""
  rows = comparison.at_equal_steps(first, second)
  return [Step(n, d, (a, b), (x, y)) for n, d, a, x, b, y in rows]


def held_at(arm):
  """The smallest KL budget of an arm's runs, or inf if a run has none."""
  budgets = [run.held for s in arm.seeds for run in arm.runs_of(s)]
  return min(budgets) if all(budgets) else float('inf')


def chosen(comparison, names, steps):
  """The step to report: the one where the arms' KLs differ most. Or None.

  Steps count only before either arm is held, because a held KL does not depend
  on the updates. Without such steps it is the last step.
  """
  if not steps:
    return None
  limits = [
    (1 - readings.HELD_WITHIN) * held_at(comparison.arms[n]) for n in names
  ]
  free = [
    step
    for step in steps
    if all(kl.value < limit for kl, limit in zip(step.kls, limits))
  ]
  if free:
    return max(free, key=lambda step: step.kl_apart)
  return steps[-1]


def sentence(step, gap, names):
  """Sentences on the comparison at equal updates, beside that at equal KL.

  Args:
    step: a Step, or None.
    gap: the `frontier.Gap` at equal KL, or None.
  """
  if step is None:
    return (
      'There is no comparison at equal steps: the runs were never measured '
      'after equally many updates.'
    )
  first, second = names
  a, b = (kl.value for kl in step.kls)
  start = (
    f'At equal steps, after {step.number} updates, {first} minus {second} is '
    f'{show(step.difference, True, None)}, with {first} {a:.2f} nats and '
    f'{second} {b:.2f} nats from the reference'
  )
  return f'{start}. {_beside(step, gap)}'


def _beside(step, gap):
  """The part that depends on both signs."""
  if gap is None:
    return 'There is nothing at equal KL to hold against it.'
  if len(step.difference.by_seed) < 2:
    return 'Of one seed, neither sign is known.'
  naive, matched = step.difference.sign, gap.estimate.sign
  if naive and matched and naive != matched:
    return 'Equal KL says the opposite.'
  if naive and matched and step.near:
    return 'Equal KL says the same; here the arms have moved about as far.'
  if naive and matched:
    return (
      'Equal KL has the same sign; the size at equal steps also holds how much '
      'further one arm has moved.'
    )
  if naive:
    return 'The sign of equal KL is not sure.'
  if matched:
    return 'Its sign is not sure, and that of equal KL is.'
  return 'Neither its sign nor that of equal KL is sure.'


def cards(step, gap, names):
  """Cards of both comparisons, for `Page.cards`."""
  return [_matched_card(gap, names), _naive_card(step, names)]


def _matched_card(gap, names):
  title = 'At equal KL'
  if gap is None:
    return title, '–', '', ['The arms were never at the same KL.']
  first, second = names
  where = words.budgets_text(*gap.window)
  return _card(title, gap.estimate, [f'{first} − {second}', f'both at {where}'])


def _naive_card(step, names):
  title = 'At equal steps'
  if step is None:
    return title, '–', '', ['No number of updates is common to all runs.']
  first, second = names
  a, b = (f'{kl.value:.2f} nats' for kl in step.kls)
  where = f'after {step.number} updates: {first} at {a}, {second} at {b}'
  return _card(title, step.difference, [f'{first} − {second}', where])


def _card(title, estimate, lines):
  number, _, interval = show(estimate, True, None).partition(' ')
  return title, number, interval, lines


def table(steps, names):
  """Table of common steps: the difference, then each arm's gain and KL."""
  first, second = names
  header = ['updates', f'{first} − {second}']
  for name in names:
    header += [f'{name}: gain', f'{name}: KL']
  digits = decimals([step.difference, *step.scores] for step in steps)
  rows = []
  for step in steps:
    row = [str(step.number), show(step.difference, True, digits)]
    for score, kl in zip(step.scores, step.kls):
      row += [show(score, False, digits), show(kl)]
    rows.append(row)
  return header, rows
