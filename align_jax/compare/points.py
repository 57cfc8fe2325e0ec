"""Points: what a checkpoint measured, as a dict, and as a row of points.jsonl.

A point has `arm`, `configuration`, `seed` and `step`, and for every held-out
prompt its KL from the reference, `kl_by_prompt`, and its gold reward,
`gold_by_prompt`. Step 0 is the reference itself. Points of reweighed samples
are those without `gold_samples`.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from align_jax.files import (
  damaged,
  digest,
  line,
  read_jsonl,
  read_record,
  write_atomically,
  write_record,
)

Point = dict[str, Any]

ARRAYS = 'kl_by_prompt', 'gold_by_prompt'
KL_MODES = 'hold', 'stop'  # of a run with a KL budget


def save(path: pathlib.Path, points: Iterable[Point]) -> None:
  """Writes a points.jsonl file, and a record of its digest beside it."""
  write_atomically(path, ''.join(map(line, points)))
  write_record(_record(path), {path.name: digest(path)})


def read(path: pathlib.Path) -> list[Point]:
  """The rows of a points.jsonl file.

  Raises:
    ValueError: a row is no JSON, or the file is not what `save` wrote.
  """
  check_digest(path)
  return read_jsonl(path)


def check_digest(path: pathlib.Path) -> None:
  """Raises ValueError for a file that is not what `save` wrote."""
  beside = _record(path)
  if beside.exists() and (found := damaged(path.parent, read_record(beside))):
    raise ValueError(
      f'{found}: damaged. Run the experiment with --report to write it anew, '
      f'or remove {beside} if the change is yours'
    )


def _record(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'{path.name}.digest')


def run_of(point: Point) -> tuple[str, str, int]:
  """(arm, configuration, seed): which run a point is of."""
  return point['arm'], point['configuration'], point['seed']


def trained(points: Iterable[Point]) -> list[Point]:
  """The points of policies; the others are of a pool of samples, reweighed."""
  return [p for p in points if 'gold_samples' in p]


def stage_of(point: Point) -> tuple[str, int]:
  """What shares a reference: a seed, of a variant where there are some."""
  return point.get('variant', ''), point['seed']


def references(points: Iterable[Point]) -> list[Point]:
  """The reference's point of each seed, and variant, once."""
  start = (p for p in trained(points) if p['step'] == 0)
  return list({stage_of(p): p for p in start}.values())


def last_points(points: Iterable[Point]) -> dict[tuple[str, str, int], Point]:
  """The last point of each run: {(arm, configuration, seed): point}."""
  last: dict[tuple[str, str, int], Point] = {}
  for p in points:
    if p['step'] >= last.get(run_of(p), p)['step']:
      last[run_of(p)] = p
  return last


def by_prompt(point: Point) -> np.ndarray:
  """Gold reward per prompt: [E]."""
  return np.array(point['gold_by_prompt'])


def proxy_by_prompt(point: Point) -> list[float]:
  """The proxy's reward per prompt: E numbers."""
  return point['proxy_by_prompt']


def gain(points: Sequence[Point]) -> Callable[[Point], np.ndarray]:
  """point -> gold reward per prompt above its own first point's.

  Trained arms of a seed share theirs, the reference as evaluated; reweighed
  ones start from their own, larger pool of the reference's samples, at n = 1
  or beta = inf.
  """
  start = {stage_of(p): by_prompt(p) for p in references(points)}
  pools = {
    run_of(p): by_prompt(p)
    for p in points
    if 'gold_samples' not in p and p['step'] == 0
  }

  def score(point):
    if 'gold_samples' in point:
      return by_prompt(point) - start[stage_of(point)]
    return by_prompt(point) - pools[run_of(point)]

  return score
