"""What a comparison of two arms comes to, in words."""

import dataclasses
import math

from align_jax import frontier, intervals, verdict

CLAIMS = {
  verdict.ABOVE: 'is above',
  verdict.BELOW: 'is below',
  verdict.EQUIVALENT: 'is equivalent to',
  verdict.UNDECIDED: 'is not shown to differ from',
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """
  Attributes:
    word: one of `verdict`'s.
    gap: a `frontier.Gap`, or None where there is none.
    sentence: the claim with its interval.
    notes: sentences on what it rests on and what it could have found.
  """

  word: str
  gap: object
  sentence: str
  notes: tuple = ()


def budgets_text(low, high):
  return f'{low:g} nats' if low == high else f'{low:.2f} to {high:.2f} nats'


LISTED = 6  # seeds up to which each is told


def by_seed_text(by_seed):
  """Each seed's difference, or of many how far and on which side they lie."""
  numbers = [f'{x:+.2f}' for x in sorted(by_seed)]
  if len(numbers) <= LISTED:
    return f'by seed {", ".join(numbers)}'
  above = sum(x > 0 for x in by_seed)
  return f'seeds from {numbers[0]} to {numbers[-1]}, {above} of them above 0'


def find(comparison, settings, level=intervals.LEVEL, pair=None):
  """The Finding on the confirmatory pair of arms, or on another pair.

  Args:
    settings: the config's `report`.
    level: of the interval, see `registration.look`.
    pair: (first, second) names; None: treatment and control.
  """
  first, second = pair or (settings['treatment'], settings['control'])
  missing = [n for n in (first, second) if n not in comparison.arms]
  if missing:
    who = ' and '.join(map(repr, missing))
    have = 'have' if len(missing) > 1 else 'has'
    text = f'Nothing to compare yet: {who} {have} no points.'
    return Finding(verdict.NONE, None, text)
  try:
    gap = comparison.gap(first, second, settings['window'], level)
  except ValueError as error:
    return Finding(verdict.NONE, None, f'No verdict: {error}.')
  word = verdict.decide(gap.estimate, settings['margin'], level)
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
  value = f'{estimate.value:+.2f}'
  if seeds < 2:
    return f'{start} minus {second} {where}: {value} (one seed).'
  value += f' [{estimate.low:+.2f}, {estimate.high:+.2f}]'
  how = f'{100 * level:.4g}% interval over {seeds} seeds'
  return (
    f'{start} {CLAIMS[word]} {second} {where}: {value} ({how}; '
    f'{by_seed_text(estimate.by_seed)}).'
  )


def _notes(comparison, gap, settings, level, names):
  notes = [stay(gap, names)]
  if not all(map(math.isclose, gap.window, gap.asked)):
    notes.append(
      f'The window was cut from {budgets_text(*gap.asked)}, where not every '
      'seed of both arms arrived: what it leaves out nobody compared.'
    )
  turns = frontier.crossings(comparison.difference(*names), comparison.budgets)
  for low, high in turns:
    notes.append(
      f'The sign turns between {low:g} and {high:g} nats, by intervals that '
      'hold together over the budgets.'
    )
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
  power = verdict.power_of(gap.matrix, settings['half_width'], level=level)
  notes.append(power_text(power))
  return tuple(notes)


def stay(gap, names):
  """Whether the arms were compared where they stay or in passing."""
  first, second = names
  told = {
    'held': 'held at the budget',
    'plateau': 'near the end of its KL',
    'passage': 'read in passing, on its way to larger KL',
    '': 'not there',
  }
  if len(set(gap.kinds)) == 1:
    return f'Both arms are {told[gap.kinds[0]].replace("its", "their")}.'
  a, b = (told[kind] for kind in gap.kinds)
  return f'{first} is {a}; {second} is {b}.'


def power_text(power):
  """What the design resolves, one sentence each."""
  needed = power.seeds_needed or 'more than a thousand'
  text = (
    f'With {power.seeds} seeds and a deviation of {power.deviation:.2f} '
    f'between them the half-width is {power.half_width:.2f}, and a true '
    f'difference of {power.detectable:.2f} would have been found with 80% '
    f'power; a half-width of {power.wanted:g} takes {needed} seeds.'
  )
  if power.from_prompts == power.from_prompts:  # known
    text += (
      f' More prompts or samples would take away at most '
      f'{power.from_prompts:.0%} of the variance between seeds.'
    )
  return text
