"""How XLA on a CPU is kept from programs slower than the ones written here.

Nothing here changes what is computed, up to rounding, and all of it runs on any
device. On an accelerator only `unrolls` was measured.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import sharding

# The most layers that are unrolled. An unrolled stack runs faster than a scan,
# and one of few layers compiles as fast. The number is chosen, not measured.
MAX_UNROLLED = 8
# The same on a GPU, where a scan copies what it reads and stores. Measured with
# 16 layers only: a fifth less time, and as long to compile.
UNROLLED_ON_GPU = 32
# Parameters from which decoding multiplies by transposed weights, since they no
# longer fit a CPU's cache: 16 MiB in float32. Chosen between the sizes S (3
# million) and M (25 million) of docs/performance.md, not measured between them.
MIN_TRANSPOSED = 2**22


def separate(tree):
  """The same arrays, which XLA computes before it computes what reads them.

  Otherwise XLA may move their computation into a loop that reads them, or fuse
  it with a reader, which is slower.
  """
  return jax.lax.optimization_barrier(tree)


class Transposed(NamedTuple):
  """Weights [*in, *out] that are stored transposed, as [*out, *in]."""

  weights: jax.Array


def transpose(weights, contracted=1):
  """Transposes weights [*in, *out] with `contracted` input dimensions."""
  order = [*range(contracted, weights.ndim), *range(contracted)]
  return Transposed(weights.transpose(order))


def project_transposed(x, weights, contracted=1):
  """x [..., *in] by Transposed weights -> [..., *out]: (W^T x^T)^T."""
  rows = x.shape[: x.ndim - contracted]
  outputs = weights.weights.shape[:-contracted]
  flat = weights.weights.astype(x.dtype).reshape(math.prod(outputs), -1)
  # Fused with the transpose, XLA would rewrite this as x @ W.
  product = separate(flat @ x.reshape(-1, flat.shape[1]).T)
  return product.T.reshape(*rows, *outputs)


def decodes_transposed(params):
  """Whether these parameters are so many that decoding transposes them."""
  size = sum(x.size for x in jax.tree.leaves(params))
  return sharding.platform() == 'cpu' and size >= MIN_TRANSPOSED


@jax.custom_vjp
def transposed_embedding(embed):
  """[V, D] -> [D, V]. The derivative is computed as [D, V], then transposed.

  On a CPU a product that yields [V, D] directly takes up to twice as long.
  """
  return embed.T


transposed_embedding.defvjp(
  lambda embed: (embed.T, None),
  lambda _, cotangent: (separate(cotangent).T,),
)


def unrolls(num_layers):
  """Whether a stack of so many layers is unrolled, and not scanned."""
  gpu = sharding.platform() == 'gpu'
  return num_layers <= (UNROLLED_ON_GPU if gpu else MAX_UNROLLED)


def over_layers(body, x, layers, last=None):
  """Scans `body(x, layer, last=None)` -> x and the stacked outputs.

  In an unrolled stack the last layer is given `last`, how many of a prompt's
  last states it must compute. A scan cannot, having one body for all layers.

  Args:
    layers: a tree of arrays [L, ...].
  """
  if not unrolls(len(jax.tree.leaves(layers)[0])):
    return jax.lax.scan(body, x, layers)
  but_last = jax.tree.map(lambda a: a[:-1], layers)
  x, outputs = jax.lax.scan(body, x, but_last, unroll=True)
  x, output = body(x, jax.tree.map(lambda a: a[-1], layers), last)
  append = lambda a, b: jnp.concatenate([a, b[None]])
  return x, jax.tree.map(append, outputs, output)
