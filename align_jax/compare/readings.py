"""What a run, and an arm of several runs, scores at a KL budget; numpy only.

A run is a curve through its checkpoints in the plane of sqrt(KL) and score. At
a KL budget its score is read off by linear interpolation in sqrt(KL), where
the run first reaches the budget, and never beyond what it reached; a run that
was held at the budget is read off at its last checkpoint instead. What a run
scores in passing is another thing than what a run scores that stays, so a
reading says how much of the run's KL was still to come.

An arm stands for the policy that one would deploy of it: for every seed the one
of its configurations that gold prefers on one half of the prompts, scored on
the other half, both ways round. That is no estimate of any one configuration,
and more configurations give a better arm, so arms are compared where they have
equally many. Choosing on the other seeds would be unbiased for one
configuration, but ties the seeds to one another: intervals then hold the truth
less often the more seeds there are (docs/intervals.md).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Curve:
  """One run: C checkpoints, in order of step, on E prompts."""

  arm: str
  configuration: str
  seed: int
  steps: np.ndarray  # int [C]
  kl: np.ndarray  # [C, E]  nats; the first checkpoint is the reference, 0
  score: np.ndarray  # [C, E'], of these prompts or of others
  held: float = 0.0  # nats at which the run itself was held; 0: nowhere
  stopped: bool = False  # there, instead of being held
  # [C, E]  what configurations and checkpoints are chosen by; None: the score
  merit: np.ndarray | None = None
  # A budget is read only between checkpoints whose KLs are within this factor
  # of it. The reference, step 0, is always near enough.
  apart: float = np.inf

  @property
  def chosen_by(self):
    """`merit`, or else the score: [C, E]."""
    return self.score if self.merit is None else self.merit


def curves(points, score, merit=None):
  """Groups points into curves.

  Args:
    points: dicts with arm, configuration, seed, step, kl_by_prompt, and
      kl_budget with kl_mode where the run was held or stopped at one.
    score: point -> one number per prompt, of as many in every point.
    merit: the same, of what configurations are chosen by; None: the score.
  Raises:
    ValueError: points were measured on different numbers of prompts.
  """
  runs = {}
  for point in points:
    key = point['arm'], point['configuration'], point['seed']
    runs.setdefault(key, []).append(point)
  sizes = {len(point['kl_by_prompt']) for point in points}
  if len(sizes) > 1:
    raise ValueError(f'points on different numbers of prompts: {sorted(sizes)}')
  result = []
  for key, run in runs.items():
    run.sort(key=lambda point: point['step'])
    result.append(
      Curve(
        *key,
        steps=np.array([point['step'] for point in run]),
        kl=np.array([point['kl_by_prompt'] for point in run]),
        score=np.array([score(point) for point in run]),
        held=run[-1].get('kl_budget', 0.0),
        stopped=run[-1].get('kl_mode') == 'stop',
        merit=merit and np.array([merit(point) for point in run]),
      )
    )
  return result


# Share of its budget by which a held run may miss it on fresh samples and still
# be compared there. Chosen, not measured.
HELD_WITHIN = 0.05


def weights_at(
  kl: np.ndarray,
  budgets: ArrayLike,
  apart: float = np.inf,
  from_reference: bool = True,
) -> np.ndarray:
  """Weights of a run's checkpoints that read it off at each budget.

  Args:
    kl: [C] along the run, nats.
    budgets: [K], nats, > 0.
    apart: see `Curve`.
    from_reference: whether the first checkpoint is the reference.
  Returns:
    [K, C], of rows that sum to one; a row of nan where the run never got
    there, began beyond it, or has no checkpoint near.
  """
  budgets = np.asarray(budgets, float)
  reached = kl >= budgets[:, None]
  # A run that begins at the budget itself is read at its first checkpoint.
  before = np.maximum(reached.argmax(1) - 1, 0)
  after = reached.argmax(1)
  d = np.sqrt(np.maximum(kl, 0))
  low, high = d[before], d[after]
  share = np.zeros(len(budgets))
  np.divide(np.sqrt(budgets) - low, high - low, out=share, where=high > low)
  there = reached.any(1) & (kl[0] <= budgets)
  if np.isfinite(apart):
    there &= kl[after] <= apart * budgets
    near = (budgets <= apart * kl[before]) | (budgets == kl[after])
    there &= near | (before == 0) if from_reference else near
  weights = np.zeros((len(budgets), len(kl)))
  rows = np.arange(len(budgets))
  weights[rows, before] = 1 - share
  weights[rows, after] += share
  weights[~there] = np.nan
  return weights


def is_held(curve: Curve, budgets: ArrayLike) -> np.ndarray:
  """Which of the budgets the run was held at: bool [K]."""
  budgets = np.asarray(budgets, float)
  return np.isclose(budgets, curve.held) if curve.held else budgets < 0


def read(curve, budgets, values=None):
  """A run's scores at the budgets: [K, E], nan where it never got there.

  A held run is matched by construction at its budget: its last checkpoint is
  taken as it is, and nothing where that ended further than HELD_WITHIN from the
  budget, as measured on fresh samples.

  Args:
    values: [C, E] to read instead of the scores.
  """
  values = curve.score if values is None else values
  kl = curve.kl.mean(1)
  weights = weights_at(kl, budgets, curve.apart, curve.steps[0] == 0)
  at_end = np.eye(len(kl))[-1]
  if abs(kl[-1] - curve.held) > HELD_WITHIN * curve.held:
    at_end = np.full(len(kl), np.nan)
  weights[is_held(curve, budgets)] = at_end
  # Only what a budget is read from: a score elsewhere may be none.
  used = [np.flatnonzero(w != 0) for w in weights]
  return np.stack([w[u] @ values[u] for w, u in zip(weights, used)])


def to_come(curve: Curve, budgets: ArrayLike) -> np.ndarray:
  """Share of the run's largest KL that lies beyond each budget: [K], >= 0.

  Near 0 the run stays at the budget, near 1 it only passes through; 0 where it
  was held.
  """
  budgets, most = np.asarray(budgets, float), curve.kl.mean(1).max()
  left = np.maximum(most - budgets, 0.0) / most if most > 0 else 0 * budgets
  return np.where(is_held(curve, budgets), 0.0, left)


# Share of its KL that a run on its plateau has still to come. Chosen, not
# measured.
PLATEAU = 0.2
HALVES_SEED = 1  # of the split that every comparison makes, so that all agree


@dataclasses.dataclass(frozen=True)
class Reading:
  """An arm at K budgets.

  Attributes:
    values: [S, E, K], nan where a seed reached a budget with no configuration.
    to_come: [S, K], see the function, of the runs that were chosen.
    held: bool [S, K], whether these were held, or stopped, at the budget.
    stopped: bool [S, K], whether they were stopped there.
    chosen: for every seed K pairs of configurations, one per half of the
      prompts.
  """

  values: np.ndarray
  to_come: np.ndarray
  held: np.ndarray
  stopped: np.ndarray
  chosen: list

  def reached(self, index: int) -> str:
    """What the values at a budget are.

    Returns:
      'held', 'stopped', 'plateau' or 'passage'; '' where a seed has none.
    """
    if not np.isfinite(self.values[:, :, index]).all():
      return ''
    if self.held[:, index].all():
      return 'stopped' if self.stopped[:, index].any() else 'held'
    few = self.to_come[:, index].mean() <= PLATEAU
    return 'plateau' if few else 'passage'


@functools.cache
def halves_of(num_prompts: int) -> list[np.ndarray]:
  """Index arrays of two disjoint halves of the prompts, alike in every seed."""
  rng = np.random.default_rng(HALVES_SEED)
  return np.array_split(rng.permutation(num_prompts), 2)


def cross(values, merits):
  """The best of C rows of values, chosen on one half and taken on the other.

  Args:
    values: [C, K, E']; nan for a row that has none.
    merits: [C, K, E], by which the best is chosen. E and E' are halved alike
      if they are equal; else values are of other prompts.
  Returns:
    [K, E'], and the row that each half was given: two arrays [K].
  """
  if len(values) == 1:
    return values[0], [np.zeros(values.shape[1], int)] * 2
  taken = np.full(values.shape[1:], np.nan)
  given = []
  chosen_on, taken_on = (halves_of(x.shape[2]) for x in (merits, values))
  for choose, take in zip(chosen_on, taken_on[::-1]):
    mean = merits[:, :, choose].mean(2)
    best = np.where(np.isnan(mean), -np.inf, mean).argmax(0)  # [K]
    rows = np.arange(len(best))
    taken[:, take] = values[best, rows][:, take]
    given.append(best)
  return taken, given


def put_together(rows: Sequence[np.ndarray], given: Sequence) -> np.ndarray:
  """Of C rows [E] the one that `cross` gave each half, at one budget: [E]."""
  result = np.empty_like(rows[0])
  for [best], take in zip(given, halves_of(len(rows[0]))[::-1]):
    result[take] = rows[best][take]
  return result


class Arm:
  """All runs of one arm: `configurations` x `seeds`, every cell filled."""

  def __init__(self, name: str, runs: Sequence[Curve]) -> None:
    self.name = name
    self.configurations = list(dict.fromkeys(run.configuration for run in runs))
    self.seeds = sorted({run.seed for run in runs})
    self._runs = {(run.configuration, run.seed): run for run in runs}
    if len(self._runs) < len(runs):
      raise ValueError(
        f'arm {name!r} has two runs of one configuration and seed'
      )
    missing = [
      (c, s)
      for c in self.configurations
      for s in self.seeds
      if (c, s) not in self._runs
    ]
    if missing:
      raise ValueError(f'arm {name!r} has no points of {missing}')
    prompts = runs[0].kl.shape[1]
    if prompts < 2 and len(self.configurations) > 1:
      raise ValueError(
        f'arm {name!r} has several configurations and one number for all '
        'prompts: too few to choose one on a half of them'
      )

  def missed(self) -> list[str]:
    """Runs that ended away from where they were to be held: texts."""
    return [
      f'{self.name}/{configuration} of seed {seed} was to be held at '
      f'{run.held:g} nats and ended at {run.kl[-1].mean():.2f}'
      for (configuration, seed), run in self._runs.items()
      if abs(run.kl[-1].mean() - run.held) > HELD_WITHIN * run.held > 0
    ]

  def runs_of(self, seed: int) -> list[Curve]:
    """The curves of a seed, in the order of `configurations`."""
    return [self._runs[c, seed] for c in self.configurations]

  def at(self, budgets: ArrayLike) -> Reading:
    """The arm at each budget: a Reading."""
    parts = [self._of_seed(self.runs_of(seed), budgets) for seed in self.seeds]
    values, left, held, stopped, chosen = zip(*parts)
    values = np.stack(values).swapaxes(1, 2)
    arrays = (np.stack(x) for x in (left, held, stopped))
    return Reading(values, *arrays, list(chosen))

  def _of_seed(self, runs, budgets):
    values, given = cross(
      np.stack([read(run, budgets) for run in runs]),
      np.stack([read(run, budgets, run.chosen_by) for run in runs]),
    )
    columns = np.arange(len(budgets))

    def of_given(f):
      every = np.stack([f(run, budgets) for run in runs])
      return np.stack([every[g, columns] for g in given])

    chosen = [tuple(self.configurations[g[k]] for g in given) for k in columns]
    left, held = of_given(to_come).mean(0), of_given(is_held).all(0)
    stopped = lambda run, budgets: is_held(run, budgets) & run.stopped
    return values, left, held, of_given(stopped).any(0), chosen

  def at_step(self, step: int) -> tuple[np.ndarray, ...]:
    """Score and KL after that many updates, chosen and scored as `at` does.

    Returns:
      [S, E] each; all runs must have a checkpoint there.
    """
    parts = []
    for seed in self.seeds:
      runs = self.runs_of(seed)
      at = [int(np.flatnonzero(run.steps == step)[0]) for run in runs]
      rows = list(zip(runs, at))
      score, given = self._best(rows)
      kls = [run.kl[i] for run, i in rows]
      parts.append((score, put_together(kls, given)))
    return tuple(np.stack(x) for x in zip(*parts))

  def _best(self, rows):
    """Of pairs (run, checkpoint) the best: as `cross` at one budget."""
    of = lambda f: np.stack([f(run)[i] for run, i in rows])[:, None]
    score, merit = of(lambda run: run.score), of(lambda run: run.chosen_by)
    score, given = cross(score, merit)
    return score[0], given

  def peak(self) -> tuple[np.ndarray, ...]:
    """The best checkpoint of each seed, chosen and scored as `at` does.

    Returns:
      score, its KL, and the fall from it to the same run's last checkpoint:
      [S, E] each.
    """
    parts = [self._peak_of_seed(self.runs_of(seed)) for seed in self.seeds]
    return tuple(np.stack(x) for x in zip(*parts))

  def _peak_of_seed(self, runs):
    every = [(run, i) for run in runs for i in range(len(run.steps))]
    top, given = self._best(every)
    kls = [run.kl[i] for run, i in every]
    falls = [run.score[i] - run.score[-1] for run, i in every]
    taken = (put_together(x, given) for x in (kls, falls))
    return top, *taken
