"""Overrides of a config: `--config.FIELD=VALUE`, and variants.

Every function takes a config of plain dicts and returns a new one.
"""

import ast
import copy
import fnmatch

from align_jax.lab.reads import POOLED
from align_jax.losses import LOSSES, hparams_of
from align_jax.values import nearest

TABLES = ('arms', 'methods')  # {name: arm}
# Groups that may gain names. Their readers check the names.
OPEN = ('loss_kwargs', 'refresh_every', 'judge', 'optimizer', 'schedule')
OPEN = (*OPEN, 'model')


def parsed(text, default, name):
  """The value of a text, of the same type as the default.

  Raises:
    ValueError: the text has another type.
  """
  kinds = {
    bool: ('true or false', _flag),
    int: ('a whole number', int),
    float: ('a number', float),
    str: ('text', str),
    tuple: ('a tuple such as (1, 2)', _tuple),
    dict: ("names with values such as {'beta': 0.1}", _dict),
  }
  expected, convert = kinds.get(type(default), ('a value', _literal))
  try:
    return convert(text)
  except (ValueError, SyntaxError, KeyError):
    raise ValueError(f'{name}={text!r}, expected {expected}') from None


def _flag(text):
  return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]


def _literal(text):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _tuple(text):
  value = ast.literal_eval(text)
  if not isinstance(value, tuple | list):
    raise ValueError(text)
  return tuple(value)


def _dict(text):
  value = ast.literal_eval(text)
  if not isinstance(value, dict):
    raise ValueError(text)
  return value


def found(tree, path, name):
  """The value at a path of keys, or None for a new name in an open group.

  Raises:
    ValueError: there is no such field.
  """
  for i, key in enumerate(path):
    if not isinstance(tree, dict):
      raise ValueError(f'{name}: {".".join(path[:i])} is no group of fields')
    if key not in tree:
      if path[i - 1] in OPEN and i == len(path) - 1:
        return None
      hint = nearest(key, tree)
      if key in _hparams(tree):
        hint = f'did you mean {".".join([*path[:i], "loss_kwargs", key])!r}?'
      raise ValueError(f'{name}: no such field, {hint}')
    tree = tree[key]
  return tree


def _hparams(fields):
  """{name: default} of the hyper-parameters of the fields' loss, if any."""
  loss = fields.get('loss')
  return hparams_of(LOSSES[loss]) if loss in LOSSES else {}


def put(tree, path, value):
  """A copy of the tree with the value at a path of keys."""
  first, *rest = path
  inner = put(tree.get(first) or {}, rest, value) if rest else value
  return {**tree, first: inner}


def apply(cfg, given):
  """The config with all overrides, (path, text) each, applied in order."""
  for path, text in given:
    cfg = override(cfg, path, text)
  return cfg


def override(cfg, path, text):
  """The config with one override of a command line.

  `arms.NAME.FIELD` sets a field of one arm, or of all arms that match a pattern
  such as `*`; of arms that train nothing, only fields of a pool. It takes
  precedence over the arm's `sweep`. A list of values is swept. A name that
  is not a field is a hyper-parameter of the arm's loss. `arms.NAME=None`
  removes the arm.

  Args:
    path: dotted path of the field.
    text: its value as typed.
  Raises:
    ValueError: names the field and the nearest known one, or the value and
      what was expected.
  """
  name, keys = f'config.{path}', path.split('.')
  if keys[0] in TABLES and len(keys) > 1:
    return _of_arms(cfg, keys, text, name)
  default = found(cfg, keys, name)
  return put(cfg, keys, parsed(text, default, name))


def changed(cfg, changes, prefix=''):
  """The config with the changes of a variant.

  Args:
    changes: {dotted path: value}, possibly nested.
  Raises:
    ValueError: names an unknown field and the nearest known one.
  """
  if not isinstance(changes, dict):
    raise ValueError(f'variants: {changes!r}, expected fields with values')
  for name, value in changes.items():
    path = f'{prefix}{name}'
    keys = path.split('.')
    if keys[0] in TABLES and len(keys) > 2:
      found(cfg, keys[:2], path)
      default = found(cfg['arm'], keys[2:], path)
    else:
      default = found(cfg, keys, path)
    grouped = isinstance(default, dict) and keys[-1] not in OPEN
    if isinstance(value, dict) and grouped:
      cfg = changed(cfg, value, f'{path}.')
    else:
      cfg = put(cfg, keys, value)
  return cfg


def matching(arms, pattern, name):
  """Names of the arms that match a pattern."""
  names = [arm for arm in arms if fnmatch.fnmatchcase(arm, pattern)]
  if pattern in arms:
    return [pattern]
  if not names:
    raise ValueError(f'{name}: no arm {pattern!r}, {nearest(pattern, arms)}')
  return names


def _of_arms(cfg, keys, text, name):
  table, pattern, *field = keys
  arms = dict(cfg[table])
  found = matching(arms, pattern, name)
  trained = [x for x in found if not arms[x].get('reweigh')]
  if field and field[0] not in POOLED and trained:
    found = trained
  for arm in found:
    if field:
      arms[arm] = _with_field(cfg['arm'], arms[arm], field, text, name)
    elif text == 'None':
      del arms[arm]
    else:
      raise ValueError(f'{name}={text!r}, expected None, which drops the arm')
  return {**cfg, table: arms}


def _with_field(base, arm, field, text, name):
  """An arm with a field set, or swept over a list of values."""
  field, default = _resolved(base, arm, field, name)
  several = not isinstance(default, tuple | dict) and text.startswith('[')
  texts = _elements(text, name) if several else [text]
  values = [parsed(x, default, name) for x in texts]
  if any(x in values[:i] for i, x in enumerate(values)):
    raise ValueError(f'{name}={text!r}, expected each value once')
  entries = [dict(e) for e in arm.get('sweep', ({},))]
  if not several and not any(field[0] in e for e in entries):
    return _put_in(base, arm, field, values[0])
  arm = {**arm}
  inner = {**base, **arm}
  entries = [_put_in(inner, e, field, v) for v in values for e in entries]
  arm['sweep'] = tuple(_distinct(entries))
  return arm


def _put_in(base, fields, path, value):
  """The fields with a value set. Missing parts of its group are the base's."""
  start = {path[0]: fields.get(path[0], base.get(path[0]))}
  if len(path) == 1:
    return {**fields, path[0]: value}
  return {**fields, **put(copy.deepcopy(start), path, value)}


def _resolved(base, arm, field, name):
  """The path of a field within an arm, and its default."""
  fields = {**base, **arm}
  if field[0] in base:
    return field, found({**base, **_groups(fields)}, field, name)
  known = _hparams(fields)
  if field[0] in known and len(field) == 1:
    return ['loss_kwargs', *field], known[field[0]]
  raise ValueError(f'{name}: no such field, {nearest(field[0], base | known)}')


def _groups(fields):
  return {k: v for k, v in fields.items() if isinstance(v, dict)}


def _elements(text, name):
  try:
    values = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    text = text.strip()
    if not text.endswith(']'):
      raise ValueError(f'{name}={text!r}, expected [A,B], a list') from None
    values = [x.strip() for x in text.strip('[]').split(',')]
  if not values:
    raise ValueError(f'{name}={text!r}, expected one value or more')
  return [str(x) for x in values]


def _distinct(entries):
  return [e for i, e in enumerate(entries) if e not in entries[:i]]
