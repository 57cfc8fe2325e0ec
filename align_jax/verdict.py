"""One confirmatory number and the word that it earns.

The number is the gap of two arms over one window, both fixed in advance. The
rule: *above* or *below* where its interval leaves 0 out; else *equivalent*
where two one-sided tests (Schuirmann 1987) place it within the margin; else
*undecided*. All seeds having one sign is no part of it: that is met less often
the more seeds there are.
"""

import dataclasses

import numpy as np

from align_jax import intervals

ABOVE, BELOW = 'above', 'below'
EQUIVALENT, UNDECIDED = 'equivalent', 'undecided'
NONE = 'no verdict'  # one seed says nothing of others
EXACT_FROM = 6  # seeds from which an exact sign test can reach 5%


def decide(estimate, margin, level=intervals.LEVEL):
  """The word for an Estimate of a gap.

  Args:
    margin: what is small enough to be no difference; 0: nothing is.
    level: of the interval; the one-sided tests err as often together.
  """
  if estimate.spread is None or estimate.spread.num_seeds < 2:
    return NONE
  half = estimate.spread.half_width(level)
  if abs(estimate.value) > half:
    return ABOVE if estimate.value > 0 else BELOW
  narrower = estimate.spread.half_width(1 - 2 * (1 - level))
  if abs(estimate.value) + narrower < margin:
    return EQUIVALENT
  return UNDECIDED


@dataclasses.dataclass(frozen=True)
class Power:
  """What a design resolves.

  Attributes:
    deviation: of the gap between seeds.
    from_prompts: share of its variance that more prompts, or more samples of
      each, would take away.
    seeds: as many as there are.
    half_width: of the interval with these.
    detectable: the smallest difference found with 80% power.
    wanted: a half-width.
    seeds_needed: for it; None: more than a thousand.
  """

  deviation: float
  from_prompts: float
  seeds: int
  half_width: float
  detectable: float
  wanted: float
  seeds_needed: int | None


def power_of(matrix, wanted, seeds=None, level=intervals.LEVEL):
  """The Power of a design whose gaps are those of a pilot or of its own runs.

  Args:
    matrix: [S, E] differences per seed and prompt, S >= 2.
    wanted: the half-width to have.
    seeds: how many the design has; None: S.
  """
  by_seed = matrix.mean(1)
  variance = by_seed.var(ddof=1)
  within = matrix.var(1, ddof=1).mean() / matrix.shape[1]
  share = min(within / variance, 1.0) if variance else 0.0
  number = seeds or len(by_seed)
  return assumed_power(variance**0.5, wanted, number, level, float(share))


def assumed_power(
  deviation, wanted, seeds, level=intervals.LEVEL, from_prompts=np.nan
):
  """The Power of a design whose deviation between seeds is given.

  Raises:
    ValueError: fewer than two seeds.
  """
  if seeds < 2:
    raise ValueError(f'seeds={seeds}, expected 2 or more to speak of others')
  return Power(
    float(deviation),
    from_prompts,
    seeds,
    intervals.half_width(deviation, seeds, level),
    intervals.detectable(deviation, seeds, level),
    wanted,
    intervals.seeds_for(wanted, deviation, level),
  )
