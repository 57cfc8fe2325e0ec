"""Comparisons at matched KL: tables, differences, gaps and places of arms.

Points in, comparisons out; numpy alone, with `readings` and `intervals`.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from align_jax.compare.intervals import (
  LEVEL,
  MISSING,
  Estimate,
  each_of,
  estimate,
  rank_set,
)
from align_jax.compare.readings import Arm, Curve

# Budgets, even in sqrt(KL), that a gap over a window is the mean of. Curves are
# straight between checkpoints, so that more would change it little. Chosen, not
# measured.
GAP_POINTS = 17
RUNS_LISTED = 6  # runs that are named one by one


def check_equal(
  sizes: Mapping[str, int], pairs: Iterable[Sequence[str]]
) -> None:
  """Refuses pairs of arms with unequal numbers of configurations.

  The best of more is better by luck alone, so that such a difference would be
  of tries as much as of methods.

  Args:
    sizes: {arm: number of configurations}.
    pairs: names of two arms each; those of which one is missing pass.
  """
  for first, second in pairs:
    a, b = sizes.get(first), sizes.get(second)
    if a and b and a != b:
      raise ValueError(
        f'arms {first!r} and {second!r} are compared, and have {a} and {b} '
        'configurations: give their sweeps equally many'
      )


@dataclasses.dataclass(frozen=True)
class Gap:
  """The mean difference of two arms over a window of budgets.

  Attributes:
    estimate: at the level that was asked for.
    window: (low, high) nats, as compared.
    whole: whether all between these two was compared.
    asked: the window that was fixed in advance.
    matrix: [S, E], what the estimate is of.
    reached: how each of the two arms reached the budget, see `Reading.reached`.
  """

  estimate: Estimate
  window: tuple
  whole: bool
  asked: tuple
  matrix: np.ndarray
  reached: tuple


class Comparison:
  """All arms of an experiment on one score, at budgets fixed in advance.

  Intervals of a row of K budgets hold together (Bonferroni).

  Attributes:
    budgets: [K], nats.
    seeds: their numbers.
    arms: {name: Arm}.
    readings: {arm: Reading}.
    table: {arm: [Estimate] * K}.
  """

  def __init__(
    self, runs: Sequence[Curve], budgets: ArrayLike, shared_prompts: bool = True
  ) -> None:
    """
    Args:
      runs: Curves.
      shared_prompts: whether all seeds are measured on the same prompts by the
        same judge, see `intervals.spread`.
    Raises:
      ValueError: there are no runs, or an arm lacks a seed that others have.
    """
    if not runs:
      raise ValueError('no points to compare')
    self.budgets = np.asarray(budgets, float)
    self.shared_prompts = shared_prompts
    names = list(dict.fromkeys(run.arm for run in runs))
    self.seeds = sorted({run.seed for run in runs})
    self.arms = {
      name: Arm(name, [r for r in runs if r.arm == name]) for name in names
    }
    for arm in self.arms.values():
      if arm.seeds != self.seeds:
        raise ValueError(
          f'arm {arm.name!r} has seeds {arm.seeds}, others {self.seeds}'
        )
    self.readings = {
      name: arm.at(self.budgets) for name, arm in self.arms.items()
    }
    self.table = {
      name: self._row(reading.values) for name, reading in self.readings.items()
    }

  def _row(self, values: np.ndarray) -> list[Estimate]:
    """[S, E, K] -> K Estimates that hold together."""
    level = each_of(len(self.budgets))
    return [
      estimate(values[:, :, k], self.shared_prompts, level)
      for k in range(values.shape[2])
    ]

  def difference(self, first: str, second: str) -> list[Estimate]:
    """first - second at each budget, paired by seed and prompt: K Estimates."""
    self._require_equal(first, second)
    values = self.readings[first].values - self.readings[second].values
    return self._row(values)

  def _require_equal(self, *names: str) -> None:
    sizes = {name: len(self.arms[name].configurations) for name in names}
    check_equal(sizes, [names])

  def rank_sets(
    self, names: Sequence[str]
  ) -> dict[str, list[tuple[int, int] | None]]:
    """Places that the named arms may hold at each budget, 1 the best.

    Of those that reached it: {arm: K pairs (first, last place), or None}. Each
    set holds its arm's place in 95% of experiments, see `intervals.rank_set`.
    """
    result: dict[str, list[tuple[int, int] | None]] = {n: [] for n in names}
    for k in range(len(self.budgets)):
      values = {n: self.readings[n].values[:, :, k] for n in names}
      there = [n for n in names if np.isfinite(values[n]).all()]
      level = each_of(len(there) - 1)
      for name in names:
        others = [n for n in there if n != name]
        result[name].append(
          rank_set(
            [
              estimate(values[name] - values[n], self.shared_prompts, level)
              for n in others
            ]
          )
          if name in there
          else None
        )
    return result

  def missed(self, *names: str) -> str:
    """Clauses on runs of these arms that ended away from where they were held.

    Returns:
      '; ' before each, and '' where there are none.
    """
    texts = [x for name in names for x in self.arms[name].missed()]
    more = (
      [f'and {len(texts) - RUNS_LISTED} more']
      if len(texts) > RUNS_LISTED
      else []
    )
    return ''.join(f'; {text}' for text in [*texts[:RUNS_LISTED], *more])

  def gap(
    self, first: str, second: str, window: Sequence[float], level: float = LEVEL
  ) -> Gap:
    """Mean of first - second over sqrt(KL) within `window`: a Gap.

    Where a seed of one of the arms did not reach, the window is cut to what all
    did.

    Args:
      window: (low, high) nats, fixed in advance; one budget twice for arms that
        are held there.
    Raises:
      ValueError: the arms do not overlap within the window, or have unequal
        numbers of configurations.
    """
    self._require_equal(first, second)
    low, high = window
    count = GAP_POINTS if high > low else 1
    grid = np.linspace(low**0.5, high**0.5, count) ** 2
    grid[0], grid[-1] = low, high  # which rounding would put beyond a run's end
    a, b = (self.arms[name].at(grid) for name in (first, second))
    both = np.isfinite(a.values - b.values).all((0, 1))
    if not both.any():
      raise ValueError(
        f'{first!r} and {second!r} were never at the same KL within '
        f'{(float(low), float(high))} nats with every seed: nothing to compare'
        + self.missed(first, second)
      )
    matrix = (a.values - b.values)[:, :, both].mean(2)
    compared, places = grid[both], np.flatnonzero(both)
    middle = int(places[len(places) // 2])
    return Gap(
      estimate(matrix, self.shared_prompts, level),
      (float(compared[0]), float(compared[-1])),
      bool(both[places[0] : places[-1] + 1].all()),
      tuple(window),
      matrix,
      (a.reached(middle), b.reached(middle)),
    )

  def at_equal_steps(self, first: str, second: str) -> list[tuple]:
    """first - second after equally many updates, whatever their KL.

    What a comparison that ignores the KL would say, of the configurations that
    are chosen as in `Arm.at`.

    Returns:
      rows (step, difference, score and KL of the first, of the second): ints
      and Estimates, for the steps that all runs of both have.
    """
    self._require_equal(first, second)
    arms = [self.arms[name] for name in (first, second)]
    runs = [run for arm in arms for s in self.seeds for run in arm.runs_of(s)]
    common = sorted(set.intersection(*(set(r.steps.tolist()) for r in runs)))
    level, rows = each_of(len(common) - 1), []
    of = lambda matrix: estimate(matrix, self.shared_prompts, level)
    for step in common:
      if step:
        (a, a_kl), (b, b_kl) = (arm.at_step(step) for arm in arms)
        rows.append((step, of(a - b), of(a), of(a_kl), of(b), of(b_kl)))
    return rows

  def kl_needed(self, name: str, score: float, budgets: ArrayLike) -> Estimate:
    """KL at which the arm's mean curve first reaches `score` in passing.

    The interval is that of the KLs at which the curve's own interval holds the
    score; its end is inf where the curve may never get there.

    Args:
      budgets: [K] nats, ascending, to look at.
    """
    reading, budgets = self.arms[name].at(budgets), np.asarray(budgets, float)
    # Where runs are held they gain without any more KL.
    passing = np.where(reading.held.any(0), np.nan, reading.values)
    rows = [
      estimate(x, self.shared_prompts) for x in np.moveaxis(passing, 2, 0)
    ]

    def first(numbers):
      reached = np.array(numbers) >= score  # nan compares false
      return float(budgets[reached.argmax()]) if reached.any() else np.inf

    value = first([e.value for e in rows])
    if not np.isfinite(value):
      return MISSING
    if len(self.seeds) < 2:
      return Estimate(value, np.nan, np.nan)
    ends = (first([getattr(e, end) for e in rows]) for end in ('high', 'low'))
    return Estimate(value, *ends)

  def peaks(self) -> dict[str, tuple[Estimate, ...]]:
    """{arm: (score, KL of it, fall to the last checkpoint)}, Estimates."""
    return {
      name: tuple(estimate(x, self.shared_prompts) for x in arm.peak())
      for name, arm in self.arms.items()
    }


def crossings(
  difference: Iterable[Estimate], budgets: Iterable[float]
) -> list[tuple[float, float]]:
  """Neighbouring budgets at which the difference surely has opposite signs.

  A difference whose interval holds 0 has no sign, and is passed over. The
  intervals of `Comparison.difference` hold together, so that a turn is claimed
  falsely in at most 5% of experiments.
  """
  known = [(b, e.sign) for b, e in zip(budgets, difference) if e and e.sign]
  return [
    (b0, b1)
    for (b0, sign0), (b1, sign1) in zip(known, known[1:])
    if sign0 != sign1
  ]


def win_rate(gold: ArrayLike, opponent: ArrayLike) -> np.ndarray:
  """Per prompt, how often a sample beats one of the opponent's; ties half.

  Args:
    gold, opponent: [E, M] gold rewards of samples on the same prompts.
  Returns:
    [E].
  """
  gold, opponent = np.asarray(gold)[:, :, None], np.asarray(opponent)[:, None]
  return (0.5 + 0.5 * np.sign(gold - opponent)).mean((1, 2))
