"""One confirmatory number and the word that it earns.

The number is the gap of two arms over one window, both fixed in advance. The
rule: *above* or *below* where its interval leaves 0 out; else *equivalent*
where two one-sided tests (Schuirmann 1987) place it within the margin; else
*undecided*. All seeds having one sign is no part of it: that is met less often
the more seeds there are.
"""

import dataclasses

import numpy as np

from align_jax.compare import intervals

ABOVE, BELOW = 'above', 'below'
EQUIVALENT, UNDECIDED = 'equivalent', 'undecided'
NONE = 'no verdict'  # one seed says nothing of others
EXACT_FROM = 6  # seeds from which an exact sign test can reach 5%
# What float64 leaves of equal scores near 1, which is no difference.
ROUNDING = 1e-14


def decide(
  estimate: intervals.Estimate, margin: float, level: float = intervals.LEVEL
) -> str:
  """The word for an Estimate of a gap.

  Args:
    margin: what is small enough to be no difference; 0: nothing is.
    level: of the interval; the one-sided tests err as often together.
  """
  if estimate.spread is None or estimate.spread.num_seeds < 2:
    return NONE
  half = estimate.spread.half_width(level)
  if abs(estimate.value) > max(half, ROUNDING):
    return ABOVE if estimate.value > 0 else BELOW
  narrower = estimate.spread.half_width(1 - 2 * (1 - level))
  if abs(estimate.value) + narrower < margin:
    return EQUIVALENT
  return UNDECIDED


@dataclasses.dataclass(frozen=True)
class Power:
  """What a design resolves.

  Attributes:
    spread: of the gap, with the design's number of seeds.
    half_width: of its interval.
    detectable: the smallest difference found with 80% power.
    wanted: a half-width.
    seeds_needed: for it; None: more than a thousand, or no number of them.
    from_prompts: share of the variance between seeds that more prompts, or more
      samples of each, would take away; nan: not known.
  """

  spread: intervals.Spread
  half_width: float
  detectable: float
  wanted: float
  seeds_needed: int | None
  from_prompts: float = np.nan

  @property
  def seeds(self) -> int:
    """Number of seeds of the design."""
    return self.spread.num_seeds

  @property
  def deviation(self) -> float:
    """Of the gap between seeds."""
    return (self.spread.seeds * self.seeds) ** 0.5


def power_of(
  matrix: np.ndarray,
  wanted: float,
  shared: bool,
  seeds: int | None = None,
  level: float = intervals.LEVEL,
) -> Power:
  """The Power of a design whose gaps are those of a pilot or of its own runs.

  Args:
    matrix: [S, E] differences per seed and prompt, S >= 2.
    wanted: the half-width to have.
    shared: see `intervals.spread`.
    seeds: how many the design has; None: S.
  """
  of = intervals.spread(matrix, shared)
  within = intervals.unexplained(matrix, shared) / matrix.shape[1]
  between = of.seeds * len(matrix)
  share = min(within / between, 1.0) if between else 0.0
  share = share if matrix.shape[1] > 1 else np.nan
  power = planned_power(of.with_seeds(seeds or len(matrix)), wanted, level)
  return dataclasses.replace(power, from_prompts=float(share))


def planned_power(
  spread: intervals.Spread, wanted: float, level: float = intervals.LEVEL
) -> Power:
  """The Power of a design whose spread is given.

  Raises:
    ValueError: fewer than two seeds.
  """
  if spread.num_seeds < 2:
    raise ValueError(
      f'seeds={spread.num_seeds}, expected 2 or more to speak of others'
    )
  return Power(
    spread,
    spread.half_width(level),
    intervals.detectable(spread, level),
    wanted,
    intervals.seeds_for(wanted, spread, level),
  )
