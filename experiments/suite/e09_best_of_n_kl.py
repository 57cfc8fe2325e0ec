"""How far is best-of-n from the reference?

  python -m experiments.suite.e09_best_of_n_kl --config=configs/toy.py \
    --workdir=runs/e09

Beirami et al. 2024 (arXiv 2401.01879): log n - (n - 1) / n, the KL that papers
report, is an upper bound, and can be arbitrarily loose. Nothing is trained:
every completion and its probability is known. The config does not enter.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from align_jax.compare import figures, reweigh
from align_jax.compare.lines import Line, colours_of
from experiments.claims import Exact
from experiments.enumerable import best_of_n, kl
from experiments.study import Study, main

SIZES = tuple(2**k for k in range(1, 11))
POOLS, POOL = 16, 4096  # pools, and samples of the reference in each
ROUNDING = 1e-9  # nats
RARE = 0.1  # of n times the largest probability, below which none has mass
TIGHT = 0.01  # nats between the bound and a KL that meets it
CLOSE = 0.03, 0.02  # of an estimate: nats, and share of the KL
SATURATED = 1e-3  # nats


@dataclasses.dataclass(frozen=True)
class World:
  """Completions, their probabilities and rewards, f64 [N]."""

  law: np.ndarray
  rewards: np.ndarray

  def best(self, n):
    return best_of_n(self.law, self.rewards, n)

  def kl(self, n):
    return kl(self.best(n), self.law)

  @property
  def ceiling(self):
    """KL of the best completions alone, nats."""
    return -np.log(self.law[self.rewards == self.rewards.max()].sum())

  def estimate(self, n):
    """Of what `reweigh.best_of_n_kl` makes of pools: mean, its error, nats."""
    rng, logps = np.random.default_rng(n), np.log(self.law)
    pools = rng.choice(len(self.law), (POOLS, POOL), p=self.law)
    of = lambda drawn: (self.rewards[drawn], logps[drawn], n)
    found = [reweigh.best_of_n_kl(*of(drawn)) for drawn in pools]
    return np.mean(found), np.std(found, ddof=1) / POOLS**0.5

  def win_rate(self, n):
    """Chance that the best of n beats one draw, a tie counting half."""
    _, level = np.unique(self.rewards, return_inverse=True)
    mass = np.bincount(level, self.law)
    below = (np.cumsum(mass) - mass / 2)[level]
    return self.best(n) @ below


@functools.cache
def worlds():
  """{name: World}."""
  rng = np.random.default_rng(0)

  def drawn(size, evenness, ties=False):
    rewards = rng.normal(size=size)
    law = rng.dirichlet(np.full(size, evenness))
    return World(law, np.round(rewards, 1) if ties else rewards)

  return {
    'two arms': World(np.array([0.5, 0.5]), np.array([0.0, 1.0])),
    BANDIT: World(np.full(8, 1 / 8), np.arange(8.0)),
    'eight uneven arms': drawn(8, 0.5),
    '300, tied': drawn(300, 0.5, ties=True),
    '1000, uneven': drawn(1000, 0.1),
    MANY: drawn(50_000, 5.0),
  }


BANDIT, MANY = 'eight even arms', '50000, rare'


def excess(measured):
  """World, n -> number, as a measure: {case: number}."""

  def measure(evidence):
    return {
      f'n = {n} of {name}': measured(world, n)
      for name, world in worlds().items()
      for n in SIZES
    }

  return measure


def over(bound, world, n):
  return world.kl(n) - bound(n) - ROUNDING


def above_win_rate(ceiling, world, n):
  return world.win_rate(n) - ceiling(n) - ROUNDING


def misses(estimate, world, n):
  """Beyond what is CLOSE, and three standard errors."""
  (nats, share), found = CLOSE, world.kl(n)
  mean, error = estimate(world, n)
  return abs(mean - found) - nats - share * found - 3 * error


@dataclasses.dataclass(frozen=True)
class Tight:
  """{case: nats between bound and KL, over TIGHT}, of a world's rare arms."""

  world: str = MANY

  def __call__(self, evidence):
    world = worlds()[self.world]
    sizes = [n for n in SIZES if n * world.law.max() < RARE or n == SIZES[0]]
    gap = lambda n: reweigh.best_of_n_bound(n) - world.kl(n)
    return {f'n = {n}': gap(n) - TIGHT for n in sizes}


