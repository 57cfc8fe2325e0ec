"""TPU slices by the names that clouds give them, as the compiler knows them.

Peak FLOP/s, HBM bandwidth and ICI are those of the scaling book
(https://jax-ml.github.io/scaling-book/hardware). HBM is what the compiler says.
"""

import dataclasses
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from align_jax.values import nearest

PIP = 'pip install "libtpu==0.0.42.*" requests'
# What keeps libtpu from asking the cloud who it is, and several processes from
# locking one another out.
ENVIRONMENT = dict(
  TPU_SKIP_MDS_QUERY='1',
  TPU_ACCELERATOR_TYPE='v5litepod-8',
  TPU_WORKER_HOSTNAMES='localhost',
  TPU_MIN_LOG_LEVEL='3',
  TPU_LOG_DIR='disabled',
  ALLOW_MULTIPLE_LIBTPU_LOAD='1',
)


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation of TPU, a chip of it."""

  flops: float  # peak FLOP/s in bfloat16
  hbm: float  # bytes/s
  ici: float  # bytes/s that may come in over all of its links
  options: tuple = ()  # of `get_topology_desc`


CHIPS = {
  'v4': Chip(2.75e14, 1.2e12, 6 * 4.5e10, (('chip_config_name', 'megacore'),)),
  'v5e': Chip(1.97e14, 8.1e11, 4 * 4.5e10),
  'v5p': Chip(4.59e14, 2.8e12, 6 * 9e10),
  'v6e': Chip(9.20e14, 1.6e12, 4 * 9e10),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that are wired to one another."""

  name: str
  kind: str  # of CHIPS
  shape: tuple[int, ...]

  @property
  def chip(self) -> Chip:
    """What a chip of the slice has."""
    return CHIPS[self.kind]

  @property
  def chips(self) -> int:
    """Number of chips."""
    return int(np.prod(self.shape))

  def devices(self) -> np.ndarray:
    """Descriptions of its devices, to compile for.

    Raises:
      ValueError: libtpu is not installed.
    """
    from jax.experimental import topologies

    for name, value in ENVIRONMENT.items():
      os.environ.setdefault(name, value)
    options = dict(self.chip.options)
    if len(self.shape) == 2 and self.chips in (1, 8):  # one host
      options['chips_per_host_bounds'] = (*self.shape, 1)
    shape = 'x'.join(map(str, self.shape))
    try:
      found = topologies.get_topology_desc(
        f'{self.kind}:{shape}', 'tpu', **options
      )
    except RuntimeError as error:
      if 'not installed' not in str(error):
        raise
      raise ValueError(f'align fit needs the TPU compiler: {PIP}') from None
    return np.array(found.devices)

  def limit(self) -> int:
    """Bytes of HBM that the compiler has for a program on each chip."""
    return limit(self.devices())


# Names count chips, but those of v4 and v5p count TensorCores, two a chip.
SLICES = {
  x.name: x
  for x in (
    Slice('v4-8', 'v4', (2, 2, 1)),
    Slice('v4-64', 'v4', (2, 4, 4)),
    Slice('v4-128', 'v4', (4, 4, 4)),
    Slice('v5e-1', 'v5e', (1, 1)),
    Slice('v5e-4', 'v5e', (2, 2)),
    Slice('v5e-8', 'v5e', (2, 4)),
    Slice('v5e-16', 'v5e', (4, 4)),
    Slice('v5e-64', 'v5e', (8, 8)),
    Slice('v5e-256', 'v5e', (16, 16)),
    Slice('v5p-8', 'v5p', (2, 2, 1)),
    Slice('v5p-64', 'v5p', (2, 4, 4)),
    Slice('v5p-128', 'v5p', (4, 4, 4)),
    Slice('v5p-256', 'v5p', (4, 4, 8)),
    Slice('v6e-1', 'v6e', (1, 1)),
    Slice('v6e-4', 'v6e', (2, 2)),
    Slice('v6e-8', 'v6e', (2, 4)),
    Slice('v6e-16', 'v6e', (4, 4)),
    Slice('v6e-64', 'v6e', (8, 8)),
    Slice('v6e-256', 'v6e', (16, 16)),
  )
}


def find(name: str) -> Slice:
  """The slice of that name.

  Raises:
    ValueError: there is none.
  """
  known = name.replace('v5litepod-', 'v5e-')  # the cloud has both names
  if known not in SLICES:
    raise ValueError(f'--topology={name}: {nearest(known, SLICES)}')
  return SLICES[known]


EXCEEDS = re.compile(
  r'exceeds available HBM \(([\d.]+)([GM])\)|'
  r'of ([\d.]+)([GM]) hbm'
)


def limit(devices: np.ndarray) -> int:
  """Bytes of HBM that the compiler has for a program on each device.

  It says so of a program that needs more.
  """
  mesh = Mesh(devices.ravel(), ('x',), axis_types=(AxisType.Auto,))
  place = NamedSharding(mesh, PartitionSpec('x'))
  shape = len(devices.ravel()) << 18, 1 << 17  # 128 GiB on each
  huge: Any = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
  try:
    jax.jit(lambda x: jnp.sort(jnp.cumsum(x, 0), 1)).lower(huge).compile()
  except jax.errors.JaxRuntimeError as error:
    return available(str(error))
  raise AssertionError('a program of 128 GiB compiled for a TPU')


def available(message: str) -> int:
  """Bytes that a program may use, from the compiler's RESOURCE_EXHAUSTED."""
  found = EXCEEDS.search(message)
  if not found:
    raise ValueError(f"no limit of HBM in the compiler's {message[:200]!r}")
  size, unit = (x for x in found.groups() if x)
  return int(float(size) * 2 ** {'G': 30, 'M': 20}[unit])
