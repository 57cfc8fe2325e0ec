"""A worker of the test run that dies ends the run, which names its test."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
DIES = """
import os, signal, time

def test_dies():
  time.sleep(0.3)  # the other worker has by then begun all that is left
  os.kill(os.getpid(), signal.SIGKILL)

def test_never():
  pass
"""
LIVES = """
import time, pytest

@pytest.mark.parametrize('i', range(4))
def test_lives(i):
  time.sleep(0.1)
"""


def test_a_worker_that_dies_ends_the_run(tmp_path):
  for name, code in (('a', DIES), ('b', LIVES), ('c', LIVES)):
    (tmp_path / f'test_{name}.py').write_text(code)
  command = [sys.executable, '-m', 'pytest', '-c', ROOT / 'pyproject.toml']
  command += ['--rootdir', tmp_path, '-p', 'no:cacheprovider']
  command += ['-n', '2', '--dist', 'loadfile', tmp_path]  # launch/test.sh
  env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
  done = subprocess.run(
    command, env=env, capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 1, done.stdout + done.stderr
  assert "crashed while running 'test_a.py::test_dies'" in done.stdout
