"""Points in, comparisons at matched KL out; numpy alone, and `intervals`.

A run is a curve through its checkpoints in the plane of sqrt(KL) and score. At
a KL budget its score is read off by linear interpolation in sqrt(KL), where
the run first reaches the budget, and never beyond what it reached; a run that
was held at the budget is read off at its last checkpoint instead. What a run
scores in passing is not what a run scores that stays, so a reading says how
much of the run's KL was still to come.

An arm stands for the policy that one would deploy of it: for every seed the one
of its configurations that gold prefers on one half of the prompts, scored on
the other half, both ways round. That is no estimate of any one configuration,
and more configurations give a better arm, so arms are compared where they have
equally many. Choosing on the other seeds would be unbiased for one
configuration, but ties the seeds to one another: intervals then hold the truth
less often the more seeds there are (`experiments.coverage`).
"""

import dataclasses

import numpy as np

from align_jax.intervals import (
  LEVEL,
  Estimate,
  each_of,
  estimate,
  rank_set,
)


@dataclasses.dataclass(frozen=True)
class Curve:
  """One run: C checkpoints, in order of step, on E prompts."""

  arm: str
  config: str
  seed: int
  steps: np.ndarray  # int [C]
  kl: np.ndarray  # [C, E]  nats; the first checkpoint is the reference, 0
  score: np.ndarray  # [C, E]
  held: float = 0.0  # nats at which the run itself was held; 0: nowhere


def curves(points, score):
  """Groups points into curves.

  Args:
    points: dicts with arm, config, seed, step, kl_by_prompt, and kl_budget
      where the run was held at one.
    score: point -> one number per prompt.
  Raises:
    ValueError: points were measured on different numbers of prompts.
  """
  runs = {}
  for point in points:
    key = point['arm'], point['config'], point['seed']
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
      )
    )
  return result


HELD_WITHIN = 0.05  # of its budget, for a held run to be compared there


def weights_at(kl, budgets):
  """Weights of a run's checkpoints that read it off at each budget.

  Args:
    kl: [C] along the run, nats.
    budgets: [K], nats, > 0.
  Returns:
    [K, C], of rows that sum to one; a row of nan where the run, or what it
    first reaches the budget from, never got there.
  """
  budgets = np.asarray(budgets, float)
  reached = kl >= budgets[:, None]
  after = np.maximum(reached.argmax(1), 1)
  d = np.sqrt(np.maximum(kl, 0))
  low, high = d[after - 1], d[np.minimum(after, len(d) - 1)]
  with np.errstate(divide='ignore', invalid='ignore'):
    share = (np.sqrt(budgets) - low) / (high - low)
  weights = np.zeros((len(budgets), len(kl)))
  rows = np.flatnonzero(reached.any(1))
  weights[rows, after[rows] - 1] = 1 - share[rows]
  weights[rows, after[rows]] = share[rows]
  weights[~reached.any(1)] = np.nan
  return weights


def is_held(curve, budgets):
  """Which of the budgets the run was held at: bool [K]."""
  budgets = np.asarray(budgets, float)
  return np.isclose(budgets, curve.held) if curve.held else budgets < 0


def read(curve, budgets):
  """A run's scores at the budgets: [K, E], nan where it never got there.

  A held run is matched by construction at its budget: its last checkpoint is
  taken as it is, and nothing where that ended further than HELD_WITHIN from the
  budget, as measured on fresh samples.
  """
  kl = curve.kl.mean(1)
  weights = weights_at(kl, budgets)
  at_end = np.eye(len(kl))[-1]
  if abs(kl[-1] - curve.held) > HELD_WITHIN * curve.held:
    at_end = np.full(len(kl), np.nan)
  weights[is_held(curve, budgets)] = at_end
  return weights @ curve.score


def to_come(curve, budgets):
  """Share of the run's largest KL that lies beyond each budget: [K], >= 0.

  Near 0 the run stays at the budget, near 1 it only passes through; 0 where it
  was held.
  """
  left = 1 - np.asarray(budgets, float) / curve.kl.mean(1).max()
  return np.where(is_held(curve, budgets), 0.0, np.maximum(left, 0.0))


PLATEAU = 0.2  # share of its KL that a run on its plateau has still to come


