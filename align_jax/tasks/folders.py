"""What a task makes once for all runs: a folder, whole or not at all."""

import json
import os
import pathlib
import shutil


def make_once(folder, build, settings):
  """Has `build(partial folder)` fill the folder, unless it is there.

  Args:
    folder: path.
    settings: dict of what it is made from, kept as settings.json.
  Raises:
    ValueError: it was made with others; names the first.
  """
  folder = pathlib.Path(folder)
  # As they will be read: tuples as lists, a path as text.
  settings = json.loads(json.dumps(settings, default=str))
  if not (folder / 'settings.json').exists():
    partial = folder.with_name(f'{folder.name}.partial-{os.getpid()}')
    partial.mkdir(parents=True)
    try:
      build(partial)
      (partial / 'settings.json').write_text(json.dumps(settings, indent=1))
      _publish(partial, folder)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
  _check_settings(folder, settings)


def _publish(partial, folder):
  try:
    partial.rename(folder)
  except OSError:
    if not (folder / 'settings.json').exists():
      raise
    # Another process was faster, and has made the same.


def _check_settings(folder, settings):
  made = json.loads((folder / 'settings.json').read_text())
  for name in sorted(made.keys() | settings.keys()):
    if made.get(name) != settings.get(name):
      raise ValueError(
        f'{folder} was made with {name}={made.get(name)!r}, not '
        f'{settings.get(name)!r}: remove it, or work elsewhere'
      )
