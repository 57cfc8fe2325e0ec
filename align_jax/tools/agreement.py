"""How far does a judge agree with people?

  python -m align_jax.tools.agreement FOLDER DATA [--kind reward_model]

DATA are judged pairs that `align_jax.data.COMPARISONS` reads: PandaLM, Auto-J,
AlpacaEval, QA-Feedback. Prints a line per figure, with 95% intervals over the
prompts; docs/judges.md says what they mean.
"""

import itertools
import json
import re
from typing import NamedTuple

import numpy as np
from scipy import special

from align_jax import data, judges
from align_jax.data import columns, comparisons, detection
from align_jax.data import found as found_lib
from align_jax.data.row import Counts, Row, RowError, place
from align_jax.judges import pairwise
from align_jax.learn.finite import check_scores
from align_jax.models.config import DTYPES
from align_jax.tools.cli import Parser, show, whole

RESAMPLES = 1000
EVEN = 1e-5  # of a chance of one half, which rounding of float32 may leave


def judged_rows(path, counts, limit=None):
  """The judged pairs of a file, bad rows counted: a list of Rows.

  Args:
    path: see `data.rows`.
    counts: Counts, filled in.
    limit: pairs at most.
  Raises:
    ValueError: the rows are no judged pairs; too many bad ones.
  """
  found, name = [], None
  for row in data.rows(path, bad=counts.skip_line):
    name = name or detection.detect(row)
    if name not in data.COMPARISONS:
      raise ValueError(
        f'{path}: columns {sorted(row)} are no judged pairs; expected those of '
        f'one of {sorted(data.COMPARISONS)}'
      )
    counts.rows += 1
    try:
      read = detection.columns_of(name)
      columns.check_names(row, read, found_lib.KNOWN, frozenset(read))
      columns.check_read(row, read)
      made = [Row(x, place(row)) for x in data.COMPARISONS[name](row)]
    except RowError as error:
      counts.skip(error)
      continue
    counts.more += len(made) - 1
    counts.kept += len(made)
    found += made
    if limit and len(found) >= limit:
      break
  counts.check(path)
  return found[:limit]


class Asked(NamedTuple):
  """What a judge says of N pairs."""

  orders: np.ndarray  # f32 [N, 2]  that the first is better, in either order
  said: np.ndarray  # f64 [N, 2]  1 the first, 0 the second, 0.5 a tie
  mass: np.ndarray | None  # f32 [N]  probability of any label; None: no labels


def ask(judge, rows):
  """A judge of JUDGES on judged rows; a score is one by Bradley-Terry.

  Returns:
    Asked.
  Raises:
    ValueError: a row that the judge cannot read; names its file and row.
  """
  try:
    return _ask(judge, rows)
  except ValueError as error:
    found = re.match(r'row (\d+)', str(error))
    if not found:
      raise
    row = rows[int(found[1]) % len(rows)]
    raise ValueError(f'{place(row)}{str(error)[found.end() :]}') from None


def _ask(judge, rows):
  prompts, firsts, seconds = (
    [row[name] for row in rows] for name in ('prompt', 'first', 'second')
  )
  if isinstance(judge, pairwise.Pairwise):
    logps = judge.asked(prompts, firsts, seconds)
    check_scores("a judge's log-probs of labels", logps)
    mass = np.exp(logps).sum(2).mean(1)
    return Asked(pairwise.chances(logps), pairwise.answers(logps), mass)
  texts = [_text(prompt) for prompt in prompts] * 2
  scores = check_scores('a judge', judge(texts, firsts + seconds))
  one, other = np.float64(scores).reshape(2, -1)
  twice = lambda x: np.stack([x, x], 1)
  said = 0.5 + 0.5 * np.sign(one - other)
  return Asked(twice(special.expit(one - other)), twice(said), None)


def _text(prompt):
  """The only message of a judged pair."""
  (message,) = prompt
  return message['content']


def verdicts(said):
  """What both orders say, or 0.5, a tie, where they differ. f64 [N]."""
  return np.where(said[:, 0] == said[:, 1], said[:, 0], 0.5)


def interval(hits, counted, groups):
  """The share of hits, and its 95% interval over resampled groups.

  Args:
    hits: f64 [N], 0 to 1.
    counted: bool [N], which rows there are.
    groups: int [N], of prompts.
  Returns:
    share, low, high; NaN without rows.
  """
  size = groups.max() + 1
  tops = np.bincount(groups, hits * counted, size)
  bottoms = np.bincount(groups, counted, size)
  if not bottoms.sum():
    return (float('nan'),) * 3
  rng = np.random.default_rng(0)
  weights = rng.multinomial(size, np.full(size, 1 / size), RESAMPLES)
  below = weights @ bottoms
  shares = (weights @ tops)[below > 0] / below[below > 0]
  low, high = np.quantile(shares, [0.025, 0.975])
  return tops.sum() / bottoms.sum(), low, high


