"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685).

A matrix W [inputs, outputs] becomes W + alpha / rank * A B, where A
[inputs, rank] and B [rank, outputs] are trained and W is not. B starts at zero,
so the first policy is the base itself. Fused matrices have one A for all of
their outputs. Stacked matrices (layers, experts) have a pair each.

The trained tree is {'lora': Adapters}. All else sees `merge`d parameters.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from align_jax import values
from align_jax.models.interface import of, shapes

KEY = 'lora'  # of the adapters, among a run's params
BASE = 'base'  # the anchor of W, if 'ref' moves and cannot be it


@dataclasses.dataclass(frozen=True)
class Lora:
  """What is adapted, and how much.

  Attributes:
    rank: 0 trains all parameters instead.
    alpha: the product is multiplied by alpha / rank.
    targets: ends of the paths of matrices, such as 'qkv' or 'layers.qkv'.
  """

  rank: int = 0
  alpha: float = 16.0
  targets: tuple[str, ...] = ('qkv', 'o', 'gate_up', 'down')

  def __post_init__(self):
    for name, allowed in ALLOWED.items():
      kept = allowed.checked(f'lora.{name}', getattr(self, name))
      object.__setattr__(self, name, kept)


ALLOWED = {
  'rank': values.count(0),
  'alpha': values.number(above=0),
  'targets': values.items(
    'names of matrices', lambda x: isinstance(x, str) and x, 1
  ),
}


class Pair(NamedTuple):
  """The two factors of an adapted matrix."""

  a: Any  # [*stacked, *inputs, rank]
  b: Any  # [*stacked, rank, *outputs]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapters:
  """The trained tree: a Pair for each adapted matrix, and alpha / rank."""

  pairs: dict  # the tree of the parameters, a Pair for each adapted one
  scale: float = dataclasses.field(metadata=dict(static=True))


def _targets(params, c, lora):
  """{path: (array or shape, stacked, inputs)} of what is adapted."""
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='.'): (path, x)
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }
  found = {}
  for target in lora.targets:
    own = [n for n in leaves if f'.{n}'.endswith(f'.{target}')]
    if not own:
      raise ValueError(
        f'lora.targets: {target!r} ends no path of the parameters '
        f'{", ".join(leaves)}'
      )
    for name in own:
      path, x = leaves[name]
      dims = of(c).matrix_dims(name, x.shape, c)
      found[tuple(p.key for p in path)] = (x, *dims)
  return found


def _nested(flat):
  """{(key, ...): leaf} -> nested dicts."""
  tree = {}
  for (*above, last), leaf in flat.items():
    inner = tree
    for key in above:
      inner = inner.setdefault(key, {})
    inner[last] = leaf
  return tree


def init(key, base, c, lora):
  """Adapters of `base`, float32: A normal with variance 1 / inputs, B zero.

  Raises:
    ValueError: a target that is not there, or no matrix.
  """

  def pair(key, w, stacked, inputs):
    lead, rows = w.shape[:stacked], w.shape[stacked : stacked + inputs]
    a = jax.random.normal(key, (*lead, *rows, lora.rank))
    a = a * math.prod(rows) ** -0.5
    return Pair(a, jnp.zeros((*lead, lora.rank, *w.shape[stacked + inputs :])))

  found = _targets(base, c, lora)
  keys = jax.random.split(key, len(found))
  pairs = {p: pair(k, *x) for k, (p, x) in zip(keys, found.items())}
  return Adapters(_nested(pairs), lora.alpha / lora.rank)


def restored(raw, base, c, lora):
  """Adapters from the nested dicts of arrays that a checkpoint holds.

  Raises:
    ValueError: their shapes are not those of `lora` on a model like `base`.
  """
  like = jax.eval_shape(lambda: init(jax.random.key(0), base, c, lora))
  wanted, treedef = jax.tree.flatten(like)
  found = jax.tree.leaves(raw)
  sizes = lambda arrays: [x.shape for x in arrays]
  if sizes(found) != sizes(wanted):
    raise ValueError(
      f'adapters of shapes {sizes(found)}, the settings ask for {sizes(wanted)}'
    )
  return treedef.unflatten(found)


def axes(c, lora):
  """Logical axes of the adapters: the matrix's, and none for the rank."""
  model = of(c)

  def pair(path, stacked, inputs):
    names = model.axes(c)
    for key in path:
      names = names[key]
    middle = stacked + inputs
    lead, rows, columns = names[:stacked], names[stacked:middle], names[middle:]
    return Pair((*lead, *rows, None), (*lead, None, *columns))

  found = _targets(shapes(c), c, lora)
  pairs = {path: pair(path, *dims) for path, (_, *dims) in found.items()}
  return Adapters(_nested(pairs), lora.alpha / lora.rank)


def factor_dims(path, c):
  """(stacked, input) dimensions of a factor, A or B, as a matrix of its own.

  Args:
    path: of its array within {KEY: Adapters}.
    c: what `models.interface.of` knows, the model that is adapted.
  """
  *above, factor = (getattr(k, 'key', getattr(k, 'name', '')) for k in path)
  keys, model = above[2:], of(c)  # without KEY and 'pairs'
  w = shapes(c)
  for key in keys:
    w = w[key]
  stacked, inputs = model.matrix_dims('.'.join(keys), w.shape, c)
  return stacked, inputs if factor == 'a' else 1


def _adapted(w, pair, scale):
  stacked = pair.a.ndim + pair.b.ndim - 2 - w.ndim
  lead, rank = w.shape[:stacked], pair.a.shape[-1]
  product = pair.a.reshape(*lead, -1, rank) @ pair.b.reshape(*lead, rank, -1)
  return (w + scale * product.reshape(w.shape)).astype(w.dtype)


def merge(base, adapters):
  """The parameters with W + alpha / rank * A B for W, in W's dtype."""

  def into(tree, pairs):
    if isinstance(pairs, Pair):
      return _adapted(tree, pairs, adapters.scale)
    return {**tree, **{k: into(tree[k], p) for k, p in pairs.items()}}

  return into(base, adapters.pairs)


def base_of(anchors):
  """What a state's adapters adapt: the reference, or `BASE` if that moves."""
  return anchors[BASE] if BASE in anchors else anchors['ref']
