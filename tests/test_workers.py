"""A worker of the test run that dies ends the run, which names its test."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
IN_A_TEST = """
import os, signal, time

def test_dies():
  time.sleep(0.3)  # the other worker has by then begun all that is left
  os.kill(os.getpid(), signal.SIGKILL)

def test_never():
  pass
"""
IN_COLLECTING = """
import os

if os.environ.get('PYTEST_XDIST_WORKER') == 'gw1':
  os._exit(0)

def test_never():
  pass
"""
LIVES = """
import time, pytest

@pytest.mark.parametrize('i', range(4))
def test_lives(i):
  time.sleep(0.1)
"""


@pytest.mark.parametrize(
  'dies, said',
  [
    (IN_A_TEST, "crashed while running 'test_a.py::test_dies'"),
    (IN_COLLECTING, 'gw1] node down'),
  ],
  ids=['in a test', 'in collecting'],
)
def test_a_worker_that_dies_ends_the_run(tmp_path, dies, said):
  (tmp_path / 'conftest.py').write_text('from workers import *')
  for name, code in (('a', dies), ('b', LIVES), ('c', LIVES)):
    (tmp_path / f'test_{name}.py').write_text(code)
  command = [sys.executable, '-m', 'pytest', '--rootdir', tmp_path]
  command += ['-c', HERE.parent / 'pyproject.toml', '-p', 'no:cacheprovider']
  command += ['-n', '2', '--dist', 'loadfile', tmp_path]  # as launch/test.sh
  env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
  done = subprocess.run(
    command,
    env={**env, 'PYTHONPATH': str(HERE)},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 1, done.stdout + done.stderr
  assert said in done.stdout
