"""Judged pairs: two completions of a prompt, and who found which one better.

Each function generates Judged rows from the rows of a published data set. A
Judged row has `prompt`, a list of messages, and `first` and `second`, texts. It
has `votes`, one per annotator: 1 for the first, 0 for the second, 0.5 for a
tie. `preferences` turns Judged rows into pairs for training.
"""

import collections
import itertools

from align_jax.data.messages import said
from align_jax.data.row import (
  LeftOut,
  Row,
  field,
  number,
  place,
  row_error,
  text_field,
  typed,
)

TIE = 'a tie'


def instructed(row):
  """`instruction`, and `input` if there is any, as one question."""
  question = text_field(row, 'instruction')
  if row.get('input') is not None:
    extra = field(row, 'input', str)
    question += f'\n\n{extra}' if extra.strip() else ''
  return [said('user', question)]


def _judged(row, prompt, sides, votes):
  first, second = (text_field(row, name) for name in sides)
  made = dict(prompt=prompt, first=first, second=second, votes=votes)
  return Row(made, place(row))


def _vote(row, name, value, known):
  """The vote of a label, from the table of its data set."""
  value = number(row, name, value)
  if value not in known:
    names = ', '.join(f'{x:g}' for x in known)
    raise row_error(
      row, f'{name} is {value:g}, expected one of {names}', f'{name}: no choice'
    )
  return known[value]


def alpaca(row):
  """AlpacaFarm's rows: `instruction`, two outputs and one `preference`."""
  votes = {1: 1.0, 2: 0.0, 0: 0.5, 1.5: 0.5}
  vote = _vote(row, "field 'preference'", row.get('preference'), votes)
  yield _judged(row, instructed(row), ('output_1', 'output_2'), [vote])


def pandalm(row):
  """PandaLM's rows: `instruction`, two responses and three annotators."""
  votes = [
    _vote(row, f'field {name!r}', row.get(name), {1: 1.0, 2: 0.0, 0: 0.5})
    for name in ('annotator1', 'annotator2', 'annotator3')
  ]
  yield _judged(row, instructed(row), ('response1', 'response2'), votes)


def autoj(row):
  """Auto-J's rows: `prompt`, two responses and one `label`."""
  known = {0: 1.0, 1: 0.0, 2: 0.5}
  vote = _vote(row, "field 'label'", row.get('label'), known)
  prompt = [said('user', text_field(row, 'prompt'))]
  yield _judged(row, prompt, ('response 1', 'response 2'), [vote])


def qa_feedback(row):
  """Six comparisons of four predictions. The passages follow the question."""
  found = field(row, 'preference', list)
  pairs = list(itertools.combinations(range(1, 5), 2))
  if len(found) != len(pairs):
    raise row_error(
      row, f"field 'preference' has {len(found)} items, expected {len(pairs)}"
    )
  parts = [text_field(row, 'question')]
  for i, passage in enumerate(field(row, 'passages', list), 1):
    typed(row, "field 'passages' item", passage, list)
    name = f"field 'passages' item {i}"
    parts.append('\n'.join(typed(row, name, x, str) for x in passage))
  prompt = [said('user', '\n\n'.join(parts))]
  for (i, j), value in zip(pairs, found):
    known = {1: 1.0, 2: 0.0, 0: 0.5}
    vote = _vote(row, "field 'preference' item", value, known)
    sides = f'prediction {i}', f'prediction {j}'
    yield _judged(row, prompt, sides, [vote])


def majority(votes):
  """The most frequent vote, or a tie, 0.5, if several are most frequent."""
  (vote, most), *others = collections.Counter(votes).most_common()
  return 0.5 if others and others[0][1] == most else vote


def preferences(rows):
  """Judged rows as preferences, by the majority of their votes.

  Yields:
    rows with `prompt`, `chosen` and `rejected`. Ties are left out.
  """
  for row in rows:
    vote = majority(row['votes'])
    if vote == 0.5:
      yield LeftOut(TIE)
      continue
    sides = row['first'], row['second']
    chosen, rejected = sides if vote else sides[::-1]
    made = dict(
      prompt=row['prompt'],
      chosen=[said('assistant', chosen)],
      rejected=[said('assistant', rejected)],
    )
    yield Row(made, place(row))


COMPARISONS = {  # by the name of the reader in DATASETS: row -> Judged rows
  'alpaca_pairs': alpaca,
  'pandalm': pandalm,
  'autoj': autoj,
  'qa_feedback': qa_feedback,
}
