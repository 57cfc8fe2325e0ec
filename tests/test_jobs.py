"""Jobs: what needs what, in this process and in several."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import python

from align_jax.lab import jobs
from align_jax.lab.jobs import Job
from align_jax.learn import stopping


def note(path, partner, report):
  """Says who ran it and when; ends once its partner has begun."""
  start = time.time()
  report(1, {'kl': 0.5})
  path.with_suffix('.begun').touch()
  while not partner.with_suffix('.begun').exists():
    if time.time() > start + 60:
      raise TimeoutError(f'{partner} has not begun')
    time.sleep(0.01)
  cores = getattr(os, 'sched_getaffinity', lambda pid: [])(0)
  told = dict(
    process=os.getpid(),
    cores=sorted(cores),
    flags=os.environ.get('XLA_FLAGS', ''),
    start=start,
    end=time.time(),
  )
  path.write_text(json.dumps(told))


def fail(report):
  raise ValueError('as it must')


def wait(report):
  time.sleep(60)


def die(report):
  os.kill(os.getpid(), signal.SIGKILL)


def until_asked(path, report):
  path.touch()
  while not stopping.asked():
    time.sleep(0.01)
  raise stopping.Stopped(f'{path.name}: saved after 7 updates')


def diamond(folder, partners):
  """`left` and `right` side by side, between `first` and `last`.

  Args:
    partners: {name: the job that must be running before it may end}.
  """

  def job(name, *needs):
    partner = folder / partners.get(name, name)
    return Job(name, note, (folder / name, partner), needs)

  return [job('last', 'left', 'right')] + [
    job('left', 'first'),
    job('right', 'first'),
    job('first'),
  ]


def test_jobs_come_after_what_they_need(tmp_path):
  names = [job.name for job in jobs.in_order(diamond(tmp_path, {}))]
  assert names == ['first', 'left', 'right', 'last']
  with pytest.raises(ValueError, match="never end: \\['nothing'\\]"):
    jobs.in_order([Job('x', note, needs=('nothing',))])


@pytest.mark.parametrize('workers', [1, 2])
def test_all_jobs_run_in_order_and_report(workers, tmp_path):
  seen = []
  progress = lambda *row: seen.append(row)
  both = {'left': 'right', 'right': 'left'} if workers == 2 else {}
  todo = diamond(tmp_path, both)
  jobs.run(todo, workers=workers, progress=progress)
  told = {x.name: json.loads((tmp_path / x.name).read_text()) for x in todo}
  starts = {name: row['start'] for name, row in told.items()}
  ends = {name: row['end'] for name, row in told.items()}
  assert ends['first'] <= min(starts['left'], starts['right'])
  assert max(ends['left'], ends['right']) <= starts['last']
  for name in told:
    assert seen.count((name, 1, {'kl': 0.5})) == 1
    assert seen.count((name, 1, {})) == 1
  processes = {row['process'] for row in told.values()}
  if workers == 1:
    assert processes == {os.getpid()}
    return
  assert os.getpid() not in processes and len(processes) == 2
  assert all(jobs._small_runs.FLAGS in row['flags'] for row in told.values())
  assert jobs._small_runs.FLAGS not in os.environ.get('XLA_FLAGS', '')
  cores = {row['process']: tuple(row['cores']) for row in told.values()}
  if jobs.core_of(1, 2) is not None:
    assert len(set(cores.values())) == 2
    assert all(len(mine) == 1 for mine in cores.values())


def test_xla_knows_the_flags_of_workers():
  with jobs._small_runs():
    assert python('import jax; print(len(jax.devices()))') == 1


def test_a_job_that_fails_ends_the_others():
  start = time.time()
  todo = [Job('bad', fail), Job('long', wait)]
  with pytest.raises(ValueError, match='as it must'):
    jobs.run(todo, workers=2, progress=lambda *row: None)
  assert time.time() - start < 45


def test_a_worker_that_is_killed_is_named_with_its_job():
  start = time.time()
  todo = [Job('big', die), Job('long', wait)]
  with pytest.raises(OSError, match='the worker of big ended by signal 9'):
    jobs.run(todo, workers=2, progress=lambda *row: None)
  assert time.time() - start < 45


class LateStatus:
  """A worker whose status is known only when it is asked for again."""

  def __init__(self, *codes):
    self._codes = list(codes)

  @property
  def exitcode(self):
    return self._codes.pop(0) if len(self._codes) > 1 else self._codes[0]


def test_a_status_that_is_told_late_is_waited_for():
  crew = jobs._Crew(None, multiprocessing.SimpleQueue(), None)
  crew._job_of = {1: 'big', 2: 'long'}
  ended_by_the_pool = LateStatus(None, -signal.SIGTERM)
  crew._processes = {2: ended_by_the_pool, 1: LateStatus(None, None, -9)}
  assert 'the worker of big ended by signal 9' in str(crew._died())


def test_a_process_begun_later_is_not_interrupted_before_it_listens():
  blocked = 'signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])'
  command = [sys.executable, '-c', f'import signal; print({blocked})']
  with jobs._later(signal.SIGINT):
    assert subprocess.check_output(command) == b'True\n'
  assert subprocess.check_output(command) == b'False\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_workers_that_are_asked_to_stop_save_first(number, tmp_path):
  paths = [tmp_path / 'a', tmp_path / 'b']
  todo = [Job(path.name, until_asked, (path,)) for path in paths]

  def ask():
    while not all(path.exists() for path in paths):
      time.sleep(0.01)
    os.kill(os.getpid(), number)

  with stopping.listening():
    threading.Thread(target=ask).start()
    with pytest.raises(stopping.Stopped, match='a: saved .*; b: saved after 7'):
      jobs.run(todo, workers=2, progress=lambda *row: None)
    assert stopping.asked() == number


@pytest.mark.skipif(
  not hasattr(os, 'sched_getaffinity'), reason='cores cannot be told apart'
)
def test_no_two_workers_share_a_core_and_more_or_fewer_roam():
  here = os.sched_getaffinity(0)
  all_of_them = [jobs.core_of(i, len(here)) for i in range(len(here))]
  assert set(all_of_them) == here
  assert jobs.core_of(0, len(here) + 1) is None
  assert jobs.core_of(0, len(here) - 1) is None
