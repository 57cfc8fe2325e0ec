"""What the arms of a table of points score at equal KL.

  align frontier POINTS [--by=method] [--budgets=0.5,1,2] [--control=offline]

POINTS is an experiment's points.jsonl, or a .jsonl, .csv or .parquet of any
program with a row per checkpoint; docs/points.md says what its columns hold. A
cell is the mean gain in score over the reference, its 95% interval over seeds
and prompts, and how it was read; `align_jax.compare.readings` says more. The
intervals of an arm hold together over the budgets. docs/intervals.md has the
rest.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from align_jax import paths
from align_jax.compare import (
  frontier,
  intervals,
  points,
  readings,
  verdict,
  words,
)
from align_jax.compare.report import MISSING, decimals, markdown, show
from align_jax.tools import cli, point_table

# A budget is read between checkpoints whose KLs are within this factor of it.
# Chosen, not measured.
APART = 3.0
PICTURES = '.png', '.svg', '.pdf'
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # nats


def nats(text: str) -> tuple[float, ...]:
  """'1,0.5' -> (0.5, 1.0), for argparse: each once, in order."""
  budgets = tuple(sorted(set(map(float, text.split(',')))))
  if not all(0 < budget < float('inf') for budget in budgets):
    raise ValueError
  return budgets


def width(text: str) -> float:
  """A finite number above 0, for argparse."""
  if not 0 < float(text) < float('inf'):
    raise ValueError
  return float(text)


def picture(text: str) -> str:
  """A path whose ending matplotlib draws, for argparse."""
  if paths.path(text).suffix not in PICTURES:
    raise argparse.ArgumentTypeError(
      f'{text}: expected one of {", ".join(PICTURES)}'
    )
  return text


def make_parser() -> cli.Parser:
  """The command line of `align frontier`."""
  parser = cli.Parser(prog='align frontier', description=__doc__.split('\n')[0])
  add = parser.add_argument
  add('points', help='a table with a row per checkpoint')
  add('--budgets', type=nats, default=BUDGETS, help='in nats: 0.5,1,2')
  add(
    '--control',
    metavar='ARM',
    help='judges what others have more than it; default: the first by name',
  )
  names = point_table.Columns()
  add(
    '--by', default=names.arm, help='column of what is compared (%(default)s)'
  )
  for name in ('seed', 'step', 'kl', 'score'):
    text = 'column of that name (%(default)s)'
    add(f'--{name}', default=getattr(names, name), help=text)
  add(
    '--configuration',
    default=names.configuration,
    help="column that tells an arm's configurations apart (configuration, "
    'where there is one)',
  )
  add(
    '--own-prompts',
    action='store_true',
    help='each seed was measured on prompts of its own',
  )
  add('--half-width', type=width, default=0.05, help='to have, of an interval')
  add('--plot', type=picture, help='draws a .png, .svg or .pdf')
  return parser


def gain(rows: Sequence[points.Point]) -> Callable[[points.Point], np.ndarray]:
  """point -> its score for each prompt above its run's at step 0.

  Where no run has a step 0, the score itself.
  """
  score = lambda point: np.array(point[point_table.SCORE])
  start = {points.run_of(p): score(p) for p in rows if p['step'] == 0}
  return lambda point: score(point) - start.get(points.run_of(point), 0.0)


def control_of(comparison: frontier.Comparison, name: str | None) -> str | None:
  """The arm that the others are held against; None where there is one arm.

  Raises:
    ValueError: no such arm.
  """
  arms = list(comparison.arms)
  if name is None:
    return min(arms) if len(arms) > 1 else None
  if name not in arms:
    raise ValueError(
      f'--control={name}: no such arm; arms are {", ".join(arms)}'
    )
  return name


def columns(
  comparison: frontier.Comparison, control: str | None, digits: int = 2
) -> dict[str, list[str]]:
  """{title: [a cell per budget]}."""
  table = {}
  for name, row in comparison.table.items():
    reached = map(comparison.readings[name].reached, range(len(row)))
    shown = [show(e, digits=digits) for e in row]
    table[name] = [f'{x} {how}'.strip() for x, how in zip(shown, reached)]
  for name in others(comparison, control):
    row = comparison.difference(name, control or '')
    title = f'{name} - {control}'
    if title in table:
      raise ValueError(f'arm {title!r}: a difference has that name, too')
    table[title] = [show(e, True, decimals([row])) for e in row]
  return table


def others(comparison: frontier.Comparison, control: str | None) -> list[str]:
  """The arms that are held against the control."""
  return [name for name in comparison.arms if control and name != control]


def judged(
  comparison: frontier.Comparison, control: str, half_width: float
) -> Iterator[str]:
  """A claim and its power for each arm against the control.

  The claims hold together: each has its share of the 5%.

  Raises:
    ValueError: no arm was at the same KL as the control.
  """
  names, refused = others(comparison, control), []
  level = intervals.each_of(len(names))
  for name in names:
    try:
      asked = window(comparison, name, control)
      gap = comparison.gap(name, control, asked, level)
    except ValueError as error:
      refused.append(str(error))
      yield f'{error}.'
      continue
    yield claim(gap, name, control, level)
    if len(comparison.seeds) > 1:
      shared = comparison.shared_prompts
      power = verdict.power_of(gap.matrix, half_width, shared, level=level)
      yield words.power_text(power)
  if not refused:
    yield from strayed(comparison)
  if refused and len(refused) == len(names):
    raise ValueError(refused[0])


def window(comparison: frontier.Comparison, *names: str) -> tuple[float, float]:
  """From the least budget at which all these arms were read to the largest.

  If they did not get to the largest budget, it ends where they got. Where none
  was read, of all budgets. A budget that all were held or stopped at is claimed
  alone: what runs have in passing says nothing of it.
  """
  of = [comparison.readings[name] for name in names]
  stay = lambda k: all(x.reached(k) in ('held', 'stopped') for x in of)
  kept = [float(b) for k, b in enumerate(comparison.budgets) if stay(k)]
  arms = [comparison.arms[name] for name in names]
  kept = kept or [
    b for b in comparison.budgets if all(meant(x, b) for x in arms)
  ]
  if kept:
    return kept[-1], kept[-1]
  rows = [comparison.table[name] for name in names]
  read = [b for b, *row in zip(comparison.budgets, *rows) if all(row)]
  low, high = min(read or comparison.budgets), max(comparison.budgets)
  got = min(reach(comparison.arms[name]) for name in names)
  return float(low), float(max(low, *read, min(high, got)))


def strayed(comparison: frontier.Comparison) -> Iterator[str]:
  """A line on runs that ended away from where they were to be held."""
  if told := comparison.missed(*comparison.arms):
    yield f'Not read where it was to be held{told}.'


def meant(arm: readings.Arm, budget: float) -> bool:
  """Whether all runs of the arm were to be held, or stopped, at a budget."""
  runs = [run for seed in arm.seeds for run in arm.runs_of(seed)]
  return all(readings.is_held(run, [budget])[0] for run in runs)


def reach(arm: readings.Arm) -> float:
  """The largest KL in nats that every seed of an arm got to."""
  most = lambda run: run.kl.mean(1).max()
  return min(max(map(most, arm.runs_of(seed))) for seed in arm.seeds)


def claim(
  gap: frontier.Gap,
  name: str,
  control: str,
  level: float = intervals.LEVEL,
) -> str:
  """A sentence: what the gap of an arm to the control is known to be."""
  where = words.budgets_text(*gap.window)
  if not gap.whole:
    where += ' but for where one of them has no checkpoints near'
  word = verdict.decide(gap.estimate, 0.0, level)
  if word == verdict.NONE:
    value = gap.estimate.value
    return (
      f'At equal KL, {where}, {name} minus {control} is {value:+.3g}. One seed '
      'says nothing of others: no interval, no verdict.'
    )
  level_text = f'{100 * level:.4g}% interval over {len(gap.matrix)} seeds'
  return (
    f'At equal KL, {where}, {name} {words.CLAIMS[word]} {control}: '
    f'{show(gap.estimate, True, None)} ({level_text}; '
    f'{words.by_seed_text(gap.estimate.by_seed)}).'
  )


def lines(args: argparse.Namespace) -> Iterator[str]:
  """Yields what is printed for the parsed arguments.

  Raises:
    ValueError: a bad row; no such arm; nothing was reached; arms that cannot
      be compared.
  """
  told = (
    args.by,
    args.seed,
    args.step,
    args.kl,
    args.score,
    args.configuration,
  )
  rows = point_table.load(args.points, point_table.Columns(*told))
  means = len(rows[0][point_table.KL]) == 1
  curves = [
    dataclasses.replace(curve, apart=APART)
    for curve in readings.curves(rows, gain(rows))
  ]
  try:
    comparison = frontier.Comparison(curves, args.budgets, not args.own_prompts)
  except ValueError as error:
    raise ValueError(f'{args.points}: {error}') from None
  control = control_of(comparison, args.control)
  table = columns(comparison, control, decimals(comparison.table.values()))
  cells = [
    [f'{budget:g}', *row]
    for budget, *row in zip(args.budgets, *table.values())
    if set(row) != {MISSING}
  ]
  if not cells:
    raise ValueError(
      f'{args.points}: no arm reached {min(args.budgets):g} nats with '
      'checkpoints near it; choose other --budgets'
      + comparison.missed(*comparison.arms)
    )
  yield markdown(['KL (nats)', *table], cells)
  yield (
    f'\n{len(comparison.seeds)} seeds; {MISSING} not every seed got there with '
    f'checkpoints whose KLs are within a factor of {APART:g} of it.'
  )
  if means:
    yield (
      'The table has one number for all prompts of a checkpoint: the intervals '
      'are over seeds, and say nothing of other prompts.'
    )
  gains = any(p['step'] == 0 for p in rows)
  if not gains:
    yield 'No run has a step 0: these are scores, not gains over the reference.'
  if control:
    yield ''
    yield from judged(comparison, control, args.half_width)
  else:
    yield from strayed(comparison)
  if args.plot:
    plot(comparison, args.plot, gains)
    yield f'plot: {args.plot}'


def plot(
  comparison: frontier.Comparison, path: str, gains: bool = True
) -> None:
  """Draws the arms' scores over the KL.

  Args:
    gains: over the reference, from where all arms start.
  """
  from align_jax.compare import figures
  from align_jax.compare.lines import lines_of

  names = list(comparison.arms)
  drawn = lines_of(comparison, names, origin=gains)
  title = 'KL from the reference (nats)', 'gain in score' if gains else 'score'
  figure = figures.frontier_figure(figures.WIDE, drawn, *title)
  target = paths.path(path)
  with paths.writing(target, 'wb') as file:
    figure.savefig(file, format=target.suffix[1:])


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line; a mistake is one line, and exit status 1."""
  cli.show(lines(make_parser().parse_args(argv)))


if __name__ == '__main__':
  main()
