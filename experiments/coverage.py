"""How often do intervals hold, and how often is a difference claimed falsely?

  python -m experiments.coverage [--trials=1000] [--seeds=3,5,6,10] \
    [--prompts=36,128,512] [--shares=0,0.5,0.95] [--configs=3]

simulates experiments whose truth is known and puts them through the project's
own curves, comparison and verdict. Two arms of equal worth, several
configurations each, on seeds and prompts drawn anew in every trial. The unit is
the standard deviation of a difference of one seed on one prompt. Prints tables
as Markdown; the second is of peaks, of the KL that a score needs, and of places
among arms that are all alike.
"""

import dataclasses
import itertools
import multiprocessing

import numpy as np

from align_jax.compare import frontier, readings, verdict
from align_jax.tools.cli import Parser

KL = np.array([0.0, 1.0, 4.0])  # nats, at the checkpoints
BUDGETS = (1.0, 2.0, 3.5)
WINDOW = (1.0, 3.5)
EFFECTS = ('redrawn', 'none', 'shared')  # effects of prompts, see `World`
PROMPT_VARIANCE = 0.5  # variance of a shared prompt's effect on a difference
RUN_SHARE = 1 / 3  # share of the seeds' variance that is a configuration's own
MARGIN = 0.1


@dataclasses.dataclass(frozen=True)
class World:
  """The sources of noise.

  Attributes:
    seeds, prompts, configs: numbers of seeds, prompts and configurations of
      each arm.
    share: share of the variance of a mean over prompts that is due to seeds.
    effects: 'redrawn': every seed has its own prompts. 'none': seeds share
      prompts, which have no effect on the difference of the arms. 'shared':
      seeds share prompts, which have such an effect.
  """

  seeds: int
  prompts: int
  share: float
  effects: str
  configs: int = 3

  @property
  def seed_variance(self):
    return self.share / (1 - self.share) / self.prompts

  @property
  def error(self):
    """Standard deviation of the mean difference of one configuration each."""
    by_seed = (self.seed_variance + 1 / self.prompts) / self.seeds
    shared = PROMPT_VARIANCE * (self.effects == 'shared') / self.prompts
    return (by_seed + shared) ** 0.5


def draw(world, rng, arms=('treatment', 'control')):
  """Draws one experiment.

  Returns:
    Curves of all arms, and the true worth of each run beyond sqrt(KL):
    {(arm, config, seed): number}.
  """
  runs, worth = [], {}
  shape = (world.seeds, world.prompts)
  common = rng.normal(size=shape)  # noise of both arms, which pairing removes
  half = world.seed_variance / 2
  for arm in arms:
    of_prompts = rng.normal(0, (PROMPT_VARIANCE / 2) ** 0.5, world.prompts)
    of_prompts *= world.effects == 'shared'
    of_seeds = rng.normal(0, ((1 - RUN_SHARE) * half) ** 0.5, world.seeds)
    both = common + rng.normal(0, 0.5, shape)
    for config in range(world.configs):
      of_runs = of_seeds + rng.normal(0, (RUN_SHARE * half) ** 0.5, world.seeds)
      own = both + rng.normal(0, 0.5, shape) + of_prompts
      for seed in range(world.seeds):
        worth[arm, str(config), seed] = of_runs[seed]
        gain = own[seed] + of_runs[seed]
        score = np.sqrt(KL)[:, None] + np.outer(KL > 0, gain)
        kl = np.repeat(KL[:, None], world.prompts, 1)
        runs.append(
          readings.Curve(arm, str(config), seed, np.arange(3), kl, score)
        )
  return runs, worth


def selection(runs, reading, worth, arm):
  """Bias that comes from choosing the best configurations.

  It is the mean excess of score over true worth of the chosen configurations,
  minus that of all configurations, whose expectation is zero.
  """
  budget = BUDGETS[0] ** 0.5
  chosen = np.mean(
    [
      [worth[arm, config, seed] for config in at[0]]
      for seed, at in enumerate(reading.chosen)
    ]
  )
  beyond = [
    run.score[1].mean() - budget - worth[arm, run.configuration, run.seed]
    for run in runs
    if run.arm == arm
  ]
  return reading.values[:, :, 0].mean() - budget - chosen - np.mean(beyond)


def trial(world, rng):
  """Draws an experiment and compares its arms: a dict of numbers."""
  runs, worth = draw(world, rng)
  comparison = frontier.Comparison(runs, BUDGETS, world.effects != 'redrawn')
  found = comparison.gap('treatment', 'control', WINDOW).estimate
  table = comparison.difference('treatment', 'control')
  arms = {a: comparison.readings[a] for a in ('treatment', 'control')}
  shift = 2 * dataclasses.replace(world, seeds=6).error
  return {
    'held': found.low < 0 < found.high,
    'all held': all(e.low < 0 < e.high for e in table),
    'claimed': verdict.decide(found, MARGIN) in (verdict.ABOVE, verdict.BELOW),
    'turned': bool(frontier.crossings(table, BUDGETS)),
    'found': found.low + shift > 0,
    'half-width': (found.high - found.low) / 2,
    'selection': np.mean(
      [selection(runs, r, worth, a) for a, r in arms.items()]
    ),
  }


