"""Arms that a study makes of those of a task's config."""

from align_jax.lab.arms import SOURCES
from align_jax.lab.sweep import label

# Fields that say how long a run is and how often it is measured.
LENGTH = 'steps', 'points', 'save_every'
GROUP = 4  # completions per prompt of RLOO
# Learning rates of proxies that are not the config's own, by their verifier.
PROXY_RATES = {'bow': 2e-3, 'transformer': 5e-4, 'sized': 1e-3}


def is_whole(cfg):
  """Whether a study has its whole grid: dozens of runs.

  On the generated task a run takes seconds, and a published checkpoint is for
  machines that have the time. Small models of texts are between the two.
  """
  return cfg['task']['name'] == 'toy' or is_published(cfg)


def is_programmed(cfg):
  """Whether gold is the generated task's own reward, nearly a bag of words."""
  task = cfg['task']
  return task['name'] == 'toy' and not task.get('judge_model')


def is_published(cfg):
  """Whether the policy starts from a published checkpoint."""
  return bool(cfg['model'].get('checkpoint'))


def passes(cfg, name):
  """How often an arm learns from each golden pair; 0: it has a file's pairs."""
  arm = {**cfg['arm'], **cfg['arms'][name]}
  if arm['source'] != 'golden_pairs':
    return 0
  return arm['steps'] * arm['batch_size'] / cfg['golden']['pairs']


def arm_of(cfg, name, table='arms'):
  """An arm of the config.

  Args:
    table: 'arms' or 'methods'.
  Raises:
    ValueError: names the arm that is missing.
  """
  if name not in cfg[table]:
    raise ValueError(f'{table}.{name}: no such arm, and this study needs it')
  return cfg[table][name]


def strengths(arm):
  """The entries of an arm's sweep."""
  return tuple(arm.get('sweep', ({},)))


def single(arm, number=0):
  """The arm with one of its strengths alone, counted from 0.

  Raises:
    ValueError: it has fewer.
  """
  sweep = strengths(arm)
  if number >= len(sweep):
    raise ValueError(
      f'sweep={sweep!r}: expected {number + 1} strengths or more, of which '
      'this study takes the last one'
    )
  return {**arm, 'sweep': sweep[number : number + 1]}


def without(arm, *names):
  """The arm without some fields, which fall back to those of `config.arm`."""
  return {k: v for k, v in arm.items() if k not in names}


def rate_of(cfg, arm):
  """The learning rate of an arm's first strength."""
  fields = {**cfg['arm'], **arm, **strengths(arm)[0]}
  return fields['learning_rate']


def at(learning_rate, **hparams):
  """A sweep of one strength; hparams are arguments of the loss."""
  return (dict(learning_rate=learning_rate, loss_kwargs=hparams),)


def with_beta(entry, times):
  """A strength with so many times its beta.

  Args:
    entry: of a sweep.
  Raises:
    ValueError: its loss_kwargs have no beta.
  """
  hparams = entry.get('loss_kwargs', {})
  if 'beta' not in hparams:
    raise ValueError(f'arms: {entry!r} in a sweep, expected a beta to change')
  return {**entry, 'loss_kwargs': {**hparams, 'beta': times * hparams['beta']}}


def run_name(name, arm):
  """What `log_of` calls the run of an arm's first strength."""
  return f'{name}/{label(strengths(arm)[0])}'


def proxy_of(cfg, verifier):
  """Changes that give a config a proxy of this verifier.

  The config's rate is for its own verifier, and for all that start from a
  published checkpoint.
  """
  own = cfg['proxy']['verifier']
  changes = {'proxy.verifier': verifier}
  if verifier != own and (verifier == 'bow' or not is_published(cfg)):
    changes['proxy.learning_rate'] = PROXY_RATES[verifier]
  if verifier != 'sized' and cfg['proxy']['model']:
    changes['proxy.model'] = {}
  return changes


def replayed(name, arm, sweep, **fields):
  """An arm that learns from the batches of another one's first strength.

  Args:
    name, arm: the other one.
    sweep: the strengths of this one.
    **fields: such as `shuffle`.
  """
  log = dict(source='log', log_of=run_name(name, arm), sweep=sweep)
  return {**without(arm, *SOURCES['policy'].reads), **log, **fields}


def beyond(cfg):
  """Changes that also show what runs without a budget do beyond the window."""
  budgets, (_, high) = cfg['report']['budgets'], cfg['report']['window']
  more = (times * high for times in (2, 4, 8, 12))
  return {'report.budgets': tuple(sorted({*budgets, *more}))}


def wider(cfg):
  """Changes that measure more of a policy than the config does.

  Pairs of tokens, and on the generated task prompts that no training has.
  """
  measured = cfg['eval']['metrics']
  if cfg['task']['name'] != 'toy':
    return {}
  return {
    'eval.metrics': (*measured, *{'distinct_2'} - {*measured}),
    'eval.sets': ('ood',),
  }


def rloo(cfg, **fields):
  """RLOO under gold, of as many completions per update as `config.arm` has.

  Rewards are in standard deviations of the reference's, so that one `beta`
  serves any task.
  """
  size = cfg['arm']['batch_size'] * cfg['arm']['group_size'] // GROUP
  return {
    'labels': 'gold',
    'loss': 'rloo',
    'loss_kwargs': {'beta': 0.1},
    'learning_rate': rate_of(cfg, arm_of(cfg, 'online')) / 2,
    'reward_scale': 'reference',
    'group_size': GROUP,
    'batch_size': max(1, size),
    **fields,
  }