@dataclasses.dataclass(frozen=True)
class Saturates:
  """{world: distance of the KL from its ceiling at the largest n}."""

  names: tuple

  def __call__(self, evidence):
    found = {name: worlds()[name] for name in self.names}
    return {
      name: abs(world.kl(SIZES[-1]) - world.ceiling) - SATURATED
      for name, world in found.items()
    }


def bounded(f: Callable, limit: Callable):
  """A measure of how far f exceeds its limit."""
  return excess(functools.partial(f, limit))


def add_figure(page, evidence, folder):
  """Adds the exact KL against n, beside the bound and the estimates."""
  names = list(worlds())
  colours = colours_of(names)
  steps = np.log2(SIZES)
  bound = np.array([reweigh.best_of_n_bound(n) for n in SIZES])
  lines = [Line('bound', steps, bound, figures.SOFT, dashed=True)]
  for name, world in worlds().items():
    exact = np.array([world.kl(n) for n in SIZES])
    lines.append(Line(name, steps, exact, colours[name]))
  page.heading('Exact KL of best-of-n')
  page.figure(
    lambda width: figures.frontier_figure(
      width, lines, 'log2 of n', 'KL from the reference (nats)', kl=False
    ),
    folder / 'best_of_n_kl.png',
    'exact KL of best-of-n against n, by language',
    'By enumeration. Dashed: log n - (n - 1) / n.',
  )
  header = ['completions', *(f'n = {n}' for n in SIZES)]
  rows = [
    [name, *(f'{w.kl(n):.3f} / {w.estimate(n)[0]:.3f}' for n in SIZES)]
    for name, w in worlds().items()
  ]
  rows.append(['bound', *(f'{b:.3f}' for b in bound)])
  page.table(header, rows)
  page.note(
    f'Exact KL / the mean of {POOLS} estimates, from {POOL} samples each; nats.'
  )


SOURCE = 'Beirami et al. 2024 (2401.01879)'

STUDY = Study(
  __file__,
  'E9',
  'How far is best-of-n from the reference?',
  (
    Exact(
      'bound',
      'The KL of best-of-n is never above log n - (n - 1) / n.',
      f'{SOURCE}, theorem 3.1',
      'Nats above it',
      bounded(over, reweigh.best_of_n_bound),
    ),
    Exact(
      'tight',
      'It is that where no completion has mass.',
      SOURCE,
      f'Nats below it, over {TIGHT:g}, with n p below {RARE:g}',
      Tight(),
    ),
    Exact(
      'saturation',
      'It stays below -log of the probability of the best completion, and '
      'reaches it, while the bound goes on to grow.',
      SOURCE,
      f'Nats from it at n = {SIZES[-1]}, over {SATURATED:g}',
      Saturates(('two arms', BANDIT)),
    ),
    Exact(
      'win rate',
      'The win rate of best-of-n over the reference is at most n / (n + 1).',
      SOURCE,
      'Win rate above it',
      bounded(above_win_rate, lambda n: n / (n + 1)),
    ),
    Exact(
      'estimate',
      'The KL is known from samples and their log-probs alone.',
      f'{SOURCE} give an estimator; this one is align_jax.compare.reweigh',
      f'Nats between the mean of {POOLS} estimates, from {POOL} samples each, '
      f'and the KL, over {CLOSE[0]:g}, {CLOSE[1]:.0%} of it, and 3 standard '
      'errors',
      bounded(misses, World.estimate),
    ),
  ),
  'These hold at any size. Completions of a language model are rare, so that '
  'the bound is nearly met there, as it is on the toy; the saturation is that '
  'of tasks with few answers.',
  trains=False,
  sections=(add_figure,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
