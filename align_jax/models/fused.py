"""Attention by a kernel that never stores the scores, where there is one.

It runs whole rows at once: in scoring, in training, and over a prompt before
its completions are sampled. Decoding has its own, see `cache.attend`.

In each row the queries are the last T of U slots. A query sees no later slot.
Tokens see only tokens, as in `attention.attend`, and padding sees only padding.
So padding sees at least itself, and every row of scores has an entry.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import sharding

NVIDIA = 'gpu: NVIDIA of compute capability 8 or more'
BLOCKS = (512, 256, 128)  # of splash. Not measured: no TPU was available


def _padded(size, x, valid):
  """Slots added at the end, as padding, up to a multiple of `size`."""
  more = -x.shape[1] % size
  pad = lambda x: jnp.pad(x, ((0, 0), (0, more)) + ((0, 0),) * (x.ndim - 2))
  return pad(x), pad(valid)


def even(x):
  """Completions [P, G, T] with an even number of slots.

  So that a kernel pads their queries, keys and values in no layer.
  """
  return jnp.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2)))


def splash(q, k, v, q_valid, kv_valid, softcap=None, interpret=False):
  """Pallas' splash attention, with slots padded to multiples of 128.

  Args: see `Kernel.attend`.
    interpret: run it in plain JAX, on any machine.
  """
  # This import is slow, and only splash needs it.
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  size, later = q.shape[1], k.shape[1] - q.shape[1]
  q, q_valid = _padded(BLOCKS[-1], q, q_valid)
  (k, _), (v, kv_valid) = (_padded(BLOCKS[-1], x, kv_valid) for x in (k, v))
  heads_first = lambda x: x.swapaxes(1, 2)
  kernel = pallas.make_splash_mha(
    pallas.MultiHeadMask(
      [pallas.CausalMask((q.shape[1], k.shape[1]), later)]
      * math.prod(q.shape[2:4])
    ),
    block_sizes=_block_sizes(q.shape[1], k.shape[1]),
    attn_logits_soft_cap=softcap,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  ids = pallas.SegmentIds(*(x.astype(jnp.int32) for x in (q_valid, kv_valid)))
  flat = q.reshape(*q.shape[:2], -1, q.shape[-1])
  out = jax.vmap(kernel)(*(heads_first(x) for x in (flat, k, v)), ids)
  return heads_first(out).reshape(q.shape)[:, :size]


def _block_sizes(queries, keys):
  from jax.experimental.pallas.ops.tpu import splash_attention as pallas

  q, kv = (next(b for b in BLOCKS if size % b == 0) for size in (queries, keys))
  names = 'block_kv', 'block_kv_compute', 'block_kv_dkv'
  names += 'block_kv_dkv_compute', 'block_kv_dq'
  return pallas.BlockSizes(
    **dict.fromkeys(('block_q', 'block_q_dkv', 'block_q_dq'), q),
    **dict.fromkeys(names, kv),
  )


def cudnn(q, k, v, q_valid, kv_valid, softcap=None, implementation='cudnn'):
  """cuDNN's flash attention, with slots padded to even numbers.

  Its mask is an additive array [B, 1, T, U]. One serves all layers, and is
  stored for the backward pass.

  Args: see `Kernel.attend`.
    implementation: of `jax.nn.dot_product_attention`.
  """
  if softcap is not None:
    raise ValueError(f'cuDNN does not cap scores, got softcap={softcap}')
  size, later = q.shape[1], k.shape[1] - q.shape[1]
  q, q_valid = _padded(2, q, q_valid)
  (k, _), (v, kv_valid) = (_padded(2, x, kv_valid) for x in (k, v))
  mask = jnp.arange(q.shape[1])[:, None] + later >= jnp.arange(k.shape[1])
  mask = mask & (q_valid[:, :, None] == kv_valid[:, None])
  flat = q.reshape(*q.shape[:2], -1, q.shape[-1])
  out = jax.nn.dot_product_attention(
    flat, k, v, mask=mask[:, None], scale=1.0, implementation=implementation
  )
  return out.reshape(q.shape)[:, :size]


class Kernel(NamedTuple):
  """A way to attend, and what it needs.

  `attend` takes scaled queries [B, T, K, R, H], keys and values [B, U, K, H]
  with T <= U, which slots of either are no padding, bool [B, T] and [B, U], and
  the softcap. It returns the attended values in the shape of the queries. They
  are finite, and garbage on padding.
  """

  attend: Callable
  machine: str  # as `machine` calls it
  dtypes: tuple[str, ...]  # of activations
  head_multiple: int
  head_limit: float
  softcaps: bool


def machine():
  """The platform, 'cpu', 'tpu' or 'gpu', or NVIDIA."""
  if sharding.platform() != 'gpu':
    return sharding.platform()
  device = jax.devices()[0]
  if 'cuda' not in device.client.platform_version:
    return device.platform
  return NVIDIA if float(device.compute_capability) >= 8 else 'gpu'


def missing(kernel, c):
  """What a kernel needs and the ModelConfig lacks, '' if nothing."""
  if c.dtype not in kernel.dtypes:
    return f'dtype in {list(kernel.dtypes)}, got dtype={c.dtype!r}'
  if c.head_dim % kernel.head_multiple or c.head_dim > kernel.head_limit:
    return (
      f'head_dim to be a multiple of {kernel.head_multiple} and at most '
      f'{kernel.head_limit}, got head_dim={c.head_dim}'
    )
  if c.attention_softcap is not None and not kernel.softcaps:
    return (
      f'attention_softcap=None, got attention_softcap={c.attention_softcap}'
    )
  return ''


def _missing_here(kernel, c, num_prompts, size):
  """What a kernel needs and the machine, mesh or batch lacks."""
  if machine() != kernel.machine:
    return f'a machine {kernel.machine!r}, found {machine()!r}'
  short = [w for w in c.windows if w and w < size]
  # Windows are an array under the scan over layers. A kernel needs constants.
  if short:
    return f'windows of at least the {size} slots of a row, got {min(short)}'
  mesh = jax.sharding.get_abstract_mesh()
  if sharding.ways('context') > 1:
    return 'rows that are whole on a device, got mesh.context above 1'
  try:
    if not mesh.empty:
      sharding.check(
        (num_prompts, c.num_kv_heads),
        ('batch', 'heads'),
        mesh.shape,
        'prompts and heads that divide',
      )
  except ValueError as error:
    return str(error)
  return ''


def choose(c, num_prompts, size):
  """The kernel that `c.attention` means here.

  Args:
    c: ModelConfig.
    num_prompts: of the batch.
    size: slots of a row, prompt and completion.
  Returns:
    (q, k, v, q_valid, kv_valid) -> attended, as `Kernel.attend`, on the mesh in
    force if there is one. None: use plain `attention.attend`.
  Raises:
    ValueError: `c.attention` names a kernel that cannot run.
  """
  if c.attention == 'plain':
    return None
  for name, kernel in KERNELS.items():
    if c.attention not in ('auto', name):
      continue
    why = _missing_here(kernel, c, num_prompts, size) or missing(kernel, c)
    if not why:
      return functools.partial(_attend, kernel, c.attention_softcap)
    if c.attention == name:
      raise ValueError(f'attention={name!r} needs {why}')
  return None


def check_vmap(c):
  """Raises ValueError if `c.attention` has no rule for `jax.vmap`."""
  kernel, named = KERNELS['cudnn'], getattr(c, 'attention', 'plain')
  if named in ('auto', 'cudnn') and machine() == kernel.machine:
    if not missing(kernel, c):
      raise ValueError(
        f'together=True stacks runs, which cuDNN cannot: expected '
        f"model.attention='plain', got {named!r}"
      )


@jax.named_scope('attention')
def _attend(kernel, softcap, q, *others):
  """Runs each device's rows and heads, since XLA cannot split a kernel."""
  if not q.size:
    return q
  f = functools.partial(kernel.attend, softcap=softcap)
  if not jax.sharding.get_abstract_mesh().empty:
    heads, rows = map(sharding.spec, (('batch', None, 'heads'), ('batch',)))
    f = jax.shard_map(
      f,
      in_specs=(heads, heads, heads, rows, rows),
      out_specs=heads,
      check_vma=False,
    )
  return f(q, *others)


KERNELS = {
  'splash': Kernel(splash, 'tpu', ('float32', 'bfloat16'), 1, math.inf, True),
  'cudnn': Kernel(cudnn, NVIDIA, ('bfloat16', 'float16'), 8, 128, False),
}