def cell(world, trials, rng_seed=0):
  """Means over trials: {name: number}."""
  key = [rng_seed, world.seeds, world.prompts, round(100 * world.share)]
  rng = np.random.default_rng([*key, EFFECTS.index(world.effects)])
  rows = [trial(world, rng) for _ in range(trials)]
  return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}


ALIKE = 'abcdef'  # arms of equal worth, to be ranked
LEVEL = 1.5  # a score that the mean curve passes between its checkpoints


def other_trial(world, rng):
  """Peak, KL needed and correct places of one experiment."""
  runs, _ = draw(dataclasses.replace(world, configs=1), rng, ALIKE)
  comparison = frontier.Comparison(runs, BUDGETS, world.effects != 'redrawn')
  sets = comparison.rank_sets(list(ALIKE))
  grid = np.linspace(0.5, 2.0, 300) ** 2
  return (
    comparison.peaks()['a'][0],
    comparison.kl_needed('a', LEVEL, grid),
    np.mean([sets[name][1] == (1, len(ALIKE)) for name in ALIKE]),
  )


def other_cell(world, trials, rng_seed=0):
  """Coverage of peaks, of the KL needed and of places: three numbers."""
  rng = np.random.default_rng([rng_seed, world.seeds, world.prompts])
  peaks, needed, places = zip(*(other_trial(world, rng) for _ in range(trials)))
  holds = lambda e, truth: e.low < truth < e.high
  return (
    float(np.mean([holds(e, KL[-1] ** 0.5) for e in peaks])),
    float(np.mean([holds(e, LEVEL**2) for e in needed])),
    float(np.mean(places)),
  )


HEADER = (
  'seeds',
  'prompts',
  'share of seeds',
  'prompt effects',
  'coverage',
  'of all budgets at once',
  'false above or below',
  'false turns',
  'found',
  'half-width',
  'bias of selection',
)


def row(world, means):
  return [
    str(world.seeds),
    str(world.prompts),
    f'{world.share:g}',
    world.effects,
    f'{means["held"]:.3f}',
    f'{means["all held"]:.3f}',
    f'{means["claimed"]:.3f}',
    f'{means["turned"]:.3f}',
    f'{means["found"]:.2f}',
    f'{means["half-width"]:.3f}',
    f'{means["selection"]:+.4f}',
  ]


def _run(args):
  return cell(*args)


def _run_other(args):
  return other_cell(*args)


OTHER_HEADER = ('seeds', 'prompts', 'prompt effects', 'peak', 'KL', 'places')


def print_header(names):
  print(f'| {" | ".join(names)} |\n{"| --: " * len(names)}|', flush=True)


def summarise(every):
  """One sentence with the extremes of the first table."""
  of = lambda name: [means[name] for means in every]
  print(
    f'\nCoverage {min(of("held")):.3f} to {max(of("held")):.3f}; a difference '
    f'is claimed falsely in at most {max(of("claimed")):.1%}, a turn in at '
    f'most {max(of("turned")):.1%}; the bias of selection is at most '
    f'{max(map(abs, of("selection"))):.4f}.'
  )


def print_others(pool, args):
  """Prints the second table, at the middle share and number of prompts."""
  middle = lambda values: sorted(values)[len(values) // 2]
  worlds = [
    World(seeds, middle(args.prompts), middle(args.shares), effects)
    for seeds in args.seeds
    for effects in EFFECTS
  ]
  jobs = [(world, args.trials, args.rng_seed) for world in worlds]
  print()
  print_header(OTHER_HEADER)
  for world, held in zip(worlds, pool.imap(_run_other, jobs)):
    cells = [world.seeds, world.prompts, world.effects]
    cells += [f'{x:.3f}' for x in held]
    print(f'| {" | ".join(map(str, cells))} |', flush=True)


def main():
  numbers = lambda kind: lambda text: [kind(x) for x in text.split(',')]
  parser = Parser(description=__doc__.split('\n')[0])
  parser.add_argument('--trials', type=int, default=1000)
  parser.add_argument('--seeds', type=numbers(int), default=[3, 5, 6, 10])
  parser.add_argument('--prompts', type=numbers(int), default=[36, 128, 512])
  parser.add_argument('--shares', type=numbers(float), default=[0, 0.5, 0.95])
  parser.add_argument('--configs', type=int, default=3)
  parser.add_argument('--rng_seed', type=int, default=0)
  args = parser.parse_args()
  worlds = [
    World(*sizes, args.configs)
    for sizes in itertools.product(
      args.seeds, args.prompts, args.shares, EFFECTS
    )
  ]
  print_header(HEADER)
  jobs = [(world, args.trials, args.rng_seed) for world in worlds]
  every = []
  with multiprocessing.Pool() as pool:
    for world, means in zip(worlds, pool.imap(_run, jobs)):
      print(f'| {" | ".join(row(world, means))} |', flush=True)
      every.append(means)
    summarise(every)
    print_others(pool, args)


if __name__ == '__main__':
  main()
