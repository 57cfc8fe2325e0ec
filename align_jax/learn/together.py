"""Runs that differ in numbers alone, trained as one program.

The runs of an arm's sweep on one seed: same source, same loss, other learning
rates and strengths. Their states are stacked in front and `jax.vmap` does the
rest, which fills an accelerator that one small run leaves idle; on a CPU
processes side by side are faster, see docs/performance.md.
"""

import contextlib

import jax
import jax.numpy as jnp

from align_jax.learn.logs import Writer


def stack(trees):
  """Trees of one structure as one, each array with a new first dimension."""
  return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def unstack(tree, index):
  """The tree of run number `index`."""
  return jax.tree.map(lambda x: x[index], tree)


def source(one):
  """-> (stacked state, key, step) -> stacked Batches; one key for all, as if
  each was alone."""
  many = jax.vmap(one, in_axes=(0, None, None))

  def drawn(state, key, step):
    try:
      return many(state, key, step)
    except jax.errors.TracerArrayConversionError as error:
      raise ValueError(
        'together=True needs rewards that are computed on the device'
      ) from error

  return drawn


def step(one):
  """-> (stacked state, Batches, hparams) -> stacked state and metrics."""
  return jax.jit(jax.vmap(one), donate_argnums=0)


class Writers:
  """A `metrics.Writer` for each of several runs, behind one."""

  def __init__(self, directories, step, make_writer=Writer):
    self._stack = contextlib.ExitStack()
    self._writers = [make_writer(folder, step) for folder in directories]
    self.names = [str(directory) for directory in directories]
    self.points = set.intersection(*(w.points for w in self._writers))

  def __enter__(self):
    for writer in self._writers:
      self._stack.enter_context(writer)
    return self

  def __exit__(self, *details):
    return self._stack.__exit__(*details)

  def write(self, step, metrics):
    """Queues the scalar metrics of each run."""
    for i, writer in enumerate(self._writers):
      writer.write(step, unstack(metrics, i))

  def flush(self):
    """Writes what is queued, for every run."""
    for writer in self._writers:
      writer.flush()

  def digests(self, directory):
    """See `logs.Writer.digests`."""
    found = {}
    for writer in self._writers:
      found |= writer.digests(directory)
    return found

  def point(self, step, points):
    """Writes a point for each run; returns the last one's."""
    for writer, point in zip(self._writers, points, strict=True):
      writer.point(step, point)
    self.points.add(step)
    return points[-1]
