"""Runs jobs that need one another, in this process or in several.

On a CPU small runs gain nothing from a second core each, but two runs side by
side do: each worker is a process with one thread for its matmuls, and stays on
a core of its own if they are as many as cores.
"""

import concurrent.futures as futures
import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Callable

_queue = None  # of a worker: where its progress goes


@dataclasses.dataclass(frozen=True)
class Job:
  """`fn(*args, report=...)`, once all of `needs` have ended.

  A worker is a fresh process, so `fn` must be importable and `args` plain.
  """

  name: str
  fn: Callable
  args: tuple = ()
  needs: tuple[str, ...] = ()
  steps: int = 1  # its share of the progress bar


def default_workers():
  """One per core on a CPU; one where an accelerator is driven."""
  import jax

  if jax.default_backend() != 'cpu' or jax.process_count() > 1:
    return 1
  return len(_cores())


def _cores():
  """Those that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count()))  # macOS


def run(jobs, *, workers, progress):
  """Runs all jobs; a job that fails stops the others and raises its error.

  Args:
    jobs: in order of preference among those that are ready.
    workers: processes; 1 runs the jobs in this process.
    progress: called with (job name, steps done, info) as jobs report.
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
  """The jobs, each after those it needs; ValueError if that cannot be."""
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
  """What worker `number` stays on; None: it may roam.

  They stay where every core has one: fewer could meet on the two halves of a
  core, and more on one.
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
    # A killed parent must not leave workers that write beside its successor's.
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()


class _small_runs:
  """Environment of the workers: XLA reads its flags when it starts.

  One thread each; plain matrix products and little optimisation of what is
  around them, which compiles in half the time and at these sizes runs no
  slower.
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
