"""Lists of messages: who may say what, and when."""

from align_jax.data.nested import calls
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
MEDIA = ('image', 'images', 'video', 'videos', 'audio', 'audios')
# Whether a message is learned from, by the names that files give it.
MARKS = ('weight', 'train', 'loss_mask', 'loss', 'training')


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
    for key in (*MEDIA, 'function_call'):
      if item.get(key):
        raise row_error(
          row,
          f'{at} has {key!r}, which nothing reads'
          + (', expected tool_calls' if key == 'function_call' else ''),
          f'{name}: {key}',
        )
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
  if item.get('tool_calls'):
    item['tool_calls'] = calls(row, at, item['tool_calls'])
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


def learned(row, message):
  """Whether a message's own mark says that it is learned from; None: no mark.

  Raises:
    RowError: a mark that is neither 0 nor 1, or marks that differ.
  """
  found = {k: message[k] for k in MARKS if k in message}
  for name, value in found.items():
    if type(value) not in (bool, int, float) or value not in (0, 1):
      raise row_error(
        row,
        f'a message has {name} {value!r:.40}, expected 0 or 1',
        f'{name} is neither 0 nor 1',
      )
  if len(set(found.values())) > 1:
    raise row_error(row, f'the marks of a message differ: {found}')
  return bool(next(iter(found.values()))) if found else None


def check_marks(row, messages, ours):
  """Refuses marks that differ from what is learned from.

  Args:
    row: for errors.
    messages: checked ones.
    ours: whether the answers among them are learned from.
  """
  for item in messages:
    wanted = ours and item['role'] == 'assistant'
    found = learned(row, item)
    if found not in (None, wanted):
      raise row_error(
        row,
        f'a message by {item["role"]!r} is marked '
        f'{"" if found else "not "}to be learned from, and would '
        f'{"" if wanted else "not "}be: {item["content"]!r:.40}',
        'a message is marked otherwise than it is read',
      )


def said(role, content):
  """-> one message."""
  return {'role': role, 'content': content}


def shared_beginning(one, other):
  """How many messages at the start of two lists are equal."""
  pairs = enumerate(zip(one, other))
  return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
