"""Rules across the fields of a stage: task, model, SFT, pairs and proxy."""

import dataclasses

from align_jax import tasks
from align_jax.lab.fields import is_number, is_whole, nearest
from align_jax.lab.proxies import PROXIES, VERIFIERS
from align_jax.lab.rules import check_hparams, check_optimizer, one_of
from align_jax.losses import LOSSES
from align_jax.models import initial, interface
from align_jax.models.config import ModelConfig


def check_shared(shared):
  """Raises ValueError for a stage that cannot be made.

  Args:
    shared: settings.Shared.
  """
  check_optimizer(shared.sft.optimizer, shared.sft.steps, lambda k: f'sft.{k}')
  _check_model(shared.model)
  tasks.check_knobs(shared.model, shared.eval.sets, **shared.task)
  check_proxy(shared.proxy, shared.golden)


SIZES = (
  'vocab_size',
  'dim',
  'num_layers',
  'num_heads',
  'num_kv_heads',
  'head_dim',
  'mlp_dim',
)
KINDS = {
  bool: ('True or False', lambda x: isinstance(x, bool)),
  int: ('a whole number, at least 0', lambda x: is_whole(x) and x >= 0),
  float: ('a finite number', is_number),
  str: ('text', lambda x: isinstance(x, str)),
}
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


def _check_kind(field, model):
  """One field of ModelConfig by its type, where a config has it."""
  if field.name not in model or model.get('adapter'):
    return
  value = model[field.name]
  expected, right = KINDS.get(field.type, ('', lambda x: True))
  if field.name == 'dtype':
    expected, right = f'one of {DTYPES}', lambda x: x in DTYPES
  if not right(value):
    raise ValueError(f'model.{field.name}={value!r}, expected {expected}')


def _check_model(model):
  if model.get('checkpoint'):
    return
  for key in SIZES:
    value = model.get(key, 1)
    if not (is_whole(value) and value >= 1):
      raise ValueError(f'model.{key}={value!r}, expected a whole number >= 1')
  fields = [field.name for field in dataclasses.fields(ModelConfig)]
  for key in model:
    if key not in (*fields, *initial.BESIDE) and not model.get('adapter'):
      raise ValueError(f'model.{key}: no such field, {nearest(key, fields)}')
  for field in dataclasses.fields(ModelConfig):
    _check_kind(field, model)
  try:
    interface.from_fields(**initial.model_fields(model))
  except TypeError as error:
    raise ValueError(f'model: {error}') from error
  except ValueError as error:
    own = str(error).startswith('model.')
    raise ValueError(f'{"" if own else "model."}{error}') from error


def check_proxy(proxy, golden):
  """Checks the proxy and the pairs that it learns from."""
  one_of('proxy.verifier', proxy.verifier, VERIFIERS)
  one_of('proxy.loss', proxy.loss, PROXIES)
  check_optimizer(proxy.optimizer, proxy.steps, lambda k: f'proxy.{k}')
  if proxy.batch_size > golden.pairs:
    raise ValueError(
      f'proxy.batch_size={proxy.batch_size}, expected at most golden.pairs='
      f'{golden.pairs}'
    )
  if proxy.batch_size % proxy.num_microbatches:
    raise ValueError(
      f'proxy.batch_size={proxy.batch_size} does not split into '
      f'proxy.num_microbatches={proxy.num_microbatches}'
    )
  check_hparams(proxy.learns, lambda key: f'proxy.loss_kwargs.{key}')
  loss, reads = LOSSES[proxy.loss], None
  if loss.rows == 'ordered':
    reads = 'two completions in order'
  elif 'token_scores' in loss.needs_of():
    reads = 'a completion token by token'
  if reads and proxy.verifier != 'transformer':
    raise ValueError(
      f'proxy.loss={proxy.loss!r} reads {reads} and needs '
      f"proxy.verifier='transformer', got {proxy.verifier!r}"
    )
  if loss.rows == 'single' and golden.label_noise:
    raise ValueError(
      f'proxy.loss={proxy.loss!r} learns gold labels of single '
      'completions, which golden.label_noise='
      f'{golden.label_noise} does not reach'
    )
