"""What the README shows works as it stands there."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
DIFFS = re.findall(r'```diff\n(.*?)```', README, re.DOTALL)
SMOKE = """
from configs import base, toy
get_config = lambda: base.smoke(toy.get_config())
"""


@pytest.fixture(scope='module')
def changed(tmp_path_factory):
  """A copy of the repository with every diff of the README applied."""
  copy = tmp_path_factory.mktemp('changed') / 'align_jax'
  ignore = shutil.ignore_patterns('.git', '.venv', 'runs', '__pycache__')
  shutil.copytree(ROOT, copy, ignore=ignore)
  for diff in DIFFS:
    subprocess.run(
      ['git', 'apply', '-'], input=diff, text=True, check=True, cwd=copy
    )
  (copy / 'configs' / 'smoke.py').write_text(SMOKE)
  return copy


def run(copy, *args):
  done = subprocess.run(
    [sys.executable, *args],
    cwd=copy,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_each_diff_changes_fewer_than_ten_lines():
  assert len(DIFFS) == 5
  for diff in DIFFS:
    assert len(re.findall(r'^[+-](?![+-]{2} )', diff, re.MULTILINE)) < 10


def test_the_law_suite_covers_the_added_loss(changed):
  suite = 'tests/test_losses.py', '-k', 'exponential'
  out = run(changed, '-m', 'pytest', *suite)
  assert re.search(r'\d+ passed', out)


def test_the_added_data_set_is_read(changed):
  rows = [dict(review='fine', stars=5), dict(review='meh', stars=3)]
  code = (
    'from align_jax.data import DATASETS\n'
    f'assert list(DATASETS["stars"]({rows!r})) == [dict(text="fine", label=1)]'
  )
  run(changed, '-c', code)


def test_the_added_experiment_runs_with_the_added_reward(changed):
  out = run(
    changed,
    '-m',
    'experiments.group_size',
    '--config=configs/smoke.py',
    '--workdir=out',
    '--config.arm.labels=questions',
  )
  assert 'page:' in out
  assert (changed / 'out' / 'report.html').exists()
  config = 'group_size8-batch_size8'
  assert (changed / 'out' / 'seed1' / 'rloo' / config).exists()


def test_every_command_of_the_readme_names_what_exists():
  for script in re.findall(r'bash (launch/\w+\.sh)', README):
    assert (ROOT / script).exists()
  for module in re.findall(r'python -m ([\w.]+)', README):
    path = ROOT / (module.replace('.', '/') + '.py')
    assert path.exists() or f'+++ b/{path.relative_to(ROOT)}' in README
  for config in re.findall(r'configs/\w+\.py', README):
    assert (ROOT / config).exists()
  for field in re.findall(r'--config\.([\w.]+)=', README):
    assert field.split('.')[0] in (ROOT / 'configs' / 'base.py').read_text()
