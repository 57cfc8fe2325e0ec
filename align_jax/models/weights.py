"""The transformer's parameters: one table of shapes, axes and initialisers."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from align_jax import sharding
from align_jax.models.config import ModelConfig

WHOLE = 'whole'  # what `whole` returns, for policies of `jax.checkpoint`


class Spec(NamedTuple):
  """A row of the table of parameters."""

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]  # logical names, see sharding.RULES
  init: Callable  # standard normal noise of that shape -> array


def _normal(scale):
  return lambda noise: scale * noise


_ones, _zeros = jnp.ones_like, jnp.zeros_like


def specs(c: ModelConfig):
  """The one table of parameters: shape, logical axes, initialiser."""
  L, D, V = c.num_layers, c.dim, c.vocab_size
  norms = ['attention_norm', 'mlp_norm']
  if c.post_norms:
    norms += ['attention_post_norm', 'mlp_post_norm']
  layers = {**_attention_specs(c), **_mlp_specs(c)}
  for name in norms:
    layers |= _norm_specs(name, (L, D), c)
  table = {
    'embed': Spec((V, D), ('vocab', 'embed'), _normal(0.02)),
    'layers': layers,
    **_norm_specs('norm', (D,), c),
  }
  if c.num_positions:
    table['positions'] = Spec(
      (c.num_positions, D), (None, 'embed'), _normal(0.02)
    )
  if c.head == 'scalar':
    table['head'] = Spec((D,), ('embed',), _zeros)
  elif not c.tie_embeddings:
    table['head'] = Spec((D, V), ('embed', 'vocab'), _normal(0.02))
  return table


def _attention_specs(c):
  L, D, K, H = c.num_layers, c.dim, c.num_kv_heads, c.head_dim
  R = c.num_heads // K
  # Keeps the scale of the residual stream at init.
  out = 1 / (2 * L) ** 0.5 * (K * R * H) ** -0.5
  table = {
    # Per kv head: R query heads, a key head and a value head, in one matmul.
    'qkv': Spec(
      (L, D, K, R + 2, H),
      (None, 'embed', 'heads', None, None),
      _normal(D**-0.5),
    ),
    'o': Spec(
      (L, K, R, H, D), (None, 'heads', None, None, 'embed'), _normal(out)
    ),
  }
  if c.qkv_bias:
    axes = (None, 'heads', None, None)
    table['qkv_bias'] = Spec((L, K, R + 2, H), axes, _zeros)
  if c.o_bias:
    table['o_bias'] = Spec((L, D), (None, None), _zeros)
  if c.qk_norm:
    scale = Spec((L, H), (None, None), _scale(c))
    table |= {'q_norm': scale, 'k_norm': scale}
  return table


def _mlp_specs(c):
  L, D, F = c.num_layers, c.dim, c.mlp_dim
  E, experts = ((c.num_experts,), (None,)) if c.num_experts else ((), ())
  into, out = _normal(D**-0.5), _normal(1 / (2 * L) ** 0.5 * F**-0.5)
  table = {'down': Spec((L, *E, F, D), (None, *experts, 'mlp', 'embed'), out)}
  if c.gated:
    axes = (None, *experts, 'embed', None, 'mlp')
    table['gate_up'] = Spec((L, *E, D, 2, F), axes, into)
  else:
    table['up'] = Spec((L, D, F), (None, 'embed', 'mlp'), into)
  if c.num_experts:
    table['router'] = Spec((L, D, *E), (None, 'embed', None), into)
  if c.mlp_bias:
    name, sizes = ('gate_up_bias', (2,)) if c.gated else ('up_bias', ())
    axes = (None, *(None for _ in sizes), 'mlp')
    table[name] = Spec((L, *sizes, F), axes, _zeros)
    table['down_bias'] = Spec((L, D), (None, None), _zeros)
  return table


def _scale(c):
  return _zeros if c.norm_offset else _ones


def _norm_specs(name, shape, c):
  axes = (None,) * len(shape)
  table = {name: Spec(shape, axes, _scale(c))}
  if c.norm == 'layer':
    table[f'{name}_bias'] = Spec(shape, axes, _zeros)
  return table


def forward_flops(c: ModelConfig):
  """FLOPs of a token's way through the model, without attention's scores.

  Two for each weight of the matrices that it meets: of experts those it uses.
  """
  table = specs(c)
  sizes = {name: math.prod(x.shape) for name, x in table['layers'].items()}
  used = c.experts_per_token / c.num_experts if c.num_experts else 1
  experts = {'down': used, 'gate_up': used}
  matrices = 'qkv', 'o', 'router', 'up', *experts
  met = sum(sizes.get(name, 0) * experts.get(name, 1) for name in matrices)
  head = c.dim * (1 if c.head == 'scalar' else c.vocab_size)
  return 2 * (met + head)


def _is_spec(x):
  return isinstance(x, Spec)


@functools.partial(jax.jit, static_argnames='c')
def init(key, c: ModelConfig):
  """Parameters float32, drawn from `specs`."""
  table, treedef = jax.tree.flatten(specs(c), is_leaf=_is_spec)
  # One draw for all, since XLA would compile one draw per shape.
  sizes = [math.prod(s.shape) for s in table]
  noise = jax.random.normal(key, (sum(sizes),))
  parts = jnp.split(noise, np.cumsum(sizes)[:-1])
  return treedef.unflatten(
    s.init(part.reshape(s.shape)) for s, part in zip(table, parts)
  )


def axes(c: ModelConfig):
  """Logical axes of each parameter, for `sharding.place`."""
  return jax.tree.map(lambda s: s.axes, specs(c), is_leaf=_is_spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _moved(x, axes, to, back, dtypes):
  """x, which lies by `axes`, in the first of two dtypes and laid out `to`.

  Args:
    back: how its cotangent is laid out, one after another. By itself it would
      be whole on every device before it is split.
  """
  return sharding.move(x.astype(dtypes[0]), axes, to)


def _move_back(axes, to, back, dtypes, _, cotangent):
  for layout in back:
    cotangent = sharding.shard(cotangent, *layout)
  return (cotangent.astype(dtypes[1]),)


_moved.defvjp(lambda x, *how: (_moved(x, *how), None), _move_back)


def whole(tree, names, c):
  """Weights as products read them: no longer split over 'embed'.

  Matrices are cast first, so that half of the bytes move.

  Args:
    tree: parameters, some of them, or those of a layer. What has no name in
      `names` is left as it is.
    names: the logical axes of each.
  """
  if sharding.ways('embed') == 1:
    return tree
  own = {k: x for k, x in tree.items() if k in names}
  return tree | _each_gathered(own, {k: names[k] for k in own}, c)


def laid_out(params, c):
  """The parameters as sampling reads them, within `sharding.sampling`.

  Without a mesh nothing is done: products cast for themselves.

  Raises:
    ValueError: the devices that split layers do not divide one; names it.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return params
  names = axes(c)
  for path, spec in jax.tree.leaves_with_path(specs(c), is_leaf=_is_spec):
    label = f'to sample, mesh: model{jax.tree_util.keystr(path)}'
    sharding.check(spec.shape, spec.axes, mesh.shape, label)
  return _each_gathered(params, {k: names[k] for k in params}, c)


