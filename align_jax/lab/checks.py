"""What is wrong with a config, said before hours of compute."""

from align_jax import judges
from align_jax.compare import reweigh
from align_jax.lab.arms import FIXED, REWARD_SCALES, SOURCES, stats_of
from align_jax.lab.stages import PROXIES, VERIFIERS
from align_jax.learn import rewards
from align_jax.learn.rewards import REWARDS
from align_jax.losses import LOSSES, game, hparams_of
from align_jax.losses.kl import BIASED, KL_TERMS
from align_jax.losses.preference import LOGP_REDUCTIONS
from align_jax.models import initial, interface, lora


def check_run(run, proxy=None, model=None):
  """Raises ValueError for what would fail only after hours of compute.

  Args:
    run: the fields of `configs.base`'s `arm`, with `name`.
    proxy, model: the config's, for what depends on them.
  """
  name, loss = run['name'], run['loss']

  def one_of(field, known, value=None):
    value = run[field] if value is None else value
    if value not in known:
      raise ValueError(f'{name}: {field}={value!r} is none of {sorted(known)}')

  if run['reweigh']:
    one_of('reweigh', reweigh.REWEIGH)
    _check_pool(run)
  one_of('source', SOURCES)
  one_of('loss', LOSSES)
  one_of('truncated', rewards.TRUNCATED)
  one_of('reward_scale', REWARD_SCALES)
  one_of('critic', ('own', 'shared'))
  one_of('critic_init', ('reference', 'reward_model'))
  one_of('kl_mode', ('hold', 'stop'))
  for part in run['parts']:
    one_of('parts', set(SOURCES) - {'mixed', 'hybrid'}, part)
  if run['source'] not in FIXED:
    one_of('labels', {'proxy', 'gold', 'judge', *REWARDS})
    if run['labels'] == 'judge':
      _check_judge(run)
  _check_shapes(run)
  _check_hparams(run)
  _check_lora(run, model)
  if loss == 'ppo' and run['critic_init'] == 'reward_model' and proxy:
    _check_critic(run, proxy)
  if not stats_of(run).get('beta', 1) > 0:
    raise ValueError(
      f"{name}: kl_mode='hold' adapts loss_kwargs.beta, which must be > 0"
    )


def _check_pool(run):
  """A pool is drawn in parts, and its rewards must not depend on the part."""
  by_group = run['reward_scale'] == 'preference' or (
    run['labels'] == 'judge' and run['judge'].get('kind') == 'llm_judge'
  )
  if by_group:
    raise ValueError(
      f'{run["name"]}: reweigh={run["reweigh"]!r} with '
      f'reward_scale={run["reward_scale"]!r}, labels={run["labels"]!r}: the '
      "reward compares a group's completions with one another, expected one "
      'that scores each by itself'
    )


def _check_shapes(run):
  """Sizes of groups and batches against the loss and the source."""
  name, loss, size = run['name'], run['loss'], run['group_size']
  if run['source'] in SAMPLED:
    if size < 2 and loss not in ALONE:
      raise ValueError(
        f'{name}: group_size={size}, but loss {loss!r} compares completions of '
        'one prompt and needs at least 2'
      )
  duel = run['source'] in ('policy_and_mixture', 'policy_and_reference')
  if loss in game.LOSSES and not duel:
    raise ValueError(
      f'{name}: loss {loss!r} needs source policy_and_mixture or '
      f'policy_and_reference, got {run["source"]!r}'
    )
  if (loss == 'hypo') != (run['source'] == 'hybrid'):
    raise ValueError(
      f"{name}: loss 'hypo' and source 'hybrid' go together, got {loss!r} and "
      f'{run["source"]!r}'
    )
  if run['source'] == 'mixed':
    if len(run['parts']) != 2 or run['batch_size'] % 2:
      raise ValueError(
        f"{name}: source 'mixed' needs two parts and an even batch_size, got "
        f'parts={run["parts"]} and batch_size={run["batch_size"]}'
      )
  parts = run['num_minibatches'] * run['num_microbatches']
  if run['batch_size'] % parts:
    raise ValueError(
      f'{name}: batch_size={run["batch_size"]} does not split into '
      f'num_minibatches={run["num_minibatches"]} of '
      f'num_microbatches={run["num_microbatches"]}'
    )
  if run['microbatch_tokens'] and run['num_microbatches'] != 1:
    raise ValueError(
      f'{name}: num_microbatches={run["num_microbatches"]} and '
      f'microbatch_tokens={run["microbatch_tokens"]} both split a batch: set '
      'one of them'
    )
  if run['microbatch_tokens'] < 0:
    raise ValueError(
      f'{name}: microbatch_tokens={run["microbatch_tokens"]} is negative'
    )
  if run['slots'] < 0:
    raise ValueError(f'{name}: slots={run["slots"]} is negative')
  if run['length_buckets'] and (run['source'] not in FIXED or run['keep_log']):
    raise ValueError(
      f'{name}: length_buckets needs a source that is one of {FIXED} and no '
      f'log kept of it, got source={run["source"]!r} and '
      f'keep_log={run["keep_log"]}'
    )
  needs_teacher = 'teacher' == run['source'] or loss in DISTILLATION
  if needs_teacher and not run['teacher_of']:
    raise ValueError(f'{name}: teacher_of must name the run that teaches')
  if loss in SCORE_LOSSES:
    raise ValueError(f'{name}: loss {loss!r} trains reward models, no policy')


