"""Is the sampled limit the enumerated one, to within 0.001?

  python -m experiments.limit_proof [--populations=540] [--particles=131072]

`e17_limits` estimates the most reward that there is at a KL by particles. Here
so many of them are drawn, on a language that is enumerated, that their noise is
next to nothing. Prints, for every beta, the enumerated KL and reward, how far
the estimates are from them, how far the estimated reward is from the enumerated
one at the same KL, which is what a share of the limit rests on, and standard
errors.
"""

import functools
import multiprocessing
import os

import numpy as np

from align_jax.compare.report import markdown
from align_jax.tools.cli import Parser
from experiments.suite.e17_limits import EXACT, estimates, world

HEADER = ['1 / beta', 'KL', 'off by', 'error', 'reward', 'off by', 'error']
HEADER += ['at equal KL', 'error']


def cell(x):
  return f'{x:.5f}'


def population(number, particles):
  """1 / beta, KL and reward of one population of particles: [tilts, 3]."""
  rng = np.random.default_rng([17, number])
  return [
    (tilt, kl[0], reward[0])
    for tilt, kl, reward in estimates((1, particles), rng)
  ]


def table(found):
  """Rows of numbers, and the largest distance at equal KL.

  Args:
    found: [populations, tilts, 3].
  """
  tilts, estimated = found[0, :, 0], found[:, :, 1:]
  wanted = np.array([world().optimum(tilt) for tilt in tilts])
  away = estimated - wanted
  # Along the optimum a nat buys beta of reward.
  equal = away[:, :, 1:] - away[:, :, :1] / tilts[:, None]
  off = np.concatenate([away, equal], 2)  # [populations, tilts, 3]
  means, errors = off.mean(0), off.std(0, ddof=1) / len(off) ** 0.5
  columns = (wanted[:, 0], means[:, 0], errors[:, 0])
  columns += (wanted[:, 1], means[:, 1], errors[:, 1])
  columns += (means[:, 2], errors[:, 2])
  return np.stack([tilts, *columns], 1), abs(means[:, 2]).max()


def main(argv=None):
  """Prints the table. Returns 1 if an estimate is further away than EXACT."""
  parser = Parser(description=__doc__.split('\n')[0])
  parser.add_argument('--populations', type=int, default=540)
  parser.add_argument('--particles', type=int, default=131072)
  args = parser.parse_args(argv)
  if args.populations < 2 or args.particles < 1:
    parser.error('expected --populations of at least 2, --particles above 0')
  one = functools.partial(population, particles=args.particles)
  with multiprocessing.get_context('spawn').Pool(os.cpu_count()) as pool:
    found = np.array(pool.map(one, range(args.populations), chunksize=1))
  rows, most = table(found)
  print(markdown(HEADER, [[f'{tilt:g}', *map(cell, x)] for tilt, *x in rows]))
  print(f'\nlargest distance at equal KL {most:.5f}, asked {EXACT:g}')
  return int(most > EXACT)


if __name__ == '__main__':
  raise SystemExit(main())
