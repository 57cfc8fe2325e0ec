"""Is it the order of the samples, or their coverage?

  python -m experiments.suite.e02_order --config=configs/toy.py \
    --workdir=runs/e02

Tang et al. 2024 (arXiv 2405.08448), fig. 4, fig. 13 and app. F: an offline run
on the log of an online one, in its order, repeats it. Shuffled within a few
batches it does as well. Shuffled as a whole it falls towards offline.
"""

import numpy as np

from experiments import derived
from experiments.claims import Claim, Exact, Gap
from experiments.study import Study, main

IN_ORDER = 'in order'
WINDOWS = 4, 64  # batches that are shuffled with one another
SOURCE = 'Tang et al. 2024 (2405.08448)'


def within(window):
  return f'windows of {window}'


def arms(cfg):
  """The config's `online`, with one strength, and replays of its log."""
  online = derived.single(derived.arm_of(cfg, 'online'))
  shuffled = derived.strengths(derived.arm_of(cfg, 'shuffled'))[:1]
  replay = lambda sweep, **fields: derived.replayed(
    'online', online, sweep, **fields
  )
  own = derived.strengths(online)
  return {
    'online': online,
    IN_ORDER: replay(own, shuffle=1),
    **{within(w): replay(own, shuffle=w) for w in WINDOWS},
    'shuffled': replay(shuffled),
  }


def repeats(evidence):
  """{seed and step: largest difference of a number of the two points}."""
  evidence.require('online', IN_ORDER)
  online, replay = (evidence.runs_of(name) for name in ('online', IN_ORDER))
  return {
    f'seed {seed} after {a["step"]} updates': furthest(a, b)
    for seed in evidence.seeds
    for a, b in zip(online[seed][0], replay[seed][0], strict=True)
  }


def furthest(point, other):
  """The largest difference of any number that two points measured.

  Raises:
    ValueError: they did not measure the same.
  """
  if unlike := sorted(point.keys() ^ other.keys()):
    raise ValueError(f'only one of two points has {", ".join(unlike)}')
  numbers = lambda p: np.array([x for k in sorted(p) for x in _flat(p[k])])
  return float(np.abs(numbers(point) - numbers(other)).max())


def _flat(value):
  if isinstance(value, list):
    return [x for part in value for x in _flat(part)]
  return [value] if isinstance(value, int | float) else []


STUDY = Study(
  __file__,
  'E2',
  'Is it the order of the samples, or their coverage?',
  (
    Exact(
      'the same in order',
      'A replay of the online run in its own order is that run.',
      f'{SOURCE}, app. F',
      'Largest difference between any numbers of their points',
      repeats,
    ),
    Claim(
      'robust to a little disorder',
      'A replay that is shuffled within four batches does as well as online.',
      f'{SOURCE}, fig. 13',
      f'Difference in gold reward at equal KL, online - {within(4)}',
      Gap('online', within(4)),
      equal=True,
    ),
    Claim(
      'below when shuffled',
      'A replay that is shuffled as a whole falls below online.',
      f'{SOURCE}, fig. 4',
      'Difference in gold reward at equal KL, online - shuffled',
      Gap('online', 'shuffled'),
    ),
  ),
  'The policies that wrote the log were all held at a small KL, so that the '
  'first and the last of its samples differ little: order may be worth more '
  'where the sampler moves further. The shuffled arm has its own strength, the '
  'others that of online.',
  arms=arms,
  strong=('online', 'shuffled'),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
