"""Log-probs of fixed data under the reference, kept for all who need them."""

import hashlib
import pathlib

import jax
import numpy as np

from align_jax.learn import batches


def content_hash(name, *trees):
  """Of a name and of all arrays with their shapes and places in the trees."""
  digest = hashlib.sha256(name.encode())
  for path, leaf in jax.tree.leaves_with_path(trees):
    leaf = np.asarray(leaf)
    head = jax.tree_util.keystr(path), leaf.dtype.name, leaf.shape
    digest.update(repr(head).encode())
    digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
  return digest.hexdigest()


def annotated(data, ref_params, annotate, *, config, folder, batch_size):
  """The data with `ref_logps`: computed for the first who asks, then read.

  Args:
    data: Batch of N prompts.
    annotate: (ref_params, batch) -> batch with `ref_logps`.
    config: of the reference.
    folder: keeps one file per content: config, parameters, data, batch size.
    batch_size: prompts at a time.
  """
  name = f'{config!r}, {batch_size} at a time'  # which rounds in its own way
  content = content_hash(name, ref_params, data)

  def make():
    parts = [annotate(ref_params, x) for x in batches.parts(data, batch_size)]
    return batches.take(batches.concatenate(parts), np.arange(data.num_prompts))

  return batches.cached(pathlib.Path(folder) / f'{content}.npz', make)
