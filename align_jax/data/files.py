"""Rows of local files and of Hugging Face data sets, one after the other."""

import csv
import gzip
import hashlib
import json
import pathlib
import zlib

from align_jax.data.row import Row, RowError

MAX_LINE_BYTES = 64 * 2**20
# A .csv file has only texts. These columns are read as JSON values.
CSV_VALUES = frozenset(
  ('label', 'preference', 'score', 'score_chosen', 'score_rejected', 'margin')
)
ENCODINGS = {b'\xff\xfe': 'UTF-16', b'\xfe\xff': 'UTF-16', b'\x1f\x8b': 'gzip'}


def _raise(error):
  raise error


# --- Text files --------------------------------------------------------------


def _lines(file, path):
  """Yields (number, bytes or RowError) for every line.

  Lines end only at LF. Texts contain U+0085, U+2028 and others, where
  str.splitlines would cut.
  """
  number = 0
  while line := file.readline(MAX_LINE_BYTES + 1):
    number += 1
    if number == 1:
      line = _without_mark(line, path)
    if len(line) > MAX_LINE_BYTES and not line.endswith(b'\n'):
      while line and not line.endswith(b'\n'):
        line = file.readline(MAX_LINE_BYTES)
      line = RowError(
        f'{path} row {number}: a line of more than {MAX_LINE_BYTES} bytes',
        'line too long',
      )
    yield number, line


def _without_mark(line, path):
  if line[:2] in ENCODINGS:
    raise ValueError(
      f'{path}: is {ENCODINGS[line[:2]]}, expected UTF-8 (or gzip with a name '
      'that ends in .gz)'
    )
  return line.removeprefix(b'\xef\xbb\xbf')


def _decode(line, where):
  if isinstance(line, RowError):
    raise line
  try:
    return line.decode()
  except UnicodeDecodeError as e:
    raise RowError(
      f'{where}: not UTF-8: {e.reason} at byte {e.start}', 'not UTF-8'
    ) from None


def _parse(text, where):
  def pairs(items):
    value = dict(items)
    if len(value) < len(items):
      names = [name for name, _ in items]
      twice = next(name for name in names if names.count(name) > 1)
      raise RowError(f'{where}: field {twice!r:.40} twice', 'a field twice')
    return value

  try:
    return json.loads(text, object_pairs_hook=pairs)
  except RowError:
    raise
  except json.JSONDecodeError as e:
    at = f'{where}: ' if text.count('\n') < 2 else f'{where} line {e.lineno}: '
    raise RowError(f'{at}not JSON: {e.msg}', 'not JSON') from None
  except (ValueError, RecursionError) as e:  # thousands of digits or brackets
    raise RowError(f'{where}: not JSON: {e}', 'not JSON') from None


def _as_row(value, where):
  if not isinstance(value, dict):
    raise RowError(
      f'{where}: expected a JSON object, got {type(value).__name__}',
      'no JSON object',
    )
  return Row(value, where)


def _each(values, make, bad):
  """Yields make(value) for each. `bad` gets the RowErrors."""
  for value in values:
    try:
      row = make(value)
    except RowError as e:
      bad(e)
      continue
    yield row


def _jsonl(file, path, bad):
  def make(numbered):
    where = f'{path} row {numbered[0]}'
    return _as_row(_parse(_decode(numbered[1], where), where), where)

  lines = _lines(file, path)
  filled = (x for x in lines if isinstance(x[1], RowError) or x[1].strip())
  yield from _each(filled, make, bad)


def _json(file, path, bad):
  text = _decode(_without_mark(file.read(), path), path)
  values = _parse(text, path)
  if not isinstance(values, list):
    raise ValueError(f'{path}: a .json file holds one array of objects')
  make = lambda x: _as_row(x[1], f'{path} row {x[0]}')
  yield from _each(enumerate(values, 1), make, bad)


def _txt(file, path, bad):
  def make(numbered):
    where = f'{path} row {numbered[0]}'
    text = _decode(numbered[1], where)
    text = text.removesuffix('\n').removesuffix('\r')
    return Row({'line': numbered[0], 'text': text}, where)

  yield from _each(_lines(file, path), make, bad)


def _csv_value(name, cell, where):
  if name not in CSV_VALUES:
    return cell
  lower = cell.strip().lower()
  return _parse(lower, f'{where} field {name!r}')


def _csv_records(file, path):
  """Yields (first line, cells). A broken quote is an error of the file."""
  csv.field_size_limit(MAX_LINE_BYTES)
  decoded = (_decode(x, f'{path} row {n}') for n, x in _lines(file, path))
  reader, first = csv.reader(decoded, strict=True), 1
  try:
    for cells in reader:
      if cells:
        yield first, cells
      first = reader.line_num + 1
  except csv.Error as e:
    raise ValueError(f'{path} row {first}: not CSV: {e}') from None


