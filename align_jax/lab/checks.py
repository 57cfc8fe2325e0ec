"""Rules across fields of a config, checked before hours of compute.

`settings` has the rules on single fields.
"""

from align_jax import judges
from align_jax.compare.tempering import TEMPERED
from align_jax.lab.arms import SOURCES
from align_jax.lab.labels import LABELS, REWARD_SCALES
from align_jax.lab.proxies import PROXIES
from align_jax.lab.reads import reads, unread
from align_jax.lab.rules import check_hparams, check_optimizer
from align_jax.lab.source_checks import all_sources, check_source
from align_jax.lab.starts import needs_of, stats_of
from align_jax.learn import buckets, metrics
from align_jax.losses import LOSSES, hparams_of
from align_jax.losses.kl import BIASED
from align_jax.models import initial, interface, lora
from align_jax.values import check_name, is_whole


def check_run(run, shared, fields_of=initial.model_fields):
  """Checks a run before it starts.

  Args:
    run: settings.Run.
    shared: settings.Shared of its variant.
    fields_of: the fields of ModelConfig that a `model` stands for.
  Raises:
    ValueError: the run would fail, perhaps only after hours of compute.
  """
  _check_names(run)
  for key in unread(run):
    raise ValueError(_unread(run, key))
  if run.pool.how:
    _check_pool(run)
    return
  check_source(run, shared.task)
  _check_split(run)
  _check_sizes(run, shared)
  _check_times(run, shared)
  check_hparams(run.loss, lambda key: f'{run.name}: loss_kwargs.{key}')
  _check_sampling(run)
  _check_adapter(run, shared.model)
  _check_precision(run, shared.model)
  _check_lora(run, shared.model, fields_of)
  if 'values' in needs_of(run.loss) and run.critic.init == 'reward_model':
    _check_critic(run, shared.proxy)
  if not stats_of(run).get('beta', 1) > 0:
    raise ValueError(
      f"{run.name}: kl_mode='hold' adapts loss_kwargs.beta, which must be > 0"
    )


def _unread(run, key):
  value = run.flat[key]
  if run.pool.how:
    who = f'reweigh={run.pool.how!r} does'
  else:
    who = f'source {run.source.name!r} and loss {run.loss.name!r} do'
  return f'{run.where(key)}={value!r}, expected it unset: {who} not read it'


def _check_names(run):
  judges.check_fields(run.labels.judge, run.where('judge'))
  check_name(run.where('source'), run.source.name, SOURCES)
  check_name(run.where('reward_scale'), run.labels.scale, REWARD_SCALES)
  for part in run.source.parts:
    check_name(run.where('parts'), part, set(SOURCES) - {'mixed', 'hybrid'})
  sampled = any('labels' in SOURCES[x].reads for x in all_sources(run))
  if not (sampled or run.pool.how):
    return
  check_name(run.where('labels'), run.labels.name, LABELS)
  _check_state(run)
  if run.labels.name == 'judge':
    _check_judge(run)


def _check_state(run):
  """Labels that depend on the policy cannot be scaled by the reference."""
  name, scale = run.labels.name, run.labels.scale
  if not LABELS[name].reads_state:
    return
  if run.pool.how or scale == 'reference':
    raise ValueError(
      f'{run.name}: labels={name!r} reads the state of training, expected '
      "reweigh='' and reward_scale='none' or 'preference', got "
      f'{run.pool.how!r} and {scale!r}'
    )


def _check_pool(run):
  """A pool is drawn in parts, so its rewards must not depend on the part."""
  labels = run.labels
  by_group = labels.scale == 'preference' or (
    labels.name == 'judge' and labels.judge.get('kind') == 'llm_judge'
  )
  if by_group:
    raise ValueError(
      f'{run.name}: reweigh={run.pool.how!r} with '
      f'reward_scale={labels.scale!r}, labels={labels.name!r}: the '
      "reward compares a group's completions with one another, expected one "
      'that scores each by itself'
    )
  parted = run.pool.how != TEMPERED  # that draws all of a prompt's at once
  if parted and run.pool.size % run.updates.batch_size:
    raise ValueError(
      f'{run.where("pool")}={run.pool.size}, expected a multiple of '
      f'batch_size={run.updates.batch_size}, in which it is drawn'
    )


