"""Saving and restoring a train state; the only file that knows orbax."""

import contextlib
import logging
import os
import re
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from align_jax import hosts, paths
from align_jax.files import damaged, digests, read_record, write_record
from align_jax.learn.stopping import Stopped

NEWEST, KEPT = 'checkpoints', 'kept'  # folders of a run
RECORD = 'record.json'  # in a checkpoint: digests of its files and of the logs
WHOLE = 'commit_success.txt'  # orbax's, in a whole checkpoint of a store

# Orbax logs the traceback of what it could not write, and raises it as well.
logging.getLogger('absl').addFilter(
  lambda record: not (record.exc_info and 'orbax' in record.pathname)
)


@contextlib.contextmanager
def _written(folder):
  """`paths.named`, also for TensorStore, whose error has its number as text."""
  with paths.named(folder):
    try:
      yield
    except (OSError, ValueError) as error:
      told = re.search(r"(?:OS error |os_error_code=')(\d+)", str(error))
      if not told:
        raise
      raise OSError(int(told[1]), os.strerror(int(told[1]))) from None


class Checkpoints:
  """The checkpoints under `directory`; keeps the newest ones, or all.

  Saving is asynchronous; leaving the `with` block waits for the disk. A
  checkpoint gets its record of digests once it is on the disk. Of several hosts
  all save and restore, each its own part, and host 0 writes the record.
  """

  def __init__(self, directory, max_to_keep=2):
    self._directory = paths.absolute(directory)
    self._unrecorded = {}  # {step: digests of the run's logs}
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(max_to_keep=max_to_keep),
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def __enter__(self):
    return self

  def __exit__(self, error, *_):
    if hosts.count() > 1 and error and not issubclass(error, Stopped):
      return  # another host may never come to save what is under way
    self._settle()
    self._manager.close()
    hosts.barrier()  # the record is there

  def latest_step(self):
    """Number of updates of the newest complete checkpoint, or None."""
    return hosts.agree(self._manager.latest_step())

  def save(self, step, state, logs=None):
    """Begins to write a checkpoint.

    Args:
      logs: {path: [bytes, digest]}, of what the run has logged so far.
    Raises:
      RuntimeError: orbax declines to write.
    """
    self._settle()
    with _written(self._directory):
      saved = self._manager.save(step, args=ocp.args.StandardSave(state))
    if not saved:
      raise RuntimeError(
        f'{self._directory}: checkpoint {step} was not written; the newest is '
        f'{self._manager.latest_step()}'
      )
    self._unrecorded[step] = logs or {}

  def record(self):
    """Writes the records of checkpoints that are on the disk by now.

    Raises the error of one that could not be written.
    """
    if self._unrecorded and not self._manager.is_saving_in_progress():
      self._settle()

  def _settle(self):
    """Waits for the disk, and raises the error of what could not be written."""
    logs_at, self._unrecorded = self._unrecorded, {}
    with _written(self._directory):
      self._manager.wait_until_finished()
    for step, logs in logs_at.items() if hosts.first() else ():
      folder = self._directory / str(step)
      told = {'files': digests(folder), 'logs': logs}
      write_record(folder / RECORD, told)

  def restore(self, state):
    """The newest checkpoint with `state`'s structure, dtypes and shardings.

    Raises:
      ValueError: an array's shape or dtype differs from `state`'s; names it.
        (orbax itself would cast the dtype silently.)
    """
    step = self.latest_step()
    self._check(step, state)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    args = ocp.args.StandardRestore(abstract)
    return jax.tree.map(_as_free, self._manager.restore(step, args=args), state)

  def restore_raw(self, step=None):
    """A checkpoint, or the newest, as nested dicts of numpy's arrays.

    Whatever devices had saved it.

    Raises:
      ValueError: the checkpoint is damaged; names the file.
    """
    step = self.latest_step() if step is None else step
    check(self._directory / str(step))
    saved = self._manager.item_metadata(step).tree
    host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
    return self._manager.restore(step, args=ocp.args.StandardRestore(host))

  def _check(self, step, state):
    metadata = self._manager.item_metadata(step).tree
    saved = {
      m.name: (tuple(m.shape), m.dtype) for m in jax.tree.leaves(metadata)
    }
    needed = {
      jax.tree_util.keystr(path, simple=True, separator='.'): (x.shape, x.dtype)
      for path, x in jax.tree_util.tree_leaves_with_path(state)
    }
    for name in sorted(saved.keys() | needed.keys()):
      if saved.get(name) != needed.get(name):
        raise ValueError(
          f'{self._directory}/{step}: {name} is {saved.get(name)}, the run '
          f'needs {needed.get(name)}'
        )


