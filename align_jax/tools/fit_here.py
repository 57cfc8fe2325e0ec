"""This machine's own accelerators in place of a slice, on which programs run.

What was estimated is measured beside it.
"""

import dataclasses
import functools
import itertools
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.learn.speed import PEAKS
from align_jax.tools.fit_programs import Program
from align_jax.tools.fit_slices import CHIPS, Chip
from align_jax.values import nearest

HERE = 'here'  # in place of a slice's name
RUNS = 5
GPUS = {  # bytes/s of memory and NVLink, of data sheets
  'NVIDIA A100-SXM4-40GB': (1.555e12, 3e11),
  'NVIDIA A100-SXM4-80GB': (2.039e12, 3e11),
  'NVIDIA H100 80GB HBM3': (3.35e12, 4.5e11),
  'NVIDIA H200': (4.8e12, 4.5e11),
}
KINDS = {  # by device_kind
  **{kind: Chip(PEAKS[kind], *rates) for kind, rates in GPUS.items()},
  'TPU v4': CHIPS['v4'],
  'TPU v5 lite': CHIPS['v5e'],
  'TPU v5': CHIPS['v5p'],
  'TPU v5p': CHIPS['v5p'],
  'TPU v6 lite': CHIPS['v6e'],
}


@dataclasses.dataclass(frozen=True)
class Here:
  """JAX's devices, as a slice."""

  chip: Chip
  name: str = HERE

  @property
  def chips(self) -> int:
    """Number of devices."""
    return jax.device_count()

  def devices(self) -> np.ndarray:
    """The devices themselves."""
    return np.array(jax.devices())

  def limit(self) -> int:
    """Bytes that JAX may use of each."""
    return sharding.memory().get('bytes_limit', 0)


def find() -> Here:
  """This machine.

  Raises:
    ValueError: the peaks of its devices are not known.
  """
  kind = jax.devices()[0].device_kind
  if kind not in KINDS:
    raise ValueError(
      f'--topology={HERE}: device {kind}, {nearest(kind, KINDS)}'
    )
  return Here(KINDS[kind])


class Taken(NamedTuple):
  """What a program took where it ran."""

  seconds: float  # a run, the median of RUNS
  peak: int  # bytes of a device that were in use at most, since the start


def take(program: Program, compiled: Any, vocab: int) -> Taken:
  """Runs a compiled program on made-up arguments.

  Args:
    vocab: tokens are drawn below it.
  """
  arguments, seconds = _filled(program.arguments, vocab), []
  for _ in range(1 + RUNS):  # the first run loads kernels
    start = time.perf_counter()
    out = jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - start)
    # A state is donated, and comes back.
    if any(map(_deleted, jax.tree.leaves(arguments[0]))):
      arguments = out[0], *arguments[1:]
  peak = sharding.memory().get('peak_bytes_in_use', 0)
  return Taken(statistics.median(seconds[1:]), peak)


def _deleted(x):
  return isinstance(x, jax.Array) and x.is_deleted()


def _filled(tree, vocab):
  """Arrays in place of shapes, and numbers as they are."""
  count = itertools.count()

  def fill(path, x):
    if not isinstance(x, jax.ShapeDtypeStruct):
      return x
    moments = 'opt_state' in jax.tree_util.keystr(path)
    f = _maker(x.shape, x.dtype, x.sharding, moments, vocab)
    return f(jax.random.key(next(count)))

  return jax.tree_util.tree_map_with_path(fill, tree)


@functools.cache
def _maker(shape, dtype, place, moments, vocab):
  def make(key):
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
      return key
    if jnp.issubdtype(dtype, jnp.bool_):
      return jnp.ones(shape, bool)
    if not shape or moments:
      return jnp.zeros(shape, dtype)
    if jnp.issubdtype(dtype, jnp.integer):
      return jax.random.randint(key, shape, 0, vocab, dtype)
    return 0.02 * jax.random.normal(key, shape, dtype)

  return jax.jit(make, out_shardings=place)