def _check_split(run):
  """A batch must split evenly into minibatches and microbatches."""
  updates = run.updates
  parts = updates.num_minibatches * updates.num_microbatches
  if updates.batch_size % parts:
    raise ValueError(
      f'{run.name}: batch_size={updates.batch_size} does not split into '
      f'num_minibatches={updates.num_minibatches} of '
      f'num_microbatches={updates.num_microbatches}'
    )
  if updates.microbatch_tokens and updates.num_microbatches != 1:
    raise ValueError(
      f'{run.name}: num_microbatches={updates.num_microbatches} and '
      f'microbatch_tokens={updates.microbatch_tokens} both split a batch: set '
      'one of them'
    )


def _check_sizes(run, shared):
  """Tokens and rows against the model's vocabulary and the task's lengths."""
  known = shared.model.get('vocab_size') or 0
  tokens = {
    run.where('context'): run.teacher.context,
    f'{run.where("sampling")}.stop_tokens': run.sampling.how.stop_tokens,
  }
  for path, ids in tokens.items():
    if known and max(ids, default=0) >= known:
      raise ValueError(
        f'{path}={ids}, expected tokens below model.vocab_size={known}'
      )
  pairs = shared.golden.pairs
  if run.source.name == 'golden_pairs' and run.updates.batch_size > pairs:
    raise ValueError(
      f'{run.where("batch_size")}={run.updates.batch_size}, expected at most '
      f'golden.pairs={pairs}'
    )
  size = shared.task.get('prompt_len'), shared.task.get('completion_len')
  if all(map(is_whole, size)):
    _check_lengths(run, *size)


def _check_lengths(run, prompt_len, completion_len):
  """What is cut or split, against the sizes of the task."""
  if run.teacher.context and run.teacher.after > prompt_len:
    raise ValueError(
      f'{run.where("context_after")}={run.teacher.after}, expected at most '
      f'task.prompt_len={prompt_len}'
    )
  if run.source.length_buckets:
    buckets.check(run.source.length_buckets, prompt_len, completion_len)
  least = prompt_len + run.sampling.group_size * completion_len
  limit = run.updates.microbatch_tokens
  if limit and 'group_size' in reads(run) and limit < least:
    raise ValueError(
      f'{run.where("microbatch_tokens")}={limit}, expected at least {least}: '
      'one prompt with its completions'
    )


def _check_times(run, shared):
  """Warm-up, measurements, windows and kept steps must fit in the run."""
  steps = run.schedule.steps
  check_optimizer(run.optimizer, steps, run.where)
  if shared.eval.first_step > steps:
    raise ValueError(
      f'eval.first_step={shared.eval.first_step}, expected at most '
      f'{run.where("steps")}={steps}'
    )
  if run.kl.nats and run.kl.every > steps:
    raise ValueError(
      f'{run.where("kl_every")}={run.kl.every}, expected at most '
      f'{run.where("steps")}={steps}'
    )
  if run.source.shuffle > steps:
    raise ValueError(
      f'{run.where("shuffle")}={run.source.shuffle}, expected at most '
      f'{run.where("steps")}={steps}'
    )

  if 'values' in needs_of(run.loss) and run.critic.warmup >= steps:
    raise ValueError(
      f'{run.where("critic_warmup")}={run.critic.warmup}, expected below '
      f'{run.where("steps")}={steps}: the policy would never move'
    )
  for step in run.schedule.keep.steps:
    if step > steps:
      raise ValueError(
        f'{run.where("keep")}.steps={step!r}, expected at most '
        f'{run.where("steps")}={steps}'
      )


def _check_judge(run):
  labels = run.labels
  judges.check_settings(labels.judge, run.where('judge'))
  size = run.sampling.group_size
  if labels.judge['kind'] == 'llm_judge' and size < 2:
    raise ValueError(
      f"{run.where('judge')}.kind='llm_judge' compares completions, expected "
      f'{run.where("group_size")} of at least 2, got {size}'
    )
  if labels.judge['kind'] == 'llm_judge' and labels.scale == 'preference':
    raise ValueError(
      f"{run.name}: judge.kind='llm_judge' gives chances to win already, "
      "expected reward_scale='none' or 'reference'"
    )


