"""The words for a verdict, its interval and its power."""

import math
from collections.abc import Iterable

from align_jax.compare import verdict

CLAIMS = {
  verdict.ABOVE: 'is above',
  verdict.BELOW: 'is below',
  verdict.EQUIVALENT: 'is equivalent to',
  verdict.UNDECIDED: 'is not shown to differ from',
}


def budgets_text(low: float, high: float) -> str:
  """'2 nats', or '1.00 to 2.00 nats' where the bounds differ."""
  if low == high:
    return f'{low:g} nats'
  shown = '.2f' if low >= 0.1 else '.2g'
  return f'{low:{shown}} to {high:{shown}} nats'


def cut_text(
  window: tuple[float, float], asked: tuple[float, float], whole: bool
) -> str:
  """Where a comparison was not read, a clause; '': nowhere.

  Args:
    window: (low, high) nats, over which it was read.
    asked: the window that was fixed in advance.
    whole: whether it was read at all between.
  """
  told = []
  if not all(map(math.isclose, window, asked)):
    both = budgets_text(*window), budgets_text(*asked)
    told.append('read over {} instead of {}'.format(*both))
  if not whole:
    told.append('not all between was read')
  where = ': not every seed of all arms was there'
  return ', '.join(told) + where if told else ''


def digits_of(*numbers: float) -> int:
  """Decimals to show numbers with: two, or more where all are below 0.01.

  Then there are two figures of the largest.
  """
  most = max((abs(x) for x in numbers if math.isfinite(x)), default=0.0)
  if not verdict.ROUNDING < most < 0.01:
    return 2
  return 1 - math.floor(math.log10(most))


def show_number(number: float, sign: bool = False, digits: int = 2) -> str:
  """The number with that many decimals. A rounded zero has no sign."""
  text = f'{number:{"+" if sign else ""}.{digits}f}'
  return text if float(text) else f'{0:.{digits}f}'


LISTED = 6  # maximum number of seeds to list one by one


def by_seed_text(by_seed: Iterable[float]) -> str:
  """Each seed's difference; for many seeds, their range and signs."""
  by_seed = list(by_seed)
  digits = digits_of(*by_seed)
  numbers = [show_number(x, True, digits) for x in sorted(by_seed)]
  if len(numbers) <= LISTED:
    return f'by seed {", ".join(numbers)}'
  above = sum(x > 0 for x in by_seed)
  return f'seeds from {numbers[0]} to {numbers[-1]}, {above} of them above 0'


def power_text(power: verdict.Power) -> str:
  """Sentences on the differences that the design can resolve."""
  needed = f'takes {power.seeds_needed} seeds'
  if not power.seeds_needed:
    needed = 'takes over a thousand seeds, or no number of them reaches it'
  numbers = power.deviation, power.half_width, power.detectable
  digits = digits_of(*numbers)
  deviation, half, found = (f'{x:.{digits}f}' for x in numbers)
  text = (
    f'With {power.seeds} seeds and a deviation of {deviation} between them the '
    f'half-width is {half}, and a true difference of {found} would have been '
    f'found with 80% power; a half-width of {power.wanted:g} {needed}.'
  )
  if math.isfinite(power.from_prompts):
    text += (
      f' More prompts or samples would take away at most '
      f'{power.from_prompts:.0%} of the variance between seeds.'
    )
  return text
