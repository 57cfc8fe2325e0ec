"""Names and ranges of a task's knobs, which are the fields of `config.task`."""

import dataclasses
import inspect
import math

import numpy as np

from align_jax import data as data_lib
from align_jax import values
from align_jax.tasks.folders import keywords

# Arguments that come from other fields of the config.
ELSEWHERE = ('seed', 'workdir', 'model', 'sft_batch_size')


def passes_to(inner, *filled):
  """Decorator of a function that passes its `**` to `inner`.

  Args:
    inner: the function that gets them.
    filled: keywords of `inner` that the decorated function sets itself.
  """

  def mark(f):
    f.passes_to = [(inner, filled)]
    return f

  return mark


def fields_of(*records):
  """-> decorator of a function whose `**` are fields of records, see `parted`.

  Args:
    records: dataclasses with `kw_only`.
  """

  def mark(f):
    f.passes_to = [(record, ()) for record in records]
    return f

  return mark


def parted(given, *records):
  """The records that keywords make: a list.

  Args:
    given: {field of one of them: value}.
    records: dataclasses with `kw_only`.
  Raises:
    TypeError: names a field that none has, or that is missing.
  """
  names = [[f.name for f in dataclasses.fields(r)] for r in records]
  for name in given:
    if not any(name in own for own in names):
      raise TypeError(f'{name}={given[name]!r} is no field of the task')
  pick = lambda own: {name: given[name] for name in own if name in given}
  return [record(**pick(own)) for record, own in zip(records, names)]


def known(f):
  """Keywords of `f` and of the functions that it passes its `**` to.

  Args:
    f: a function. If it has `**`, it needs the decorator `passes_to`.
  Returns:
    {name: whether it is required}.
  Raises:
    ValueError: `f` has `**` and no decorator.
  """
  parameters = inspect.signature(f).parameters.values()
  stars = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
  own = {
    p.name: p.default is p.empty for p in parameters if p.kind not in stars
  }
  passed = {}
  for inner, hidden in _inner(f):
    passed |= {k: v for k, v in known(inner).items() if k not in hidden}
  return {**passed, **own}


def _inner(f):
  """Yields what `f` passes its `**` to, and keywords that are not passed."""
  parameters = inspect.signature(f).parameters.values()
  if all(p.kind is not p.VAR_KEYWORD for p in parameters):
    return
  if not hasattr(f, 'passes_to'):
    raise ValueError(
      f'{f.__module__}.{f.__qualname__} takes ** of unknown names, expected '
      '@passes_to(text_task) or another function above it'
    )
  for inner, filled in f.passes_to:
    positional = {
      p.name
      for p in inspect.signature(inner).parameters.values()
      if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    yield inner, positional.union(filled)


def defaults(f):
  """{keyword: default} of those that `known` finds and that may be left out."""
  optional = {k for k, needed in known(f).items() if not needed}
  found = {}
  for inner, _ in _inner(f):
    found |= defaults(inner)
  found |= keywords(f)
  return {k: v for k, v in found.items() if k in optional}


def check(task, make_task, given):
  """Refuses unknown and missing knobs.

  Args:
    task: the task's name, for the message.
    make_task: the task's function.
    given: {name: value}.
  Raises:
    ValueError: names the first such knob, and the nearest known one.
  """
  names = known(make_task)
  own = [name for name in names if name not in ELSEWHERE]
  for name, value in given.items():
    if name not in names:
      near = values.similar(name, own)
      near = f'; did you mean {near!r}?' if near else ''
      raise ValueError(
        f'task.{name}={value!r} is no knob of task {task!r}, expected some of '
        f'{", ".join(sorted(own))}{near}'
      )
  for name, needed in names.items():
    if needed and name not in given:
      path = name if name in ELSEWHERE else f'task.{name}'
      raise ValueError(f'{path} is missing, task {task!r} needs it')
  for name, value in given.items():
    if name in ALLOWED:
      ALLOWED[name].checked(f'task.{name}', value)


_share = values.number(least=0, most=1)
ALLOWED = {  # what a knob may be, by the name that all tasks use
  **dict.fromkeys(
    (
      'prompts',
      'prompt_len',
      'completion_len',
      'sft_len',
      'heldout_reviews',
    ),
    values.count(),
  ),
  'heldout_prompts': values.Allowed(
    'a whole number, at least 1, or a share between 0 and 1',
    lambda x: values.is_number(x) and (0 < x < 1 or 1 <= x == int(x)),
  ),
  'data': values.Allowed(
    'text, or a tuple of texts',
    lambda x: (
      isinstance(x, str)
      or (
        isinstance(x, tuple | list)
        and len(x) > 0
        and all(isinstance(y, str) for y in x)
      )
    ),
  ),
  # A published judge has 0 for those of the training of one.
  **dict.fromkeys(
    (
      'pretrain_steps',
      'judge_len',
      'judge_steps',
      'judge_batch_size',
      'old_prompts',
    ),
    values.count(0),
  ),
  'eval_prompts': values.Allowed(
    'a whole number, 0 or at least 2: the error of a mean takes two prompts',
    lambda x: values.is_whole(x) and (x == 0 or x > 1),
  ),
  'judge_learning_rate': values.number(least=0),
  'repeat_penalty': values.number(least=0),
  'uncovered': values.count(0),
  **dict.fromkeys(('wrong_share', 'peak_shift', 'judge_share'), _share),
  **dict.fromkeys(
    (
      'old_data',
      'subset',
      'split',
      'revision',
      'tokenizer',
      'eos_token',
      'template',
    ),
    values.text(),
  ),
  'dataset': values.one_of(('', *data_lib.DATASETS)),
  'on_bad_row': values.one_of(('error', 'skip')),
  'long_prompt': values.one_of(data_lib.Limits.LONG_PROMPT),
  'long_completion': values.one_of(data_lib.Limits.LONG_COMPLETION),
  'judge': values.table(),
  'judge_model': values.table(),
}


def whole(least, most=math.inf, of='', **given):
  """Refuses values that are not whole numbers within bounds.

  Args:
    least, most: the bounds, inclusive.
    of: start of the message.
    given: {knob: value}.
  Raises:
    ValueError: names the first wrong knob, its value and the bounds.
  """
  bounds = f'from {least}' + ('' if most == math.inf else f' to {most}')
  for name, value in given.items():
    number = isinstance(value, int | np.integer) and type(value) is not bool
    if not number or not least <= value <= most:
      raise ValueError(
        f'{of}task.{name}={value!r}, expected a whole number {bounds}'
      )
