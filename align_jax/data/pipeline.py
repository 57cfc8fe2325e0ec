"""From a file to Batches: read, encode, fit, stack. Every row is counted.

JAX is imported where arrays are made: `show_data` reads a file without it.
"""

import hashlib
import json
from typing import NamedTuple

import numpy as np

from align_jax.data import columns as columns_lib
from align_jax.data import detection, files, readers
from align_jax.data.examples import encode_example
from align_jax.data.found import Found, others, said_of
from align_jax.data.row import (
  Counts,
  LeftOut,
  RowError,
  names_of,
  row_error,
)
from align_jax.data.tokens import left_pad, right_pad

EARLY = 1000  # rows after which a mostly bad file is an error
DUPLICATE = 'a duplicate'
MANY = 1000  # names of ignored columns that are kept


class Limits(NamedTuple):
  """How many tokens fit, and what is done with longer rows."""

  LONG_PROMPT = 'drop', 'left', 'error'  # 'left' keeps the end
  LONG_COMPLETION = 'drop', 'right', 'error'  # 'right' keeps the beginning

  prompt_len: int | None = None  # S, BOS included. None: no limit
  completion_len: int | None = None  # T, EOS included
  long_prompt: str = 'error'  # one of LONG_PROMPT
  long_completion: str = 'error'  # one of LONG_COMPLETION

  def check(self):
    """Raises ValueError for an invalid limit."""
    for name, allowed in (
      ('long_prompt', self.LONG_PROMPT),
      ('long_completion', self.LONG_COMPLETION),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'{name}={getattr(self, name)!r}, expected one of {allowed}'
        )
    for name, least in (('prompt_len', 2), ('completion_len', 1)):
      size = getattr(self, name)
      if size is not None and size < least:
        raise ValueError(f'{name}={size} is below {least}')


# --- Examples ----------------------------------------------------------------


def _key(row):
  try:
    text = json.dumps(row, sort_keys=True, default=str)
  except (RecursionError, TypeError, ValueError) as e:
    raise row_error(row, f'too deep or odd a value: {e}', 'odd value') from None
  return hashlib.blake2b(text.encode(), digest_size=12).digest()


def read_examples(path, dataset=None, *, counts, duplicates='keep', **which):
  """Yields the examples of a file or hub data set.

  The caller counts the examples that it keeps.

  Args:
    path: see `files.rows`.
    dataset: a name in `readers.DATASETS`. None finds it by the first row.
    counts: Counts, updated. It decides what is done with bad rows.
    duplicates: 'keep' or 'drop' rows equal to an earlier row. They are counted
      either way.
    which: split, revision, config of a hub data set.
  Raises:
    RowError: a bad row, under on_bad_row='error'.
    ValueError, FileNotFoundError: too many bad rows, or see `files.rows`.
  """
  if duplicates not in ('keep', 'drop'):
    raise ValueError(f"duplicates={duplicates!r}, expected 'keep' or 'drop'")
  found, seen = Found(dataset), set()
  for row in files.rows(path, bad=counts.skip_line, **which):
    counts.rows += 1
    try:
      key = _key(row)
    except RowError as e:
      counts.skip(e)
      continue
    if key in seen:
      if duplicates == 'drop':
        counts.dropped[DUPLICATE] += 1
        continue
      counts.notes[DUPLICATE] += 1
    seen.add(key)
    yield from _examples(found, row, counts)
    if counts.rows == EARLY:
      counts.check(path, others(found))
  counts.check(path, others(found))
  counts.found = (found.dataset, found.format, found.columns)


def _examples(found, row, counts):
  try:
    made, ignored = found.examples(row)
  except RowError as e:
    named = found.dataset or e.reason == 'no known format'
    if counts.on_bad_row == 'error' and found.columns is None and named:
      raise RowError(f'{e}{others(found)}', e.reason) from None
    counts.skip(e)
    return
  counts.more += len(made) - 1
  if len(counts.ignored) < MANY:
    counts.ignored |= ignored
  for example in made:
    if isinstance(example, LeftOut):
      counts.dropped[str(example)] += 1
    else:
      yield example


def _asked_for(row, dataset, fields):
  """-> the rows that a task asks for. What it does not may not be meant."""
  read = detection.columns_of(dataset)
  if dataset == 'standard':
    read = row.keys() & {'text', 'label', 'prompt', 'completion'}
  columns_lib.check_read(row, read)
  made = list(readers.DATASETS[dataset]([row]))
  made = [x for x in made if not isinstance(x, LeftOut)]
  for one in made:
    if not one.keys() >= set(fields):
      raise row_error(
        row,
        f'task.dataset={dataset!r} yields {names_of(one)}, expected '
        f'{sorted(fields)}',
      )
  return made


def _fits(row, name, fields):
  try:
    return bool(_asked_for(row, name, fields))
  except RowError:
    return False


def task_rows(path, dataset, fields):
  """Yields the rows that a task asks for, as a reader makes them.

  Args:
    path: see `files.rows`.
    dataset: a name in `readers.DATASETS`, the configuration's `task.dataset`.
    fields: names that every row must have.
  Raises:
    RowError: a bad row.
    ValueError: no such reader, or its rows lack some of the fields.
  """
  if dataset not in readers.DATASETS:
    raise ValueError(
      f'task.dataset={dataset!r} is none of {sorted(readers.DATASETS)}'
    )
  first = True
  for row in files.rows(path):
    try:
      found = _asked_for(row, dataset, fields)
    except RowError as e:
      names = [x for x in readers.DATASETS if first and _fits(row, x, fields)]
      raise RowError(f'{e}{said_of(names)}', e.reason) from None
    yield from found
    first = False


