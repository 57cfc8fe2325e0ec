"""Saving and restoring a train state; the only file that knows orbax."""

import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

NEWEST, KEPT = 'checkpoints', 'kept'  # folders of a run


class Checkpoints:
  """The checkpoints under `directory`; keeps the newest, or all.

  Saving is asynchronous; leaving the `with` block waits for the disk.
  """

  def __init__(self, directory, max_to_keep=1):
    self._directory = os.path.abspath(directory)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(max_to_keep=max_to_keep),
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._manager.close()

  def latest_step(self):
    """Number of updates of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, step, state):
    """Raises RuntimeError if orbax declines to write."""
    if not self._manager.save(step, args=ocp.args.StandardSave(state)):
      raise RuntimeError(
        f'{self._directory}: checkpoint {step} was not written; the newest is '
        f'{self.latest_step()}'
      )

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
    """A checkpoint, or the newest, as nested dicts of arrays, as saved."""
    return self._manager.restore(self.latest_step() if step is None else step)

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


def steps_in(folder):
  """Steps of the complete checkpoints in a folder, ascending; [] without it."""
  # What orbax has not finished has more to its name.
  paths = pathlib.Path(folder).glob('[0-9]*')
  return sorted(int(path.name) for path in paths if path.name.isdigit())


def newest_step(directory):
  """Number of updates in the newest checkpoint of a run; 0 without one."""
  return max(steps_in(os.path.join(directory, NEWEST)), default=0)


def steps_of(directory):
  """{step: folder} of a run's checkpoints, the newest and those kept."""
  folders = [os.path.join(directory, name) for name in (KEPT, NEWEST)]
  found = {step: folder for folder in folders for step in steps_in(folder)}
  return dict(sorted(found.items()))


def params_of(directory, step):
  """The parameters of a run in its checkpoint of `step`.

  Raises:
    FileNotFoundError: there is none of that step; lists those there are.
  """
  there = steps_of(directory)
  if step not in there:
    raise FileNotFoundError(
      f'{directory} holds no checkpoint of step {step}, expected one of '
      f'{list(there)}'
    )
  with Checkpoints(there[step], max_to_keep=None) as checkpoints:
    params = checkpoints.restore_raw(step)['params']
  return jax.tree.map(lambda x: jax.numpy.asarray(np.asarray(x)), params)


def final_params(directory):
  """The parameters in the newest checkpoint of the run in `directory`."""
  newest = steps_in(os.path.join(directory, NEWEST))
  if not newest:
    raise FileNotFoundError(f'{directory} holds no checkpoint of a run')
  return params_of(directory, newest[-1])
