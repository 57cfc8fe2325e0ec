"""What a run writes: metrics and points, as lines of JSON."""

import json
import pathlib

from align_jax.files import read_jsonl, write_atomically


class Writer:
  """Appends to `metrics.jsonl` and `points.jsonl` of one run.

  Opening at a step drops the rows after it: a resumed run writes them anew.
  Metrics are converted one call late, so that the device is never waited for.
  """

  def __init__(self, directory, step):
    self._files = {}
    for name in ('metrics', 'points'):
      path = pathlib.Path(directory) / f'{name}.jsonl'
      kept = [row for row in read_jsonl(path) if row['step'] <= step]
      write_atomically(path, ''.join(json.dumps(row) + '\n' for row in kept))
      self._files[name] = path.open('a')
      if name == 'points':
        self.points = {row['step'] for row in kept}
    self._pending = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.flush()
    for file in self._files.values():
      file.close()

  def _append(self, name, row):
    self._files[name].write(json.dumps(row) + '\n')
    self._files[name].flush()

  def write(self, step, metrics):
    """Queues scalar metrics; writes those queued before."""
    self.flush()
    self._pending = (step, metrics)

  def flush(self):
    if self._pending:
      step, metrics = self._pending
      row = {name: float(value) for name, value in sorted(metrics.items())}
      self._append('metrics', {'step': step, **row})
      self._pending = None

  def point(self, step, point):
    """Writes and returns the point."""
    self._append('points', {'step': step, **point})
    self.points.add(step)
    return point
