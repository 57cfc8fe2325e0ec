"""A process that repeats one task, once per line that it reads.

  python -m experiments.peers.worker MODULE SPEC

MODULE has `KINDS = {kind: (spec, gate)}`; SPEC is JSON. Nothing but the
standard library here: an environment needs no more than its own peer.
"""

import importlib
import json
import os
import pathlib
import resource
import sys
import time


def peak_mb():
  """Of this process; what the kernel reports of a child starts at its
  parent's, hence /proc where there is one."""
  try:
    status = pathlib.Path('/proc/self/status').read_text('utf-8')
  except FileNotFoundError:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return int(status.split('VmHWM:')[1].split()[0]) / 1024


def pin(cores):
  if cores and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def widen():
  """Lets every thread run anywhere; the pools keep their sizes."""
  for thread in os.listdir('/proc/self/task'):
    os.sched_setaffinity(int(thread), range(os.cpu_count()))


class Gate:
  """What a repetition passes through: `begin` waits to be asked for one.

  The first one is the warm-up and is not waited for. Each is answered by a
  line of JSON: its seconds, the peak of memory and what `end` was told.
  """

  def __init__(self, requests, answers, after_warm_up=lambda: None):
    self._requests, self._answers = requests, answers
    self._after_warm_up = after_warm_up
    self._warm = False

  def begin(self):
    if self._warm and not self._requests.readline():
      os._exit(0)  # a trainer's loop has no other way out
    self._wall, self._cpu = time.perf_counter(), time.process_time()

  def end(self, **more):
    figures = {
      'cpu': time.process_time() - self._cpu,
      'wall': time.perf_counter() - self._wall,
      'peak_mb': peak_mb(),
      **more,
    }
    parts = sum(part['wall'] for part in more.get('parts', {}).values())
    assert parts <= 1.01 * figures['wall'], figures
    if not self._warm:
      self._warm = True
      self._after_warm_up()
    print(json.dumps(figures), file=self._answers, flush=True)

  def repeat(self, f, **about):
    """f, as often as asked for; it returns a dict of its own figures."""
    while True:
      self.begin()
      self.end(**f(), **about)


class Clock:
  """CPU and wall seconds since it was made."""

  def __init__(self):
    self._wall, self._cpu = time.perf_counter(), time.process_time()

  def __call__(self):
    wall, cpu = time.perf_counter(), time.process_time()
    return {'cpu': cpu - self._cpu, 'wall': wall - self._wall}


def main(module, spec):
  spec = json.loads(spec)
  # What libraries print must not end up among the answers.
  answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)
  pin(spec['cores'])  # before the libraries size their pools
  gate = Gate(sys.stdin, answers, widen if spec['widen'] else lambda: None)
  peer = importlib.import_module(f'experiments.peers.{module}')
  peer.KINDS[spec['kind']](spec, gate)


if __name__ == '__main__':
  main(*sys.argv[1:])
