"""What the arms of a points.jsonl score at equal KL.

  align frontier POINTS.jsonl [--budgets 0.5,1,2] [--control offline]

A cell is the mean gain in gold reward over the reference, its 95% interval over
seeds and prompts, and how it was read; `align_jax.compare.readings` says more.
The intervals of an arm hold together over the budgets. docs/intervals.md has
the rest.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from align_jax import paths
from align_jax.compare import frontier, points, readings
from align_jax.compare.report import MISSING, markdown, show

BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # nats


def nats(text: str) -> tuple[float, ...]:
  """'0.5,1' -> (0.5, 1.0), for argparse."""
  budgets = tuple(map(float, text.split(',')))
  if not all(0 < budget < float('inf') for budget in budgets):
    raise ValueError
  return budgets


def make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='align frontier', description=__doc__.split('\n')[0]
  )
  add = parser.add_argument
  add('points', help='points.jsonl of an experiment')
  add('--budgets', type=nats, default=BUDGETS, help='in nats: 0.5,1,2')
  add('--control', metavar='ARM', help='adds what others have more than it')
  add(
    '--own-prompts',
    action='store_true',
    help='each seed was measured on prompts of its own',
  )
  return parser


def columns(
  comparison: frontier.Comparison, control: str | None
) -> dict[str, list[str]]:
  """{title: [a cell per budget]}."""
  table = {}
  for name, row in comparison.table.items():
    reached = map(comparison.readings[name].reached, range(len(row)))
    table[name] = [f'{show(e)} {how}'.strip() for e, how in zip(row, reached)]
  for name in comparison.arms:
    if control and name != control:
      row = comparison.difference(name, control)
      table[f'{name} - {control}'] = [show(e, sign=True) for e in row]
  return table


def lines(args: argparse.Namespace) -> Iterator[str]:
  """Yields what is printed for the parsed arguments.

  Raises:
    ValueError: a bad row; no such arm; nothing was reached; arms that cannot
      be compared.
  """
  rows = points.load(paths.path(args.points))
  curves = readings.curves(rows, points.gain(rows))
  comparison = frontier.Comparison(curves, args.budgets, not args.own_prompts)
  if args.control and args.control not in comparison.arms:
    raise ValueError(
      f'--control={args.control}: no such arm; arms are '
      f'{", ".join(comparison.arms)}'
    )
  table = columns(comparison, args.control)
  cells = [
    [f'{budget:g}', *row]
    for budget, *row in zip(args.budgets, *table.values())
    if set(row) != {MISSING}
  ]
  if not cells:
    raise ValueError(
      f'{args.points}: no arm reached {min(args.budgets):g} nats; choose other '
      '--budgets'
    )
  yield markdown(['KL (nats)', *table], cells)
  yield f'\n{len(comparison.seeds)} seeds; {MISSING} not every seed got there.'


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line; a mistake is one line, and exit status 1."""
  args = make_parser().parse_args(argv)
  try:
    for line in lines(args):
      print(line)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
