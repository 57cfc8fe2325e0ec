"""Runs jobs that depend on one another, in this process or in several.

On a CPU a small run gains nothing from a second core, but two runs at once do.
So each worker is a process with one thread for its matmuls. If there are as
many workers as cores, each is pinned to its own core.
"""

import concurrent.futures as futures
import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Callable

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
    try:
      _schedule(jobs, pool, queue, progress, workers)
    except BaseException:
      for process in list(pool._processes.values()):
        process.terminate()
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


def _schedule(jobs, pool, queue, progress, workers):
  waiting, running, done = in_order(jobs), {}, set()
  while waiting or running:
    ready = [job for job in waiting if done.issuperset(job.needs)]
    for job in ready[: workers - len(running)]:
      running[pool.submit(_work, job)] = job
      waiting.remove(job)
    ended, _ = futures.wait(running, 0.2, futures.FIRST_COMPLETED)
    while not queue.empty():
      progress(*queue.get())
    for future in ended:
      job = running.pop(future)
      future.result()
      progress(job.name, job.steps, {})
      done.add(job.name)


def _reporter(name, progress):
  return lambda step, info: progress(name, step, dict(info))


def _work(job):
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
  core = cores.get()
  if core is not None:
    os.sched_setaffinity(0, {core})
  parent = os.getppid()

  def end_with_parent():
    # Workers of a killed parent must not write while its successor runs.
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()


class _small_runs:
  """Environment of the workers: XLA reads its flags when it starts.

  Each worker has one thread. XLA uses its plain matmuls and optimises little.
  This halves compile times, and small models run as fast.
  """

  FLAGS = (
    '--xla_cpu_multi_thread_eigen=false '
    '--xla_cpu_experimental_ynn_fusion_type= '
    '--xla_backend_optimization_level=1'
  )

  def __enter__(self):
    self._flags = os.environ.get('XLA_FLAGS')
    os.environ['XLA_FLAGS'] = f'{self.FLAGS} {self._flags or ""}'.strip()

  def __exit__(self, *_):
    os.environ.pop('XLA_FLAGS')
    if self._flags is not None:
      os.environ['XLA_FLAGS'] = self._flags
