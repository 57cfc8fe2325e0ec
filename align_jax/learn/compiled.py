"""Programs that JAX compiles, and why it does so again."""

import functools
import logging

import jax

COMPILED = '/jax/core/compile/backend_compile_duration'
LOGGER = 'jax._src.interpreters.pxla'  # tells at DEBUG what will be compiled
SHOWN = 3  # changes of arguments that a cause lists

_rows = []  # [name, cause, seconds], which nobody has taken yet
_known = {}  # {name: arguments of each program of it}
_told = {}  # {name: arguments of the program that is compiled next}


@functools.cache
def listen():
  """Notes from now on what is compiled. Once per process: JAX keeps listeners.

  JAX tells arguments to its log only, which prints no more than before.
  """
  jax.monitoring.register_event_duration_secs_listener(_note)
  logger = logging.getLogger(LOGGER)
  own = logger.level

  def overheard(record):
    if isinstance(record.args, tuple) and len(record.args) > 1:
      _told[record.args[0]] = record.args[1]
    return record.levelno >= (own or logger.parent.getEffectiveLevel())

  logger.addFilter(overheard)
  logger.setLevel(logging.DEBUG)


def take():
  """The rows since the last call: lists of [name, cause, seconds]."""
  return [_rows.pop(0) for _ in _rows[:]]


def _note(event, seconds, fun_name='', **_):
  if event != COMPILED:
    return
  given = tuple(map(_text, _told.pop(fun_name, ())))
  known = _known.setdefault(fun_name, [])
  _rows.append([fun_name, _cause(given, known), round(seconds, 3)])
  known.append(given)


def _text(aval):
  return str(aval).removeprefix('ShapedArray(').removesuffix(')')


def _cause(given, known):
  """How the arguments differ from the most similar ones of that name.

  Args:
    given: a text for each argument.
    known: such tuples.
  """
  if not known:
    return 'first'
  same = [x for x in known if len(x) == len(given)]
  if not same:
    return f'again: {len(given)} arguments for {len(known[-1])}'
  changes = [[(a, b) for a, b in zip(x, given) if a != b] for x in same]
  pairs = [f'{b} for {a}' for a, b in dict.fromkeys(min(changes, key=len))]
  more = f', {len(pairs) - SHOWN} more' if len(pairs) > SHOWN else ''
  return f'again: {", ".join(pairs[:SHOWN])}{more}' if pairs else 'again'
