"""The device mesh and the only names of its axes.

Arrays name their dimensions logically ('embed', 'heads', ...); `RULES` says on
which mesh axes each lives. The mesh is Auto: XLA propagates the shardings, and
`shard` states them at a few points of the model.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from align_jax import hosts
from align_jax.types import Batch

try:
  from jax.sharding import get_mesh
except ImportError:  # jax 0.7
  from jax._src.mesh import get_concrete_mesh as get_mesh

T = TypeVar('T')
Axes = Iterable[str | None]  # logical names, one per dimension

RULES = {
  'batch': ('data', 'fsdp'),
  'embed': ('fsdp',),
  'vocab': ('tensor',),
  'heads': ('tensor',),
  'mlp': ('tensor',),
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
  """A mesh over all devices.

  Raises:
    ValueError: the axis sizes do not multiply to the number of devices.
  """
  if data * fsdp * tensor != jax.device_count():
    raise ValueError(
      f'mesh data={data} fsdp={fsdp} tensor={tensor} needs '
      f'{data * fsdp * tensor} devices, found {jax.device_count()}'
    )
  return jax.make_mesh(
    (data, fsdp, tensor),
    ('data', 'fsdp', 'tensor'),
    axis_types=(AxisType.Auto,) * 3,
  )


def use_mesh(**sizes: int) -> None:
  """Puts a mesh of these sizes in force, unless it has a single device.

  A CPU is made as many devices as the mesh has on a host, if JAX has not
  started yet.

  Raises:
    ValueError: see `make_mesh`.
  """
  count = math.prod(sizes.values())
  if count == hosts.count() == 1 or current_mesh() is not None:
    return
  if hosts.count() > 1 or not jax.distributed.is_initialized():
    with contextlib.suppress(RuntimeError):  # it has
      own = max(count // hosts.count(), 1)
      jax.config.update('jax_num_cpu_devices', own)
  jax.set_mesh(make_mesh(**sizes))


def current_mesh() -> Mesh | None:
  """The mesh that `jax.set_mesh` has put in force, or None."""
  mesh = get_mesh()
  return None if mesh.empty else mesh


def alone() -> contextlib.AbstractContextManager:
  """A context in which this host computes on its own devices only."""
  mesh = current_mesh()
  if hosts.count() == 1 or mesh is None:
    return contextlib.nullcontext()
  return jax.set_mesh(mesh.local_mesh)


def spec(axes: Axes) -> PartitionSpec:
  """Logical axis names (or None) -> PartitionSpec."""
  return PartitionSpec(*(RULES.get(a) if a else None for a in axes))


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains `x` to the logical axes; does nothing without a mesh."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes))


def check(
  shape: Sequence[int], axes: Axes, sizes: Mapping[str, int], label: str
) -> None:
  """Raises ValueError unless each dimension divides by its mesh axes.

  Args:
    sizes: {mesh axis: devices}.
  """
  for size, name in zip(shape, axes):
    over = RULES.get(name or '', ())
    ways = math.prod(sizes[axis] for axis in over)
    if size % ways:
      raise ValueError(
        f'{label}: dimension {name!r} of size {size} does not divide over '
        f'{ways} devices ({over})'
      )


def place(tree: T, axes: Any, mesh: Mesh | None) -> T:
  """Puts each array of `tree` on `mesh` by its tuple of logical axes.

  Args:
    tree: arrays.
    axes: the same tree with a tuple of logical names in each array's place.
    mesh: None leaves them where they are.
  Raises:
    ValueError: a dimension does not divide by its mesh axes; names the array.
  """
  if mesh is None:
    return tree

  def put(path, x, names):
    check(x.shape, names, mesh.shape, jax.tree_util.keystr(path))
    return hosts.spread(x, NamedSharding(mesh, spec(names)))

  return jax.tree_util.tree_map_with_path(put, tree, axes)


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
  """Splits every array of a batch over its first dimension.

  A prompt's group never straddles two devices.
  """
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if batch.num_prompts % ways:
    raise ValueError(
      f'{batch.num_prompts} prompts a batch do not divide over {ways} devices'
    )
  place = NamedSharding(mesh, spec(('batch',)))
  return jax.tree.map(lambda x: hosts.spread(x, place), batch)


def on_mesh(tree: T, mesh: Mesh | None) -> T:
  """Replicates over `mesh`, if it is one, whatever is on a single device."""
  if mesh is None:
    return tree

  def put(x):
    if isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh:
      return x
    return hosts.spread(x, NamedSharding(mesh, PartitionSpec()))

  return jax.tree.map(put, tree)