def _check_hparams(run):
  known = hparams_of(LOSSES[run['loss']])
  for field, value in run['loss_kwargs'].items():
    if field not in known:
      raise ValueError(
        f'{run["name"]}: loss_kwargs.{field} is none of the parameters of '
        f'{run["loss"]!r}: {list(known)}'
      )
    choices = CHOICES.get(field)
    if choices and value not in choices:
      raise ValueError(
        f'{run["name"]}: loss_kwargs.{field}={value!r} is none of '
        f'{sorted(choices)}'
      )


def _check_judge(run):
  try:
    judges.check_settings(run['judge'], run['group_size'])
  except ValueError as error:
    raise ValueError(f'{run["name"]}: {error}') from None
  pairwise = run['judge']['kind'] == 'llm_judge'
  if pairwise and run['reward_scale'] == 'preference':
    raise ValueError(
      f"{run['name']}: judge.kind='llm_judge' gives chances to win already, "
      "expected reward_scale='none' or 'reference'"
    )


def _check_lora(run, model):
  try:
    settings = lora.Lora(**run['lora'])
    if model and settings.rank:
      fields = initial.model_fields(model)
      lora.axes(interface.from_fields(**fields), settings)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{run["name"]}: {error}') from error


def _check_critic(run, proxy):
  if proxy['verifier'] != 'transformer' or proxy['loss'] != 'bradley_terry':
    raise ValueError(
      f"{run['name']}: critic_init='reward_model' needs proxy.verifier="
      f"'transformer' and proxy.loss='bradley_terry', got "
      f'{proxy["verifier"]!r} and {proxy["loss"]!r}'
    )
  if run['critic'] == 'shared':
    raise ValueError(
      f"{run['name']}: critic='shared' has no trunk for critic_init="
      "'reward_model' to fill"
    )


def check_proxy(proxy, golden):
  """Raises ValueError for a wrong field of the config's `proxy`.

  Args:
    golden: the config's `golden`.
  """
  for field, known in (
    ('verifier', VERIFIERS),
    ('loss', PROXIES),
    ('combine', rewards.ENSEMBLES),
  ):
    if proxy[field] not in known:
      raise ValueError(
        f'proxy.{field}={proxy[field]!r} is none of {sorted(known)}'
      )
  for field in ('members', 'opponents'):
    if proxy[field] < 1:
      raise ValueError(f'proxy.{field}={proxy[field]} must be at least 1')
  reads = {
    'preference_model': 'two completions in order',
    'verifier': 'a completion token by token',
  }.get(proxy['loss'])
  if reads and proxy['verifier'] != 'transformer':
    raise ValueError(
      f'proxy.loss={proxy["loss"]!r} reads {reads} and needs '
      f"proxy.verifier='transformer', got {proxy['verifier']!r}"
    )

  if proxy['loss'] in ('verifier', 'binary_cross_entropy'):
    if golden['label_noise']:
      raise ValueError(
        f'proxy.loss={proxy["loss"]!r} learns gold labels of single '
        'completions, which golden.label_noise='
        f'{golden["label_noise"]} does not reach'
      )


def notes(run):
  """What a user should know of a run before it starts: a list of str."""
  known = hparams_of(LOSSES[run['loss']])
  beta = run['loss_kwargs'].get('beta', known.get('beta', 0))
  kl = run['loss_kwargs'].get('kl', known.get('kl'))
  if kl in BIASED and (beta or run['kl_budget']):
    return [
      f'{run["arm"]}: the KL term {kl!r} does not have the gradient of the '
      f'reverse sequence KL; its expected gradient is {BIASED[kl]}'
    ]
  return []


SAMPLED = (  # groups of one policy's samples
  'policy',
  'reference',
  'sampler',
  'one_step_stale',
  'mixture',
  'teacher',
)
CHOICES = {'kl': KL_TERMS, 'logp_reduction': LOGP_REDUCTIONS}
DISTILLATION = ('forward_kl', 'reverse_kl')
# Judge every completion by itself, so that one of each prompt is enough.
ALONE = (
  'sft',
  'reinforce',
  'reinforce_mean',
  'reinforce_ema',
  'reinforce_pp',
  'ppo',
  *DISTILLATION,
)
SCORE_LOSSES = (
  'binary_cross_entropy',
  'verifier',
  'bradley_terry',
  'preference_model',
)
