"""Rules across the fields of a stage: task, model, SFT, pairs and proxy."""

from align_jax import tasks
from align_jax.lab.fields import flat
from align_jax.lab.proxies import LENT, PROXIES, VERIFIERS
from align_jax.lab.rules import check_hparams, check_optimizer
from align_jax.losses import LOSSES
from align_jax.models import initial
from align_jax.models.config import check_positions
from align_jax.values import check_name, is_whole


def check_shared(shared):
  """Raises ValueError for a stage that cannot be made.

  Args:
    shared: settings.Shared.
  """
  check_optimizer(shared.sft.optimizer, shared.sft.steps, lambda k: f'sft.{k}')
  if not isinstance(shared.task.get('name'), str):
    raise ValueError(
      f'task.name={shared.task.get("name")!r}, expected the name of a task'
    )
  first = shared.task.get('pretrain_steps', 0)
  if is_whole(first) and first > shared.sft.steps:
    raise ValueError(
      f'task.pretrain_steps={first}, expected at most sft.steps='
      f'{shared.sft.steps}, of which they are a part'
    )
  initial.check_fields(shared.model)
  tasks.check_knobs(shared.model, shared.eval.sets, **shared.task)
  check_proxy(shared.proxy, shared.golden)
  check_size(shared.proxy, shared.model)
  check_lengths(shared)


def check_lengths(shared):
  """Models with learned positions have to have enough; see also `initial`.

  Those of checkpoints are not known here.
  """
  task = {**tasks.defaults(shared.task['name']), **shared.task}
  whole = lambda x: x if is_whole(x) else 0  # a task of one's own may lack it
  prompt, completion, judged = (
    whole(task.get(k)) for k in ('prompt_len', 'completion_len', 'judge_len')
  )
  models = {
    'model': {} if shared.model.get('adapter') else shared.model,
    'proxy.model': shared.proxy.model,
  }
  for where, fields in models.items():
    check_positions(fields, prompt + completion, where)
  judge, longest = task.get('judge_model') or {}, max(completion, judged)
  check_positions(judge, prompt + longest, 'task.judge_model')


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
  if reads and proxy.verifier == 'bow':
    raise ValueError(
      f'proxy.loss={proxy.loss!r} reads {reads} and needs '
      "proxy.verifier='transformer' or 'sized', got 'bow'"
    )
  if loss.rows == 'single' and golden.label_noise:
    raise ValueError(
      f'proxy.loss={proxy.loss!r} learns gold labels of single '
      'completions, which golden.label_noise='
      f'{golden.label_noise} does not reach'
    )


def check_size(proxy, model):
  """Checks the fields of a verifier's own size."""
  if (proxy.verifier == 'sized') != bool(proxy.model):
    raise ValueError(
      f'proxy.model={proxy.model!r}, expected fields of ModelConfig or a '
      "checkpoint with proxy.verifier='sized' and none with others, got "
      f'verifier={proxy.verifier!r}'
    )
  if proxy.model:
    vocab_size = model.get('vocab_size') or 1
    initial.check_scorer(proxy.model, vocab_size, 'proxy.model')


def check_lent(shared):
  """Refuses a proxy that a variant cannot have from another.

  Args:
    shared: {variant: settings.Shared}.
  Raises:
    ValueError: names the variant, and the field that differs.
  """
  for name, one in shared.items():
    if one.proxy.variant:
      field = f'variants.{name}: proxy.variant' if name else 'proxy.variant'
      check_name(field, one.proxy.variant, [n for n in shared if n])
      other = shared[one.proxy.variant]
      _check_lender(f'{field}={one.proxy.variant!r}', one, other)


def _check_lender(where, one, other):
  if other.proxy.variant:
    raise ValueError(f'{where}, expected a variant with a proxy of its own')
  if one.proxy.verifier not in LENT:
    raise ValueError(
      f'{where}, expected proxy.verifier to be {" or ".join(map(repr, LENT))}, '
      f'which do not start from a policy, got {one.proxy.verifier!r}'
    )
  of = lambda x: {
    'task': x.task,
    'model.vocab_size': x.model.get('vocab_size'),
    **{f'proxy.{k}': v for k, v in flat(x.proxy).items()},
  }
  mine, theirs = of(one), of(other)
  for field in mine:
    if field != 'proxy.variant' and mine[field] != theirs[field]:
      raise ValueError(
        f'{where}, whose {field}={theirs[field]!r}: expected the same, got '
        f'{mine[field]!r}'
      )
