"""Points in, comparisons at matched KL out; numpy only.

A run is a curve through its checkpoints in the plane of sqrt(KL) and score. At
a KL budget its score is read off by linear interpolation in sqrt(KL), where
the run first reaches the budget, and never beyond what it reached. An arm is
the best of its configurations, chosen on one half of the prompts and scored on
the other, both ways round. Intervals come from a hierarchical bootstrap over
seeds, then prompts, the same resample for all arms, so that differences are
paired by seed and by prompt.
"""

import dataclasses

import numpy as np


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


def at_budgets(kl, score, budgets):
  """Scores where a trajectory first reaches each KL budget.

  Args:
    kl, score: [..., C] along the trajectory.
    budgets: [K], nats, > 0.
  Returns:
    [..., K]; nan where the budget was never reached.
  """
  reached = kl[..., None, :] >= np.asarray(budgets)[:, None]
  after = np.maximum(reached.argmax(-1), 1)
  take = lambda x, i: np.take_along_axis(x, i, -1)
  d = np.sqrt(np.maximum(kl, 0))
  low, high = take(d, after - 1), take(d, after)
  with np.errstate(divide='ignore', invalid='ignore'):
    share = (np.sqrt(budgets) - low) / (high - low)
  value = (1 - share) * take(score, after - 1) + share * take(score, after)
  return np.where(reached.any(-1), value, np.nan)


HELD_WITHIN = 0.05  # of its budget, for a held run to be compared there


def where_held(curve, weights, budgets):
  """Scores of a held run's last checkpoint, in the column of its budget.

  It is matched by construction: no interpolation, and nothing where the run
  ended further than HELD_WITHIN from its budget, as measured on fresh samples.

  Args:
    weights: [N, E] of the prompts.
    budgets: [K], nats.
  Returns:
    values [N, K], and the columns they are for bool [K].
  """
  columns = (
    np.isclose(budgets, curve.held)
    if curve.held
    else np.full(len(budgets), False)
  )
  missed = abs(curve.kl[-1].mean() - curve.held) > HELD_WITHIN * curve.held
  value = (
    weights @ curve.score[-1] if not missed else np.full(len(weights), np.nan)
  )
  return np.tile(value[:, None], len(budgets)), columns


@dataclasses.dataclass(frozen=True)
class Resamples:
  """N draws of seeds and prompts; draw 0 is the data as they are."""

  seeds: np.ndarray  # int [N, S]  which seed stands in each place
  halves: tuple  # two arrays [N, E]: weights of the prompts, each summing to 1
  whole: np.ndarray  # [N, E]


def resample(seeds, num_prompts, num, rng_seed=0):
  """Seeds with replacement, then prompts with replacement within each half."""
  rng = np.random.default_rng(rng_seed)
  order = np.random.default_rng(1).permutation(num_prompts)
  drawn = rng.integers(0, len(seeds), (num + 1, len(seeds)))
  drawn[0] = np.arange(len(seeds))
  halves = []
  for members in np.array_split(order, 2):
    counts = rng.multinomial(
      len(members), np.full(len(members), 1 / len(members)), num + 1
    ).astype(float)
    counts[0] = 1
    weights = np.zeros((num + 1, num_prompts))
    weights[:, members] = counts / len(members)
    halves.append(weights)
  sizes = [(half[0] > 0).sum() / num_prompts for half in halves]
  whole = sum(size * half for size, half in zip(sizes, halves))
  return Resamples(drawn, tuple(halves), whole)


