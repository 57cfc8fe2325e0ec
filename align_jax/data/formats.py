"""Row formats: from a row's columns to a prompt and its scored completions.

A prompt and its completions are either texts, joined as they are, or lists of
messages, which a chat template turns into text. `columns` says what becomes of
columns that a format does not name.
"""

import os
import re
from typing import Any, NamedTuple

from align_jax.data import nested
from align_jax.data.messages import (
  check_marks,
  ends_with,
  learned,
  messages,
  shared_beginning,
)
from align_jax.data.row import (
  field,
  names_of,
  number,
  place,
  row_error,
  text_field,
  typed,
)

ASKS = ('user', 'tool')


class Example(NamedTuple):
  """A prompt with G completions, each with a reward. A prompt alone: G = 0."""

  format: str  # a name in FORMATS
  prompt: Any  # str, or list of messages; '' for a whole text
  completions: list  # G of the prompt's type
  rewards: list[float]  # G
  where: str
  tools: list | None = None  # JSON schemas for the chat template


def _side(row, name, prompt):
  """row[name] as an answer to the prompt: a text or messages, not empty."""
  if isinstance(prompt, str):
    return text_field(row, name)
  return _answer(row, f'field {name!r}', field(row, name, list), prompt)


def _answer(row, name, value, prompt):
  last = prompt[-1]['role']
  after = 'user' if last == 'assistant' else last  # continues that message
  return ends_with(row, name, messages(row, name, value, after), ['assistant'])


def _prompt(row):
  if isinstance(row.get('prompt'), list):
    return messages(row, "field 'prompt'", row['prompt'])
  return text_field(row, 'prompt')


def _example(format, row, prompt, completions, rewards):
  if isinstance(prompt, list) and completions:
    check_marks(row, prompt, False)
    for side in completions:
      check_marks(row, side, True)
  tools = nested.tools(row)
  if tools and isinstance(prompt, list):
    prompt = nested.without_filled(prompt, tools)
    completions = [nested.without_filled(x, tools) for x in completions]
  return Example(format, prompt, completions, rewards, place(row), tools)


def text(row):
  """`text`: all of it is learned from."""
  return _example('text', row, '', [text_field(row, 'text')], [1.0])


def conversation(row):
  """`messages`: what the assistant says is a demonstration.

  The first answers may be marked as not to be learned from.
  """
  said = messages(row, "field 'messages'", field(row, 'messages', list))
  ends_with(row, "field 'messages'", said, ['assistant'])
  answers = [i for i, x in enumerate(said) if x['role'] == 'assistant']
  ours = (i for i in answers if learned(row, said[i]) is not False)
  first = next(ours, answers[0])
  return _example('messages', row, said[:first], [said[first:]], [1.0])


def prompt_only(row):
  """`prompt` alone: no completions."""
  return _example('prompt', row, _prompt(row), [], [])


def demonstration(row):
  """`prompt` and `completion`: a demonstration."""
  prompt = _prompt(row)
  side = _side(row, 'completion', prompt)
  return _example('prompt_completion', row, prompt, [side], [1.0])


def unpaired(row):
  """`prompt` and `completion`, which a true or false `label` rates."""
  prompt = _prompt(row)
  side = _side(row, 'completion', prompt)
  reward = float(field(row, 'label', bool))
  return _example('unpaired', row, prompt, [side], [reward])


def unpaired_messages(row):
  """`messages` whose last answer `label` rates."""
  said = messages(row, "field 'messages'", field(row, 'messages', list))
  ends_with(row, "field 'messages'", said, ['assistant'])
  reward = float(field(row, 'label', bool))
  return _example('unpaired', row, said[:-1], [said[-1:]], [reward])


def _differ(row, chosen, rejected):
  if chosen == rejected:
    raise row_error(row, "fields 'chosen' and 'rejected' are equal")
  for name in ('score_chosen', 'score_rejected'):
    if row.get(name) is not None:
      number(row, f'field {name!r}', row[name])
  return [chosen, rejected]


def preference(row):
  """`prompt`, `chosen` and `rejected`: a pair with rewards 1 and 0."""
  prompt = _prompt(row)
  sides = [_side(row, name, prompt) for name in ('chosen', 'rejected')]
  return _example('preference', row, prompt, _differ(row, *sides), [1.0, 0.0])