def _with_each(rows, verdict):
  """How often each row's annotators, taken alone, have that verdict: [N]."""
  pairs = zip(rows, verdict, strict=True)
  return np.array([np.mean(np.equal(r['votes'], v)) for r, v in pairs])


def _among(votes):
  """How often two of the annotators have the same verdict; NaN for one."""
  pairs = [a == b for a, b in itertools.combinations(votes, 2)]
  return np.mean(pairs) if pairs else np.nan


def figures(rows, asked):
  """What a judge and people agree on.

  Args:
    rows: N judged ones.
    asked: Asked, of the same rows.
  Returns:
    dict: name -> (share, low, high).
  """
  names, groups = {}, []
  for row in rows:
    key = json.dumps(row['prompt'])
    groups.append(names.setdefault(key, len(names)))
  orders, groups = asked.orders, np.array(groups)
  chance, flips = orders.mean(1), asked.said[:, 0] != asked.said[:, 1]
  people = np.array([comparisons.majority(row['votes']) for row in rows])
  decided, said = people != 0.5, verdicts(asked.said)
  even = abs(chance - 0.5) < EVEN
  right = np.where(even, 0.5, (chance > 0.5) == (people == 1))
  longer = np.array([len(r['first']) - len(r['second']) for r in rows])
  unequal = decided & (longer != 0)
  likes_longer = lambda x: np.where(
    abs(x - 0.5) < EVEN, 0.5, (x > 0.5) == (longer > 0)
  )
  among = np.array([_among(row['votes']) for row in rows])
  every = np.ones(len(rows), bool)
  table = {
    'agrees, where people prefer one': (right, decided),
    'agrees, ties too': (said == people, every),
    'agrees with one annotator, ties too': (_with_each(rows, said), every),
    'two annotators agree, ties too': (np.nan_to_num(among), among == among),
    'calls a tie': (said == 0.5, every),
    'verdict flips with the order': (flips, every),
    'probability of what is shown first': (pairwise.first_shown(orders), every),
    'judge prefers the longer one': (likes_longer(chance), unequal),
    'people prefer the longer one': (likes_longer(people), unequal),
  }
  return {name: interval(*x, groups) for name, x in table.items()}


def make_parser():
  """The command line of `align agreement`."""
  parser = Parser(
    prog='align agreement',
    description=__doc__.split('\n')[0],
  )
  parser.add_argument('folder', help='a checkpoint: local folder or hub id')
  parser.add_argument('data', help='judged pairs')
  parser.add_argument(
    '--kind', choices=sorted(judges.JUDGES), default='llm_judge'
  )
  parser.add_argument(
    '--ties', action='store_true', help='an llm_judge may answer C, a tie'
  )
  parser.add_argument('--limit', type=whole, help='pairs at most')
  parser.add_argument('--dtype', choices=DTYPES, default='float32')
  parser.add_argument('--max-length', type=whole, default=4096, help='tokens')
  parser.add_argument('--batch-size', type=whole, default=8)
  parser.add_argument(
    '--max-bad-share', type=float, default=0.1, help='of rows skipped as bad'
  )
  return parser


def lines(args):
  """Yields what is printed for the parsed arguments."""
  counts = Counts('skip', args.max_bad_share)
  rows = judged_rows(args.data, counts, args.limit)
  if not rows:
    raise ValueError(f'{args.data}: no judged pair was left')
  knobs = dict(
    dtype=args.dtype, max_length=args.max_length, batch_size=args.batch_size
  )
  if args.ties:
    if args.kind != 'llm_judge':
      raise ValueError(f'--ties is for --kind=llm_judge, got {args.kind!r}')
    knobs |= dict(template=pairwise.TIES_PROMPT, labels=('A', 'B', 'C'))
  judge = judges.JUDGES[args.kind](args.folder, **knobs)
  asked = ask(judge, rows)
  bad = sum(counts.bad.values())
  yield f'{len(rows)} pairs; {bad} of {counts.rows} rows were bad, left out'
  for name, (share, low, high) in figures(rows, asked).items():
    if share == share:
      yield f'{share:.3f} [{low:.3f}, {high:.3f}]  {name}'
  if asked.mass is not None:
    yield f'{asked.mass.mean():.3f}  probability that a label is the answer'


def main(argv=None):
  """Runs the command line; a mistake is one line, and exit status 1."""
  show(lines(make_parser().parse_args(argv)))


if __name__ == '__main__':
  main()
