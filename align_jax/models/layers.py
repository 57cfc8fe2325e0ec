"""What layers are made of: projections, norms, MLPs."""

import functools
import math

import jax
import jax.numpy as jnp

from align_jax import sharding
from align_jax.models import cpu


def project(x, weights, contracted=1):
  """x [..., *in] by weights [*in, *out] -> [..., *out], as one plain GEMM."""
  if isinstance(weights, cpu.Transposed):
    if sharding.platform() == 'cpu':
      return cpu.project_transposed(x, weights, contracted)
    weights = weights.weights.astype(x.dtype)
    last = lambda a: tuple(range(a.ndim - contracted, a.ndim))
    return jnp.tensordot(x, weights, (last(x), last(weights)))
  if not jax.sharding.get_abstract_mesh().empty:
    # Joined dimensions could not stay split: XLA would gather them.
    return jnp.tensordot(x, weights.astype(x.dtype), contracted)
  rows = x.shape[: x.ndim - contracted]
  inputs, outputs = weights.shape[:contracted], weights.shape[contracted:]
  weights = weights.astype(x.dtype).reshape(math.prod(inputs), -1)
  return (x.reshape(-1, len(weights)) @ weights).reshape(*rows, *outputs)


def with_bias(x, tree, name):
  """x plus the tree's bias of that name, if it has one."""
  return x + tree[name].astype(x.dtype) if name in tree else x


def rms_norm(x, scale, eps):
  """x [..., D] over its root mean square, times `scale`, in float32."""
  x32 = x.astype(jnp.float32)
  variance = jnp.mean(jnp.square(x32), -1, keepdims=True)
  return (x32 * jax.lax.rsqrt(variance + eps) * scale).astype(x.dtype)


def layer_norm(x, scale, bias, eps):
  """x [..., D] centred, over its deviation, scaled and shifted, in float32."""
  x32 = x.astype(jnp.float32)
  x32 = x32 - jnp.mean(x32, -1, keepdims=True)
  variance = jnp.mean(jnp.square(x32), -1, keepdims=True)
  return (x32 * jax.lax.rsqrt(variance + eps) * scale + bias).astype(x.dtype)


@jax.named_scope('norm')
def norm(x, tree, name, c):
  """x normed over its last dimension by the tree's parameters of that name."""
  scale = tree[name]
  if c.norm_offset:
    scale = scale.astype(jnp.float32) + c.norm_offset
  if f'{name}_bias' in tree:
    return layer_norm(x, scale, tree[f'{name}_bias'], c.norm_eps)
  return rms_norm(x, scale, c.norm_eps)


def soft_cap(x, cap):
  """Squashes x smoothly into (-cap, cap). None: x itself."""
  return x if cap is None else cap * jnp.tanh(x / cap)


@functools.partial(jax.checkpoint, static_argnums=1)
def _gate(both, activation):
  """[..., 2, F] -> [..., F]. Recomputed, which is cheaper than storing it."""
  gate, up = jnp.split(both, 2, axis=-2)
  return (activation(gate) * up)[..., 0, :]


@jax.named_scope('mlp')
def mlp(h, layer, c):
  """[..., D] -> [..., D]: gated or not, of one expert or of several."""
  activation = ACTIVATIONS[c.activation]
  if c.num_experts:
    return _experts(h, layer, c, activation)
  if not c.gated:
    h = activation(with_bias(project(h, layer['up']), layer, 'up_bias'))
  else:
    both = with_bias(project(h, layer['gate_up']), layer, 'gate_up_bias')
    h = _gate(both, activation)
  return with_bias(project(h, layer['down']), layer, 'down_bias')


def _experts(h, layer, c, activation):
  """Every expert runs every token, and the router weighs all but a few by 0."""
  probs = jax.nn.softmax(project(h, layer['router']).astype(jnp.float32))
  best, chosen = jax.lax.top_k(probs, c.experts_per_token)
  if c.renormalise_experts:
    best = best / best.sum(-1, keepdims=True)
  share = jax.nn.one_hot(chosen, c.num_experts) * best[..., None]
  share = share.sum(-2).astype(h.dtype)  # [..., E]
  weights = lambda name: layer[name].astype(h.dtype)
  gate_up = jnp.einsum('...d,edzf->...ezf', h, weights('gate_up'))
  hidden = activation(gate_up[..., 0, :]) * gate_up[..., 1, :]
  return jnp.einsum(
    '...ef,efd->...d', hidden * share[..., None], weights('down')
  )


ACTIVATIONS = {
  'silu': jax.nn.silu,
  'relu': jax.nn.relu,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
}
