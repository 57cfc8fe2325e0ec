"""A row, what is wrong with it, and counts of each kind of error."""

import collections
import dataclasses
import math

MANY = 50  # names of columns that are told


class Row(dict):
  """A row that knows where it came from, for error messages."""

  def __init__(self, fields, where):
    super().__init__(fields)
    self.where = where


class RowError(ValueError):
  """One bad row. It may be skipped, and is then counted by its `reason`."""

  def __init__(self, message, reason):
    super().__init__(message)
    self.reason = reason


class LeftOut(str):
  """The reason why a reader has no use for a good row."""


def place(row):
  """The row's file and number, as far as it knows."""
  return getattr(row, 'where', 'a row')


def names_of(row):
  """The names of a row's fields, or the first of many."""
  names = sorted(row)
  return names if len(names) <= MANY else [*names[:MANY], '...']


def row_error(row, message, reason=None):
  """-> RowError whose one line begins with the row's file and number.

  Args:
    row: the Row.
    message: what was found, and what was expected.
    reason: what such rows are counted under. None: the message.
  """
  message = ' '.join(message.split())
  return RowError(f'{place(row)}: {message}', reason or message)


def field(row, name, kind):
  """row[name], which must be of exactly the type `kind`.

  Raises:
    RowError: one line naming file, row and field.
  """
  if name not in row:
    raise row_error(
      row, f'no field {name!r}; it has {names_of(row)}', f'no field {name!r}'
    )
  return typed(row, f'field {name!r}', row[name], kind)


def typed(row, name, value, kind):
  """The value, which must be a `kind`. Texts must also be encodable."""
  if type(value) is not kind:  # isinstance would take True for a number
    raise row_error(
      row,
      f'{name} is {value!r:.40}, expected {kind.__name__}',
      f'{name} is no {kind.__name__}',
    )
  if kind is str:
    _check_unicode(row, name, value)
  return value


def _check_unicode(row, name, text):
  try:
    text.encode()
  except UnicodeEncodeError as e:
    raise row_error(
      row,
      f'{name} has half a surrogate pair, {text[e.start]!a}, at {e.start}',
      f'{name} is no Unicode',
    ) from None


def text_field(row, name):
  """A str that is not blank."""
  text = field(row, name, str)
  if not text.strip():
    raise row_error(row, f'field {name!r} is empty')
  return text


def number(row, name, value):
  """A finite int or float, as a float."""
  if type(value) not in (int, float) or not math.isfinite(value):
    raise row_error(
      row,
      f'{name} is {value!r:.40}, expected a finite number',
      f'{name} is no finite number',
    )
  return float(value)


@dataclasses.dataclass
class Counts:
  """Outcomes of all rows: rows + more == kept + bad + dropped."""

  on_bad_row: str = 'error'  # or 'skip'
  max_bad_share: float = 0.05  # of the rows that may be skipped as bad
  rows: int = 0  # read
  more: int = 0  # examples of a row beyond its first
  kept: int = 0
  bad: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  dropped: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  notes: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )  # of kept examples, or rows
  found: tuple = (None, None, None)  # names of reader, format and columns
  ignored: set = dataclasses.field(default_factory=set)  # columns of good rows

  def __post_init__(self):
    if self.on_bad_row not in ('error', 'skip'):
      raise ValueError(
        f"on_bad_row={self.on_bad_row!r}, expected 'error' or 'skip'"
      )
    if not 0 <= self.max_bad_share <= 1:
      raise ValueError(
        f'max_bad_share={self.max_bad_share} is not within [0, 1]'
      )

  def skip(self, error):
    """Counts a RowError, or raises it."""
    if self.on_bad_row == 'error':
      raise error
    self.bad[error.reason] += 1

  def skip_line(self, error):
    """The same of a line that is no row."""
    self.rows += 1
    self.skip(error)

  def check(self, name, hint=''):
    """Raises ValueError if too many rows of the file `name` were bad.

    Args:
      hint: the end of the message.
    """
    bad = sum(self.bad.values())
    if bad > self.max_bad_share * (self.rows + self.more):
      reason, most = self.bad.most_common(1)[0]
      raise ValueError(
        f'{name}: {bad} of {self.rows + self.more} rows are bad, more than '
        f'max_bad_share={self.max_bad_share}; {most} of them: {reason}{hint}'
      )

  def balanced(self):
    """Whether every row is accounted for."""
    lost = sum(self.bad.values()) + sum(self.dropped.values())
    return self.rows + self.more == self.kept + lost