def implicit_preference(row):
  """The prompt is the shared beginning of `chosen` and `rejected`."""
  if isinstance(row.get('chosen'), list):
    return _implicit_messages(row)
  both = [text_field(row, name) for name in ('chosen', 'rejected')]
  _differ(row, *both)
  # Whole words, each with the space before it.
  shared = os.path.commonprefix(both)
  end = len(shared)
  if any(side[end : end + 1].strip() for side in both) or end in map(len, both):
    end -= re.match(r'\S*', shared[::-1]).end()  # $ would try every start
  end = len(shared[:end].rstrip())
  return _implicit(row, both[0][:end], [side[end:] for side in both])


def _implicit_messages(row):
  both = [
    messages(row, f'field {name!r}', field(row, name, list))
    for name in ('chosen', 'rejected')
  ]
  _differ(row, *both)
  end = shared_beginning(*both)
  if not any(end < len(side) for side in both):
    end = 0
  return _implicit(row, both[0][:end], [side[end:] for side in both])


def _implicit(row, prompt, sides):
  if not prompt:
    raise row_error(row, "'chosen' and 'rejected' share no beginning")
  if isinstance(prompt, list):
    ends_with(row, 'the shared beginning', prompt, ASKS)
  for name, side in zip(('chosen', 'rejected'), sides):
    if not side:
      raise row_error(row, f'{name!r} has nothing after the shared beginning')
    if isinstance(prompt, list):
      ends_with(row, f'field {name!r}', side, ['assistant'])
  return _example('preference', row, prompt, sides, [1.0, 0.0])


def scored(row):
  """`completions` of one prompt and their `scores`, as rewards."""
  prompt = _prompt(row)
  found = field(row, 'completions', list)
  scores = field(row, 'scores', list)
  if not found or len(found) != len(scores):
    raise row_error(
      row,
      f'{len(found)} completions and {len(scores)} scores, expected as many',
      'completions and scores do not match',
    )
  sides = []
  for i, side in enumerate(found, 1):
    name = f"field 'completions' item {i}"
    if isinstance(prompt, str):
      typed(row, name, side, str)
      if not side.strip():
        raise row_error(row, f'{name} is empty', 'a completion is empty')
    else:
      side = _answer(row, name, typed(row, name, side, list), prompt)
    sides.append(side)
  rewards = [number(row, "field 'scores'", score) for score in scores]
  return _example('scored', row, prompt, sides, rewards)


def stepwise(row):
  """Raises RowError: labels of single steps are of no use here."""
  raise row_error(
    row,
    "columns 'prompt', 'completions', 'labels' are stepwise supervision, which "
    'no method here learns from',
    'stepwise supervision',
  )


FORMATS = {  # name: columns and reader; the first that fits is used
  'scored': ({'prompt', 'completions', 'scores'}, scored),
  'stepwise': ({'prompt', 'completions', 'labels'}, stepwise),
  'preference': ({'prompt', 'chosen', 'rejected'}, preference),
  'implicit_preference': ({'chosen', 'rejected'}, implicit_preference),
  'unpaired': ({'prompt', 'completion', 'label'}, unpaired),
  'prompt_completion': ({'prompt', 'completion'}, demonstration),
  'unpaired_messages': ({'messages', 'label'}, unpaired_messages),
  'messages': ({'messages'}, conversation),
  'text': ({'text'}, text),
  'prompt': ({'prompt'}, prompt_only),
}


def fuller(row, name):
  """The columns of a format that has those of `name`, and more that are filled.

  Returns:
    list of the further columns; empty if the row fits no such format.
  """
  own = FORMATS[name][0]
  for columns, _ in FORMATS.values():
    more = columns - own
    if columns > own and all(row.get(x) is not None for x in more):
      return sorted(more)
  return []


def detect(row):
  """-> the name in FORMATS of the first whose columns the row has.

  Raises:
    RowError: none has them.
  """
  for name, (columns, _) in FORMATS.items():
    if columns <= row.keys():
      return name
  raise row_error(
    row,
    f'columns {names_of(row)} are of no known format; expected those of one '
    'of: ' + '; '.join(f'{k} {sorted(v)}' for k, (v, _) in FORMATS.items()),
    'no known format',
  )
