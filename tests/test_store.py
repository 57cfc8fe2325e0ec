"""gs:// is a place for workdirs, data, models and exports, as a disk is.

gcsfs, TensorStore and Orbax are real; the bucket is that of `store`. The long
proof is `python tests/store.py python -m experiments.damage --kills=10
--store=gs://bucket/killed --workdir=runs/damage`.
"""

import errno
import json
import os
import pathlib
import pickle
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest
import store
import tiny_judges
from runs import without_a_page

from align_jax import data, files, paths
from align_jax.lab import lease, lock
from align_jax.learn import checkpoint, stopping, train
from align_jax.learn.logs import Writer
from align_jax.models import hf
from align_jax.tasks import folders
from align_jax.tools import export
from experiments import damage

ROOT = f'gs://{store.BUCKET}'


@pytest.fixture(scope='module')
def served():
  """One for all: TensorStore reads the address once per process."""
  with store.running() as found, pytest.MonkeyPatch.context() as patch:
    for name, value in store.environment(found.address).items():
      patch.setenv(name, value)
    yield found


@pytest.fixture
def bucket(served):
  served.objects.clear()
  return served


def small():
  """An online run, and one that replays its log."""
  cfg = damage.small()
  names = 'online', 'in order'
  report = {**cfg['report'], 'control': 'in order'}
  arms = {name: cfg['arms'][name] for name in names}
  return {**cfg, 'arms': arms, 'report': report}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The results of an undisturbed experiment on a disk."""
  workdir = tmp_path_factory.mktemp('local') / 'run'
  without_a_page(small(), workdir)
  return damage.results(workdir)


@pytest.fixture(scope='module')
def stopped(served, whole):
  """The objects of one in a store that was stopped, went on, and ended."""
  log, asked = train._Files.log, []

  def ask(self, step, *rest):
    log(self, step, *rest)
    if 'online' in str(self._directory) and step == 3 and not asked:
      asked.append(step)
      stopping._ask(15, None)

  workdir = paths.absolute(f'{ROOT}/run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train._Files, 'log', ask)
    with pytest.raises(stopping.Stopped, match='gs:.*saved after 3 updates'):
      without_a_page(small(), workdir)
  damage.run(small(), workdir)
  return dict(served.objects)


@pytest.fixture
def workdir(stopped, bucket):
  bucket.objects.update(stopped)
  return paths.absolute(f'{ROOT}/run')


def test_a_stopped_run_ends_in_the_bits_of_a_disk(whole, workdir):
  found = damage.results(workdir)
  assert {'points.jsonl', 'seed0/online/default/log'} <= found.keys()
  assert not damage.differing(whole, found)
  assert '<html' in (workdir / 'report.html').read_text()
  assert not (workdir / 'lock').exists()


def break_bit(bucket, name):
  content = bytearray(bucket.objects[name].content)
  content[len(content) // 2] ^= 1
  bucket.put(name, bytes(content))


def largest(bucket, prefix):
  names = [x for x in bucket.objects if x.startswith(prefix)]
  return max(names, key=lambda x: len(bucket.objects[x].content))


def test_damage_is_named_or_mended(whole, workdir, bucket):
  run = 'run/seed0/online/default'
  newest = checkpoint.newest_step(workdir / 'seed0/online/default')
  bucket.delete(f'{run}/done.json')
  break_bit(bucket, largest(bucket, f'{run}/checkpoints/{newest}/'))
  break_bit(bucket, 'run/seed0/in order/default/points.jsonl')
  with pytest.raises(ValueError, match='gs:.*is not what was written: damaged'):
    checkpoint.final_params(workdir / 'seed0/online/default')
  without_a_page(small(), workdir)
  assert not damage.differing(whole, damage.results(workdir))
  break_bit(bucket, 'run/seed0/pairs.npz')
  with pytest.raises(ValueError, match='gs://.*pairs.npz: damaged'):
    damage.read_stage(small(), workdir)


def test_a_checkpoint_that_was_not_finished_is_none(workdir, bucket):
  run = workdir / 'seed0/online/default'
  steps = checkpoint.steps_in(run / 'checkpoints')
  bucket.delete(
    f'run/seed0/online/default/checkpoints/{steps[-1]}/{checkpoint.WHOLE}'
  )
  assert checkpoint.steps_in(run / 'checkpoints') == steps[:-1]


def test_a_policy_is_exported_to_a_store_and_read_from_it(workdir, bucket):
  target = f'{ROOT}/policy'
  export.export(f'{workdir}/seed0/online/default', target)
  assert bucket.objects.keys() >= {'policy/config.json'}
  model = hf.load(hf.fetch(target))
  params = checkpoint.final_params(workdir / 'seed0/online/default')
  assert jnp.array_equal(model.params['embed'], params['embed'])
  with pytest.raises(ValueError, match='holds config.json, expected an empty'):
    export.export(f'{workdir}/seed0/online/default', target)


def test_rows_that_a_checkpoint_counts_on_are_in_the_store(bucket):
  folder = paths.path(f'{ROOT}/run')
  with Writer(folder, 0) as writer:
    for step in (1, 2, 3):
      writer.write(step, {'loss': step})
    told = writer.digests(folder)
    assert not files.damaged(folder, told)
    writer.write(4, {'loss': 4})
    writer.point(3, {'kl': 0})
    assert files.read_jsonl(folder / 'points.jsonl') == [{'step': 3, 'kl': 0}]
    # What a kill leaves now.
    assert [x['step'] for x in files.read_jsonl(folder / 'metrics.jsonl')] == [
      1,
      2,
      3,
    ]
  with Writer(folder, 2) as writer:
    assert not writer.points
  assert len(files.read_jsonl(folder / 'metrics.jsonl')) == 2


def test_a_file_that_failed_is_none(bucket):
  with pytest.raises(KeyError), paths.writing(f'{ROOT}/a.json') as file:
    file.write('half')
    raise KeyError
  assert not bucket.objects


def test_listings_are_not_remembered(bucket):
  folder = paths.path(f'{ROOT}/folder')
  bucket.put('folder/1/a', b'')
  assert paths.files_in(folder) == ['1/a']
  assert [x.name for x in folder.iterdir()] == ['1']
  bucket.put('folder/2/a', b'')  # by another client
  assert paths.files_in(folder) == ['1/a', '2/a']
  for found in (folder.iterdir(), folder.glob('[0-9]*')):
    assert [x.name for x in found] == ['1', '2']


def test_a_worker_remembers_none(bucket):
  code = (
    'import pickle, sys\n'
    'folder = pickle.loads(bytes.fromhex(sys.argv[1]))\n'
    'for _ in range(2):\n'
    '  print(len(list(folder.iterdir())), flush=True); input()'
  )
  bucket.put('folder/1/a', b'')
  given = pickle.dumps(paths.path(f'{ROOT}/folder')).hex()
  pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  with subprocess.Popen([sys.executable, '-c', code, given], **pipes) as worker:
    assert worker.stdout.readline() == '1\n'
    bucket.put('folder/2/a', b'')
    assert worker.communicate('\n\n')[0] == '2\n'


def test_data_are_read_from_a_store(bucket):
  rows = [{'prompt': 'p', 'chosen': c, 'rejected': 'x'} for c in 'ab']
  lines = ''.join(map(files.line, rows)).encode()
  for part in ('train-00000-of-00002', 'train-00001-of-00002'):
    bucket.put(f'data/{part}.jsonl', lines)
  for name in ('data', 'data/*.jsonl', 'data/train-0000?-of-00002.jsonl'):
    found = [row['chosen'] for row in data.rows(f'{ROOT}/{name}')]
    assert found == ['a', 'b'] * 2
  bucket.put('data/train-00000-of-00002.jsonl', lines.replace(b'"a"', b'"c"'))
  found = [row['chosen'] for row in data.rows(f'{ROOT}/data')]
  assert found == ['c', 'b', 'a', 'b']  # no old copy
  bucket.put('bad.jsonl', b'{"text": 1}\n{')
  with pytest.raises(ValueError, match=r'bucket/bad.jsonl row 2'):
    list(data.rows(f'{ROOT}/bad.jsonl'))
  with pytest.raises(FileNotFoundError, match='gs://bucket/none.jsonl: no'):
    list(data.rows(f'{ROOT}/none.jsonl'))


def test_models_are_read_from_a_store(bucket, scalar):
  for path in scalar.iterdir():
    bucket.put(f'model/{path.name}', path.read_bytes())
  there, here = hf.load(hf.fetch(f'{ROOT}/model')), hf.load(scalar)
  assert there.config == here.config == tiny_judges.SCALAR
  with pytest.raises(FileNotFoundError, match='gs://bucket/none: no such'):
    hf.fetch(f'{ROOT}/none')


def test_a_folder_that_is_made_once_is_whole(bucket, tmp_path):
  made = []

  def build(folder):
    made.append(folder)
    (folder / 'tokens').mkdir()
    (folder / 'tokens' / 'a.txt').write_text('a')

  folder = f'{ROOT}/run/task'
  for _ in range(2):
    folders.make_once(folder, build, {'size': 1})
  assert len(made) == 1 and 'run/task/tokens/a.txt' in bucket.objects
  there = paths.local(paths.path(folder))
  assert (there / 'tokens' / 'a.txt').read_text() == 'a'
  bucket.delete('run/task/settings.json')  # a kill before the last file
  folders.make_once(folder, build, {'size': 1})
  assert len(made) == 2
  with pytest.raises(ValueError, match='gs:.*task was made with size=1, not 2'):
    folders.make_once(folder, build, {'size': 2})
  break_bit(bucket, 'run/task/tokens/a.txt')
  with pytest.raises(ValueError, match='gs:.*a.txt is not what was written'):
    folders.make_once(folder, build, {'size': 1})


@pytest.fixture
def impatient(monkeypatch):
  monkeypatch.setattr(lease, 'BEAT', 0.05)
  monkeypatch.setattr(lease, 'PATIENCE', 0.5)


def test_a_workdir_belongs_to_one_command(bucket, impatient):
  with lock.held(f'{ROOT}/run', 'the first'):
    first = bucket.get('run/lock').generation
    with pytest.raises(
      ValueError, match=rf'run is in use by process {os.getpid()}.*the first'
    ):
      with lock.held(f'{ROOT}/run', 'the second'):
        pass
    assert bucket.get('run/lock').generation > first  # it beats
  assert not bucket.objects
  bucket.put('run/lock', json.dumps({'pid': 1}).encode())  # what a kill leaves
  with lock.held(f'{ROOT}/run', 'the second'):
    assert b'the second' in bucket.get('run/lock').content


def test_a_store_that_is_gone_hides_no_error(bucket, monkeypatch):
  def gone(*_):
    raise OSError('no route')

  with pytest.raises(KeyError):
    with lock.held(f'{ROOT}/run'):
      monkeypatch.setattr(lease, '_read', gone)
      raise KeyError


def test_who_has_lost_a_workdir_ends(bucket):
  code = (
    'import time; from align_jax.lab import lease, lock\n'
    'lease.BEAT = 0.05\n'
    'with lock.held("gs://bucket/run"):\n'
    '  print("held", flush=True); time.sleep(60)'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == 'held\n'
    bucket.put('run/lock', b'{"token": "of another"}')
    assert other.wait(30) == 1
    assert 'gs://bucket/run/lock is no longer held' in other.stderr.read()


def test_a_store_that_refuses_is_named_at_once(bucket, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError('no storage.objects.create access')

  monkeypatch.setattr(paths, 'create', refuse)
  start = time.monotonic()
  with pytest.raises(
    ValueError,
    match=r'gs://bucket/run: cannot be written \(PermissionError: no',
  ):
    with lock.held(f'{ROOT}/run'):
      pass
  assert time.monotonic() - start < 5


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('s3://b/x', r'^s3://b/x: expected a local path, or one with gs://$'),
    ('https://b/x.jsonl', 'expected a local path'),
    ('gs:///x', 'names no bucket'),
    ('gs:/b/x', r'^gs:/b/x: expected a local path, or gs:// with two slashes'),
    (pathlib.Path('gs://b/x'), r'^gs:/b/x: .*which pathlib.Path makes one of'),
    ('gs://', 'names no bucket'),
  ],
)
def test_other_places_are_refused(name, message):
  with pytest.raises(ValueError, match=message):
    paths.path(name)


def test_a_home_folder_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  assert str(paths.path('~/run')) == '/home/someone/run'
  assert str(paths.path('./~/run')) == '~/run'
  with pytest.raises(ValueError, match='^~no-such-user/x: no such user'):
    paths.path('~no-such-user/x')


def test_a_full_disk_is_named(tmp_path):
  """As every write to /dev/full fails, and its error names no file."""
  full = paths.Growing(paths.path('/dev/full'))
  with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
    full.write('x')
  with pytest.raises(OSError, match='No space left .*/page.html'):
    with paths.writing(tmp_path / 'page.html'):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='needs the package gcsfs.*pip install'):
    paths.path('gs://bucket/x')


def test_compiled_programs_are_kept_in_a_store(bucket):
  """Of a second process, too, which finds them there."""
  code = (
    'import jax, jax.monitoring as m\n'
    'm.register_event_listener(lambda x, **_: print(x))\n'
    'jax.jit(lambda x: x * 3 + 1)(2.0)'
  )
  own = {
    'JAX_COMPILATION_CACHE_DIR': f'{ROOT}/cache',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
  told = [
    subprocess.run(
      [sys.executable, '-c', code],
      env={**os.environ, **own},
      capture_output=True,
      check=True,
      text=True,
    ).stdout
    for _ in range(2)
  ]
  assert [x for x in bucket.objects if 'cache/jit_' in x]
  hit = '/jax/compilation_cache/cache_hits'
  assert hit not in told[0] and hit in told[1]


def test_local_paths_stay_what_they_are(tmp_path):
  assert paths.path(tmp_path) is tmp_path
  assert paths.local(tmp_path) is tmp_path
  assert isinstance(paths.absolute('x'), type(tmp_path))
  with pytest.raises(ValueError, match='gs://b/x: expected a local path'):
    paths.here('gs://b/x')