@dataclasses.dataclass(frozen=True)
class Reading:
  """An arm at K budgets.

  Attributes:
    values: [S, E, K], nan where a seed reached a budget with no configuration.
    to_come: [S, K], see the function, of the runs that were chosen.
    held: bool [S, K], whether these were held at the budget.
    chosen: for every seed K pairs of configurations, one per half of the
      prompts.
  """

  values: np.ndarray
  to_come: np.ndarray
  held: np.ndarray
  chosen: list

  def kind(self, index):
    """What the values at a budget are: 'held', 'plateau', 'passage' or ''."""
    if not np.isfinite(self.values[:, :, index]).all():
      return ''
    if self.held[:, index].all():
      return 'held'
    few = self.to_come[:, index].mean() <= PLATEAU
    return 'plateau' if few else 'passage'


def halves_of(num_prompts):
  """Index arrays of two disjoint halves of the prompts, alike in every seed."""
  return np.array_split(np.random.default_rng(1).permutation(num_prompts), 2)


def cross(values, halves):
  """The best of C rows of values, chosen on one half and taken on the other.

  Args:
    values: [C, K, E]; nan for a row that has none.
    halves: see `halves_of`.
  Returns:
    [K, E], and the row that each half was given: two arrays [K].
  """
  taken = np.full(values.shape[1:], np.nan)
  given = []
  for choose, take in (halves, halves[::-1]):
    mean = values[:, :, choose].mean(2)
    best = np.where(np.isnan(mean), -np.inf, mean).argmax(0)  # [K]
    rows = np.arange(len(best))
    taken[:, take] = values[best, rows][:, take]
    given.append(best)
  return taken, given


class Arm:
  """All runs of one arm: `configs` x `seeds`, every cell filled."""

  def __init__(self, name, runs):
    self.name = name
    self.configs = list(dict.fromkeys(run.config for run in runs))
    self.seeds = sorted({run.seed for run in runs})
    self._runs = {(run.config, run.seed): run for run in runs}
    missing = [
      (c, s)
      for c in self.configs
      for s in self.seeds
      if (c, s) not in self._runs
    ]
    if missing:
      raise ValueError(f'arm {name!r} has no points of {missing}')
    self._halves = halves_of(runs[0].kl.shape[1])

  def runs_of(self, seed):
    """The curves of a seed, in the order of `configs`."""
    return [self._runs[config, seed] for config in self.configs]

  def at(self, budgets):
    """The arm at each budget: a Reading."""
    parts = [self._of_seed(self.runs_of(seed), budgets) for seed in self.seeds]
    values, left, held, chosen = zip(*parts)
    values = np.stack(values).swapaxes(1, 2)
    return Reading(values, np.stack(left), np.stack(held), list(chosen))

  def _of_seed(self, runs, budgets):
    values, given = cross(
      np.stack([read(run, budgets) for run in runs]), self._halves
    )
    columns = np.arange(len(budgets))
    of_given = lambda f: np.array(
      [np.stack([f(run, budgets) for run in runs])[g, columns] for g in given]
    )
    chosen = [tuple(self.configs[g[k]] for g in given) for k in columns]
    return values, of_given(to_come).mean(0), of_given(is_held).all(0), chosen

  def peak(self):
    """The best checkpoint of each seed, chosen and scored as `at` does.

    Returns:
      score, its KL, and the fall from it to the same run's last checkpoint:
      [S, E] each.
    """
    parts = [self._peak_of_seed(self.runs_of(seed)) for seed in self.seeds]
    return tuple(np.stack(x) for x in zip(*parts))

  def _peak_of_seed(self, runs):
    every = [(run, i) for run in runs for i in range(len(run.steps))]
    score = lambda run, i: run.score[i]
    values = np.stack([score(*x) for x in every])[:, None]
    top, given = cross(values, self._halves)
    kl, fall = np.empty_like(top[0]), np.empty_like(top[0])
    for [best], take in zip(given, self._halves[::-1]):
      run, i = every[best]
      kl[take] = run.kl[i, take]
      fall[take] = run.score[i, take] - run.score[-1, take]
    return top[0], kl, fall


EFFECTS = {  # name: (arm, minus arm); Tang et al.'s two arms differ in three
  'online - offline': ('online', 'offline'),
  'amplification': ('ref+proxy', 'offline'),
  'freshness': ('online', 'ref+proxy'),
  'order': ('online', 'shuffled'),
  'pure on-policy': ('online+gold', 'ref+gold'),
}


