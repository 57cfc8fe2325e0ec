"""Batches as data sets: taken apart, put together, kept on disk."""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.types import Batch


@jax.jit
def take(batch, prompts):
  """The groups of the given prompts: int [P] -> Batch of P prompts."""

  def rows(x):
    size = len(x) // batch.num_prompts
    return ops.by_group(x, size)[prompts].reshape(-1, *x.shape[1:])

  return jax.tree.map(rows, batch)


def concatenate(batches):
  """Several batches of one shape as one, in order."""
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), *batches)


def save(path, batch):
  """Writes a Batch as .npz, whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial-{os.getpid()}')
  fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
  with partial.open('wb') as file:
    np.savez(file, **{k: v for k, v in fields.items() if v is not None})
  os.replace(partial, path)


def load(path):
  """Reads what `save` wrote."""
  with np.load(path) as arrays:
    fields = dict(arrays)
  size = int(fields.pop('group_size'))
  return Batch(**jax.tree.map(jnp.asarray, fields), group_size=size)
