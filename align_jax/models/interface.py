"""Finds the functions that run a model, given its description.

A hashable record `c` describes a model: a `ModelConfig` or an `Adapter`. The
rest of the package runs it by `of(c)`, which has

  init(key, c), axes(c), width(c)                parameters, their axes, D
  hidden_states(params, c, prompts, ...)         all tokens at once
  prefill, empty_cache, split_layers, decode_step   a token at a time
  head_weights(params, c), decode_head(params, c), logits(states, weights, c)
  laid_out(params, c)                            as sampling reads them
  matrix_dims(path, shape, c)                    what LoRA may adapt

`models.transformer` documents them. A record of another kind registers its own
functions: `interface.of.register(MyRecord)(lambda c: my_module)`.
"""

import functools
import importlib

import jax

from align_jax.models import adapter, transformer


@functools.singledispatch
def of(c):
  """The functions that run the model `c`."""
  raise TypeError(f'{c!r} is no model, expected a ModelConfig or an Adapter')


of.register(transformer.ModelConfig)(lambda c: transformer)
of.register(adapter.Adapter)(lambda c: adapter)


def shapes(c):
  """The parameters' shapes and dtypes: a tree, made without a device."""
  return jax.eval_shape(lambda: of(c).init(jax.random.key(0), c))


def size(c):
  """The number of parameters, counted without a device."""
  return sum(x.size for x in jax.tree.leaves(shapes(c)))


def from_fields(adapter='', **fields):
  """The model that a config's fields describe.

  Args:
    adapter: 'package.module:Class', the user's `Adapter`. '': this package's
      transformer.
    **fields: of that class, or of ModelConfig.
  Raises:
    ValueError: no such class. Names the config key.
  """
  if not adapter:
    return transformer.ModelConfig(**fields)
  module, _, name = adapter.partition(':')
  try:
    kind = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f"model.adapter={adapter!r}: expected 'package.module:Class' ({error})"
    ) from error
  return kind(**fields)
