"""The machine itself: its best matrix product and its memory."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.tools import fit_here


def peaks(kind):
  """Of data sheets: FLOP/s of float32 products, and bytes/s of memory.

  JAX runs such products in TF32 on these GPUs, at half the rate of bfloat16,
  and in bfloat16 on TPUs.
  """
  chip = fit_here.KINDS[kind]
  return chip.flops / (2 if kind.startswith('NVIDIA') else 1), chip.hbm


def best(f, clock, repeats):
  def once():
    start = clock()
    f()
    return clock() - start

  f()
  return min(once() for _ in range(repeats))


def gemm_flops(clock, size=2048):
  x = jnp.ones((size, size))
  product = jax.jit(lambda x: x @ x)
  return 2 * size**3 / best(lambda: product(x).block_until_ready(), clock, 3)


def read_bandwidth(count, clock):
  """Bytes per second of a product of a vector with itself."""
  if jax.default_backend() == 'cpu':
    x = np.ones(int(count) // 4, np.float32)  # numpy's is twice as fast there
    return x.nbytes / best(lambda: x.dot(x), clock, 5)
  x = jnp.ones(int(count) // 4)
  product = jax.jit(lambda x: x @ x)
  return x.nbytes / best(lambda: product(x).block_until_ready(), clock, 5)


def limits(spec, gate):
  """spec['working_sets']: bytes of each."""
  kind = jax.devices()[0].device_kind
  sizes = spec['working_sets']
  clock = time.process_time if spec['cores'] == 1 else time.perf_counter

  def measure():
    if kind in fit_here.KINDS:
      flops, bandwidth = peaks(kind)
      return {'flops': flops, 'bandwidth': [bandwidth] * len(sizes)}
    return {
      'flops': gemm_flops(clock),
      'bandwidth': [read_bandwidth(n, clock) for n in sizes],
    }

  gate.repeat(
    measure,
    device=kind,
    platform=jax.default_backend(),
    measured=kind not in fit_here.KINDS,
  )


KINDS = {'limits': limits}
