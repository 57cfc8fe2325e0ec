"""Allowed values: what a setting may be, in words and as a test."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection
from typing import Any


@dataclasses.dataclass(frozen=True)
class Allowed:
  """What a setting may be.

  Attributes:
    expected: the allowed values in words, for the error.
    right: value -> whether it is allowed.
    convert: value -> stored value. It may raise ValueError or TypeError.
    names: the allowed names, if the value is a name.
  """

  expected: str
  right: Callable[[Any], bool]
  convert: Callable[[Any], Any] | None = None
  names: Collection[str] = ()

  def checked(self, name: str, value: Any) -> Any:
    """The stored value.

    Args:
      name: of the setting, for the error.
    Raises:
      ValueError: names the setting, its value and what was expected.
    """
    why = ''
    try:
      kept = self.convert(value) if self.convert else value
      if self.right(kept):
        return kept
    except (TypeError, ValueError) as error:
      why = f' ({error})'
    if near := similar(value, self.names):
      why += f'; did you mean {near!r}?'
    raise ValueError(f'{name}={value!r}, expected {self.expected}{why}')


def is_number(x: Any) -> bool:
  """Whether `x` is a finite number. True and False are not numbers."""
  real = isinstance(x, int | float) and not isinstance(x, bool)
  try:
    return real and math.isfinite(x)
  except OverflowError:  # an int beyond all floats
    return False


def is_whole(x: Any) -> bool:
  """Whether `x` is an int. True and False are not."""
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


def number(
  *,
  above: float | None = None,
  least: float | None = None,
  below: float | None = None,
  most: float | None = None,
) -> Allowed:
  """A finite number within bounds."""
  text, within = _bounds(above, least, below, most)
  expected = f'a finite number {text}'.strip()
  return Allowed(expected, lambda x: is_number(x) and within(x))


def count(least: int = 1, most: int | None = None) -> Allowed:
  """A whole number within bounds."""
  text, within = _bounds(None, least, None, most)
  return Allowed(f'a whole number, {text}', lambda x: is_whole(x) and within(x))


def one_of(names: Collection[str]) -> Allowed:
  """One of several names."""
  return Allowed(
    f'one of {", ".join(map(repr, sorted(names)))}',
    lambda x: isinstance(x, str) and x in names,
    names=names,
  )


def text() -> Allowed:
  """Any text."""
  return Allowed('text', lambda x: isinstance(x, str))


def flag() -> Allowed:
  """True or False."""
  return Allowed('True or False', lambda x: isinstance(x, bool))


def table() -> Allowed:
  """A dict of names and values, which is checked elsewhere."""
  return Allowed('names with values', lambda x: isinstance(x, dict))


def items(
  expected: str, right: Callable[[Any], bool], least: int = 0
) -> Allowed:
  """A tuple whose elements are all allowed."""
  return Allowed(
    f'a tuple of {expected}' + (f', {least} or more' if least else ''),
    lambda x: len(x) >= least and all(map(right, x)),
    as_tuple,
  )


def optional(allowed: Allowed) -> Allowed:
  """None, or an allowed value."""
  convert = allowed.convert or (lambda x: x)
  return Allowed(
    f'None or {allowed.expected}',
    lambda x: x is None or allowed.right(x),
    lambda x: None if x is None else convert(x),
    allowed.names,
  )


def as_tuple(x: Any) -> tuple:
  """A tuple of a tuple or list. Raises TypeError for anything else."""
  if not isinstance(x, tuple | list):
    raise TypeError(f'got {type(x).__name__}')
  return tuple(x)


def similar(name: Any, known: Collection[Any], cutoff: float = 0.6) -> str:
  """The most similar of the known names. '': none is."""
  found = difflib.get_close_matches(str(name), map(str, known), 1, cutoff)
  return found[0] if found else ''


def nearest(name: Any, known: Collection[Any]) -> str:
  """'did you mean ...?' if a known name is similar, else the known names."""
  if found := similar(name, known):
    return f'did you mean {found!r}?'
  return f'expected one of {", ".join(sorted(map(str, known)))}'


def check_name(field: str, name: Any, known: Collection[str]) -> None:
  """Raises ValueError unless the field's value is one of the known names."""
  if name not in known:
    near = similar(name, known)
    hint = f': did you mean {near!r}?' if near else ''
    raise ValueError(f'{field}={name!r} is none of {sorted(known)}{hint}')
