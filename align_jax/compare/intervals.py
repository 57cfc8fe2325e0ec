"""What a mean over seeds and prompts is known to: numpy and scipy only.

A difference of two arms is a matrix, one number per seed and prompt. Seeds are
few and prompts many; both are drawn at random, so both limit what their mean
says of seeds and prompts that nobody has drawn yet. `experiments.coverage`
measures how often these intervals hold.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
  """The variance of a mean, by where it comes from.

  Attributes:
    seeds: from seeds, with all that is drawn anew in each of them.
    prompts: from prompts that all seeds share; 0 where they share none.
    num_seeds, num_prompts: S and E.
  """

  seeds: float
  prompts: float
  num_seeds: int
  num_prompts: int

  def half_width(self, level: float = LEVEL) -> float:
    """Of the interval at that level, in units of the mean; nan for one seed.

    The quantile lies halfway between two that are known to err on either side
    where seeds are few and both parts matter: the t quantile at Satterthwaite's
    degrees of freedom (1946), which is too small, and the t quantiles of the
    parts weighed by their variances (Cochran and Cox 1950), which is too large;
    with two seeds it is the latter. Where prompts are not shared both are the
    paired t test's, at S - 1.
    """
    if self.num_seeds < 2:
      return np.nan
    if not self.total:
      return 0.0
    quantile = lambda df: special.stdtrit(df, (1 + level) / 2)
    few, many = self.num_seeds - 1, self.num_prompts - 1
    if not self.prompts:
      return float(quantile(few) * self.total**0.5)
    weighed = self.seeds * quantile(few) + self.prompts * quantile(many)
    weighed /= self.total
    middle = weighed if few == 1 else (quantile(self.df) + weighed) / 2
    return float(middle * self.total**0.5)

  @property
  def total(self) -> float:
    """Variance of the mean."""
    return self.seeds + self.prompts

  @property
  def df(self) -> float:
    """Satterthwaite's degrees of freedom."""
    few, many = self.num_seeds - 1, self.num_prompts - 1
    if not self.prompts:
      return float(few)
    return self.total**2 / (self.seeds**2 / few + self.prompts**2 / many)

  def with_seeds(self, number: int) -> 'Spread':
    """The spread that as many seeds of the same kind would have."""
    seeds = self.seeds * self.num_seeds / number
    return Spread(seeds, self.prompts, number, self.num_prompts)


def unexplained(matrix: np.ndarray, shared: bool) -> float:
  """Mean square of what seeds, and prompts that they share, leave of a matrix.

  Args: as in `spread`; E >= 2.
  """
  rest = matrix - matrix.mean(1, keepdims=True)
  if shared:
    rest = rest - rest.mean(0)
  free = (len(matrix) - bool(shared)) * (matrix.shape[1] - 1)
  return float(np.square(rest).sum() / max(free, 1))


