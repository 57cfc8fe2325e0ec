"""Columns beside those of a format: read, refused, or listed as ignored.

A system prompt and earlier turns become the first messages of a row. Another
column that says how a row is meant makes it a bad row.
"""

import functools

from align_jax.data.messages import MARKS, MEDIA, said
from align_jax.data.row import Row, place, row_error, typed

SYSTEM = ('system', 'system_prompt', 'system_message')
HISTORY = ('history', 'chat_history')
ASIDES = (*SYSTEM, *HISTORY)
QUESTIONS = ('prompt', 'instruction', 'question', 'query', 'input', 'context')
RULES = ('weight', 'train', 'loss_mask', 'functions', 'documents')
# Beside `chosen` and `rejected` alone, what may be their prompt.
BEFORE = ('text', 'problem', 'user', 'user_prompt', 'request', 'post', 'title')
TURNS = ('messages', 'conversations', 'conversation')
MEANT = (*ASIDES, *QUESTIONS, *TURNS, *MEDIA, *RULES)
MEANT = (*MEANT, 'chat_template_kwargs', 'tools')
LABELS = ('label', 'kto_tag')  # of a single answer
SIDES = ('chosen', 'rejected', 'completion')


def _empty(value):
  blank = isinstance(value, str) and not value.strip()
  return value is None or blank or value == [] or value == {}


def _texts(value):
  """Yields every text within a value, except those that say whose it is."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, dict):
    own = (x for k, x in value.items() if k not in ('role', 'from'))
    yield from (t for x in own for t in _texts(x))
  elif isinstance(value, list | tuple):
    yield from (t for x in value for t in _texts(x))


# --- What is read ------------------------------------------------------------


def asides(row):
  """Messages of the row's system prompt and history, and whether it has such.

  Raises:
    RowError: two system prompts, or values of another type.
  """
  first, turns = [], []
  for name in SYSTEM:
    if not _empty(row.get(name)):
      first.append(typed(row, f'field {name!r}', row[name], str))
  if len(set(first)) > 1:
    raise row_error(row, f'two system prompts, in columns of {SYSTEM}')
  for name in HISTORY:
    if not _empty(row.get(name)):
      turns += _history(row, name)
  system = [said('system', text) for text in first[:1]]
  return system, turns, any(name in row for name in ASIDES)


def _history(row, name):
  """[[question, answer], ...], or messages."""
  turns = []
  for item in typed(row, f'field {name!r}', row[name], list):
    if isinstance(item, dict):
      turns.append(item)
    elif isinstance(item, list | tuple) and len(item) == 2:
      turns += map(said, ('user', 'assistant'), item)
    else:
      raise row_error(
        row,
        f'field {name!r} has {item!r:.40}, expected [question, answer]',
        f'field {name!r}: no turns',
      )
  return turns


def labelled(made, row):
  """-> a row of one answer with the label of the file's row, what was read."""
  if not takes_label(made):
    return made, set()
  names = [name for name in LABELS if type(row.get(name)) is bool]
  for name in LABELS:
    if name not in names and is_label(row.get(name)):
      raise row_error(
        row,
        f'field {name!r} is {row[name]!r:.40}, expected true or false',
        f'field {name!r} is no true or false',
      )
  if not names:
    return made, set()
  return Row({**made, 'label': row[names[0]]}, place(made)), {names[0]}


def takes_label(made):
  """Whether a reader's row is one answer, without a label yet."""
  return not made.keys() & {'label', 'chosen', 'completions', 'text'}


def is_label(value):
  """Whether a value says that an answer is good or bad, in whatever type."""
  if isinstance(value, str):
    return value.strip().lower() in ('true', 'false', '0', '1')
  return isinstance(value, bool | int | float) and value in (0, 1)


def spoken(made):
  """A row of texts as one of messages; another row as it is."""
  if not isinstance(made.get('prompt'), str):
    return made
  found = {'prompt': [said('user', made['prompt'])]}
  answer = lambda x: [said('assistant', x)] if isinstance(x, str) else x
  found |= {name: answer(made[name]) for name in SIDES if name in made}
  if isinstance(made.get('completions'), list):
    found['completions'] = [answer(x) for x in made['completions']]
  return Row({**made, **found}, place(made))


