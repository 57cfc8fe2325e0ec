"""The device mesh and the only names of its axes.

Arrays name their dimensions logically ('embed', 'heads', ...); `RULES` says on
which mesh axes each lives, and `SAMPLING_RULES` does while tokens are sampled.
The mesh is Auto: XLA propagates the shardings, and `shard` states them at a few
points of the model.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from align_jax import hosts
from align_jax.types import Batch

try:
  from jax.sharding import get_mesh
except ImportError:  # jax 0.7
  from jax._src.mesh import get_concrete_mesh as get_mesh

T = TypeVar('T')
Rules = dict[str, Any]  # {logical name: mesh axes}
Axes = Iterable[str | None]  # logical names, one per dimension

RULES: Rules = {
  'batch': ('data', 'fsdp', 'rollout'),
  'replica': ('data',),  # rows of states whose width is split as 'embed'
  'embed': ('fsdp', 'rollout'),
  'vocab': ('tensor',),
  # Of logits and the head: rows move to them, since a gradient of a whole head
  # would be summed over all devices for each chunk of logits.
  'logits': ('tensor', 'fsdp', 'rollout'),
  'heads': ('tensor',),
  'mlp': ('tensor',),
  'context': ('context',),
}
# Every token reads every weight. So weights are not split over `fsdp`, from
# where each token would gather them anew, and more devices split the heads.
SPLIT = 'rollout', 'context', 'tensor'
SAMPLING_RULES: Rules = {
  'batch': ('data', 'fsdp'),
  'replica': ('data',),
  'embed': (),
  'vocab': SPLIT,
  'logits': SPLIT,
  'heads': SPLIT,
  'mlp': SPLIT,
  'context': (),
}
ANY = 'any'  # a dimension that may lie as XLA likes
AXES = 'data', 'fsdp', 'rollout', 'context', 'tensor'  # slowest first
HOST = 'pinned_host'  # JAX's name of the memory of a device's host

_rules = contextvars.ContextVar('rules', default=RULES)


@contextlib.contextmanager
def sampling() -> Iterator[None]:
  """What is traced within lies on the mesh as `SAMPLING_RULES` say."""
  token = _rules.set(SAMPLING_RULES)
  try:
    yield
  finally:
    _rules.reset(token)


def make_mesh(
  devices: Sequence[jax.Device] | None = None, **sizes: int
) -> Mesh:
  """A mesh over all devices, or over those given.

  Args:
    sizes: of `AXES`; 1 where none is given.
  Raises:
    ValueError: the axis sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = [sizes.get(axis, 1) for axis in AXES]
  if math.prod(shape) != len(devices):
    raise ValueError(
      f'mesh {" ".join(f"{k}={v}" for k, v in sizes.items())} needs '
      f'{math.prod(shape)} devices, found {len(devices)}'
    )
  # 8 x 8 of the 4 x 4 x 4 chips of a v5p-128 splits one of their dimensions.
  placed = mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )
  return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


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
  jax.set_mesh(make_mesh(None, **sizes))


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh in force, or of JAX's devices."""
  device = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
  return getattr(device, 'platform', None) or jax.default_backend()


def memory() -> dict[str, int]:
  """What JAX says of a device's memory, such as `bytes_limit`; {}: nothing."""
  return jax.local_devices()[0].memory_stats() or {}


def current_mesh() -> Mesh | None:
  """The mesh that `jax.set_mesh` has put in force, or None."""
  mesh = get_mesh()
  return None if mesh.empty else mesh


def alone() -> contextlib.AbstractContextManager:
  """A context in which this host computes on its own devices only.

  They are a mesh of their own: a slice's mesh may not order the devices of a
  host as one block, and then has no local part.
  """
  if hosts.count() == 1 or current_mesh() is None:
    return contextlib.nullcontext()
  own = jax.local_devices()
  return jax.set_mesh(make_mesh(own, fsdp=len(own)))


def spec(axes: Axes, rules: Rules | None = None) -> PartitionSpec:
  """Logical axis names (or None, or ANY) -> PartitionSpec.

  Args:
    rules: None: those in force.
  """
  rules = (rules or _rules.get()) | {ANY: PartitionSpec.UNCONSTRAINED}
  return PartitionSpec(*(rules.get(a) if a else None for a in axes))