def spread(matrix: np.ndarray, shared: bool) -> Spread:
  """The spread of a matrix's mean, from its crossed random effects.

  Args:
    matrix: [S, E], a number per seed and prompt.
    shared: whether a column is the same prompt, judged alike, in every seed; if
      not, prompts are part of what a seed draws.
  """
  num_seeds, num_prompts = matrix.shape
  if num_seeds < 2:
    return Spread(np.nan, 0.0, num_seeds, num_prompts)
  by_seed = matrix.mean(1)
  seeds = by_seed.var(ddof=1) / num_seeds
  if not shared or num_prompts < 2:
    return Spread(float(seeds), 0.0, num_seeds, num_prompts)
  # Prompt means hold a part of what neither seed nor prompt explains.
  rest = unexplained(matrix, shared) / num_seeds
  prompts = matrix.mean(0).var(ddof=1) - rest
  prompts = max(float(prompts), 0.0) / num_prompts
  return Spread(float(seeds), prompts, num_seeds, num_prompts)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over seeds and prompts with its interval.

  Attributes:
    value: nan where a seed did not reach what was asked.
    low, high: nan below two seeds.
    by_seed: the mean of each seed.
    spread: see `Spread`; None where nothing was reached.
  """

  value: float
  low: float
  high: float
  by_seed: tuple = ()
  spread: Spread | None = None

  def __bool__(self) -> bool:
    return bool(np.isfinite(self.value))

  @property
  def sign(self) -> int:
    """1 or -1 where the interval leaves 0 out, else 0."""
    return int(self.low > 0) - int(self.high < 0)


MISSING = Estimate(np.nan, np.nan, np.nan)


def estimate(matrix: ArrayLike, shared: bool, level: float = LEVEL) -> Estimate:
  """The mean of a matrix with its interval.

  Args:
    matrix: [S, E]; see `spread`. A seed that lacks a prompt lacks the whole.
  """
  matrix = np.asarray(matrix, float)
  by_seed = matrix.mean(1)
  if not np.isfinite(by_seed).all():
    return dataclasses.replace(MISSING, by_seed=tuple(by_seed.tolist()))
  of = spread(matrix, shared)
  value, half = float(matrix.mean()), of.half_width(level)
  return Estimate(
    value, value - half, value + half, tuple(by_seed.tolist()), of
  )


def each_of(number: int, level: float = LEVEL) -> float:
  """The level of each of several intervals that hold together (Bonferroni)."""
  return 1 - (1 - level) / max(number, 1)


def rank_set(
  differences: Sequence[Estimate], level: float = LEVEL
) -> tuple[int, int]:
  """The places that one of several arms may hold, 1 the best.

  As many arms as are surely ahead come before it, as many as are surely behind
  come after, whatever the order of those between: a confidence set of its rank
  that also holds where arms are near ties, which bootstrapped ranks are not
  (Mogstad, Romano, Shaikh and Wilhelm 2024, marginal sets by Bonferroni).

  Args:
    differences: Estimates of this arm less each of the others, at
      `each_of(len(differences), level)`.
  Returns:
    first and last place.
  """
  signs = [e.sign for e in differences]
  return 1 + signs.count(-1), 1 + len(signs) - signs.count(1)


# --- Power ------------------------------------------------------------------


# The largest detectable mean that is looked for, in quantiles, and the halvings
# of what lies below it: more than float64 can tell apart.
MOST_QUANTILES = 20.0
HALVINGS = 60


def between(deviation: float, seeds: int) -> Spread:
  """The Spread of that many seeds that lie apart by this deviation."""
  return Spread(deviation**2 / seeds, 0.0, seeds, 1)


def detectable(
  spread: Spread, level: float = LEVEL, power: float = 0.8
) -> float:
  """The smallest true mean that leaves 0 out of its interval this often.

  By the noncentral t distribution at the spread's degrees of freedom.
  """
  error = spread.total**0.5
  if not error:
    return 0.0
  quantile = spread.half_width(level) / error
  # Found by bisection: the power rises with the mean.
  low, high = 0.0, MOST_QUANTILES * quantile
  for _ in range(HALVINGS):
    middle = (low + high) / 2
    found = stats.nct.sf(quantile, spread.df, middle)
    low, high = (middle, high) if found < power else (low, middle)
  return float(high * error)


def seeds_for(
  width: float, spread: Spread, level: float = LEVEL, most: int = 1000
) -> int | None:
  """The fewest seeds of the spread's kind whose interval has at most this
  half-width; None where `most` are too few, as prompts may make them."""
  for seeds in range(2, most + 1):
    if spread.with_seeds(seeds).half_width(level) <= width:
      return seeds
  return None


def sign_test(by_seed: Iterable[float]) -> float:
  """Two-sided p of an exact sign test over seeds; those at 0 are left out."""
  by_seed = list(by_seed)
  positive, negative = sum(x > 0 for x in by_seed), sum(x < 0 for x in by_seed)
  if not positive + negative:
    return 1.0
  return float(stats.binomtest(positive, positive + negative).pvalue)
