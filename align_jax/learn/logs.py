"""What a run writes: metrics and points, as lines of JSON."""

import os

from align_jax import hosts, paths
from align_jax.files import digest, line, read_jsonl, write_atomically


class Writer:
  """Appends to `metrics.jsonl` and `points.jsonl` of one run.

  Opening at a step drops the rows after it: a resumed run writes them anew.
  Metrics are converted one call late, so that the device is never waited for.
  Of several hosts only host 0 writes; the others know its points.

  Args:
    trackers: what shows the numbers elsewhere, see `trackers.opened`.
  """

  def __init__(self, directory, step, trackers=()):
    self._files, self.names, self.points = {}, [str(directory)], set()
    self._trackers = trackers
    for name in ('metrics', 'points') if hosts.first() else ():
      path = paths.path(directory) / f'{name}.jsonl'
      # At step 0 nothing is needed, not even what is damaged.
      rows = read_jsonl(path) if step else []
      kept = [x for x in rows if x['step'] <= step]
      write_atomically(path, ''.join(map(line, kept)))
      self._files[name] = paths.Growing(path)
      if name == 'points':
        self.points = {x['step'] for x in kept}
    self.points = hosts.agree(self.points)
    self._pending = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.flush()
    for file in (*self._files.values(), *self._trackers):
      file.close()

  def _append(self, name, values):
    if file := self._files.get(name):
      file.write(line(values))

  def _show(self, step, values, group=''):
    named = {
      f'{group}{k}': v for k, v in values.items() if isinstance(v, int | float)
    }
    for tracker in self._trackers:
      tracker.show(step, named)

  def write(self, step, metrics):
    """Queues scalar metrics; writes those queued before."""
    self.flush()
    self._pending = (step, metrics)

  def flush(self):
    """Writes the metrics that are queued, waiting for their values."""
    if self._pending:
      step, metrics = self._pending
      found = {name: float(value) for name, value in sorted(metrics.items())}
      self._append('metrics', {'step': step, **found})
      self._show(step, found)
      self._pending = None

  def digests(self, directory):
    """{path relative to a directory: [bytes, digest]} of what is written."""
    self.flush()
    found = {}
    for growing in self._files.values():
      growing.sync()
      name = os.path.relpath(growing.path, directory)
      found[name] = digest(growing.file.name)
    return found

  def point(self, step, point):
    """Writes and returns the point."""
    self.flush()  # trackers want their steps in order
    self._append('points', {'step': step, **point})
    if file := self._files.get('points'):
      file.put()
    self._show(step, point, 'point/')
    self.points.add(step)
    return point
