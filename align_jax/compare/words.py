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
  return f'{low:g} nats' if low == high else f'{low:.2f} to {high:.2f} nats'


LISTED = 6  # maximum number of seeds to list one by one


def by_seed_text(by_seed: Iterable[float]) -> str:
  """Each seed's difference; for many seeds, their range and signs."""
  numbers = [f'{x:+.2f}' for x in sorted(by_seed)]
  if len(numbers) <= LISTED:
    return f'by seed {", ".join(numbers)}'
  above = sum(x > 0 for x in by_seed)
  return f'seeds from {numbers[0]} to {numbers[-1]}, {above} of them above 0'


def power_text(power: verdict.Power) -> str:
  """Sentences on the differences that the design can resolve."""
  needed = power.seeds_needed or 'over a thousand'
  text = (
    f'With {power.seeds} seeds and a deviation of {power.deviation:.2f} '
    f'between them the half-width is {power.half_width:.2f}, and a true '
    f'difference of {power.detectable:.2f} would have been found with 80% '
    f'power; a half-width of {power.wanted:g} takes {needed} seeds.'
  )
  if math.isfinite(power.from_prompts):
    text += (
      f' More prompts or samples would take away at most '
      f'{power.from_prompts:.0%} of the variance between seeds.'
    )
  return text