def after(made, system, turns):
  """A row of messages that begin with these; None if it has none."""
  names = [x for x in ('prompt', 'messages') if isinstance(made.get(x), list)]
  sides = ('chosen', 'rejected')
  if not names and all(isinstance(made.get(x), list) for x in sides):
    names = sides
  if not names:
    return None
  if 'messages' in names:  # whose answers are learned from, not those before
    turns = [{**x, MARKS[0]: 0} if _is_answer(x) else x for x in turns]
  found = {name: _after(made, made[name], system, turns) for name in names}
  return Row({**made, **found}, place(made))


def _is_answer(message):
  return message.get('role') == 'assistant'


def _after(row, value, system, turns):
  start = value[:1]
  if start and isinstance(start[0], dict) and start[0].get('role') == 'system':
    if system and start != system:
      raise row_error(
        row, 'a system prompt in a column, and another in the messages'
      )
    system, value = start, value[1:]
  return [*system, *turns, *value]


# --- What is not -------------------------------------------------------------


def check_read(row, read, form=''):
  """Refuses a field that says how the row is meant, and that nothing reads.

  A text that stands in a field which is read is not lost.

  Args:
    row: as the file has it.
    read: names of the columns that are read.
    form: a name in `formats.FORMATS`. To a whole text questions add nothing.
  Raises:
    RowError: names the field.
  """
  implicit = BEFORE if form == 'implicit_preference' else ()
  for name in (*MEANT, *implicit):
    value = row.get(name)
    if name in read or _empty(value):
      continue
    if form == 'text' and name in QUESTIONS:
      continue
    if name in RULES and type(value) in (bool, int, float) and value == 1:
      continue
    if isinstance(value, str | list) and _stands(row, value, read):
      continue
    raise row_error(
      row,
      f'field {name!r} is {value!r:.40}, which is not read beside '
      f'{sorted(read & row.keys())}: put it into them, or take it out',
      f'field {name!r} is not read',
    )


def _stands(row, value, read):
  """Whether all texts of a value, at least one, are in what is read."""
  others = list(_texts({name: row[name] for name in read if name in row}))
  found = [x.strip() for x in _texts(value)]
  return bool(found) and all(any(x in y for y in others) for x in found)


def check_names(row, read, known, optional):
  """Refuses a column that is a known one, but for an edit.

  Args:
    row: as the file has it.
    read: names of the columns that are read.
    known: frozensets of columns that are read together.
    optional: frozenset of names that may be read too.
  Raises:
    RowError: names the column and what it may be.
  """
  read, columns = frozenset(read), frozenset(row)
  for name, meant in misspelt(columns, read, known, optional):
    value = row[name]
    text = isinstance(value, str) and _stands(row, value, read)
    if not _empty(value) and not text and _may_be(meant, value):
      raise row_error(
        row,
        f'column {name!r} is not read, did you mean {meant!r}?',
        f'column {name!r}',
      )


def _may_be(name, value):
  return name not in LABELS or is_label(value)


@functools.lru_cache(maxsize=256)
def misspelt(columns, read, known, optional):
  """-> list of (column, known name that is missing).

  It is one edit from the only name that is missing, or but for case and spaces
  any name.
  """
  lacking = [x - columns for x in known if len(x) > 1]
  wanted = {name for x in lacking if len(x) == 1 for name in x}
  wanted |= optional - columns
  others = sorted(columns - read)
  found = [(x, y) for x in others for y in sorted(wanted) if near(x, y)]
  every = sorted({name for x in lacking for name in x} - wanted)
  return [*found, *((x, y) for x in others for y in every if plain(x) == y)]


def plain(name):
  """A column's name but for case, spaces around it and hyphens."""
  return name.strip().lower().replace('-', '_')


def near(one, other):
  """Whether two names differ by one edit at most, or in case."""
  one, other = plain(one), plain(other)
  if len(one) != len(other):
    short, long = sorted((one, other), key=len)
    cut = (long[:i] + long[i + 1 :] for i in range(len(long)))
    return len(long) == len(short) + 1 and short in cut
  at = [i for i, (a, b) in enumerate(zip(one, other)) if a != b]
  if len(at) < 2:
    return True
  first, last = at[0], at[-1]
  swapped = one[first : last + 1] == other[first : last + 1][::-1]
  return len(at) == 2 and last == first + 1 and swapped
