"""Runs jobs that depend on one another, in this process or in several.

On a CPU a small run gains nothing from a second core, but two runs at once do.
So each worker is a process with one thread for its matmuls. If there are as
many workers as cores, each is pinned to its own core.
"""

import concurrent.futures as futures
import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from jaxlib.version import __version_info__ as jaxlib

from align_jax.learn import stopping

GRACE = 60  # seconds that workers have to save when they are asked to stop
STATUS_WAIT = 5  # seconds until the system has told how a worker ended
PR_SET_PDEATHSIG = 1  # of prctl(2)

_queue = None  # in a worker: the queue for its progress


@dataclasses.dataclass(frozen=True)
class Job:
  """A call `fn(*args, report=...)`, made after all of `needs` have ended.

  A worker is a new process, so `fn` must be importable and `args` picklable.
  """

  name: str
  fn: Callable
  args: tuple = ()
  needs: tuple[str, ...] = ()
  steps: int = 1  # its share of the progress bar


def default_workers():
  """One worker per core on a CPU, one worker on an accelerator."""
  import jax

  if jax.default_backend() != 'cpu' or jax.process_count() > 1:
    return 1
  return len(_cores())


def _cores():
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count()))  # macOS


def run(jobs, *, workers, progress):
  """Runs all jobs. If a job fails, stops the others and raises its error.

  Args:
    jobs: list of Job. Of those that are ready, the first starts.
    workers: number of processes. 1: run the jobs in this process.
    progress: called with (job name, steps done, info) when a job reports.
  """
  if workers == 1:
    for job in in_order(jobs):
      job.fn(*job.args, report=_reporter(job.name, progress))
      progress(job.name, job.steps, {})
    return
  context = multiprocessing.get_context('spawn')
  queue, cores = context.SimpleQueue(), context.SimpleQueue()
  for number in range(workers):
    cores.put(core_of(number, workers))
  with (
    _small_runs(),
    futures.ProcessPoolExecutor(
      workers, context, initializer=_start_worker, initargs=(queue, cores)
    ) as pool,
  ):
    crew = _Crew(pool, queue, progress)
    try:
      _schedule(jobs, crew, workers)
    except BaseException:
      crew.kill()
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def in_order(jobs):
  """The jobs, each after those it needs. Raises ValueError for a cycle."""
  done, waiting = set(), list(jobs)
  ordered = []
  while waiting:
    ready = [job for job in waiting if done.issuperset(job.needs)]
    if not ready:
      missing = sorted({n for j in waiting for n in j.needs} - done)
      raise ValueError(f'jobs wait for ones that never end: {missing}')
    ordered.append(ready[0])
    done.add(ready[0].name)
    waiting.remove(ready[0])
  return ordered


class _Crew:
  """The worker processes, and which job each of them does."""

  def __init__(self, pool, queue, progress):
    self._pool, self._queue, self._progress = pool, queue, progress
    self._processes, self._job_of = {}, {}  # by process id

  def begin(self, job):
    try:
      with _later(signal.SIGINT):  # a new worker has it so until it listens
        future = self._pool.submit(_work, job)
    except futures.process.BrokenProcessPool:
      raise self._died() from None
    self._processes |= self._pool._processes
    return future

  def listen(self):
    """Reads what workers report."""
    while not self._queue.empty():
      name, step, info = self._queue.get()
      if step is None:
        self._job_of[info] = name
      else:
        self._progress(name, step, info)

  def ended(self, job, future):
    """Raises the job's error, or what became of its worker."""
    try:
      future.result()
    except futures.process.BrokenProcessPool:
      raise self._died() from None
    self._progress(job.name, job.steps, {})

  def check(self):
    """Raises what became of a worker that has died.

    The pool may notice no worker that it started since its last event.
    """
    if any(p.exitcode not in (None, 0) for p in self._processes.values()):
      raise self._died()

  def _died(self):
    self.listen()
    pid, code = self._first_to_die()
    if code is None:
      return ChildProcessError('a worker ended; the same command goes on')
    how = 'signal 9, perhaps for memory' if code == -9 else f'status {code}'
    return ChildProcessError(
      f'the worker of {self._job_of.get(pid, "a job")} ended by {how}; the '
      'same command goes on, --config.workers=1 needs less memory'
    )

  def _first_to_die(self):
    """Process id and status of the worker that the pool did not end itself.

    A status may be None for a moment after the end: a thread of the pool asks
    the system for it too, and only one of the two is told.
    """
    end = time.monotonic() + STATUS_WAIT
    while time.monotonic() < end:
      for pid, process in self._processes.items():
        code = process.exitcode
        if code not in (None, 0, -signal.SIGTERM):
          return pid, code
      time.sleep(0.02)
    return None, None

  def ask_to_stop(self):
    for process in multiprocessing.active_children():
      process.terminate()

  def kill(self):
    # The pool may know less: a worker that starts while it breaks is lost.
    for process in multiprocessing.active_children():
      process.kill()


def _schedule(jobs, crew, workers):
  waiting, running, done = in_order(jobs), {}, set()
  while waiting or running:
    if stopping.asked():
      _stop(running, crew)
    ready = [job for job in waiting if done.issuperset(job.needs)]
    for job in ready[: workers - len(running)]:
      running[crew.begin(job)] = job
      waiting.remove(job)
    ended, _ = futures.wait(running, 0.2, futures.FIRST_COMPLETED)
    crew.listen()
    crew.check()
    for future in ended:
      job = running.pop(future)
      crew.ended(job, future)
      done.add(job.name)


def _stop(running, crew):
  """Waits until the workers have saved, then raises Stopped."""
  crew.ask_to_stop()
  futures.wait(running, GRACE)
  saved = [f.exception() for f in running if f.done()]
  told = [str(x) for x in saved if isinstance(x, stopping.Stopped)]
  raise stopping.Stopped('; '.join(told) or 'nothing was under way')


def _reporter(name, progress):
  return lambda step, info: progress(name, step, dict(info))


def _work(job):
  _queue.put((job.name, None, os.getpid()))
  job.fn(*job.args, report=_reporter(job.name, lambda *row: _queue.put(row)))


def core_of(number, workers):
  """The core to pin worker `number` to, or None.

  Workers are pinned only if there is one per core. Fewer could end up on the
  two halves of one physical core, more would share a core.
  """
  cores = _cores()
  if workers != len(cores) or not hasattr(os, 'sched_setaffinity'):
    return None
  return cores[number]


def _start_worker(queue, cores):
  global _queue
  _queue = queue
  stopping.listen()
  signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
  _end_with_parent()
  core = cores.get()
  if core is not None:
    os.sched_setaffinity(0, {core})


def _end_with_parent():
  """Workers of a killed parent must not write while its successor runs."""
  parent = os.getppid()
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

  def watch():
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _later(number):
  """Delivers a signal after the block; processes begun within wait, too."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _small_runs:
  """Environment of the workers: XLA reads its flags when it starts.

  Each worker has one thread. XLA uses its plain matmuls and optimises little.
  This halves compile times, and small models run as fast.
  """

  FLAGS = (
    '--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=1'
  )
  if jaxlib >= (0, 10):  # an unknown flag ends the process
    FLAGS += ' --xla_cpu_experimental_ynn_fusion_type='

  def __enter__(self):
    self._flags = os.environ.get('XLA_FLAGS')
    os.environ['XLA_FLAGS'] = f'{self.FLAGS} {self._flags or ""}'.strip()

  def __exit__(self, *_):
    os.environ.pop('XLA_FLAGS')
    if self._flags is not None:
      os.environ['XLA_FLAGS'] = self._flags
