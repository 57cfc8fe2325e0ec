"""Rules across the fields of a stage: task, model, SFT, pairs and proxy."""

from align_jax import tasks
from align_jax.lab.proxies import PROXIES, VERIFIERS
from align_jax.lab.rules import check_hparams, check_optimizer
from align_jax.losses import LOSSES
from align_jax.models import initial
from align_jax.values import check_name


def check_shared(shared):
  """Raises ValueError for a stage that cannot be made.

  Args:
    shared: settings.Shared.
  """
  check_optimizer(shared.sft.optimizer, shared.sft.steps, lambda k: f'sft.{k}')
  initial.check_fields(shared.model)
  tasks.check_knobs(shared.model, shared.eval.sets, **shared.task)
  check_proxy(shared.proxy, shared.golden)


def check_proxy(proxy, golden):
  """Checks the proxy and the pairs that it learns from."""
  check_name('proxy.verifier', proxy.verifier, VERIFIERS)
  check_name('proxy.loss', proxy.loss, PROXIES)
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
