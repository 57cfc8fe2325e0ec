"""Scripts run with made-up commands."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'


def environment(path=(), **env):
  """This process's variables, with these folders before PATH."""
  path = os.pathsep.join([*map(str, path), os.environ['PATH']])
  return {**os.environ, 'PATH': path, **env}


def bash(*words, path=(), cwd=ROOT, **env):
  """Runs bash with these folders before PATH."""
  return subprocess.run(
    ['bash', *map(str, words)],
    cwd=cwd,
    env=environment(path, **env),
    capture_output=True,
    text=True,
    timeout=120,
  )


def command(folder, name, text):
  """A command of PATH."""
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(f'#!/bin/bash\n{text}\n')
  (folder / name).chmod(0o755)
  return folder
