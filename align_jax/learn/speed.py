"""How fast a run is: seconds per stage, tokens per second, memory, compiling.

Rows of speed.jsonl, one for each step whose metrics are logged. Nothing is read
back from it: clocks differ between two runs that are the same in all bits.

The device never waits for a measurement. A thread waits instead, for what the
stages of a step leave one after the other, and notes when each is there. It is
late by what Python takes to switch to it, some milliseconds; a stage that is
hardly longer has no tokens per second.
"""

import contextlib
import dataclasses
import queue
import sys
import threading
import time

import jax
import numpy as np

from align_jax import hosts, paths, sharding
from align_jax.files import line, write_atomically
from align_jax.learn import compiled

# FLOP/s of dense bfloat16 matrix products by device_kind, of data sheets.
PEAKS = {
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA H100 80GB HBM3': 989e12,
  'NVIDIA H200': 989e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5': 459e12,  # v5p
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
}
RESOLUTION = 0.01  # seconds

_running = []  # clocks of runs under way; the last is the innermost


@dataclasses.dataclass(frozen=True)
class Work:
  """What MFU is computed from.

  Attributes:
    flops: of one pass over one token forward, without attention's scores.
    passes: as many of them as the update of a step costs.
  """

  flops: float
  passes: float


class Clock:
  """Measures the steps that are multiples of `log_every`.

  Seconds are of host 0. Of several hosts it counts its own tokens, and takes
  the others' to be as many a row. A stage lasts
  from the end of the one before it, or from its call if the device was idle,
  until its result is there. `sampling` ends with the completions, `scoring`
  with rewards and log-probs, `training` with the loss. Data that are there
  have one stage instead of the first two, `batch`.
  """

  def __init__(self, directory, log_every, work=None):
    self._path = paths.path(directory) / 'speed.jsonl'
    self._log_every, self._work = log_every, work
    self._due, self._last, self._batch = False, None, None
    self._stage, self._rows = 'batch', None
    self._left, self._done = queue.SimpleQueue(), queue.SimpleQueue()
    self._thread = threading.Thread(target=self._wait, daemon=True)

  def __enter__(self):
    if hosts.first():
      compiled.listen()
      self._drop_half_a_row()
      self._rows = paths.Growing(self._path)
    _running.append(self)
    self._thread.start()
    return self

  def __exit__(self, *_):
    _running.remove(self)
    self._left.put(None)
    self._thread.join()
    if self._rows:
      self._write()
      self._rows.close()

  def _drop_half_a_row(self):
    text = self._path.read_text('utf-8') if self._path.exists() else ''
    if text and not text.endswith('\n'):  # a kill left it
      write_atomically(self._path, text[: text.rfind('\n') + 1])

  def begins(self, step):
    """To be called before the batch of an update is made."""
    self._due = bool(self._rows) and step % self._log_every == 0
    self._mark('start', self._last)

  def sampled(self, batch):
    """To be called with a batch whose completions were sampled."""
    self._mark('sampling', batch.completions)
    self._stage = 'scoring'

  def scored(self, batch):
    """To be called with the finished batch."""
    if self._due:
      self._mark(self._stage, (batch.rewards, batch.ref_logps))
      self._batch = batch

  def trained(self, step, metrics):
    """To be called after an update, with its metrics."""
    self._last = metrics
    self._mark('training', metrics)
    if self._due:
      self._write()
      self._left.put((step, (self._batch, compiled.take()), None))
      self._batch, self._stage = None, 'batch'

  def _mark(self, stage, result):
    if self._due:
      there = time.perf_counter() if _ready(result) else None
      self._left.put((stage, result, there))

  def _wait(self):
    """The thread: waits for results in their order."""
    times = {}
    while item := self._left.get():
      stage, result, there = item
      try:
        if isinstance(stage, int):
          if 'training' in times and len(times) > 1:  # or a step has failed
            self._done.put((stage, times, result, time.time()))
          times = {}
        else:
          jax.block_until_ready(result)
          times[stage] = there or time.perf_counter()
      except Exception as error:  # a failed step is the main thread's to tell
        print(f'note: {self._path}: {error}', file=sys.stderr)
        times = {}

  def _write(self):
    """Writes the rows of steps that have ended."""
    while not self._done.empty():
      row = self._row(*self._done.get())
      self._rows.write(line(row))

  def _row(self, step, times, took, when):
    batch, programs = took
    stages = list(times)
    found = {
      f'{stage}_seconds': times[stage] - times[before]
      for before, stage in zip(stages, stages[1:])
    }
    tokens = _count(batch.valid)
    row = {'step': step, 'time': when, 'tokens': tokens, **found}
    for stage in stages[1:]:
      if (seconds := found[f'{stage}_seconds']) > RESOLUTION:
        row[f'{stage}_tokens_per_second'] = tokens / seconds
    computed = tokens + _count(batch.prompt_valid)
    row |= self._utilisation(computed, found['training_seconds']) | _memory()
    return {**row, 'compiled': programs} if programs else row

  def _utilisation(self, tokens, seconds):
    peak = PEAKS.get(jax.local_devices()[0].device_kind)
    if self._work is None or peak is None or seconds <= RESOLUTION:
      return {}
    flops = self._work.flops * self._work.passes * tokens
    return {'mfu': flops / seconds / (peak * jax.device_count())}


def _ready(tree):
  leaves = jax.tree.leaves(tree)
  return all(x.is_ready() for x in leaves if hasattr(x, 'is_ready'))


def _count(x):
  """How many are true; where hosts share it, by this one's part of it."""
  if not isinstance(x, jax.Array):
    return int(np.sum(x))
  own = {str(s.index): np.asarray(s.data) for s in x.addressable_shards}
  share = sum(part.size for part in own.values()) / x.size
  return round(sum(int(part.sum()) for part in own.values()) / share)


def _memory():
  """Bytes of the first device of this process, where it tells."""
  told = sharding.memory()
  names = {'memory_bytes': 'bytes_in_use', 'memory_peak': 'peak_bytes_in_use'}
  return {k: told[name] for k, name in names.items() if name in told}


def sampled(batch):
  """Tells the clock of the run under way that a batch was sampled."""
  traced = isinstance(batch.completions, jax.core.Tracer)
  if _running and not traced:
    _running[-1].sampled(batch)


@contextlib.contextmanager
def profiled(directory):
  """Traces what is computed within it into `directory`/profile, for xprof."""
  if not hosts.first():
    yield
    return
  with paths.filling(paths.path(directory) / 'profile') as folder:
    with jax.profiler.trace(str(folder)):
      yield
