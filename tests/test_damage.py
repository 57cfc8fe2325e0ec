"""Workdirs that are damaged, shared or interrupted; the long proof is
`python -m experiments.damage`."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from runs import without_a_page

from align_jax import files
from align_jax.files import read_jsonl
from align_jax.lab import lock
from align_jax.learn import checkpoint, stopping, train
from experiments import begun, damage


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('damage') / 'whole'
  without_a_page(damage.small(), workdir)
  return workdir


def test_no_damage_passes(whole):
  outcomes = damage.flips(
    damage.small(), whole, whole.with_name('scratch'), 4, seed=1
  )
  assert not outcomes['changed'] and not outcomes['unnamed'], outcomes
  assert sum(map(len, outcomes.values())) == 4


def test_the_proof_sees_a_change(whole, tmp_path):
  """It compares what it says that it compares."""
  shutil.copytree(whole, tmp_path / 'copy')
  wanted = damage.results(whole)
  assert not damage.differing(wanted, damage.results(tmp_path / 'copy'))
  path = next((tmp_path / 'copy').glob('seed0/online/*/points.jsonl'))
  path.write_text(path.read_text().replace('"step": 0', '"step": 1', 1))
  found = damage.results(tmp_path / 'copy')
  assert 'online' in damage.differing(wanted, found)


def break_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def checkpoint_file(run, step):
  folder = run / 'checkpoints' / str(step) / 'default'
  return max(folder.rglob('*'), key=lambda p: p.is_file() and p.stat().st_size)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, tmp_path):
  workdir = tmp_path / 'copy'
  shutil.copytree(whole, workdir)
  run = workdir / 'seed0' / 'online' / 'default'
  (run / 'done.json').unlink()
  newest = checkpoint.newest_step(run)
  break_bit(checkpoint_file(run, newest))
  with pytest.raises(ValueError, match='is not what was written: damaged'):
    checkpoint.final_params(run)
  without_a_page(damage.small(), workdir)
  assert not damage.differing(damage.results(whole), damage.results(workdir))


def test_points_that_are_missing_are_made_again(whole, tmp_path):
  workdir = tmp_path / 'copy'
  shutil.copytree(whole, workdir)
  path = workdir / 'seed0' / 'online' / 'default' / 'points.jsonl'
  path.write_text(''.join(path.read_text().splitlines(True)[:2]))
  without_a_page(damage.small(), workdir)
  assert not damage.differing(damage.results(whole), damage.results(workdir))


@pytest.mark.parametrize('text', ['', '{', '[]', '{"steps": 7}'])
def test_a_broken_end_is_no_end(text, whole, tmp_path):
  workdir = tmp_path / 'copy'
  shutil.copytree(whole, workdir)
  path = workdir / 'seed0' / 'offline' / 'default' / 'done.json'
  right = path.read_text()
  path.write_text(text)
  without_a_page(damage.small(), workdir)
  assert set(files.read_record(path)) == set(json.loads(right)) - {'digest'}


def test_a_record_knows_its_change(tmp_path):
  path = tmp_path / 'a.json'
  files.write_record(path, {'x': 1, 'y': (2, 3)})
  assert files.read_record(path) == {'x': 1, 'y': [2, 3]}
  path.write_text(path.read_text().replace('"x": 1', '"x": 2'))
  with pytest.raises(ValueError, match='a.json: damaged'):
    files.read_record(path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [('', r'not JSON \(empty\)'), ('[1', 'not JSON'), ('\xff', 'not UTF-8')],
)
def test_broken_json_is_named(text, message, tmp_path):
  path = tmp_path / 'a.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError, match=f'a.json: {message}'):
    files.read_json(path)


def test_a_workdir_belongs_to_one_command(tmp_path):
  code = (
    'import sys, time; from align_jax.lab import lock\n'
    'with lock.held(sys.argv[1], "the first"):\n'
    '  print("held", flush=True); time.sleep(60)'
  )
  command = [sys.executable, '-c', code, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
    assert other.stdout.readline() == b'held\n'
    with pytest.raises(
      ValueError, match=rf'process {other.pid} on .* \(the first\)'
    ):
      with lock.held(tmp_path):
        pass
    other.kill()
  with lock.held(tmp_path, 'the second'):
    pass  # a killed process holds nothing


@pytest.mark.parametrize('below', ['', 'below'])
def test_a_workdir_that_is_a_file_is_said_so(tmp_path, below):
  (tmp_path / 'file').touch()
  with pytest.raises(ValueError, match='is a file, expected a folder'):
    with lock.held(tmp_path / 'file' / below):
      pass


def test_a_log_that_was_empty_at_a_checkpoint_may_grow(tmp_path):
  log = tmp_path / 'metrics.jsonl'
  log.touch()
  known = files.digests(tmp_path)
  assert known['metrics.jsonl'][0] == 0
  log.write_text('{"step": 1}\n')
  assert not files.damaged(tmp_path, known)


def test_what_is_half_written_goes(tmp_path):
  (tmp_path / 'seed0').mkdir()
  (tmp_path / 'seed0' / 'pairs.npz.align-partial-12').write_text('x')
  (tmp_path / 'task.align-partial-12').mkdir()
  (tmp_path / 'task.align-partial-12' / 'x.npz').touch()
  kept = ['film.partial-1', 'other/lock', 'other/page.align-partial-3']
  kept.append('seed0/pairs.npz')
  for name in kept:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('x')
  (tmp_path / 'lock').touch()
  lock.drop_unfinished(tmp_path)
  left = [p for p in tmp_path.rglob('*') if p.is_file()]
  names = sorted(str(p.relative_to(tmp_path)) for p in left)
  assert names == sorted([*kept, 'lock'])


def test_a_start_that_failed_binds_nothing(tmp_path):
  assert not begun.experiment(tmp_path)
  (tmp_path / 'seed0' / 'online' / 'default').mkdir(parents=True)
  (tmp_path / 'seed0' / 'online' / 'default' / 'settings.json').touch()
  assert not begun.experiment(tmp_path)
  (tmp_path / 'seed0' / 'sft' / 'checkpoints' / '4').mkdir(parents=True)
  assert begun.experiment(tmp_path)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_saves_first(number, whole, tmp_path, monkeypatch):
  log = train._Files.log

  def ask(self, step, *rest):
    log(self, step, *rest)
    if 'online' in str(self._directory) and step == 3:
      os.kill(os.getpid(), number)

  with monkeypatch.context() as patch:
    patch.setattr(train._Files, 'log', ask)
    with pytest.raises(stopping.Stopped, match='online.*saved after 3 updates'):
      without_a_page(damage.small(), tmp_path / 'w')
  [run] = (tmp_path / 'w').glob('seed0/online/*')
  # The evaluation after the third update is given up.
  steps = [row['step'] for row in read_jsonl(run / 'points.jsonl')]
  assert steps == [0, 2]
  without_a_page(damage.small(), tmp_path / 'w')
  found = damage.results(tmp_path / 'w')
  assert not damage.differing(damage.results(whole), found)


def test_a_killed_experiment_ends_in_the_same_bits(whole, tmp_path):
  rng, workdir = random.Random(0), tmp_path / 'killed'
  process = subprocess.Popen([sys.executable, '-c', damage.RUN, str(workdir)])
  deadline = time.time() + 120
  while not list(workdir.glob('seed0/o*/*/checkpoints/[0-9]*')):
    assert process.poll() is None and time.time() < deadline
    time.sleep(rng.uniform(0.01, 0.05))
  process.kill()
  process.wait()
  without_a_page(damage.small(), workdir)
  assert not damage.differing(damage.results(whole), damage.results(workdir))
