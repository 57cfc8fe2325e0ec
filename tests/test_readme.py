"""What README and CONTRIBUTING show works as it stands there."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from align_jax.learn import batches

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = [(ROOT / name).read_text() for name in ('README.md', 'CONTRIBUTING.md')]
SHOWN = '\n'.join(TEXTS)
DIFFS = re.findall(r'```diff\n(.*?)```', SHOWN, re.DOTALL)
SMOKE = """
from configs import base, toy
get_config = lambda: base.smoke(toy.get_config())
"""


@pytest.fixture(scope='module')
def changed(tmp_path_factory):
  """A copy of the repository with every diff applied."""
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


def test_each_diff_changes_at_most_ten_lines():
  assert len(DIFFS) == 8
  for diff in DIFFS:
    assert len(re.findall(r'^[+-](?![+-]{2} )', diff, re.MULTILINE)) <= 10


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


def lines_of(changed, folder):
  return (changed / folder / 'report.html').read_text()


def test_the_added_experiment_compares_its_sizes_as_arms(changed):
  """With the added reward, optimizer and metric."""
  out = run(
    changed,
    *('-m', 'experiments.group_size'),
    *('--config=configs/smoke.py', '--workdir=out', '--config.seeds=1'),
    '--config.arm.labels=questions',
    "--config.arm.optimizer={'name': 'momentum', 'decay': 0.8}",
    "--config.eval.metrics=('longest',)",
  )
  assert 'page:' in out and '8 each minus 2 each' in out
  assert '>2 each<' in lines_of(changed, 'out')
  point = json.loads((changed / 'out' / 'points.jsonl').open().readline())
  assert point['arm'] == '2 each' and len(point['longest_by_prompt']) == 32
  assert (changed / 'out' / 'seed0' / '8 each' / 'default').exists()


def test_variants_share_what_does_not_depend_on_them(changed):
  args = '--config=configs/smoke.py', '--workdir=pairs', '--config.seeds=1'
  out = run(changed, '-m', 'experiments.golden_size', *args)
  assert '1000 pairs offline' in out and '250 pairs offline' in out
  folder = changed / 'pairs'
  made = {p.parents[1].name for p in folder.glob('*/seed0/sft')}
  assert made == {'250 pairs'}
  sizes = {
    p.parents[1].name: batches.load(p).num_prompts
    for p in folder.glob('*/seed0/pairs.npz')
  }
  assert sizes == {'250 pairs': 250, '1000 pairs': 1000}
  rows = [json.loads(x) for x in (folder / 'points.jsonl').open()]
  assert {(r['variant'], r['arm']) for r in rows} == {
    ('250 pairs', '250 pairs offline'),
    ('1000 pairs', '1000 pairs offline'),
  }
  # Each learns from its own pairs, from one reference.
  last = {r['arm']: r['gold'] for r in rows if r['seed'] == 0}
  first = {r['gold'] for r in rows if (r['seed'], r['step']) == (0, 0)}
  assert len(set(last.values())) == 2 and len(first) == 1


def test_every_command_names_what_exists():
  for script in re.findall(r'bash (launch/\w+\.sh)', SHOWN):
    assert (ROOT / script).exists()
  for module in re.findall(r'python -m ([\w.]+)', SHOWN):
    path = ROOT / (module.replace('.', '/') + '.py')
    package = path.with_suffix('') / '__main__.py'
    added = f'+++ b/{path.relative_to(ROOT)}' in SHOWN
    assert path.exists() or package.exists() or added
  for config in re.findall(r'configs/\w+\.py', SHOWN):
    assert (ROOT / config).exists()
  for field in re.findall(r'--config\.([\w.]+)=', SHOWN):
    assert field.split('.')[0] in (ROOT / 'configs' / 'base.py').read_text()