def _csv(file, path, bad):
  records = _csv_records(file, path)
  _, names = next(records, (1, []))
  if len(set(names)) < len(names) or not all(names):
    raise ValueError(
      f'{path} row 1: expected a line of distinct column names, got {names}'
    )

  def make(record):
    first, cells = record
    where = f'{path} row {first}'
    if len(cells) != len(names):
      raise RowError(
        f'{where}: {len(cells)} cells, expected {len(names)}', 'other cells'
      )
    fields = zip(names, cells)
    return Row({k: _csv_value(k, v, where) for k, v in fields}, where)

  yield from _each(records, make, bad)


def _parquet(file, path, bad):
  import pyarrow
  import pyarrow.parquet

  try:
    table, number = pyarrow.parquet.ParquetFile(file), 0
    for batch in table.iter_batches(1024):
      for number, fields in enumerate(batch.to_pylist(), number + 1):
        yield Row(fields, f'{path} row {number}')
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as e:
    reason = ' '.join(str(e).split())
    raise ValueError(f'{path}: not a Parquet file: {reason}') from None


READERS = {  # by how a name ends; all but .parquet also with .gz
  '.jsonl': _jsonl,
  '.json': _json,
  '.csv': _csv,
  '.txt': _txt,
  '.parquet': _parquet,
}


# --- Names -------------------------------------------------------------------


def _reader(path):
  """-> the reader for a file of that name, None if there is none."""
  name = path.name.removesuffix('.gz')
  ends = [end for end in READERS if name.endswith(end)]
  if not ends or (path.suffix == '.gz' and ends == ['.parquet']):
    return None
  return READERS[ends[0]]


def local_path(path_or_id):
  """The path if this names a local file, None if it is a hub id.

  Raises:
    FileNotFoundError: it looks like a path, and nothing is there.
    ValueError: something is there that `rows` cannot read.
  """
  text = str(path_or_id)
  path = pathlib.Path(text).expanduser()
  if path.is_file():
    if _reader(path) is None:
      raise ValueError(
        f'{path}: reads only {", ".join(READERS)}; all but .parquet also as .gz'
      )
    return path
  if path.exists():
    kind = 'a folder' if path.is_dir() else 'no regular file'
    raise ValueError(f'{path}: is {kind}, expected a file')
  if path.suffix in (*READERS, '.gz') or text.startswith(('.', '/', '~')):
    raise FileNotFoundError(f'{path}: no such file')
  return None


def _hub_rows(path, split, **which):
  import datasets

  which = {k: v for k, v in which.items() if v is not None}
  try:
    dataset = datasets.load_dataset(path, split=split, **which)
  except Exception as e:  # many kinds: no network, no such set, no such split
    reason = (str(e).strip() or 'no reason given').split('\n')[0]
    raise ValueError(
      f'{path!r} is no local file, and could not be loaded as a Hugging Face '
      f'data set (split {split!r}): {type(e).__name__}: {reason} -- a local '
      'file ends in .jsonl, one JSON object such as {"text": "Great.", '
      '"label": 1} a line, or in .json, one array of them; .gz may follow'
    ) from e
  for number, row in enumerate(dataset, 1):
    yield _as_row(row, f'{path} [{split}] row {number}')


def _file_rows(path, bad):
  packed = path.suffix == '.gz'
  with (gzip.open if packed else open)(path, 'rb') as file:
    yield from _reader(path)(file, path, bad)


def rows(path_or_id, split='train', *, revision=None, config=None, bad=_raise):
  """Yields the rows of a local file or of a Hugging Face data set.

  Files are read as they are consumed, except .json, which is one value.

  Args:
    path_or_id: a hub id, such as 'stanfordnlp/imdb', or a file: .jsonl (an
      object per line, blank lines are skipped), .json (one array of objects),
      .csv (its first line names the columns), .txt (a row with `line` and
      `text` per line) or .parquet. All but the last may end in .gz.
    split, revision, config: of a hub data set. A local file has none.
    bad: called with the RowError of a line that is no row, which is then
      skipped. The default raises it.
  Raises:
    FileNotFoundError: what looks like a path is not there.
    ValueError: one line naming file and row: not UTF-8, not gzip, not JSON, not
      an object, no row at all. Or a hub data set that cannot be loaded. `bad`
      never gets an error of the whole file, such as a cut-off .gz.
  """
  path = local_path(path_or_id)
  if path is None:
    found = _hub_rows(str(path_or_id), split, revision=revision, name=config)
  else:
    found = _guarded(path, bad)
  yield from found


def _guarded(path, bad):
  empty = True

  def told(error):
    nonlocal empty
    empty = False
    bad(error)

  try:
    for row in _file_rows(path, told):
      empty = False
      yield row
  except (EOFError, gzip.BadGzipFile, zlib.error) as e:
    raise ValueError(f'{path}: broken gzip file: {e}') from None
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: no such file') from None
  except OSError as e:
    raise ValueError(f'{path}: cannot be read: {e.strerror or e}') from None
  if empty:
    raise ValueError(f'{path}: no rows, the file is empty')


def fingerprint(path_or_id):
  """The key of this data in a cache.

  It is a local file's content, so that the file may move, or a hub id.
  """
  path = local_path(path_or_id)
  if path is None:
    return str(path_or_id)
  return 'sha256:' + hashlib.sha256(path.read_bytes()).hexdigest()
