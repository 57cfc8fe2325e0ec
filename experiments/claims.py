"""Claims of papers, and the rule by which points bear them out or do not.

A claim is measured as one number per seed, or per seed and prompt, of which
positive ones speak for it. Its word, fixed before the run:

  reproduced      the 95% interval of the mean lies above 0
  opposite        it lies below 0
  not reproduced  the mean is equivalent to 0, by two one-sided tests within the
                  claim's margin
  undecided       none of these: the seeds are too few

A claim of no difference is *reproduced* where the mean is equivalent to 0, and
*not reproduced* where its interval lies beyond the margin. A claim of exact
numbers has no interval: it holds everywhere, or is not reproduced.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from align_jax.compare import intervals, laws, readings, verdict
from align_jax.compare.words import cut_text
from experiments import pages

REPRODUCED, OPPOSITE = 'reproduced', 'opposite'
FAILED, UNDECIDED, NONE = 'not reproduced', 'undecided', 'no verdict'
WORDS = REPRODUCED, FAILED, OPPOSITE, UNDECIDED, NONE


class Evidence:
  """Points of an experiment, in the forms that claims read.

  Attributes:
    points: all of them.
    cfg: the config of the experiment.
    workdir: where its stages lie.
  """

  def __init__(self, points, cfg, workdir):
    self.points, self.cfg, self.workdir = points, cfg, workdir

  @property
  def seeds(self):
    return sorted({p['seed'] for p in self.points})

  @functools.cached_property
  def policies(self):
    """The points of policies, by run, in order of step."""
    runs = {}
    for p in pages.trained(self.points):
      runs.setdefault(pages.run_of(p), []).append(p)
    return {k: sorted(run, key=lambda p: p['step']) for k, run in runs.items()}

  @functools.cached_property
  def gains(self):
    """A Comparison of gold reward above the reference's."""
    return self.compare(pages.gain(self.points))

  def compare(self, values, budgets=None):
    """A Comparison on what `values` gives of a point, per prompt.

    Raises:
      ValueError: there are no points.
    """
    if not self.points:
      raise ValueError('no points')
    return pages.compare(self.points, self.cfg, values, budgets)

  def of_policies(self, field):
    """A Comparison on a number of each policy, alike for all prompts."""
    values = lambda p: np.full(len(p['kl_by_prompt']), number_of(p, field))
    return pages.compare(pages.trained(self.points), self.cfg, values)

  def gaps(self, pairs, window=None):
    """first - second in gold reward of each pair: see `at_common`.

    Args:
      window: (low, high) nats. None: the config's.
    Raises:
      ValueError: an arm has no points, or they do not overlap.
    """
    self.require(*(name for pair in pairs for name in pair))
    return at_common(self.gains, pairs, window or self.window)

  @property
  def window(self):
    """The config's (low, high) nats in which arms are compared."""
    return self.cfg['report']['window']

  def at(self, arm, nats):
    """Gold reward of an arm above the reference's at a KL, [S, E].

    Raises:
      ValueError: a seed did not get there.
    """
    self.require(arm)
    values = self.gains.arms[arm].at([nats]).values[:, :, 0]
    if not np.isfinite(values).all():
      raise ValueError(f'{arm!r} was not at {nats:g} nats with every seed')
    return values

  def require(self, *arms):
    """Raises ValueError for an arm without points."""
    missing = [repr(name) for name in arms if name not in self.gains.arms]
    if missing:
      raise ValueError(f'no points of {" and ".join(missing)}')

  def runs_of(self, arm, configuration=None):
    """{seed: [run]} of an arm, each run its points in order of step."""
    self.require(arm)
    found = {}
    for (name, own, seed), run in self.policies.items():
      if name == arm and configuration in (None, own):
        found.setdefault(seed, []).append(run)
    return {seed: found[seed] for seed in self.seeds}

  def each_run(self, arm, f, configuration=None):
    """The mean of f(run) over a seed's runs of an arm: [S]."""
    by_seed = self.runs_of(arm, configuration).values()
    return np.array([np.mean([f(run) for run in runs]) for runs in by_seed])

  def last(self, arm, field):
    """A number of the last points of an arm, the mean of its runs: [S]."""
    return self.each_run(arm, lambda run: number_of(run[-1], field))


@dataclasses.dataclass(frozen=True)
class Measured:
  """Numbers that were read at equal KL.

  Attributes:
    matrix: [S] or [S, E]; of several pairs of arms [P, S, E].
    window: (low, high), over which they were read.
    asked: the window that was fixed in advance.
    whole: whether they were read at all between.
  """

  matrix: np.ndarray
  window: tuple
  asked: tuple
  whole: bool

  def of(self, f):
    """The same of f(matrix)."""
    return dataclasses.replace(self, matrix=f(self.matrix))

  @property
  def cut(self):
    """In words where they were not read; '': nowhere."""
    return cut_text(self.window, self.asked, self.whole)


