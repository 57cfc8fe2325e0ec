"""Command lines that end before they compute, as forks of one interpreter.

Its imports take seconds, and are done once.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
FORKS = """
import importlib, json, os, runpy, sys

module, lines, folder = json.load(sys.stdin)
file = importlib.import_module(module).__file__
del sys.modules[module]
codes = []
for number, line in enumerate(lines):
  child = os.fork()
  if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(f'{folder}/{number}', os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = [file, *line]
    runpy.run_module(module, run_name='__main__')
    sys.exit()
  codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


class Ended(NamedTuple):
  """Of one command line."""

  status: int
  errors: str  # what it wrote to standard error


def ended(module, lines, folder):
  """`python -m module` by each of the lines of arguments, one after another.

  Args:
    folder: an empty one, for what they write.
  """
  done = subprocess.run(
    [sys.executable, '-c', FORKS],
    input=json.dumps([module, lines, str(folder)]),
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  codes = json.loads(done.stdout)
  texts = [(folder / str(i)).read_text('utf-8') for i in range(len(lines))]
  return [*map(Ended, codes, texts)]
