"""Rows of local files and of Hugging Face data sets, one after the other."""

import csv
import gzip
import hashlib
import zlib

from align_jax.data import shards
from align_jax.data.nested import parse, without_nulls
from align_jax.data.row import Row, RowError

MAX_LINE_BYTES = 64 * 2**20
LONGEST = 16  # times as long a line, which is not even skipped
# A packed file may become so many times larger, and any file MOST bytes.
EXPANSION, MOST = 200, 64 * 2**20
ARRAY_VALUES, ARRAY_BYTES = 2**24, 2**30  # of a .json file; of a .json.gz
# Rows of Parquet that are held at once: bytes, and the least number.
BATCH_BYTES, FEW = 256 * 2**20, 16
# A .csv file has only texts. These columns are read as JSON values, where they
# hold one.
CSV_VALUES = frozenset(
  (
    'label',
    'kto_tag',
    'preference',
    'score',
    'score_chosen',
    'score_rejected',
    'margin',
  )
)
ENCODINGS = {b'\xff\xfe': 'UTF-16', b'\xfe\xff': 'UTF-16', b'\x1f\x8b': 'gzip'}


def _raise(error):
  raise error


class _Bounded:
  """A file that may not expand without end."""

  def __init__(self, file, path):
    self._file, self._path = file, path
    self._left = most_bytes(path)

  def readline(self, size):
    return self._counted(self._file.readline(size))

  def read(self):
    """All of it. What is packed must fit into memory."""
    packed = self._path.suffix == '.gz'
    self._left = min(self._left, ARRAY_BYTES) if packed else self._left
    return self._counted(self._file.read(self._left + 1))

  def _counted(self, content):
    self._left -= len(content)
    if self._left < 0:
      raise _expands(self._path)
    return content


def most_bytes(path):
  """What a file may expand to."""
  return max(MOST, EXPANSION * path.stat().st_size)


def _expands(path):
  return ValueError(
    f'{path}: expands to more than {EXPANSION} times its size'
    f' and {MOST} bytes, or than is held at once'
  )


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
      line = _rest(file, f'{path} row {number}')
    yield number, line


def _rest(file, where):
  """Skips the rest of a line that is too long. -> the error of the row."""
  for _ in range(LONGEST):
    line = file.readline(MAX_LINE_BYTES)
    if not line or line.endswith(b'\n'):
      return RowError(
        f'{where}: a line of more than {MAX_LINE_BYTES} bytes', 'line too long'
      )
  raise ValueError(
    f'{where}: a line of more than {LONGEST * MAX_LINE_BYTES} bytes'
  )


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
    return _as_row(parse(_decode(numbered[1], where), where), where)

  lines = _lines(file, path)
  filled = (x for x in lines if isinstance(x[1], RowError) or x[1].strip())
  yield from _each(filled, make, bad)


