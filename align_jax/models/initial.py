"""What a model starts from: fresh parameters, or a published checkpoint.

It is a policy, or a transformer that scores what a policy writes.
"""

import dataclasses

from align_jax import values
from align_jax.models import config as config_lib
from align_jax.models import hf, vocabulary
from align_jax.models.interface import from_fields, of

DTYPES = 'one of ' + ', '.join(map(repr, config_lib.DTYPES))
OWN_DTYPE = values.Allowed(
  f"'' or {DTYPES}", lambda x: x in ('', *config_lib.DTYPES)
)
# The fields of a configuration that may be given with a checkpoint.
BESIDE = {
  'checkpoint': values.text(),
  'revision': values.text(),
  'param_dtype': OWN_DTYPE,
  'dtype': OWN_DTYPE,
  **{k: config_lib.ALLOWED[k] for k in ('attention', 'remat')},
}
ONLY_BESIDE = 'revision', 'param_dtype'


def check_fields(model):
  """Refuses what a configuration's `model` may not say; see `model_fields`.

  It reads no checkpoint.

  Raises:
    ValueError: names the field, its value and what was expected.
  """
  checkpoint, adapter = model.get('checkpoint'), model.get('adapter')
  if checkpoint:
    check_beside(model, 'model')
    return
  for name, value in model.items():
    if name in ONLY_BESIDE and value:
      raise ValueError(
        f'model.{name}={value!r} is of a model.checkpoint, and there is none'
      )
    if not adapter and name in BESIDE and name != 'dtype':
      BESIDE[name].checked(f'model.{name}', value)
  own = fields_alone(model)
  known = [field.name for field in dataclasses.fields(config_lib.ModelConfig)]
  for name in own:
    if not adapter and name not in known:
      raise ValueError(
        f'model.{name}: no such field, {values.nearest(name, known)}'
      )
  try:
    from_fields(**own)
  except TypeError as error:
    raise ValueError(f'model: {error}') from error
  except ValueError as error:
    named = str(error).startswith('model.')
    raise ValueError(f'{"" if named else "model."}{error}') from error


def check_beside(fields, where):
  """Refuses what may not stand beside a checkpoint.

  Args:
    where: the config's name for these fields.
  """
  for name, value in fields.items():
    if name not in BESIDE:
      raise ValueError(
        f'{where}.{name}={value!r} is given beside {where}.checkpoint='
        f'{fields["checkpoint"]!r}, which says what the model is: expected '
        f'only {", ".join(BESIDE)}'
      )
    BESIDE[name].checked(f'{where}.{name}', value)


def fields_alone(model):
  """The fields of a `model` without a checkpoint that describe the model."""
  beside = 'checkpoint', *ONLY_BESIDE
  return {k: v for k, v in model.items() if k not in beside}


def model_fields(model, max_length=0):
  """The fields of ModelConfig that a configuration's `model` stands for.

  Args:
    model: fields of ModelConfig and an empty `checkpoint`. Or a `checkpoint`, a
      folder or hub id, with its `revision`, the `param_dtype` of parameters,
      the `dtype` of activations, the kind of `attention` and `remat`.
    max_length: see `hf_config.from_hf`.
  Raises:
    ValueError: a field does not go with a checkpoint, or needs one. Names it.
  """
  check_fields(model)
  if not model.get('checkpoint'):
    return fields_alone(model)
  return dataclasses.asdict(_described(model, max_length, 'lm', 'model'))


def _described(model, max_length, head, where):
  """The ModelConfig of a `model` with a checkpoint."""
  folder = folder_of(model)
  config = hf.describe(
    folder,
    hf.read_config(folder),
    max_length,
    head=head,
    dtype=_dtype(model, 'dtype'),
    attention=model.get('attention', 'auto'),
    remat=model.get('remat', False),
  )
  positions = {'num_positions': config.num_positions}
  config_lib.check_positions(positions, max_length, where)
  return config


def _dtype(model, field):
  return model.get(field) or 'float32'


def folder_of(model):
  """The checkpoint's local folder, downloaded if need be."""
  return hf.fetch(model['checkpoint'], model.get('revision') or None)


def tokenizer_of(model):
  """The name of the checkpoint's tokenizer: not that of a store's copy."""
  name = str(model['checkpoint'])
  return name if '://' in name else str(folder_of(model))


def ends(model):
  """Ids that end the checkpoint's texts; () for a model without one."""
  return vocabulary.ends(folder_of(model)) if model.get('checkpoint') else ()


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


def check_scorer(fields, vocab_size, where):
  """Refuses fields of which `scorer` could make none; reads no checkpoint."""
  if fields.get('checkpoint'):
    check_beside(fields, where)
  else:
    config_lib.scorer_config(fields, vocab_size, where)


def scorer(fields, policy, where, max_length=0):
  """The ModelConfig of a transformer that scores what a policy writes.

  Args:
    fields: sizes, see `config.scorer_config`. Or a `checkpoint`, with what may
      stand beside it, see `model_fields`.
    policy: its ModelConfig or Adapter, whose ids the transformer reads.
    where: the config's name for the fields.
    max_length: see `hf_config.from_hf`.
  Raises:
    ValueError: names the wrong field, or the checkpoint that has fewer ids.
  """
  if not fields.get('checkpoint'):
    return config_lib.scorer_config(fields, policy.vocab_size, where)
  check_beside(fields, where)
  config = _described(fields, max_length, 'scalar', where)
  ids = vocabulary.num_ids(policy)
  if config.vocab_size < ids:
    raise ValueError(
      f'{where}.checkpoint={fields["checkpoint"]!r} has {config.vocab_size} '
      f'ids, expected the {ids} of the policy'
    )
  return config


def scorer_params(fields, config, key):
  """What it starts from: fresh parameters, or the checkpoint's.

  A reward model keeps its head. A language model gets one of zeros.

  Args:
    fields: see `scorer`.
    config: made of them.
    key: of fresh parameters.
  """
  if not fields.get('checkpoint'):
    return of(config).init(key, config)
  dtype = _dtype(fields, 'param_dtype')
  return hf.load(folder_of(fields), dtype=dtype, head='scalar').params
