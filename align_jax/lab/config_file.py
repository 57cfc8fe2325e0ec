"""Config files, and the overrides of a command line."""

import importlib.util
import pathlib

import numpy as np

from align_jax import paths

PREFIX = '--config.'
PROFILE = '--profile='


def as_dict(cfg):
  """A ConfigDict as plain dicts, with numpy's numbers as Python's."""
  return {k: _plain(v) for k, v in cfg.items()}


def _plain(value):
  if hasattr(value, 'items'):
    return as_dict(value)
  if isinstance(value, tuple | list):
    return type(value)(map(_plain, value))
  if isinstance(value, np.generic):
    return value.item()
  return tuple(value.tolist()) if isinstance(value, np.ndarray) else value


def load(path):
  """The config of a file with `get_config`, as plain dicts.

  Raises:
    ValueError: there is no such file, or it fails; names the file and line.
  """
  path = paths.here(path)
  if not path.is_file():
    here = sorted(str(p) for p in pathlib.Path('configs').glob('[a-z]*.py'))
    there = f', expected one such as {", ".join(here)}' if here else ''
    raise ValueError(f'--config={path}: no such file{there}')
  spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
  if spec is None:
    raise ValueError(f'--config={path}: expected a Python file')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    cfg = as_dict(module.get_config())
  except Exception as error:
    what = type(error).__name__
    raise ValueError(
      f'--config={path}{_line(error, path)}: {what}: {error}'
    ) from error
  return cfg


def _line(error, path):
  """':LINE' where the file failed."""
  if isinstance(error, SyntaxError):
    return f':{error.lineno}'
  lines, trace = [], error.__traceback__
  while trace:
    if trace.tb_frame.f_code.co_filename == str(path):
      lines.append(trace.tb_lineno)
    trace = trace.tb_next
  return f':{lines[-1]}' if lines else ''


def split(argv):
  """Splits a command line into flags and overrides [(dotted field, text)].

  Raises:
    ValueError: an override without a value.
  """
  plain, found = [], []
  for arg in argv:
    if arg.startswith(PROFILE):
      first, colon, last = arg.removeprefix(PROFILE).partition(':')
      if not (first.isdigit() and colon and last.isdigit()):
        raise ValueError(f'{arg}: expected {PROFILE}FIRST:LAST, two updates')
      arg = f'{PREFIX}profile=({first}, {last})'
    if not arg.startswith(PREFIX):
      plain.append(arg)
      continue
    path, equals, text = arg.removeprefix(PREFIX).partition('=')
    if not equals:
      raise ValueError(f'{arg}: expected {arg}=VALUE')
    if path in dict(found):
      raise ValueError(
        f'{PREFIX}{path} is given twice, {dict(found)[path]!r} and {text!r}: '
        'expected one of them'
      )
    found.append((path, text))
  return plain, found
