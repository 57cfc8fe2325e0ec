"""Fields of settings with their allowed values, and records built from them."""

import dataclasses
import functools

from align_jax import values as allowed
from align_jax.values import nearest


def field(expected, right, key=None, convert=None):
  """A dataclass field that states its allowed values.

  Args:
    expected, right, convert: see `values.Allowed`.
    key: the field's name in the config. None: the same name.
  """
  return of(allowed.Allowed(expected, right, convert), key)


def of(what, key=None):
  """A dataclass field with a `values.Allowed`."""
  return dataclasses.field(metadata={'allowed': what, 'key': key})


def given():
  """A dataclass field that is not in the config."""
  return dataclasses.field(metadata={'given': True})


def number(key=None, **bounds):
  """A field that is a finite number within `values.number`'s bounds."""
  return of(allowed.number(**bounds), key)


def count(least=1, key=None, most=None):
  """A field that is a whole number, `least` to `most`."""
  return of(allowed.count(least, most), key)


def one_of(names, key=None):
  """A field that is one of several names."""
  return of(allowed.one_of(names), key)


def text(key=None):
  """A field that is text."""
  return of(allowed.text(), key)


def flag(key=None):
  """A field that is True or False."""
  return of(allowed.flag(), key)


def table(key=None):
  """A field that is a dict of names and values, checked elsewhere."""
  return of(allowed.table(), key)


def items(expected, right, key=None, least=0):
  """A field that is a tuple of `least` or more values, each `right`."""
  return of(allowed.items(expected, right, least), key)


def names(known, key=None):
  """A field that is a tuple of names, each once.

  Args:
    known: () -> the names, which users may add to.
  """

  def right(x):
    return all(name in known() for name in x) and len(set(x)) == len(x)

  listed = ', '.join(known())
  expected = f'a tuple of names out of {listed}, each once'
  return field(expected, right, key, allowed.as_tuple)


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


@functools.cache
def _parts(cls):
  """(field, its record class or None) for each field of a record."""
  found = []
  for f in dataclasses.fields(cls):
    whole = dataclasses.is_dataclass(f.type) and 'allowed' not in f.metadata
    if 'given' not in f.metadata:
      found.append((f, f.type if whole else None))
  return found


@functools.cache
def keys(cls):
  """The names in the config of all fields of a record and of its parts."""
  found = []
  for f, part in _parts(cls):
    found += keys(part) if part else [_key(f)]
  return tuple(found)


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
      made[f.name] = f.metadata['allowed'].checked(where(key), values[key])
  return cls(**made)


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