def _check_sampling(run):
  """A KL may be estimated only from samples of the policy itself."""
  if run.sampling.how.own or 'sampling' not in reads(run):
    return
  loss, name = LOSSES[run.loss.name], f'{run.name}: sampling'
  kl = run.loss.kwargs.get('kl', hparams_of(loss).get('kl', 'none'))
  if kl != 'none':
    raise ValueError(
      f'{name} with loss_kwargs.kl={kl!r}: a KL is estimated from samples at '
      "temperature 1 and untruncated, expected loss_kwargs.kl='none'"
    )
  if loss.rows in ('duel', 'hybrid'):
    raise ValueError(
      f'{name} with loss {run.loss.name!r}, which needs samples of the policy '
      'itself, expected temperature 1 and no truncation'
    )


def _check_adapter(run, model):
  """What only the package's own transformer can do while it samples."""
  for key in ('dtype', 'cache_dtype'):
    value = getattr(run.sampling.how, key)
    if value and model.get('adapter'):
      raise ValueError(
        f"{run.where('sampling')}.{key}={value!r}, expected '': the policy is "
        f'model.adapter={model["adapter"]!r}'
      )


def _check_precision(run, model):
  """A sampler that computes as the policy does would be no other sampler."""
  value = run.sampling.how.dtype
  if value and value == model.get('dtype', 'float32'):
    raise ValueError(
      f'{run.where("sampling")}.dtype={value!r}, expected another than '
      "model.dtype, or ''"
    )


def _check_lora(run, model, fields_of):
  if not run.lora.rank:
    if run.lora != lora.Lora():
      raise ValueError(
        f'{run.where("lora")}={run.lora}, expected a rank above 0 with it'
      )
    return
  try:
    fields = fields_of(model)
    lora.axes(interface.from_fields(**fields), run.lora)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{run.where("lora")}: {error}') from error


def _check_critic(run, proxy):
  pairwise = [name for name in PROXIES if LOSSES[name].rows == 'group']
  if proxy.verifier != 'transformer' or proxy.loss not in pairwise:
    raise ValueError(
      f"{run.name}: critic_init='reward_model' needs proxy.verifier="
      f"'transformer' and proxy.loss in {pairwise}, got "
      f'{proxy.verifier!r} and {proxy.loss!r}'
    )
  if run.critic.trunk == 'shared':
    raise ValueError(
      f"{run.name}: critic='shared' has no trunk for critic_init="
      "'reward_model' to fill"
    )


def notes(run):
  """Notes for the user before a run starts: a list of str."""
  found = []
  if (
    run.labels.name == 'implicit' and 'labels' in SOURCES[run.source.name].reads
  ):
    found.append(
      f"{run.arm}: labels='implicit' is 0 where training starts, and moves "
      "nothing by itself; source='mixed' has labels of others beside it"
    )
  known = hparams_of(LOSSES[run.loss.name])
  beta = run.loss.kwargs.get('beta', known.get('beta', 0))
  kl = run.loss.kwargs.get('kl', known.get('kl'))
  if kl in BIASED and (beta or run.kl.nats):
    found.append(
      f'{run.arm}: the KL term {kl!r} does not have the gradient of the '
      f'reverse sequence KL; its expected gradient is {BIASED[kl]}'
    )
  for anchor, period in run.schedule.refresh_every.items():
    if period >= run.schedule.steps:
      found.append(
        f'{run.where("refresh_every")}: {anchor!r} would be renewed after '
        f'{period} updates, and {run.arm!r} ends after {run.schedule.steps}'
      )
  left_out = metrics.left_out(run.shared.eval.metrics, run.shared.eval.samples)
  if left_out:
    found.append(
      f'eval.samples={run.shared.eval.samples}: {", ".join(left_out)} compare '
      'the completions of a prompt, and are not measured'
    )
  return found
