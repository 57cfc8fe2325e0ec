"""Values within values: JSON in texts, and what Arrow fills in."""

import json
import re

from align_jax.data.row import Row, RowError, place, row_error, typed

MAX_VALUES = 2**22  # of one JSON text; each takes some 80 bytes of memory
# Columns that are lists wherever something reads them.
LISTS = (
  'messages',
  'conversations',
  'completions',
  'scores',
  'tools',
  'history',
  'turns',
  'instances',
  'choices',
  'summaries',
)
NULLS = ('default', 'const', 'enum', 'examples')  # keywords of any value
TEXT_OR_LIST = ('prompt', 'chosen', 'rejected', 'completion')
MESSAGES = re.compile(r'\s*\[\s*\{[^{}]*"role"\s*:')
TURN = re.compile(r'\s*\{\s*"(from|value)"\s*:')  # one, beside `conversations`
PYTHON = re.compile(r"\s*\[\s*\{[^{}]*'role'\s*:")


def parse(text, where, most=MAX_VALUES):
  """The value of a JSON text.

  Args:
    text: str.
    where: start of an error.
    most: values that it may have.
  Raises:
    RowError: no JSON, a field twice, too deep or too large a value.
  """
  if text.count(',') > most:
    raise RowError(f'{where}: more than {most} values', 'too many values')
  try:
    return json.loads(text, object_pairs_hook=lambda x: _distinct(x, where))
  except RowError:
    raise
  except json.JSONDecodeError as e:
    at = f'{where}: ' if text.count('\n') < 2 else f'{where} line {e.lineno}: '
    raise RowError(f'{at}not JSON: {e.msg}', 'not JSON') from None
  except (ValueError, RecursionError) as e:  # thousands of digits or brackets
    raise RowError(f'{where}: not JSON: {e}', 'not JSON') from None


def _distinct(items, where):
  value = dict(items)
  if len(value) < len(items):
    seen = set()
    twice = next(k for k, _ in items if k in seen or seen.add(k))
    raise RowError(f'{where}: field {twice!r:.40} twice', 'a field twice')
  return value


def inner(row, name, text, kind):
  """The `kind` that a text within a row holds as JSON."""
  value = parse(text, f'{place(row)}: {name}')
  return typed(row, f'{name}, as JSON,', value, kind)


def opened(row):
  """The row with JSON texts of lists as lists.

  Raises:
    RowError: a text that begins as a list of messages, and is no JSON.
  """
  found = {}
  for name in LISTS:
    value = row.get(name)
    if isinstance(value, str) and value.lstrip()[:1] == '[':
      found[name] = inner(row, f'field {name!r}', value, list)
  for name in TEXT_OR_LIST:
    value = row.get(name)
    if isinstance(value, str) and value.lstrip()[:1] in ('[', '{'):
      found |= _messages(row, name, value)
  return Row({**row, **found}, place(row)) if found else row


def _messages(row, name, text):
  at = f'field {name!r}'
  if PYTHON.match(text) and text.rstrip().endswith(']'):
    raise row_error(
      row,
      f'{at} is {text!r:.40}, a list as Python prints it, expected JSON',
      f'{at} is a printed list',
    )
  where = f'{place(row)}: {at}'
  if 'conversations' in row and TURN.match(text):
    return {name: parse(text, where)}
  begins = MESSAGES.match(text)
  if not begins and '"role"' not in text:
    return {}
  try:
    value = parse(text, where)
  except RowError:
    if begins:
      raise
    return {}
  told = isinstance(value, list) and value
  told = told and all(isinstance(x, dict) and 'role' in x for x in value)
  return {name: value} if begins or told else {}


def without_nulls(value):
  """The value without null entries of its structs, at any depth.

  Arrow gives each struct of a column the fields of all others, as nulls.
  """
  if isinstance(value, dict):
    return {k: without_nulls(v) for k, v in value.items() if v is not None}
  if isinstance(value, list):
    return [without_nulls(x) for x in value]
  return value


# --- Tools -------------------------------------------------------------------


def tools(row):
  """The JSON schemas of `tools`: a list of dicts, None if there are none."""
  found = row.get('tools')
  if not found or (isinstance(found, str) and not found.strip()):
    return None
  found = typed(row, "field 'tools'", found, list)
  made = [_tool(row, f"field 'tools' item {i}", x) for i, x in enumerate(found)]
  return [_schema(tool) for tool in made]


def _schema(value):
  """A schema without keywords that are null, which say nothing."""
  if isinstance(value, dict):
    kept = {k: v for k, v in value.items() if v is not None or k in NULLS}
    return {k: v if k in NULLS else _schema(v) for k, v in kept.items()}
  return [_schema(x) for x in value] if isinstance(value, list) else value


def _properties(tools):
  """{name of a tool: names of its arguments}, as far as schemas tell."""
  found = {}
  for tool in tools:
    tool = tool.get('function', tool)
    if not isinstance(tool, dict) or not isinstance(tool.get('name'), str):
      continue
    parameters = tool.get('parameters')
    known = isinstance(parameters, dict) and parameters.get('properties')
    if isinstance(known, dict):
      found[tool['name']] = known
  return found


def without_filled(messages, tools):
  """Messages whose calls have no null argument that their tool does not have.

  Such arguments are of other tools, which a file of one struct for all has.
  """
  known = _properties(tools)

  def call(x):
    if 'function' in x:
      return {**x, 'function': call(x['function'])}
    given, own = x.get('arguments'), known.get(x['name'])
    if own is None or not isinstance(given, dict):
      return x
    given = {k: v for k, v in given.items() if v is not None or k in own}
    return {**x, 'arguments': given}

  return [
    {**m, 'tool_calls': [call(x) for x in m['tool_calls']]}
    if m.get('tool_calls')
    else m
    for m in messages
  ]


def _tool(row, at, tool):
  if isinstance(tool, str):
    tool = inner(row, at, tool, dict)
  typed(row, at, tool, dict)
  function = tool.get('function')
  if isinstance(function, str):
    tool = {**tool, 'function': inner(row, f'{at} function', function, dict)}
  if isinstance(tool.get('function'), dict):
    return {**tool, 'function': _opened(row, at, tool['function'])}
  return _opened(row, at, tool)


def _opened(row, at, function, name='parameters'):
  value = function.get(name)
  if not isinstance(value, str):
    return function
  return {**function, name: inner(row, f'{at} {name}', value, dict)}


def calls(row, at, value):
  """Tool calls, each with its arguments as an object.

  Args:
    row, at: for errors.
    value: a list of dicts, or its JSON text. `arguments` may be JSON text.
  Raises:
    RowError: another type, a call without a name, arguments that are no object.
  """
  if isinstance(value, str):
    value = inner(row, f'{at} tool_calls', value, list)
  typed(row, f'{at} tool_calls', value, list)
  return [_call(row, f'{at} call {i}', x) for i, x in enumerate(value, 1)]


def _call(row, at, call):
  if isinstance(call, str):
    call = inner(row, at, call, dict)
  typed(row, at, call, dict)
  if 'function' not in call:
    return _function(row, at, call)
  return {**call, 'function': _function(row, at, call['function'])}


def _function(row, at, function):
  if isinstance(function, str):
    function = inner(row, f'{at} function', function, dict)
  typed(row, f'{at} function', function, dict)
  typed(row, f'{at} name', function.get('name'), str)
  function = _opened(row, at, function, 'arguments')
  if function.get('arguments') is not None:
    typed(row, f'{at} arguments', function['arguments'], dict)
  return function
