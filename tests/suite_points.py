"""Points that support a claim, contradict it, and do not decide it."""

import numpy as np

from align_jax.compare import reweigh
from experiments import claims
from experiments.suite import e09_best_of_n_kl as e09
from experiments.suite import e15_kl_estimators as e15
from tests import made_points

SEEDS = 6
HELD = 2.0  # nats, as the toy's arms are
APART = np.tile([1.0, -1.0], SEEDS // 2)  # seeds that contradict one another
# What each seed shows, in units of what a claim measures.
DIRECTED = np.full(SEEDS, 2.0), np.full(SEEDS, -2.0), APART
EQUAL = np.zeros(SEEDS), np.full(SEEDS, 2.0), APART
EXACT = np.full(SEEDS, 1.0), np.full(SEEDS, -1.0)
# {(key of a study, name of a claim): (study, claim, effects, folder) ->
# points}, of claims that are no Gap. It may write to the folder.
MADE = {}

# {(key of a study, name of a claim): what it would measure if the world were
# otherwise}, of claims that no points decide.
OTHERWISE = {
  ('E9', 'bound'): e09.bounded(e09.over, lambda n: 0.9 * np.log(n) - 1),
  ('E9', 'tight'): e09.Tight('two arms'),
  ('E9', 'saturation'): e09.Saturates(('200000, rare',)),
  ('E9', 'win rate'): e09.bounded(e09.above_win_rate, lambda n: n / (n + 2)),
  ('E9', 'estimate'): e09.bounded(
    e09.misses, lambda world, n: (reweigh.best_of_n_bound(n), 0)
  ),
  ('E15', 'values'): e15.Means(('k2',)),
  ('E15', 'samples'): e15.Sampled(('k2',)),
  ('E15', 'losses'): e15.Losses({'k1': 'reverse'}),
  ('E15', 'penalties'): e15.Terms(()),
  ('E15', 'variance'): e15.Variances(with_counterexample=False),
  ('E15', 'small KL'): e15.Ratios(100.0),
}


def wanted(claim):
  """The words that these points must bring about."""
  if isinstance(claim, claims.Exact):
    return {claims.REPRODUCED, claims.FAILED}
  against = claims.FAILED if claim.equal else claims.OPPOSITE
  return {claims.REPRODUCED, against, claims.UNDECIDED}


def made(study, claim, folder):
  """Yields lists of points, one for each word."""
  effects = EXACT
  if isinstance(claim, claims.Claim):
    effects = EQUAL if claim.equal else DIRECTED
  make = MADE.get((study.key, claim.name), of_gap)
  for effect in effects:
    yield make(study, claim, effect, folder)


def of_gap(study, claim, effects, folder):
  """Points of the two arms of a Gap, that differ by an effect."""
  del study, folder
  return runs_of(
    {claim.measure.first: 1 + effects, claim.measure.second: 1 + 0 * effects}
  )


def runs_of(qualities, **fields):
  """Points of arms.

  Args:
    qualities: {arm: gold per sqrt(nat) of each seed}.
    **fields: of `made_points.run`.
  """
  return [
    point
    for arm, by_seed in qualities.items()
    for seed, quality in enumerate(by_seed)
    for point in made_points.run(
      arm, seed, quality, **{'held': HELD, 'noise': 0.0, **fields}
    )
  ]
