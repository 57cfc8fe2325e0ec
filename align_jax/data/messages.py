"""Lists of messages: who may say what, and when."""

from align_jax.data.row import row_error, typed

ROLES = ('system', 'user', 'assistant', 'tool')
# Who may follow whom; None is the beginning.
AFTER = {
  None: ('system', 'user'),
  'system': ('user',),
  'user': ('assistant',),
  'assistant': ('user', 'tool'),
  'tool': ('assistant', 'tool'),
}


def messages(row, name, value, after=None):
  """The list of messages `value`, checked, without its null entries.

  Args:
    row, name: for errors.
    value: list of dicts with `role` and `content`. An assistant message with
      `tool_calls` may lack `content`.
    after: the role of the message before them.
  Raises:
    RowError: a wrong type, an empty message, a role that is unknown or out of
      order.
  """
  typed(row, name, value, list)
  if not value:
    raise row_error(row, f'{name} is empty')
  checked = []
  for i, item in enumerate(value):
    at = f'{name} message {i + 1}'
    item = {
      k: v for k, v in typed(row, at, item, dict).items() if v is not None
    }
    after = _role(row, name, at, item, after)
    _content(row, name, at, item)
    checked.append(item)
  return checked


def _role(row, name, at, item, after):
  role = item.get('role')
  if role not in ROLES:
    raise row_error(
      row, f'{at} has role {role!r}, expected one of {ROLES}', f'{name}: role'
    )
  if role not in AFTER[after]:
    raise row_error(
      row,
      f'{at} of {role!r} follows {after or "nothing"}, expected '
      f'{" or ".join(AFTER[after])}',
      f'{name}: roles out of order',
    )
  return role


def _content(row, name, at, item):
  if 'content' not in item and item.get('tool_calls'):
    item['content'] = ''
  content = item.get('content')
  typed(row, f'{at} content', content, str)
  if not content.strip() and not item.get('tool_calls'):
    raise row_error(row, f'{at} is empty', f'{name}: a message is empty')


def ends_with(row, name, value, roles):
  """The messages, checked that the last one is by one of `roles`."""
  if value[-1]['role'] not in roles:
    raise row_error(
      row,
      f'{name} ends with {value[-1]["role"]!r}, expected {" or ".join(roles)}',
      f'{name}: last role',
    )
  return value


def said(role, content):
  """-> one message."""
  return {'role': role, 'content': content}


def shared_beginning(one, other):
  """How many messages at the start of two lists are equal."""
  pairs = enumerate(zip(one, other))
  return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
