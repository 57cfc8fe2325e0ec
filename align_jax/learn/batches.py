"""Batches as data sets: taken apart, put together, kept on disk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import hosts, ops, paths
from align_jax.types import Batch

# Fields of a Batch by their shape.
PROMPT = 'prompts', 'prompt_valid'  # [P, S]
TOKENS = (  # [B, T], or None
  'completions',
  'valid',
  'mask',
  'sampler_logps',
  'policy_logps',
  'weights',
  'ref_logps',
)


@jax.jit
def take(batch, prompts):
  """The groups of the given prompts: int [P] -> Batch of P prompts."""

  def rows(x):
    size = len(x) // batch.num_prompts
    return ops.by_group(x, size)[prompts].reshape(-1, *x.shape[1:])

  return jax.tree.map(rows, batch)


def chunks(batch, size):
  """Batches of `size` prompts each; the last one wraps around, so that all
  have one shape."""
  for start in range(0, batch.num_prompts, size):
    yield take(batch, np.arange(start, start + size) % batch.num_prompts)


def first_rows(batch, count):
  """The first completion of each of the first `count` prompts: G = 1."""
  first = lambda x: ops.by_group(x, batch.group_size)[:count, 0]
  rows = {k: getattr(batch, k) for k in (*TOKENS, 'rewards')}
  rows = {k: x if x is None else first(x) for k, x in rows.items()}
  prompts = {k: getattr(batch, k)[:count] for k in PROMPT}
  return batch.replace(**prompts, **rows, prepared={}, group_size=1)


def concatenate(batches):
  """Several batches of one shape as one, in order and on the host.

  JAX would compile a program for each number of batches.
  """
  batches = map(hosts.fetch, batches)
  return jax.tree.map(lambda *xs: np.concatenate(xs), *batches)


def with_policy_logps(*batches):
  """The batches, all of them with `policy_logps` if one has them.

  So that what was sampled off the policy's own distribution stays known as
  such, whatever it is put together with.
  """
  if all(b.policy_logps is None for b in batches):
    return batches
  own = lambda b: b.sampler_logps if b.policy_logps is None else b.policy_logps
  return tuple(b.replace(policy_logps=own(b)) for b in batches)


@jax.jit
def join(first, second):
  """Two batches of the same prompts as one with larger groups.

  The first one's rows come first in every group.

  Args:
    first, second: Batches of P prompts and of one completion length.
  Returns:
    Batch; a field that only one of them has is dropped.
  """

  def rows(x, y):
    if x is None or y is None:
      return None
    x, y = ops.by_group(x, first.group_size), ops.by_group(y, second.group_size)
    return jnp.concatenate([x, y], 1).reshape(-1, *x.shape[2:])

  first, second = with_policy_logps(first, second)
  fields = *TOKENS, 'rewards'
  joined = {k: rows(getattr(first, k), getattr(second, k)) for k in fields}
  return first.replace(
    **joined, group_size=first.group_size + second.group_size
  )


def save(path, batch):
  """Writes a Batch as .npz, whole or not at all."""
  if batch.prepared:
    raise ValueError(
      'what a loss has prepared is not kept: save the batch bare'
    )
  fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
  del fields['prepared']
  with paths.writing(path, 'wb') as file:
    np.savez(file, **{k: v for k, v in fields.items() if v is not None})


def load(path):
  """Reads what `save` wrote.

  Raises:
    ValueError: the file is damaged; names it. Its members have checksums.
  """
  try:
    with paths.seekable(paths.path(path)) as file, np.load(file) as arrays:
      fields = dict(arrays)
    size = int(fields.pop('group_size'))
    return Batch(**jax.tree.map(jnp.asarray, fields), group_size=size)
  except FileNotFoundError:
    raise
  except Exception as error:  # of zipfile, zlib, numpy or Batch
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'{path}: damaged ({reason:.80}): remove it and run again'
    ) from None


def cached(path, make):
  """What is kept at `path`; if nothing is, what `make` returns.

  Of several processes that ask at once one makes it, and the others wait. Of
  several hosts all make it, and host 0 keeps it.
  """
  if hosts.count() > 1:
    _make_on_all(path, make)
  elif not path.exists():
    with paths.alone(path):
      if not path.exists():
        save(path, make())
  return load(path)


def _make_on_all(path, make):
  if hosts.agree(path.exists()):
    return
  batch = hosts.fetch(make())
  if hosts.first():
    save(path, batch)
  hosts.barrier()