def _as_free(restored, x):
  """Uncommitted where `x` is: a second program would be compiled otherwise."""
  return restored if x.committed else jax.numpy.asarray(np.asarray(restored))


def wrong(folder, directory=None):
  """What is wrong with a checkpoint. '': nothing.

  A checkpoint without a record is right: its process was killed before it wrote
  one, or was of an earlier version.

  Args:
    folder: of the checkpoint.
    directory: of its run, to check the logs as they were then. None: not asked.
  """
  path = paths.path(folder) / RECORD
  if not path.exists():
    return ''
  try:
    told = read_record(path)
    found = damaged(folder, told['files'])
    if directory is not None:
      found = found or damaged(directory, told['logs'])
    return found
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    return f'{path} is not what was written ({error})'


def check(folder):
  """Raises ValueError for a damaged checkpoint; names the file."""
  if found := wrong(folder):
    run, kept = folder.parents[1], folder.parent.name == KEPT
    what = run if kept else run / 'done.json'
    raise ValueError(f'{found}: damaged. Remove {what} and run again')


def check_logs(directory):
  """Raises ValueError for damage to the batches that a run has kept."""
  newest = paths.path(directory) / NEWEST / str(newest_step(directory))
  if not (newest / RECORD).exists():
    return
  logs = read_record(newest / RECORD)['logs']
  parts = {k: v for k, v in logs.items() if k.startswith('log/')}
  if found := damaged(directory, parts):
    raise ValueError(f'{found}: damaged. Remove {directory} and run again')


def drop_damaged(directory):
  """Removes the checkpoints of a run after the newest sound one."""
  if hosts.first():
    _drop_damaged(directory)
  hosts.barrier()


def _drop_damaged(directory):
  folder = paths.path(directory) / NEWEST
  for step in reversed(steps_in(folder)):
    found = wrong(folder / str(step), directory)
    if not found:
      return
    print(
      f'note: {found}: checkpoint {step} is dropped, the run goes on from an '
      'earlier one',
      file=sys.stderr,
    )
    paths.remove(folder / str(step))


def steps_in(folder):
  """Steps of the complete checkpoints in a folder, ascending; [] without it."""
  # What orbax has not finished has more to its name, or in a store no WHOLE.
  found = paths.path(folder).glob('[0-9]*')
  whole = lambda x: paths.is_local(x) or (x / WHOLE).exists()
  return sorted(int(x.name) for x in found if x.name.isdigit() and whole(x))


def newest_step(directory):
  """Number of updates in the newest checkpoint of a run; 0 without one."""
  return max(steps_in(paths.path(directory) / NEWEST), default=0)


def steps_of(directory):
  """{step: folder} of a run's checkpoints, the newest and those kept."""
  folders = [paths.path(directory) / name for name in (KEPT, NEWEST)]
  found = {step: folder for folder in folders for step in steps_in(folder)}
  return dict(sorted(found.items()))


def params_of(directory, step):
  """The parameters of a run in its checkpoint of `step`.

  Raises:
    FileNotFoundError: there is none of that step; lists those there are.
    ValueError: it is damaged; names the file.
  """
  there = steps_of(directory)
  if step not in there:
    raise FileNotFoundError(
      f'{directory} holds no checkpoint of step {step}, expected one of '
      f'{list(there)}'
    )
  with Checkpoints(there[step], max_to_keep=None) as checkpoints:
    params = checkpoints.restore_raw(step)['params']
  return jax.tree.map(jax.numpy.asarray, params)


def final_params(directory):
  """The parameters in the newest checkpoint of the run in `directory`."""
  newest = steps_in(paths.path(directory) / NEWEST)
  if not newest:
    raise FileNotFoundError(f'{directory} holds no checkpoint of a run')
  return params_of(directory, newest[-1])