class Arm:
  """All runs of one arm: `configs` x `seeds`, every cell filled."""

  def __init__(self, name, runs, draws):
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
    self._draws = draws
    self._kl = {k: draws.whole @ r.kl.T for k, r in self._runs.items()}

  def _at(self, half, budgets):
    """[configs, N, seeds as drawn, K]."""

    def of_run(key):
      run = self._runs[key]
      values = at_budgets(self._kl[key], half @ run.score.T, budgets)
      held, columns = where_held(run, half, budgets)
      return np.where(columns, held, values)

    table = []
    for config in self.configs:
      by_seed = [of_run((config, seed)) for seed in self.seeds]
      drawn = self._draws.seeds[:, :, None]
      table.append(np.take_along_axis(np.stack(by_seed, 1), drawn, 1))
    return np.stack(table)

  def at(self, budgets):
    """The arm at each budget.

    Returns:
      values [N, K], nan where a drawn seed never reached the budget with any
      one configuration; values by seed [S, K] of draw 0; the configuration
      chosen on each half at each budget, of draw 0.
    """
    by_half = [self._at(half, budgets) for half in self._draws.halves]
    values, seeds, chosen = [], [], []
    for select, score in (by_half, by_half[::-1]):
      mean = select.mean(2)  # nan if any seed is
      best = np.where(np.isnan(mean), -np.inf, mean).argmax(0)  # [N, K]
      index = best[None, :, None, :]
      picked = np.take_along_axis(score, index, 0)[0]  # [N, S, K]
      values.append(picked.mean(1))
      seeds.append(picked[0])
      chosen.append([self.configs[i] for i in best[0]])
    return np.mean(values, 0), np.mean(seeds, 0), list(zip(*chosen))

  def peak(self):
    """The best checkpoint, chosen on one half and scored on the other.

    Returns:
      score [N], its KL [N], and the fall from it to the same configuration's
      last checkpoint [N].
    """
    drawn = self._draws.seeds[:, :, None]
    mean = lambda runs: np.take_along_axis(np.stack(runs, 1), drawn, 1).mean(1)
    kl, halves = [], ([], [])
    for config in self.configs:
      keys = [(config, seed) for seed in self.seeds]
      # Runs that end early leave the others without a partner.
      last = min(len(self._runs[k].steps) for k in keys)
      kl.append(mean([self._kl[k][:, :last] for k in keys]))
      for scores, half in zip(halves, self._draws.halves):
        scores.append(mean([half @ self._runs[k].score[:last].T for k in keys]))
    results = []
    for select, score in (halves, halves[::-1]):
      best = np.array([s.max(1) for s in select]).argmax(0)  # [N]
      rows = []
      for n, config in enumerate(best):
        step = select[config][n].argmax()
        top = score[config][n, step]
        rows.append((top, kl[config][n, step], top - score[config][n, -1]))
      results.append(np.array(rows).T)
    return np.mean(results, 0)