def over(name: str) -> tuple[str, ...]:
  """The mesh axes that split a logical axis."""
  return _rules.get()[name]


def ways(name: str) -> int:
  """Devices that split a logical axis: 1 without a mesh."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return math.prod(sizes.get(axis, 1) for axis in over(name))


def parts(x: jax.Array, num: int, axis: str = 'batch') -> jax.Array:
  """Cuts x [N, ...] into [num, N / num, ...], each device's share into `num`.

  Without a mesh a part is a run of neighbours. On a mesh it has as many from
  every device, so that none is moved.
  """
  own = ways(axis)
  own = own if len(x) % (own * num) == 0 else 1
  rest = x.shape[1:]
  x = x.reshape(own, num, -1, *rest).swapaxes(0, 1).reshape(num, -1, *rest)
  return shard(x, None, axis, *[ANY] * len(rest))


def joined(x: jax.Array, axis: str = 'batch') -> jax.Array:
  """Undoes `parts`: [num, M, ...] -> [num * M, ...]."""
  num, own, rest = len(x), ways(axis), x.shape[2:]
  own = own if x.shape[1] % own == 0 else 1
  x = x.reshape(num, own, -1, *rest).swapaxes(0, 1).reshape(-1, *rest)
  return shard(x, axis, *[ANY] * len(rest))


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains `x` to the logical axes; does nothing without a mesh."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes))


def move(x: jax.Array, axes: Axes, to: Axes) -> jax.Array:
  """An array that lies by `axes` as `RULES` say, laid out `to` others."""
  if _rules.get() is SAMPLING_RULES:
    # In one step XLA would gather all of it before it splits the heads.
    between = spec(axes, SAMPLING_RULES | {'embed': ('fsdp',)})
    x = jax.lax.with_sharding_constraint(x, between)
  return shard(x, *to)


def check(
  shape: Sequence[int], axes: Axes, sizes: Mapping[str, int], label: str
) -> None:
  """Raises ValueError unless each dimension divides by its mesh axes.

  Args:
    sizes: {mesh axis: devices}.
  """
  for size, name in zip(shape, axes):
    over = _rules.get().get(name or '', ())
    parts = math.prod(sizes.get(axis, 1) for axis in over)
    if size % parts:
      raise ValueError(
        f'{label}: dimension {name!r} of size {size} does not divide over '
        f'{parts} devices ({over})'
      )


def check_host_memory(field: str) -> None:
  """Raises ValueError for devices that cannot read their host's memory.

  Args:
    field: of the config, that asks for it.
  """
  device = jax.local_devices()[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if HOST not in kinds:
    raise ValueError(
      f"{field}='host': a {device.device_kind} has memory of kind "
      f"{', '.join(kinds)}, and none of kind {HOST}, expected 'device'"
    )


def on_host(tree: Any) -> bool:
  """Whether an array of `tree`, or a tracer, is in the memory of a host."""
  host = jax.memory.Space.Host
  arrays = (x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))
  return any(jax.typeof(x).memory_space == host for x in arrays)


def to_host(tree: T) -> T:
  """Copies arrays into the memory of their devices' hosts."""
  kind = lambda x: x.sharding.with_memory_kind(HOST)
  return jax.tree.map(lambda x: jax.device_put(x, kind(x)), tree)


def on_device(tree: T) -> T:
  """Copies what lies in the memory of hosts to their devices.

  Within a program the copy is the program's, which lets go of it.
  """
  near = jax.memory.Space.Device
  return jax.tree.map(
    lambda x: jax.device_put(x, near) if on_host(x) else x, tree
  )


def place(tree: T, axes: Any, mesh: Mesh | None) -> T:
  """Puts each array of `tree` on `mesh` by its tuple of logical axes.

  What lies in the memory of a host stays there.

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
    kind = HOST if on_host(x) else None
    return hosts.spread(x, NamedSharding(mesh, spec(names), memory_kind=kind))

  return jax.tree_util.tree_map_with_path(put, tree, axes)


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
  """Splits every array of a batch over its first dimension.

  A prompt's group never straddles two devices.
  """
  parts = math.prod(mesh.shape[axis] for axis in RULES['batch'])
  if batch.num_prompts % parts:
    raise ValueError(
      f'{batch.num_prompts} prompts a batch do not divide over {parts} devices'
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
