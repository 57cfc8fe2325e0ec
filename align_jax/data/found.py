"""From a file's row to its examples: which reader, which format, what is left.

The first good row decides for the whole file.
"""

from align_jax.data import columns as columns_lib
from align_jax.data import detection, formats, nested, readers
from align_jax.data.row import LeftOut, Row, RowError, place, row_error

SAMPLE = 3  # bad rows of a file without a good one, for other readers to try
# Columns that are read together. Lines of a text have none that is misspelt.
KNOWN = (
  *(frozenset(columns) for columns, _ in formats.FORMATS.values()),
  *(
    frozenset(columns)
    for columns, _ in detection.SIGNATURES.values()
    if 'line' not in columns
  ),
  *(frozenset((name, 'chosen', 'rejected')) for name in readers.QUESTION),
)
OPTIONAL = frozenset((*columns_lib.ASIDES, 'tools'))


class Found:
  """The reader and the format of a file, from its first rows."""

  def __init__(self, dataset):
    if dataset not in (None, *readers.DATASETS):
      raise ValueError(
        f'dataset={dataset!r} is none of {sorted(readers.DATASETS)}'
      )
    self.dataset = dataset
    self.format = None
    self.columns = None  # of the first row that became an example
    self.spoken = None  # whether texts become messages, from the first row
    self.unread = []  # the first rows, as long as none is good

  def examples(self, row):
    """-> list of Example or LeftOut, columns that are ignored.

    Raises:
      RowError: a bad row.
    """
    try:
      return self._examples(row)
    except RecursionError as e:
      raise row_error(row, f'too deep a value: {e}', 'odd value') from None
    except RowError:
      if self.columns is None and len(self.unread) < SAMPLE:
        self.unread.append(row)
      raise

  def _examples(self, row):
    opened = nested.opened(row)
    name = self.dataset or detection.detect(opened)
    found = readers.DATASETS[name]([opened])
    made = [self._example(x, opened, name) for x in found]
    self.dataset, self.columns = name, self.columns or sorted(row)
    self.unread.clear()
    known = [read for _, read in made]
    return (
      [example for example, _ in made] or [LeftOut('not used by the reader')],
      row.keys() - set().union(*known),
    )

  def _example(self, made, row, name):
    """-> Example or LeftOut, names of the columns that it is made from."""
    read = detection.columns_of(name)
    if isinstance(made, LeftOut):
      return made, read
    labels = columns_lib.LABELS if columns_lib.takes_label(made) else ()
    made, label = columns_lib.labelled(Row(made, place(row)), row)
    form = self._form(made, row)
    columns, make = formats.FORMATS[form]
    made, more, spoken = self._joined(made, row)
    read = (read or set(columns)) | label | more
    optional = OPTIONAL | detection.columns_of(name)
    optional = optional if label else optional.union(labels)
    example = make(made)
    columns_lib.check_names(row, read, KNOWN, optional)
    columns_lib.check_read(row, read, form)
    self.format, self.spoken = form, spoken
    return example, read

  def _form(self, made, row):
    """The name of the file's format, which the row must not exceed."""
    if self.format:
      more = formats.fuller(made, self.format)
      if more:
        raise row_error(
          row,
          f'has {more}, and rows before it are {self.format!r} without: all '
          'rows of a file need the same columns',
          f'has {more}, which the first row has not',
        )
      return self.format
    try:
      return formats.detect(made)
    except RowError:
      columns_lib.check_names(row, (), KNOWN, OPTIONAL)
      raise

  def _joined(self, made, row):
    """-> the row with what is in columns of its own, their names, spoken."""
    system, turns, there = columns_lib.asides(row)
    spoken = there if self.spoken is None else self.spoken
    if spoken:
      made = columns_lib.spoken(made)
    joined = columns_lib.after(made, system, turns)
    if joined is None:
      if self.spoken is False and (system or turns):
        raise row_error(
          row,
          f'has one of {columns_lib.ASIDES}, which the first row has not: give '
          'all rows that column, or none',
          'a system prompt or history that the first row has not',
        )
      return made, set(), spoken
    if row.get('tools') and 'tools' not in joined:
      joined = Row({**joined, 'tools': row['tools']}, place(row))
    return joined, {*columns_lib.ASIDES, 'tools'}, spoken


def others(found):
  """Says which readers read the first rows, as the last part of an error."""
  names = [
    name
    for name in readers.DATASETS
    if found.unread and all(_reads(name, row) for row in found.unread)
  ]
  return said_of(names)


def said_of(names):
  """The end of an error: the readers that would read what this one did not."""
  return f'; read by dataset={" or ".join(map(repr, names))}' if names else ''


def _reads(name, row):
  try:
    made, _ = Found(name).examples(row)
  except RowError:
    return False
  return not any(isinstance(x, LeftOut) for x in made)
