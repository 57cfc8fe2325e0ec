"""Points of any program, from a table with one row per checkpoint."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from align_jax.compare.points import ARRAYS, KL_MODES, Point, check_digest
from align_jax.data import files, shards
from align_jax.data.row import place
from align_jax.values import is_number, nearest

KL, SCORE = ARRAYS
HELD = 'kl_budget', 'kl_mode'  # of runs that were held at a KL
# Nats by which the KL of a reference from itself may be off, as by another
# sampler. Chosen, not measured.
NEAR_0 = 0.05


@dataclasses.dataclass(frozen=True)
class Columns:
  """What the columns of a table are called.

  Attributes:
    arm: what is compared, such as a method.
    seed: which repetition; a whole number.
    step: which checkpoint of a run; 0 is the reference.
    kl, score: of a checkpoint: a number, its mean over prompts, or a list with
      a number for each prompt. The KL is of whole completions, in nats.
    configuration: what tells an arm's configurations apart. '': the column of
      that name; where there is none, there is one of each arm.
  """

  arm: str = 'arm'
  seed: str = 'seed'
  step: str = 'step'
  kl: str = KL
  score: str = SCORE
  configuration: str = ''


def load(path: str | os.PathLike, columns: Columns = Columns()) -> list[Point]:
  """The points of a table, in an order that is not that of its rows.

  Args:
    path: .jsonl, .csv, .parquet and others, see `data.files.rows`.
  Raises:
    FileNotFoundError: there is no such file.
    ValueError: names the row and the column that is wrong, or the run without
      its reference, or whose step 0 is none.
  """
  points, written = {}, {}
  for file in shards.local_paths(os.fspath(path)) or ():
    check_digest(file)
  for row in files.rows(os.fspath(path)):
    where = place(row)
    point = _point(row, columns, where)
    _check_names(row, columns, point, written, where)
    key = *_run(point), point['step']
    if key in points:
      raise ValueError(
        f'{where}: a second row of {_told(point)}, step {key[-1]}'
      )
    points[key] = point
  _check_sizes(points.values(), path)
  _check_held(points.values(), path)
  started = {_run(p) for p in points.values() if p['step'] == 0}
  for point in points.values():
    kl = sum(point[KL]) / len(point[KL])
    if kl < -NEAR_0:
      raise ValueError(
        f'{path}: {_told(point)}, step {point["step"]}, is at {kl:g} nats on '
        'average, expected a KL, which is never below 0, or a less noisy '
        'estimate of it'
      )
    if point['step'] == 0 and abs(kl) > NEAR_0:
      raise ValueError(
        f'{path}: {_told(point)} is at {kl:g} nats at step 0, expected the '
        'reference there, at 0'
      )
    if started and _run(point) not in started:
      raise ValueError(
        f'{path}: {_told(point)} has no point at step 0, expected the '
        'reference there, as in other runs'
      )
  return [points[key] for key in sorted(points)]


def _check_names(row, columns, point, written, where):
  """Names that differ in white space alone would be one.

  Args:
    written: {(field, name): as it was first written}; gets those of the row.
  """
  for field in ('arm', 'configuration'):
    column = getattr(columns, field) or field
    value = row.get(column)
    if isinstance(value, str) and value.strip():
      first = written.setdefault((field, point[field]), value)
      if first != value:
        raise ValueError(
          f'{where}: {column}={value!r}, and {first!r} in an earlier row, '
          'expected names that differ by more than white space'
        )


def _run(point):
  return point['arm'], point['configuration'], point['seed']


def _told(point):
  return f'{point["arm"]}/{point["configuration"]} of seed {point["seed"]}'


def _point(row, columns, where):
  """A row as a point, with all fields checked."""
  names = dataclasses.asdict(columns)
  found = {
    'arm': _text(row, names['arm'], where),
    'configuration': _configuration(row, names['configuration'], where),
    'seed': _whole(row, names['seed'], where),
    'step': _step(row, names['step'], where),
    KL: _numbers(row, names['kl'], where),
    SCORE: _numbers(row, names['score'], where),
    **_held(row, where),
  }
  sizes = len(found[KL]), len(found[SCORE])
  if sizes[0] != sizes[1]:
    raise ValueError(
      f'{where}: {sizes[0]} values of {names["kl"]} and {sizes[1]} of '
      f'{names["score"]}, expected one of each per prompt'
    )
  return found


def _configuration(row, name, where):
  if name or row.get('configuration') not in (None, ''):
    return _text(row, name or 'configuration', where)
  return 'default'


def _held(row, where):
  """The fields of a run that was held at a KL."""
  found = {name: row[name] for name in HELD if row.get(name) not in (None, '')}
  if 'kl_budget' in found:
    budget = _parsed(found['kl_budget'])
    if not is_number(budget) or budget < 0:
      raise ValueError(
        f'{where}: kl_budget={str(budget):.40}, expected nats, or 0 for a run '
        'that nothing held'
      )
    found['kl_budget'] = float(budget)
  if found.get('kl_mode', KL_MODES[0]) not in KL_MODES:
    raise ValueError(
      f'{where}: kl_mode={found["kl_mode"]!r}, expected one of '
      f'{", ".join(KL_MODES)}'
    )
  if 'kl_budget' not in found and 'kl_mode' in found:
    raise ValueError(
      f'{where}: kl_mode={str(found["kl_mode"])!r:.40} and no kl_budget, '
      'expected the nats at which the run was held or stopped'
    )
  return found


def _value(row: Mapping, name: str, where: str) -> Any:
  if name in row and row[name] is None:
    raise ValueError(f'{where}: {name} is empty')
  if name not in row:
    raise ValueError(
      f'{where}: no column {name!r}, {nearest(name, list(row))}. Flags such as '
      '--by and --kl name columns'
    )
  return row[name]


def _text(row, name, where):
  """A name; a whole number is the same name as an int and as a float."""
  value = _value(row, name, where)
  if isinstance(value, float):
    if not math.isfinite(value):
      raise ValueError(f'{where}: {name}={value}, expected a name')
    value = int(value) if value == int(value) else value
  if not isinstance(value, str | bool | int | float):
    raise ValueError(f'{where}: {name}={str(value):.40}, expected a name')
  value = ' '.join(str(value).split())
  if not value:
    raise ValueError(f'{where}: {name} is empty')
  return value


def _whole(row, name, where):
  value = _parsed(_value(row, name, where))
  if not is_number(value) or value != int(value):
    raise ValueError(f'{where}: {name}={value!r}, expected a whole number')
  return int(value)


def _step(row, name, where):
  value = _whole(row, name, where)
  if value < 0:
    raise ValueError(f'{where}: {name}={value}, expected 0 or more updates')
  return value


def _numbers(row, name, where):
  """A number, or one for each prompt, as a list."""
  value = _parsed(_value(row, name, where))
  values = list(value) if hasattr(value, '__len__') else [value]
  wrong = [x for x in values if not is_number(x) or not math.isfinite(x)]
  if wrong or not values or isinstance(value, str):
    raise ValueError(
      f'{where}: {name}={str(value):.40}, expected a finite number or a '
      'list of them'
    )
  return [float(x) for x in values]


def _parsed(value):
  """A text of a .csv as the number or list that it holds."""
  if not isinstance(value, str):
    return value
  try:
    return json.loads(value)
  except (ValueError, RecursionError):
    pass
  try:  # such as .5 and +1, which are no JSON
    return value if '_' in value else float(value)
  except ValueError:
    return value


def _check_sizes(points, path):
  sizes = {len(p[KL]): _told(p) for p in points}
  if len(sizes) > 1:
    told = ', '.join(f'{n} of {who}' for n, who in sorted(sizes.items()))
    raise ValueError(f'{path}: different numbers of prompts: {told}')


def _check_held(points, path):
  """A run is held at one KL, whatever the row. Its step 0 may not say so."""
  held = {}
  for p in points:
    if p['step']:
      told = [f'{name}={p[name]}' for name in HELD if name in p]
      told = ' and '.join(told) if p.get('kl_budget') else 'no kl_budget'
      first = held.setdefault(_run(p), told)
      if told != first:
        raise ValueError(
          f'{path}: {_told(p)} has {told} at step {p["step"]} and {first} at '
          f'another, expected {" and ".join(HELD)} alike in all rows of a run'
        )
