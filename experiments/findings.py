"""The conclusion of a comparison of two arms, in words."""

import dataclasses

from align_jax.compare import frontier, intervals, verdict
from align_jax.compare.report import show
from align_jax.compare.words import (
  CLAIMS,
  budgets_text,
  by_seed_text,
  cut_text,
  power_text,
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """The conclusion of a comparison of two arms.

  Attributes:
    word: one of `verdict`'s.
    gap: a `frontier.Gap`, or None.
    sentence: the claim with its interval.
    notes: sentences on its evidence and on its power.
  """

  word: str
  gap: object
  sentence: str
  notes: tuple = ()


def find(comparison, settings, level=intervals.LEVEL):
  """The Finding on the confirmatory pair of arms.

  Args:
    settings: the config's `report`.
    level: level of the interval, see `registration.look`. None: nothing was
      registered before the first run, so there is no verdict.
  """
  first, second = settings['treatment'], settings['control']
  missing = [n for n in (first, second) if n not in comparison.arms]
  if missing:
    who = ' and '.join(map(repr, missing))
    have = 'have' if len(missing) > 1 else 'has'
    text = f'Nothing to compare yet: {who} {have} no points.'
    return Finding(verdict.NONE, None, text)
  registered, level = level is not None, level or intervals.LEVEL
  try:
    gap = comparison.gap(first, second, settings['window'], level)
  except ValueError as error:
    return Finding(verdict.NONE, None, f'No verdict: {error}.')
  word = verdict.decide(gap.estimate, settings['margin'], level)
  word = word if registered else verdict.NONE
  names = first, second
  return Finding(
    word,
    gap,
    _sentence(gap, word, names, level),
    _notes(comparison, gap, settings, level, names),
  )


def _sentence(gap, word, names, level):
  first, second = names
  estimate, seeds = gap.estimate, len(gap.estimate.by_seed)
  at = 'at' if gap.window[0] == gap.window[1] else 'over'
  where = f'in gold reward {at} {budgets_text(*gap.window)}'
  start = f'At equal KL from the reference, {first}'
  value = show(estimate, True, None)
  if seeds < 2:
    return f'{start} minus {second} {where}: {value} (one seed).'
  claim = CLAIMS.get(word, 'minus')
  how = f'{100 * level:.4g}% interval over {seeds} seeds'
  return (
    f'{start} {claim} {second} {where}: {value} ({how}; '
    f'{by_seed_text(estimate.by_seed)}).'
  )


def _notes(comparison, gap, settings, level, names):
  notes = [f'{stay(gap, names)} {updates(comparison, names)}']
  if told := cut_text(gap.window, gap.asked, gap.whole):
    notes.append(f'{told.capitalize()}.')
  notes += turns(comparison, names)
  seeds = len(comparison.seeds)
  if seeds < 2:
    return (*notes, 'One seed says nothing of others: no interval, no verdict.')
  if seeds < verdict.EXACT_FROM:
    notes.append(
      f'Descriptive: with {seeds} seeds no exact sign test can reach 5%, and '
      'the interval trusts that seeds are normally distributed.'
    )
  else:
    p = intervals.sign_test(gap.estimate.by_seed)
    notes.append(f'Exact sign test over the seeds: p = {p:.2g}.')
  power = verdict.power_of(
    gap.matrix, settings['half_width'], comparison.shared_prompts, level=level
  )
  notes.append(power_text(power))
  return tuple(notes)


def stay(gap, names):
  """A sentence on whether the arms stayed at the compared KL or passed it."""
  first, second = names
  told = {
    'held': 'held at the budget',
    'stopped': 'stopped at the budget, on its way',
    'plateau': 'near the end of its KL',
    'passage': 'read in passing, on its way to larger KL',
    '': 'not there',
  }
  if len(set(gap.reached)) == 1:
    return f'Both arms are {told[gap.reached[0]].replace("its", "their")}.'
  a, b = (told[how] for how in gap.reached)
  return f'{first} is {a}; {second} is {b}.'


def updates(comparison, names):
  """A sentence on the number of updates of the two arms' runs."""

  def last(arm):
    runs = [run for seed in arm.seeds for run in arm.runs_of(seed)]
    ends = {int(run.steps[-1]) for run in runs}
    low, high = min(ends), max(ends)
    return str(low) if low == high else f'{low} to {high}'

  a, b = (last(comparison.arms[name]) for name in names)
  if a == b:
    return f'Their runs end after {a} updates.'
  first, second = names
  return f'Runs of {first} end after {a} updates, of {second} after {b}.'


def turns(comparison, names):
  """Sentences on sign changes of the difference, by how budgets were reached.

  A held reading and one in passing differ in more than the KL, so they are not
  mixed.
  """
  first, second = (comparison.readings[name] for name in names)
  difference = comparison.difference(*names)
  told = []
  for how in ('held', 'stopped', 'plateau', 'passage'):
    at = [
      k
      for k in range(len(comparison.budgets))
      if first.reached(k) == second.reached(k) == how
    ]
    crossed = frontier.crossings(
      [difference[k] for k in at], comparison.budgets[at]
    )
    told += [
      f'The sign turns between {low:g} and {high:g} nats ({how}), by '
      'intervals that hold together over the budgets.'
      for low, high in crossed
    ]
  return told