def check_equal(sizes, pairs):
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
    asked: the window that was fixed in advance.
    matrix: [S, E], what the estimate is of.
    kinds: what the values of each of the two arms are, see `Reading.kind`.
  """

  estimate: Estimate
  window: tuple
  asked: tuple
  matrix: np.ndarray
  kinds: tuple


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

  def __init__(self, runs, budgets, shared_prompts=True):
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

  def _row(self, values):
    """[S, E, K] -> K Estimates that hold together."""
    level = each_of(len(self.budgets))
    return [
      estimate(values[:, :, k], self.shared_prompts, level)
      for k in range(values.shape[2])
    ]

  def difference(self, first, second):
    """first - second at each budget, paired by seed and prompt: K Estimates."""
    self._require_equal(first, second)
    values = self.readings[first].values - self.readings[second].values
    return self._row(values)

  def _require_equal(self, *names):
    sizes = {name: len(self.arms[name].configs) for name in names}
    check_equal(sizes, [names])

  def effects(self):
    """{name: K Estimates} of the EFFECTS whose arms were run."""
    return {
      name: self.difference(*pair)
      for name, pair in EFFECTS.items()
      if set(pair) <= set(self.arms)
    }

  def rank_sets(self, names):
    """Places that the named arms may hold at each budget, 1 the best.

    Of those that reached it: {arm: K pairs (first, last place), or None}. Each
    set holds its arm's place in 95% of experiments, see `intervals.rank_set`.
    """
    result = {name: [] for name in names}
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

  def gap(self, first, second, window, level=LEVEL):
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
    count = 17 if high > low else 1
    grid = np.linspace(low**0.5, high**0.5, count) ** 2
    a, b = (self.arms[name].at(grid) for name in (first, second))
    both = np.isfinite(a.values - b.values).all((0, 1))
    if not both.any():
      raise ValueError(
        f'{first!r} and {second!r} were never at the same KL within '
        f'{tuple(window)} nats: nothing to compare'
      )
    matrix = (a.values - b.values)[:, :, both].mean(2)
    compared = grid[both]
    middle = int(np.flatnonzero(both)[both.sum() // 2])
    return Gap(
      estimate(matrix, self.shared_prompts, level),
      (float(compared[0]), float(compared[-1])),
      tuple(window),
      matrix,
      (a.kind(middle), b.kind(middle)),
    )

  def at_equal_steps(self, first, second):
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
        (a, a_kl), (b, b_kl) = (arm_at_step(arm, step) for arm in arms)
        rows.append((step, of(a - b), of(a), of(a_kl), of(b), of(b_kl)))
    return rows

  def kl_needed(self, name, score, budgets):
    """KL at which the arm first reaches `score`: Estimate over seeds.

    One number per seed, so prompts that seeds share count as part of no seed.
    """
    values = self.arms[name].at(budgets).values.mean(1)  # [S, K]
    above = values >= score  # nan compares false
    first = np.asarray(budgets, float)[above.argmax(1)]
    needed = np.where(above.any(1), first, np.nan)
    return estimate(needed[:, None], False)

  def peaks(self):
    """{arm: (score, KL of it, fall to the last checkpoint)}, Estimates."""
    return {
      name: tuple(estimate(x, self.shared_prompts) for x in arm.peak())
      for name, arm in self.arms.items()
    }


def arm_at_step(arm, step):
  """Score and KL of an arm after that many updates: [S, E] each."""
  scores, kls = [], []
  for seed in arm.seeds:
    runs = arm.runs_of(seed)
    at = [int(np.flatnonzero(run.steps == step)[0]) for run in runs]
    halves = halves_of(runs[0].kl.shape[1])
    score, given = cross(
      np.stack([r.score[i] for r, i in zip(runs, at)])[:, None], halves
    )
    kl = np.empty_like(score[0])
    for [best], take in zip(given, halves[::-1]):
      kl[take] = runs[best].kl[at[best], take]
    scores.append(score[0])
    kls.append(kl)
  return np.stack(scores), np.stack(kls)


def crossings(difference, budgets):
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


def win_rate(gold, opponent):
  """Per prompt, how often a sample beats one of the opponent's; ties half.

  Args:
    gold, opponent: [E, M] gold rewards of samples on the same prompts.
  Returns:
    [E].
  """
  gold, opponent = np.asarray(gold)[:, :, None], np.asarray(opponent)[:, None]
  return (0.5 + 0.5 * np.sign(gold - opponent)).mean((1, 2))
