"""Fields of settings with their allowed values, and records built from them."""

import dataclasses
import difflib
import math


def field(expected, right, key=None, convert=None, names=()):
  """A dataclass field that states its allowed values.

  Args:
    expected: the allowed values in words, for the error.
    right: value -> whether it is allowed.
    key: the field's name in the config. None: the same name.
    convert: value -> stored value. It may raise ValueError or TypeError.
    names: the allowed names, if the value is a name.
  """
  about = dict(
    expected=expected, right=right, key=key, convert=convert, names=names
  )
  return dataclasses.field(metadata=about)


def given():
  """A dataclass field that is not in the config."""
  return dataclasses.field(metadata={'given': True})


def is_number(x):
  """Whether `x` is a finite number. True and False are not numbers."""
  kind = isinstance(x, int | float) and not isinstance(x, bool)
  return kind and math.isfinite(x)


def is_whole(x):
  return isinstance(x, int) and not isinstance(x, bool)


def _bounds(above, least, below, most):
  """The bounds in words, and a function that tests them."""
  named = dict(above=above, least=least, below=below, most=most)
  words = dict(above='above', least='at least', below='below', most='at most')
  text = ' and '.join(
    f'{words[k]} {v:g}' for k, v in named.items() if v is not None
  )
  tests = (
    lambda x: above is None or x > above,
    lambda x: least is None or x >= least,
    lambda x: below is None or x < below,
    lambda x: most is None or x <= most,
  )
  return text, lambda x: all(test(x) for test in tests)


def number(*, above=None, least=None, below=None, most=None, key=None):
  """A finite number within bounds."""
  text, within = _bounds(above, least, below, most)
  expected = f'a finite number {text}'.strip()
  return field(expected, lambda x: is_number(x) and within(x), key)


def count(least=1, key=None, most=None):
  """A whole number."""
  text, within = _bounds(None, least, None, most)
  expected = f'a whole number, {text}'
  return field(expected, lambda x: is_whole(x) and within(x), key)


def one_of(names, key=None):
  """One of several names."""
  return field(
    f'one of {", ".join(map(repr, sorted(names)))}',
    lambda x: isinstance(x, str) and x in names,
    key,
    names=names,
  )


def text(key=None):
  return field('text', lambda x: isinstance(x, str), key)


def flag(key=None):
  return field('True or False', lambda x: isinstance(x, bool), key)


def table(key=None):
  """A dict of names and values, which is checked elsewhere."""
  return field('names with values', lambda x: isinstance(x, dict), key)


def items(expected, right, key=None, least=0):
  """A tuple whose elements are all allowed."""
  return field(
    f'a tuple of {expected}' + (f', {least} or more' if least else ''),
    lambda x: len(x) >= least and all(map(right, x)),
    key,
    _as_tuple,
  )


def _as_tuple(x):
  if not isinstance(x, tuple | list):
    raise TypeError(f'got {type(x).__name__}')
  return tuple(x)


def nearest(name, known):
  """'did you mean ...?' if a known name is similar, else the known names."""
  found = difflib.get_close_matches(str(name), map(str, known), 1, 0.6)
  if found:
    return f'did you mean {found[0]!r}?'
  return f'expected one of {", ".join(sorted(map(str, known)))}'


def within(cls, values, known):
  """cls(**values), for a field that is itself a group.

  Raises:
    ValueError: a name is unknown.
  """
  for name in values:
    if name not in known:
      raise ValueError(f'{name}: no such field, {nearest(name, known)}')
  return cls(**values)


def _key(f):
  return f.metadata.get('key') or f.name


def _parts(cls):
  """(field, its record class or None) for each field of a record."""
  for f in dataclasses.fields(cls):
    whole = dataclasses.is_dataclass(f.type) and 'right' not in f.metadata
    if 'given' not in f.metadata:
      yield f, f.type if whole else None


def keys(cls):
  """The names in the config of all fields of a record and of its parts."""
  found = []
  for f, part in _parts(cls):
    found += keys(part) if part else [_key(f)]
  return found


def with_absent(cls, values):
  """The values, plus those of fields that earlier versions did not have."""
  made = dict(values)
  for f, part in _parts(cls):
    if part:
      made = with_absent(part, made)
    elif 'absent' in f.metadata:
      made.setdefault(_key(f), f.metadata['absent'])
  return made


def added(f, absent):
  """A field that earlier versions lack. They behaved as if it was `absent`."""
  return dataclasses.field(metadata={**f.metadata, 'absent': absent})


def build(cls, values, where, **given):
  """A record of a config's values, checked.

  Args:
    cls: a dataclass of `field`s and of such dataclasses. The config has the
      fields of both at the same level.
    values: {key: value}, exactly the record's fields.
    where: key -> full name of the config's field.
    **given: attributes that are not in the config.
  Raises:
    ValueError: names the field, its value and what was expected.
  """
  known = keys(cls)
  for key in values:
    if key not in known:
      raise ValueError(f'{where(key)}: no such field, {nearest(key, known)}')
  return _built(cls, values, where, **given)


def _built(cls, values, where, **given):
  made = given
  for f, part in _parts(cls):
    key = _key(f)
    if part:
      made[f.name] = _built(part, values, where)
    elif key not in values:
      raise ValueError(f'{where(key)} is missing')
    else:
      made[f.name] = checked(f.metadata, values[key], where(key))
  return cls(**made)


def checked(about, value, name):
  """The stored value. Raises ValueError if the value is not allowed."""
  why = ''
  try:
    if about['convert']:
      kept = about['convert'](value)
    else:
      kept = value
    if about['right'](kept):
      return kept
  except (TypeError, ValueError) as error:
    why = f' ({error})'
  if about['names']:
    near = difflib.get_close_matches(str(value), about['names'], 1)
    why += f'; did you mean {near[0]!r}?' if near else ''
  raise ValueError(f'{name}={value!r}, expected {about["expected"]}{why}')


def flat(record):
  """The record as a config's {key: value}, the inverse of `build`."""
  found = {}
  for f, part in _parts(type(record)):
    value = getattr(record, f.name)
    found |= flat(value) if part else {_key(f): plain(value)}
  return found


def plain(value):
  """A field's value, as a dict if it is a record."""
  if dataclasses.is_dataclass(value):
    return dataclasses.asdict(value)
  if hasattr(value, '_asdict'):
    return value._asdict()
  return value
