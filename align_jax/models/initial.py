"""What a policy starts from: fresh parameters, or a published checkpoint."""

import dataclasses

from align_jax.models import hf, hf_config
from align_jax.models.interface import of

# The fields of a configuration that may be given with a checkpoint.
BESIDE = ('checkpoint', 'revision', 'param_dtype', 'dtype', 'attention')


def model_fields(model, max_length=0):
  """The fields of ModelConfig that a configuration's `model` stands for.

  Args:
    model: fields of ModelConfig and an empty `checkpoint`. Or a `checkpoint`, a
      folder or hub id, with its `revision`, the `param_dtype` of parameters,
      the `dtype` of activations and the kind of `attention`.
    max_length: see `hf_config.from_hf`.
  Raises:
    ValueError: a field does not go with a checkpoint, or needs one. Names it.
  """
  if not model.get('checkpoint'):
    for field in ('revision', 'param_dtype'):
      if model.get(field):
        raise ValueError(
          f'model.{field}={model[field]!r} is of a model.checkpoint, and there '
          'is none'
        )
    return {k: v for k, v in model.items() if k not in BESIDE[:3]}
  for field, value in model.items():
    if field not in BESIDE:
      raise ValueError(
        f'model.{field}={value!r} is given beside model.checkpoint='
        f'{model["checkpoint"]!r}, which says what the model is: keep only '
        f'{", ".join(BESIDE)}'
      )
  fields = hf.read_config(folder_of(model))
  return dataclasses.asdict(
    hf_config.from_hf(
      fields,
      max_length,
      head='lm',
      dtype=_dtype(model, 'dtype'),
      attention=model.get('attention', 'auto'),
    )
  )


def _dtype(model, field):
  return model.get(field) or 'float32'


def folder_of(model):
  """The checkpoint's local folder, downloaded if need be."""
  return hf.fetch(model['checkpoint'], model.get('revision') or None)


def hf_fields(model):
  """The config.json of the checkpoint, None for a model without one."""
  return hf.read_config(folder_of(model)) if model.get('checkpoint') else None


def params(model, config, key):
  """Parameters to train from: the checkpoint's, or fresh ones.

  Args:
    model: see `model_fields`.
    config: ModelConfig, made of them.
    key: of fresh parameters.
  """
  if not model.get('checkpoint'):
    return of(config).init(key, config)
  dtype = _dtype(model, 'param_dtype')
  return hf.load(folder_of(model), dtype=dtype, head='lm').params