def _each_gathered(tree, names, c):
  def gathered(path, x, axes):
    cast = x.ndim > 1 and 'norm' not in path[-1].key
    dtypes = (jnp.dtype(c.dtype) if cast else x.dtype), x.dtype
    to = tuple(None if name == 'embed' else name for name in axes)
    return checkpoint_name(_moved(x, axes, to, (axes,), dtypes), WHOLE)

  return jax.tree_util.tree_map_with_path(gathered, tree, names)


def head(params, c):
  """The output matrix [D, V], or the embedding [V, D] that it is tied to.

  Where parameters are split over 'embed', its tokens are instead: no gradient
  of the whole matrix exists.
  """
  name = 'embed' if c.tie_embeddings else 'head'
  x, names = params[name], axes(c)[name]
  if sharding.ways('embed') == 1:
    return x
  known = {'embed': None, 'vocab': 'logits'}
  to = tuple(known[n] for n in names)
  # Its cotangent is computed where its logits are.
  return _moved(x, names, to, (to, names), (jnp.dtype(c.dtype), x.dtype))


def width(c):
  """D: the size of a hidden state."""
  return c.dim


def matrix_dims(path, shape, c):
  """(stacked, input) dimensions of the matrix at `path`, for LoRA.

  Raises:
    ValueError: not a matrix.
  """
  name = path.split('.')[-1]
  if name not in INPUTS:
    raise ValueError(f'{path} is none of the matrices {sorted(INPUTS)}')
  stacked = 1 if path.startswith('layers.') else 0
  if c.num_experts and name in ('gate_up', 'down'):
    stacked += 1
  return stacked, INPUTS[name]


def plain_inputs(layer, c):
  """{name: input dimensions} of a layer's matrices, those of experts left out.

  Args:
    layer: {name: array} of one layer, without the axis of layers.
  """
  dims = {
    name: matrix_dims(f'layers.{name}', a.shape, c)
    for name, a in layer.items()
    if name in INPUTS
  }
  return {name: dims[1] for name, dims in dims.items() if dims[0] == 1}


# Input dimensions of a layer's matrices, and of the head's.
INPUTS = {'qkv': 1, 'o': 3, 'gate_up': 1, 'up': 1, 'down': 1, 'router': 1}
INPUTS |= {'head': 1}