def at_common(comparison, pairs, window):
  """The gaps of pairs of arms over the KLs that all of the pairs passed.

  Each pair's own window would compare gaps at different KLs.

  Args:
    comparison: a `frontier.Comparison`.
    pairs: (first, second) names of arms.
    window: (low, high).
  Returns:
    Measured, of first - second: [P, S, E].
  Raises:
    ValueError: they do not overlap.
  """
  read = lambda window: [comparison.gap(*pair, window) for pair in pairs]
  gaps = read(window)
  common = max(x.window[0] for x in gaps), min(x.window[1] for x in gaps)
  if common[0] > common[1]:
    names = ', '.join(dict.fromkeys(name for pair in pairs for name in pair))
    raise ValueError(f'{names} were never at the same KL within {window} nats')
  if any(x.window != common for x in gaps):
    gaps = read(common)
  matrix, whole = np.stack([x.matrix for x in gaps]), all(x.whole for x in gaps)
  return Measured(matrix, common, tuple(window), whole)


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement of a paper.

  Attributes:
    name: what it is called on a page, unique within its study.
    says: the statement, a sentence.
    source: paper, with its figure or section.
    number: what is measured, in words and with its unit.
    measure: Evidence -> [S], [S, E], or Measured; ValueError where points are
      missing.
    equal: the statement is that the number is 0.
    margin: numbers nearer to 0 than this count as 0. None: `report.margin`.
  """

  name: str
  says: str
  source: str
  number: str
  measure: Callable
  equal: bool = False
  margin: float | None = None


@dataclasses.dataclass(frozen=True)
class Exact:
  """A statement that holds without exception, or does not.

  Attributes:
    name, says, source, number: as of a Claim.
    measure: Evidence -> {case: excess}; it holds where none is above 0.
  """

  name: str
  says: str
  source: str
  number: str
  measure: Callable


@dataclasses.dataclass(frozen=True)
class Ruling:
  """What became of a claim.

  Attributes:
    word: one of WORDS.
    estimate: an `intervals.Estimate`; MISSING of an exact claim.
    power: a `verdict.Power`, or None.
    why: where the word is NONE, the reason; of an exact claim its worst case;
      else `Measured.cut`.
    margin: what counted as 0.
  """

  claim: Claim | Exact
  word: str
  estimate: intervals.Estimate = intervals.MISSING
  power: verdict.Power | None = None
  why: str = ''
  margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Gap:
  """Measures first - second in gold reward at equal KL."""

  first: str
  second: str

  def __call__(self, evidence):
    return evidence.gaps([(self.first, self.second)]).of(lambda x: x[0])


@dataclasses.dataclass(frozen=True)
class Sum:
  """Measures a weighted sum of Gaps, over the KLs that all of them passed.

  Attributes:
    parts: pairs (weight, Gap).
  """

  parts: tuple

  def __call__(self, evidence):
    weights, gaps = zip(*self.parts)
    measured = evidence.gaps([(x.first, x.second) for x in gaps])
    return measured.of(lambda matrix: np.tensordot(weights, matrix, 1))


def compared(measure):
  """Names of the arms that a Gap or a Sum compares; () of others."""
  if isinstance(measure, Gap):
    return measure.first, measure.second
  parts = measure.parts if isinstance(measure, Sum) else ()
  return tuple(name for _, gap in parts for name in compared(gap))


def mean_of(*gaps):
  """Measures the mean of several Gaps: a Sum."""
  return Sum(tuple((1 / len(gaps), gap) for gap in gaps))


def rule(claim, evidence):
  """The Ruling on a claim."""
  try:
    measured = claim.measure(evidence)
  except ValueError as error:
    return Ruling(claim, NONE, why=str(error))
  if isinstance(claim, Exact):
    return _exactly(claim, measured)
  why = ''
  if isinstance(measured, Measured):
    measured, why = measured.matrix, measured.cut
  matrix = np.asarray(measured, float)
  shared = matrix.ndim == 2 and evidence.gains.shared_prompts
  matrix = matrix.reshape(len(matrix), -1)
  margin = claim.margin
  margin = evidence.cfg['report']['margin'] if margin is None else margin
  estimate = intervals.estimate(matrix, shared)
  if len(matrix) < 2:
    return Ruling(claim, NONE, estimate, why='one seed', margin=margin)
  if not estimate:
    return Ruling(claim, NONE, why='a seed has no number', margin=margin)
  power = verdict.power_of(matrix, margin or 0.05, shared)
  word = (_equal if claim.equal else _above)(estimate, margin)
  return Ruling(claim, word, estimate, power, why, margin)


def _above(estimate, margin):
  return {
    verdict.ABOVE: REPRODUCED,
    verdict.BELOW: OPPOSITE,
    verdict.EQUIVALENT: FAILED,
  }.get(verdict.decide(estimate, margin), UNDECIDED)


def _equal(estimate, margin):
  level = intervals.LEVEL
  both = estimate.spread.half_width(1 - 2 * (1 - level))
  if abs(estimate.value) + both < margin:
    return REPRODUCED
  beyond = abs(estimate.value) - estimate.spread.half_width(level)
  return FAILED if beyond > margin else UNDECIDED


def _exactly(claim, excess):
  if not excess:
    return Ruling(claim, NONE, why='no cases')
  size = lambda case: math.inf if math.isnan(excess[case]) else excess[case]
  worst = max(excess, key=size)
  word = FAILED if size(worst) > 0 else REPRODUCED
  broken = sum(size(case) > 0 for case in excess)
  told = f'{broken} of {len(excess)} cases break it; closest to that: {worst}'
  return Ruling(claim, word, why=told)


def jackknife(f, num_seeds):
  """Pseudo-values [S] of a statistic that is no mean over seeds.

  Their mean is the statistic without its bias of order 1 / S, and their spread
  gives its interval (Tukey 1958).

  Args:
    f: indices of seeds -> a number.
  """
  every = np.arange(num_seeds)
  whole = f(every)
  if num_seeds == 1:
    return np.array([whole])
  less = np.array([f(np.delete(every, i)) for i in every])
  return num_seeds * whole - (num_seeds - 1) * less


def peak_kl(run):
  """The KL in nats at which a run's gold reward is largest, by a fitted law.

  A single best checkpoint says little where a peak is flat. The law is that of
  policies in `compare.laws`, from the reference to the run's largest KL: where
  gold only falls the peak is at 0.

  Args:
    run: points in order of step.
  Raises:
    ValueError: the run has too few points beside its first.
  """
  kl, gold = (np.array([p[k] for p in run]) for k in ('kl_seq_nats', 'gold'))
  moved = kl > 0
  if moved.sum() < 3:
    raise ValueError('a run has too few points to fit its peak')
  law = laws.fit('policy', kl[moved], gold[moved] - gold[0])
  ends = 0.0, float(min(law.peak, kl.max())), float(kl.max())
  return max(ends, key=lambda kl: law(kl) if kl else 0.0)


def lost_since_best(scores):
  """What is lost from the best checkpoint of some runs to its run's last: [E].

  The best is one between the first and the last, so that a run that still rises
  loses less than 0. It is chosen on one half of the prompts and scored on the
  other.

  Args:
    scores: [C, E] of each run.
  Raises:
    ValueError: there is none between them.
  """
  inner = [(run, x) for run in scores for x in run[1:-1]]
  if not inner:
    raise ValueError('runs of two points have none between them')
  merits = np.stack([x for _, x in inner])[:, None]
  _, given = readings.cross(merits, merits)
  return readings.put_together([x - run[-1] for run, x in inner], given)


def fall(run):
  """Gold reward lost from a run's best checkpoint to its last.

  Args:
    run: points in order of step.
  """
  gold = np.array([p['gold_by_prompt'] for p in run])
  return float(lost_since_best([gold]).mean())


def correlation(x, y):
  """Pearson's correlation of two lists; nan where one of them is constant."""
  if not np.ptp(x) * np.ptp(y):  # less its mean it could be rounding
    return np.nan
  x, y = (np.asarray(z, float) - np.mean(z) for z in (x, y))
  return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def number_of(point, field):
  """A number of a policy.

  Raises:
    ValueError: its point does not tell.
  """
  if field not in point:
    raise ValueError(
      f'{"/".join(map(str, pages.run_of(point)))} has no {field} after '
      f'{point["step"]} updates'
    )
  return point[field]


def overlap(evidence, *arms):
  """The window of KLs in nats that every run of the arms passed.

  Raises:
    ValueError: there is none.
  """
  evidence.require(*arms)
  # As a gap reads them: the numbers per prompt are rounded.
  compared = [evidence.gains.arms[name] for name in arms]
  runs = [x for arm in compared for s in arm.seeds for x in arm.runs_of(s)]
  kls = [run.kl.mean(1) for run in runs]
  low, high = max(kl[1:].min() for kl in kls), min(kl.max() for kl in kls)
  if not low < high:
    raise ValueError(f'{", ".join(arms)} were never at the same KL')
  return low, high
