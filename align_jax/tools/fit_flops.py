"""Floating-point operations of a traced program, by its matrix products."""

import math

import jax
from jax.extend import core


def flops(jaxpr: core.Jaxpr, turns: int = 0) -> float:
  """Of matrix products, over all devices.

  Kernels are left out: what they compute depends on the mask. So this is less
  than what is computed, by most of attention where a kernel runs.

  Args:
    jaxpr: of the whole program.
    turns: of all loops of unknown length together, in which each has its share.
  """
  loops = _loops(jaxpr)
  return _flops(jaxpr, turns / loops if loops else 0)


def _flops(jaxpr, turns):
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      total += _product(eqn)
      continue
    if eqn.primitive.name == 'pallas_call':
      continue
    times = {
      'scan': lambda eqn: eqn.params['length'],
      'while': lambda eqn: turns,
      'shard_map': _devices,
    }.get(eqn.primitive.name, lambda eqn: 1)(eqn)
    total += times * sum(_flops(inner, turns) for inner in _inner(eqn))
  return total


def _devices(eqn):
  """How often a shard_map runs its body: XLA splits the other axes itself."""
  told = eqn.params
  name = 'newly_manual_axes'  # as of jax 0.10
  axes = told[name] if name in told else told['manual_axes']
  return math.prod(told['mesh'].shape[axis] for axis in axes)


def _loops(jaxpr) -> int:
  """Outermost loops of unknown length that compute products."""
  found = 0
  for eqn in jaxpr.eqns:
    inner = list(_inner(eqn))
    if eqn.primitive.name == 'while':
      found += any(_flops(x, 1) for x in inner)
    else:
      found += sum(map(_loops, inner))
  return found


def _inner(eqn):
  """The jaxprs that an equation runs."""
  for value in jax.tree.leaves(
    list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
  ):
    value = getattr(value, 'jaxpr', value)
    if hasattr(value, 'eqns'):
      yield value


def _product(eqn):
  (contracted, _), _ = eqn.params['dimension_numbers']
  left = eqn.invars[0].aval.shape
  out = eqn.outvars[0].aval.shape
  return 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)
