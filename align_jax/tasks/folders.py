"""A folder that a task fills once for all runs, completely or not at all."""

import contextlib
import dataclasses
import inspect
import json
import os
import pathlib
import shutil
import tempfile

from align_jax import hosts, paths
from align_jax.files import damaged, digests, read_record, write_record

FILES = 'files.json'  # of the folder: digests of all others


def keywords(fn):
  """{name: default} of the arguments of `fn` that have a default."""
  known = inspect.signature(fn).parameters.values()
  found = {p.name: p.default for p in known if p.default is not p.empty}
  if dataclasses.is_dataclass(fn):  # whose signature hides what is made anew
    for f in dataclasses.fields(fn):
      if f.default_factory is not dataclasses.MISSING:
        found[f.name] = f.default_factory()
  return found


def make_once(folder, build, settings, defaults=None):
  """Fills the folder by `build(partial_folder)`, unless it exists.

  Several hosts all build it, since all are needed to compute. Host 0's is kept.

  Args:
    folder: path.
    settings: dict of everything the contents depend on, kept as settings.json.
    defaults: values of settings that a folder of an earlier version may lack.
  Raises:
    ValueError: the folder has other settings; names the first that differs.
  """
  folder = paths.path(folder)
  # JSON turns tuples into lists and paths into text.
  read = lambda tree: json.loads(json.dumps(tree, default=str))
  settings, defaults = read(settings), read(defaults or {})
  if not hosts.agree((folder / 'settings.json').exists()):
    with _publishing(folder) as partial:
      build(partial)
      write_record(partial / FILES, digests(partial))
      write_record(partial / 'settings.json', settings)
    hosts.barrier()
  _check_settings(folder, settings, defaults)
  _check_files(folder)


@contextlib.contextmanager
def _publishing(folder):
  """A local folder, which is `folder` afterwards; of several hosts host 0's."""
  if not hosts.first():
    with tempfile.TemporaryDirectory() as scratch:
      yield pathlib.Path(scratch)
    return
  if not paths.is_local(folder):
    # A kill may leave a part of it there, but not the settings, the last file.
    with paths.filling(folder, last='settings.json') as partial:
      yield partial
    return
  if folder.is_dir() and any(folder.iterdir()):
    raise ValueError(
      f'{folder / "settings.json"} is missing: remove {folder}, it is made '
      'again'
    )
  partial = folder.with_name(f'{folder.name}{paths.PARTIAL}{os.getpid()}')
  partial.mkdir(parents=True)
  try:
    yield partial
    _publish(partial, folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _publish(partial, folder):
  try:
    partial.rename(folder)
  except OSError:
    if not (folder / 'settings.json').exists():
      raise
    # Another process has finished the same folder first.


def _check_settings(folder, settings, defaults):
  made = read_record(folder / 'settings.json')
  made = {**{k: v for k, v in defaults.items() if k in settings}, **made}
  for name in sorted(made.keys() | settings.keys()):
    if made.get(name) != settings.get(name):
      raise ValueError(
        f'{folder} was made with {name}={made.get(name)!r}, not '
        f'{settings.get(name)!r}: remove it, or work elsewhere'
      )


def _check_files(folder):
  """Refuses files that are not what was written; earlier versions said none."""
  path = folder / FILES
  known = read_record(path) if path.exists() else {}
  if found := damaged(folder, known):
    raise ValueError(f'{found}: damaged. Remove {folder}, it is made again')