MIN_SHARE = 0.9  # of draws that must have a value for an interval to be given


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A value with its 95% interval; nan: not reached."""

  value: float
  low: float
  high: float

  def __bool__(self):
    return bool(np.isfinite(self.value))


def estimate(draws):
  """[N] -> Estimate; draw 0 is the value, the rest give the interval."""
  finite = draws[1:][np.isfinite(draws[1:])]
  if not np.isfinite(draws[0]) or len(finite) < MIN_SHARE * len(draws[1:]):
    return Estimate(np.nan, np.nan, np.nan)
  return Estimate(
    float(draws[0]), *map(float, np.percentile(finite, (2.5, 97.5)))
  )


def estimates(draws):
  """[N, K] -> a list of K Estimates."""
  return [estimate(column) for column in draws.T]


def first_budget(values, budgets, score):
  """Smallest budget at which each draw is at or above `score`: [N] or nan."""
  above = values >= score  # nan compares false
  return np.where(above.any(1), np.asarray(budgets)[above.argmax(1)], np.nan)


EFFECTS = {  # name: (arm, minus arm); Tang et al.'s two arms differ in three
  'online - offline': ('online', 'offline'),
  'amplification': ('ref+proxy', 'offline'),
  'freshness': ('online', 'ref+proxy'),
  'order': ('online', 'shuffled'),
  'pure on-policy': ('online+gold', 'ref+gold'),
}


class Comparison:
  """All arms of an experiment on one score, at budgets fixed in advance.

  Attributes:
    budgets: [K], nats.
    arms: {name: Arm}.
    table: {arm: [Estimate] * K}.
    by_seed: {arm: [S, K]}.
    chosen: {arm: K pairs of configurations}, one per half.
  """

  def __init__(self, runs, budgets, num_resamples):
    if not runs:
      raise ValueError('no points to compare')
    self.budgets = np.asarray(budgets, float)
    names = list(dict.fromkeys(run.arm for run in runs))
    seeds = sorted({run.seed for run in runs})
    draws = resample(seeds, runs[0].kl.shape[1], num_resamples)
    self.arms = {
      name: Arm(name, [r for r in runs if r.arm == name], draws)
      for name in names
    }
    for arm in self.arms.values():
      if arm.seeds != seeds:
        raise ValueError(
          f'arm {arm.name!r} has seeds {arm.seeds}, others {seeds}'
        )
    self.seeds = seeds
    self._draws, self.by_seed, self.chosen = {}, {}, {}
    for name, arm in self.arms.items():
      self._draws[name], self.by_seed[name], self.chosen[name] = arm.at(
        self.budgets
      )
    self.table = {name: estimates(d) for name, d in self._draws.items()}

  def difference(self, first, second):
    """first - second at each budget, paired: K Estimates."""
    return estimates(self._draws[first] - self._draws[second])

  def ranks(self, names):
    """Places of the named arms at each budget, 1 the best: {arm: K Estimates}.

    Each draw ranks those that reached the budget; ties share their places.
    """
    draws = np.stack([self._draws[name] for name in names])  # [M, N, K]
    with np.errstate(invalid='ignore'):
      ahead = (draws[None] > draws[:, None]).sum(1)
      level = (draws[None] == draws[:, None]).sum(1)
    places = np.where(np.isnan(draws), np.nan, ahead + (level + 1) / 2)
    return {name: estimates(p) for name, p in zip(names, places)}

  def effects(self):
    """{name: K Estimates} of the EFFECTS whose arms were run."""
    return {
      name: self.difference(*pair)
      for name, pair in EFFECTS.items()
      if set(pair) <= set(self.arms)
    }

  def gap(self, first, second, window):
    """Mean of first - second over sqrt(KL) within `window`.

    Where one of the arms did not reach, the window is cut to what both did.

    Args:
      window: (low, high) nats, fixed in advance.
    Returns:
      Estimate; the differences' means by seed [S]; the window as compared.
    Raises:
      ValueError: the arms do not overlap within the window.
    """
    grid = np.linspace(*np.sqrt(window), 17) ** 2
    a, b = (self.arms[name].at(grid) for name in (first, second))
    both = np.isfinite([e.value for e in estimates(a[0] - b[0])])
    if not both.any():
      raise ValueError(
        f'{first!r} and {second!r} were never at the same KL within '
        f'{window} nats: nothing to compare'
      )
    draws = (a[0] - b[0])[:, both].mean(1)
    by_seed = (a[1] - b[1])[:, both].mean(1)
    compared = grid[both]
    return estimate(draws), by_seed, (compared[0], compared[-1])

  def kl_needed(self, name, score, budgets):
    """KL at which the arm's curve first reaches `score`: Estimate."""
    values = self.arms[name].at(np.asarray(budgets, float))[0]
    return estimate(first_budget(values, budgets, score))

  def peaks(self):
    """{arm: (score, KL of it, fall to the last checkpoint)}, Estimates."""
    return {
      name: tuple(estimate(d) for d in arm.peak())
      for name, arm in self.arms.items()
    }


def crossings(difference, budgets):
  """Neighbouring budgets at which the difference surely has opposite signs.

  A difference whose interval holds 0 has no sign, and is passed over.
  """
  known = [
    (b, np.sign(e.value))
    for b, e in zip(budgets, difference)
    if e and (e.low > 0 or e.high < 0)
  ]
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