def _json(file, path, bad):
  text = _decode(_without_mark(file.read(), path), path)
  values = parse(text, path, ARRAY_VALUES)
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
  try:
    return parse(cell.strip().lower(), where)
  except RowError:  # a text, which whoever reads the column names
    return cell


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
  # pandas writes its index as a first column without a name.
  if len(set(names)) < len(names) or not all(names[1:]) or names in ([], ['']):
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
  import pyarrow.parquet

  table = pyarrow.parquet.ParquetFile(file)
  groups = map(table.metadata.row_group, range(table.num_row_groups))
  sizes = [group.total_byte_size for group in groups]
  if sum(sizes) > most_bytes(path):
    raise _expands(path)
  # A value of a dictionary may be that of many rows.
  size = min(1024, max(FEW, BATCH_BYTES // max([1, *sizes])))
  yield from _arrow_rows(table.iter_batches(size), path, bad)


def _arrow(file, path, bad):
  """What Arrow calls a stream, as `datasets` saves it, or a file of it."""
  import pyarrow

  start = file.read(6)
  file.seek(0)
  if start == b'ARROW1':
    table = pyarrow.ipc.open_file(file)
    batches = map(table.get_batch, range(table.num_record_batches))
  else:
    batches = pyarrow.ipc.open_stream(file)
  yield from _arrow_rows(batches, path, bad)


def _arrow_rows(batches, path, bad):
  number, left = 0, most_bytes(path)
  for batch in batches:
    batch.validate(full=True)  # else damaged offsets would end the process
    names = batch.schema.names
    if twice := [x for x in dict.fromkeys(names) if names.count(x) > 1]:
      raise ValueError(f'{path}: expected distinct columns, got two {twice}')
    left -= batch.nbytes
    if left < 0:
      raise _expands(path)
    opened = {f.name: _json_within(f.type) for f in batch.schema}
    rows = batch.to_pylist(maps_as_pydicts='strict')

    def make(numbered, opened=opened):
      where = f'{path} row {numbered[0]}'
      fields = {k: without_nulls(v) for k, v in numbered[1].items()}
      return Row({k: opened[k](v, where) for k, v in fields.items()}, where)

    yield from _each(enumerate(rows, number + 1), make, bad)
    number += len(rows)


def _json_within(kind):
  """-> (value, where) -> value, with what Arrow types as JSON parsed."""
  import pyarrow
  from pyarrow import types

  if isinstance(kind, getattr(pyarrow, 'JsonType', ())):
    return lambda x, where: x if x is None else parse(x, where)
  if types.is_struct(kind):
    fields = [kind.field(i) for i in range(kind.num_fields)]
    inner = {f.name: _json_within(f.type) for f in fields}
    return lambda x, where: x and {k: inner[k](v, where) for k, v in x.items()}
  if types.is_list(kind) or types.is_large_list(kind):
    item = _json_within(kind.value_type)
    return lambda x, where: x and [item(v, where) for v in x]
  return lambda x, where: x


def _of_arrow(read, kind):
  """-> a reader whose errors are of the whole file."""

  def rows(file, path, bad):
    import pyarrow

    built_in = OSError, LookupError, MemoryError, OverflowError
    try:
      yield from read(file, path, bad)
    except (pyarrow.ArrowException, ValueError, *built_in) as e:
      if str(e).startswith(str(path)):
        raise
      reason = ' '.join(str(e).split())
      raise ValueError(f'{path}: not {kind} file: {reason}') from None

  return rows


READERS = {  # by how a name ends, see `shards.ENDINGS`
  '.jsonl': _jsonl,
  '.json': _json,
  '.csv': _csv,
  '.txt': _txt,
  '.parquet': _of_arrow(_parquet, 'a Parquet'),
  '.arrow': _of_arrow(_arrow, 'an Arrow'),
}


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
    fields = {k: without_nulls(v) for k, v in row.items()}
    yield Row(fields, f'{path} [{split}] row {number}')


def _file_rows(path, bad):
  read = READERS[shards.ending(path)]
  packed = path.suffix == '.gz'
  with (gzip.open if packed else open)(path, 'rb') as file:
    binary = shards.ending(path) in shards.BINARY
    yield from read(file if binary else _Bounded(file, path), path, bad)


def rows(source, split='train', *, revision=None, config=None, bad=_raise):
  """Yields the rows of local files or of a Hugging Face data set.

  Files are read as they are consumed, except .json, which is one value.

  Args:
    source: a hub id, such as 'stanfordnlp/imdb', or a file: .jsonl (an object
      per line, blank lines are skipped), .json (one array of objects), .csv
      (its first line names the columns), .txt (a row with `line` and `text`
      per line), .parquet or .arrow. All but the last two may end in .gz. Also
      a folder of such files, a text with * for some of them, or a tuple of
      several; see `shards.local_paths`.
    split, config: of a hub data set or of a folder. A local file has none.
    revision: of a hub data set.
    bad: called with the RowError of a line that is no row, which is then
      skipped. The default raises it.
  Raises:
    FileNotFoundError: what looks like a path is not there.
    ValueError: one line naming file and row: not UTF-8, not gzip, not JSON, not
      an object, no row at all, far larger than it is packed. Or a hub data set
      that cannot be loaded. `bad` never gets an error of the whole file, such
      as a cut-off .gz.
  """
  paths = shards.local_paths(source, split, config)
  if paths is None:
    yield from _hub_rows(str(source), split, revision=revision, name=config)
  for path in paths or ():
    yield from _guarded(path, bad)


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


def fingerprint(source, split='train', config=None):
  """The key of this data in a cache.

  It is the content of local files, so that they may move, or a hub id.
  """
  paths = shards.local_paths(source, split, config)
  if paths is None:
    return str(source)
  found = [_digest(path) for path in paths]
  if len(found) > 1:
    found = [hashlib.sha256(' '.join(found).encode()).hexdigest()]
  return f'sha256:{found[0]}'


def _digest(path):
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
