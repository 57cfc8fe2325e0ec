"""The machine itself: its best matrix product and its memory."""

import time

import jax
import jax.numpy as jnp
import numpy as np

# Of data sheets, dense: FLOP/s of float32 matrix products as JAX runs them by
# default (TF32 on these GPUs, bfloat16 passes on TPUs), bytes/s of memory.
PEAKS = {  # by device_kind
  'NVIDIA A100-SXM4-40GB': (156e12, 1.555e12),
  'NVIDIA A100-SXM4-80GB': (156e12, 2.039e12),
  'NVIDIA H100 80GB HBM3': (494e12, 3.35e12),
  'NVIDIA H200': (494e12, 4.8e12),
  'TPU v4': (275e12, 1.2e12),
  'TPU v5 lite': (197e12, 0.82e12),
  'TPU v5p': (459e12, 2.77e12),
  'TPU v6 lite': (918e12, 1.64e12),
}


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
    if kind in PEAKS:
      flops, bandwidth = PEAKS[kind]
      return {'flops': flops, 'bandwidth': [bandwidth] * len(sizes)}
    return {
      'flops': gemm_flops(clock),
      'bandwidth': [read_bandwidth(n, clock) for n in sizes],
    }

  gate.repeat(
    measure,
    device=kind,
    platform=jax.default_backend(),
    measured=kind not in PEAKS,
  )


KINDS = {'limits': limits}