# --- Tokens ------------------------------------------------------------------


def _too_long(encoded, what, length, limit):
  return RowError(
    f'{encoded.where}: {what} of {length} tokens, more than {what}_len={limit}',
    f'{what} over {limit} tokens',
  )


def fit(encoded, limits):
  """-> Encoded within the limits, and the reason to drop it (or None).

  Raises:
    RowError: it is too long, and the limits make that an error.
  """
  length = len(encoded.prompt)
  if limits.prompt_len is not None and length > limits.prompt_len:
    error = _too_long(encoded, 'prompt', length, limits.prompt_len)
    if limits.long_prompt == 'error':
      raise error
    if limits.long_prompt == 'drop':
      return encoded, error.reason
    encoded = _cut_left(encoded, limits.prompt_len)
  length = max(map(len, encoded.completions), default=0)
  if limits.completion_len is not None and length > limits.completion_len:
    error = _too_long(encoded, 'completion', length, limits.completion_len)
    if limits.long_completion == 'error':
      raise error
    if limits.long_completion == 'drop':
      return encoded, error.reason
    encoded = _cut_right(encoded, limits.completion_len)
    if len(set(map(tuple, encoded.completions))) < len(encoded.completions):
      return encoded, 'completions alike once they are cut'
  return encoded, None


def _cut_left(encoded, size):
  """Keeps the prompt's first token, which is BOS, and its last ones."""
  prompt = [encoded.prompt[0], *encoded.prompt[1 - size :]]
  notes = (*encoded.notes, f'prompt cut to {size} tokens, on the left')
  return encoded._replace(prompt=prompt, notes=notes)


def _cut_right(encoded, size):
  """Keeps the first tokens of every completion. A cut one has no EOS."""
  cut = lambda rows: [row[:size] for row in rows]
  notes = (*encoded.notes, f'completion cut to {size} tokens, on the right')
  return encoded._replace(
    completions=cut(encoded.completions),
    masks=cut(encoded.masks),
    notes=notes,
  )


def encode_examples(examples, encoder, limits, counts):
  """Yields every example as Encoded, or counts why it is left out.

  Args:
    examples: of `read_examples`, with the same counts.
    encoder, limits, counts: see `read`.
  """
  for example in examples:
    try:
      encoded = _encoded(encoder, example)
    except RowError as e:
      counts.skip(e)
      continue
    encoded, dropped = fit(encoded, limits)
    if dropped:
      counts.dropped[dropped] += 1
      continue
    counts.notes.update(encoded.notes)
    counts.kept += 1
    yield encoded


def _encoded(encoder, example):
  try:
    return encode_example(encoder, example)
  except RecursionError as e:
    raise RowError(
      f'{example.where}: too deep a value: {e}', 'odd value'
    ) from None


def read(path, encoder, limits=Limits(), dataset=None, *, counts=None, **how):
  """Yields every row of a file as Encoded, or counts why it is left out.

  Args:
    path, dataset, how: see `read_examples`.
    encoder: examples.Encoder.
    limits: Limits.
    counts: Counts. The default raises for bad rows.
  Raises:
    As `read_examples`. Also RowError for rows that are too long, if the limits
    make that an error. Such rows are never skipped as bad.
  """
  counts = Counts() if counts is None else counts
  limits.check()
  examples = read_examples(path, dataset, counts=counts, **how)
  yield from encode_examples(examples, encoder, limits, counts)
  counts.check(path)


# --- Arrays ------------------------------------------------------------------


def make_prompts(encoded, prompt_len):
  """A list of Encoded -> Prompts."""
  from align_jax.types import Prompts

  return Prompts(*left_pad([x.prompt for x in encoded], prompt_len))


def make_batch(encoded, prompt_len, completion_len):
  """Examples with completions as a Batch.

  A preference is G = 2 with rewards (1, 0), an unpaired one G = 1 with reward 1
  or 0. A demonstration is G = 1, with a mask of what the assistant says.

  Args:
    encoded: N of Encoded, N > 0, all with the same number of completions.
    prompt_len, completion_len: S and T.
  Raises:
    ValueError: no examples, examples that are too long, or completions that are
      none or differ in number.
  """
  import jax
  import jax.numpy as jnp

  from align_jax.types import Batch

  sizes = {len(x.completions): x.where for x in reversed(encoded)}
  if len(sizes) != 1 or 0 in sizes:
    raise ValueError(
      'a batch needs as many completions for each prompt, one or more; found '
      + (', '.join(f'{n} ({at})' for n, at in sorted(sizes.items())) or 'none')
    )
  prompts, prompt_valid = left_pad([x.prompt for x in encoded], prompt_len)
  ids = [ids for x in encoded for ids in x.completions]
  completions, valid = right_pad(ids, completion_len)
  mask = np.zeros_like(valid)
  mask[valid] = np.concatenate([m for x in encoded for m in x.masks])
  rewards = np.array([r for x in encoded for r in x.rewards], np.float32)
  batch = Batch(
    prompts=prompts,
    prompt_valid=prompt_valid,
    completions=completions,
    valid=valid,
    mask=mask,
    rewards=rewards,
    group_size=next(iter(sizes)),
  )
  return jax.tree.map(jnp.asarray, batch)
