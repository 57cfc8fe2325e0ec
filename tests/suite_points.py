"""Points that bear a claim out, contradict it, leave it open, or show none."""

import numpy as np

from experiments import claims
from tests import made_points

SEEDS = 6
HELD = 2.0  # nats, as the toy's arms are
APART = np.tile([1.0, -1.0], SEEDS // 2)  # seeds that contradict one another
# What each seed shows, in units of what a claim measures.
DIRECTED = np.full(SEEDS, 2.0), np.full(SEEDS, -2.0), APART, np.zeros(SEEDS)
EQUAL = np.zeros(SEEDS), np.full(SEEDS, 2.0), APART
EXACT = np.full(SEEDS, 1.0), np.full(SEEDS, -1.0)
# {(key of a study, name of a claim): (study, claim, effects, folder) ->
# points}, of claims that are no Gap. It may write to the folder.
MADE = {}


def wanted(claim):
  """The words that these points must bring about."""
  if isinstance(claim, claims.Exact):
    return {claims.REPRODUCED, claims.FAILED}
  words = {claims.REPRODUCED, claims.FAILED, claims.UNDECIDED}
  return words if claim.equal else words | {claims.OPPOSITE}


def made(study, claim, folder):
  """Yields lists of points, one for each word."""
  effects = EXACT
  if isinstance(claim, claims.Claim):
    effects = EQUAL if claim.equal else DIRECTED
  make = MADE.get((study.key, claim.name), of_gap)
  for effect in effects:
    yield make(study, claim, effect, folder)


def of_gap(study, claim, effects, folder):
  """Points of the arms of a Gap or a Sum, that differ by an effect."""
  del study, folder
  parts = getattr(claim.measure, 'parts', ((1, claim.measure),))
  qualities = {}
  for weight, gap in parts:
    for name, sign in ((gap.first, weight), (gap.second, -weight)):
      qualities[name] = qualities.get(name, 1) + sign * effects
  return runs_of(qualities)


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
