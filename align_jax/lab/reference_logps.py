"""Log-probs of fixed data under the reference, cached on disk."""

import hashlib

import jax
import numpy as np

from align_jax import hosts, paths
from align_jax.learn import batches, stopping


def content_hash(name, *trees):
  """Hash of a name and of all arrays, with their shapes and tree paths."""
  digest = hashlib.sha256(name.encode())
  for path, leaf in jax.tree.leaves_with_path(trees):
    leaf = np.asarray(hosts.fetch(leaf))
    head = jax.tree_util.keystr(path), leaf.dtype.name, leaf.shape
    digest.update(repr(head).encode())
    digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
  return digest.hexdigest()


def annotated(data, ref_params, annotate, *, config, folder, batch_size):
  """The data with `ref_logps`, computed by the first call and read by others.

  Args:
    data: Batch of N prompts.
    annotate: (ref_params, batch) -> batch with `ref_logps`.
    config: the reference's model config.
    folder: has one file per config, parameters, data and batch size.
    batch_size: prompts annotated at once.
  """
  name = f'{config!r}, {batch_size} at a time'  # rounding depends on the size
  content = content_hash(name, ref_params, data)

  def make():
    parts = []
    for part in batches.chunks(data, batch_size):
      stopping.check('while the reference scores fixed data')
      parts.append(annotate(ref_params, part))
    return batches.take(batches.concatenate(parts), np.arange(data.num_prompts))

  return batches.cached(paths.path(folder) / f'{content}.npz', make)
