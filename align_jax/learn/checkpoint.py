"""Saving and restoring a train state; the only file that knows orbax."""

import os

import jax
import numpy as np
import orbax.checkpoint as ocp


class Checkpoints:
  """The checkpoints of one run, under `directory`; keeps the newest.

  Saving is asynchronous; leaving the `with` block waits for the disk.
  """

  def __init__(self, directory):
    self._directory = os.path.abspath(directory)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(max_to_keep=1),
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

  def restore_raw(self):
    """The newest checkpoint as nested dicts of arrays, as it was saved."""
    return self._manager.restore(self.latest_step())

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


def final_params(directory):
  """The parameters in the newest checkpoint of the run in `directory`."""
  with Checkpoints(os.path.join(directory, 'checkpoints')) as checkpoints:
    if checkpoints.latest_step() is None:
      raise FileNotFoundError(f'{directory} holds no checkpoint of a run')
    params = checkpoints.restore_raw()['params']
  return jax.tree.map(lambda x: jax.numpy.asarray(np.asarray(x)), params)
