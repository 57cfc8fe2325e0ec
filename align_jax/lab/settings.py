"""Settings: the values of a config, as records that check themselves.

Fields have the names and meanings of `configs/base.py`. The config has one flat
group for each of `Sft`, `Golden`, `Proxy`, `Run`, `Eval`, `Report` and `Mesh`.
Here records follow the readers: a function of the lab gets the record that it
reads. `checks` has the rules across fields.
"""

import dataclasses

from align_jax import judges  # noqa: F401  for `Labels.judge`
from align_jax.compare.points import KL_MODES
from align_jax.compare.reweigh import REWEIGH
from align_jax.compare.tempering import TEMPERED
from align_jax.lab.fields import (
  added,
  build,
  count,
  field,
  flat,
  given,
  items,
  names,
  number,
  one_of,
  table,
  text,
  within,
)
from align_jax.lab.named import REFERENCE, is_policy, split
from align_jax.learn import metrics as metric_lib
from align_jax.learn.kept import Keep
from align_jax.learn.rewards import ENSEMBLES
from align_jax.learn.truncated import TRUNCATED
from align_jax.learn.watch import SIGNS
from align_jax.losses import LOSSES
from align_jax.losses.correction import CORRECTIONS
from align_jax.models.lora import Lora
from align_jax.policy import programs
from align_jax.values import as_tuple, is_number, is_whole

INF = float('inf')


def nats(x):
  """Whether `x` is a finite number above 0."""
  return is_number(x) and x > 0


def _periods(x):
  named = isinstance(x, dict) and all(isinstance(k, str) for k in x)
  return named and all(is_whole(v) and v > 0 for v in x.values())


def _lora(x):
  return within(Lora, x, [f.name for f in dataclasses.fields(Lora)])


def _keep(x):
  kept = within(Keep, x, Keep._fields)
  return Keep(as_tuple(kept.steps), as_tuple(kept.kls))


def _kept(x):
  whole = all(is_whole(n) and n > 0 for n in x.steps)
  return whole and all(map(nats, x.kls))


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How gradients become updates."""

  learning_rate: float = number(above=0)
  how: dict = added(table(key='optimizer'), {'name': 'adamw'})
  schedule: dict = added(table(), {'name': 'constant'})
  warmup_steps: int = count(0)
  max_grad_norm: float = field(
    'a number above 0, or inf', lambda x: is_number(x) and x > 0 or x == INF
  )
  weight_decay: float = number(least=0)


@dataclasses.dataclass(frozen=True)
class Sft:
  """How the reference is trained."""

  steps: int = count(0)
  batch_size: int = count()
  optimizer: Optimizer


@dataclasses.dataclass(frozen=True)
class Golden:
  """The golden pairs."""

  pairs: int = count()
  label_noise: float = number(least=0, most=1)


@dataclasses.dataclass(frozen=True)
class Proxy:
  """The reward model, and how it is trained."""

  verifier: str = text()
  model: dict = added(table(), {})
  variant: str = added(text(), '')
  loss: str = text()
  loss_kwargs: dict = table()
  opponents: int = count()
  members: int = count()
  combine: str = one_of(ENSEMBLES)
  variance_weight: float = number(least=0)
  steps: int = count()
  batch_size: int = count()
  num_microbatches: int = added(count(), 1)
  optimizer: Optimizer

  @property
  def learns(self):
    """The proxy's loss."""
    return Loss(self.loss, self.loss_kwargs)

  @property
  def updates(self):
    """One update per batch."""
    return Updates(self.batch_size, self.num_microbatches, 0, 1, 1)


@dataclasses.dataclass(frozen=True)
class Eval:
  """How a checkpoint is measured."""

  samples: int = count()
  first_step: int = count()
  points: int = count()
  pairs: int = count()
  metrics: tuple = added(names(metric_lib.every), ('length', 'repeats'))
  sets: tuple = added(
    field(
      'a tuple of names of sets of prompts, each once',
      lambda x: all(isinstance(n, str) for n in x) and len(set(x)) == len(x),
      convert=as_tuple,
    ),
    (),
  )


@dataclasses.dataclass(frozen=True)
class Source:
  """Where batches come from."""

  name: str = text(key='source')
  parts: tuple = items('names of sources', lambda x: isinstance(x, str))
  mixture: float = number(above=0, below=1)
  log_of: str = text()
  shuffle: int = count(0)
  writers: tuple = added(
    items("policies, 'reference' or 'ARM/CONFIGURATION[@STEP]'", is_policy), ()
  )
  length_buckets: tuple = items(
    '(prompt positions, completion positions)',
    lambda x: len(x) == 2 and all(is_whole(n) and n > 0 for n in x),
  )


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How training completions are drawn."""

  group_size: int = count()
  rows_at_once: int = count(0)
  how: programs.Sampling = field(
    'temperature, top_p, top_k, min_p, dtype, cache_dtype, stop_tokens',
    lambda x: True,
    key='sampling',
    convert=lambda x: within(programs.Sampling, x, programs.DRAWING),
  )


@dataclasses.dataclass(frozen=True)
class Labels:
  """The labels of samples."""

  name: str = text(key='labels')
  judge: dict = table()
  scale: str = text(key='reward_scale')
  truncated: str = one_of(TRUNCATED)
  penalty: float = number(least=0, key='truncation_penalty')


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss by its name in LOSSES, with its hyper-parameters."""

  name: str = one_of(LOSSES, key='loss')
  kwargs: dict = table(key='loss_kwargs')


@dataclasses.dataclass(frozen=True)
class Correction:
  """What is done about samples that are not the trained policy's."""

  how: str = added(one_of(('', *CORRECTIONS), key='correction'), '')
  cap: float = added(number(least=1, key='correction_cap'), 2.0)


@dataclasses.dataclass(frozen=True)
class Updates:
  """How a batch becomes updates."""

  batch_size: int = count()
  num_microbatches: int = count()
  microbatch_tokens: int = count(0)
  num_epochs: int = count()
  num_minibatches: int = count()


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When a run measures, saves and logs."""

  steps: int = count()
  points: int = count(0)
  save_every: int = count()
  log_every: int = count()
  refresh_every: dict = field('anchors with steps, at least 1 each', _periods)
  keep: Keep = field(
    'steps, at least 1, and kls, nats above 0', _kept, convert=_keep
  )
  stop_on: tuple = added(names(lambda: SIGNS), ())


@dataclasses.dataclass(frozen=True)
class Critic:
  """The critic of a loss that needs values."""

  trunk: str = one_of(('own', 'shared'), key='critic')
  init: str = one_of(('reference', 'reward_model'), key='critic_init')
  warmup: int = added(count(0, key='critic_warmup'), 0)


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The policy that a run is distilled from, and what it is shown."""

  run: str = field(
    "'', 'reference' or 'ARM/CONFIGURATION[@STEP]'",
    lambda x: x == '' or is_policy(x),
    key='teacher_of',
  )
  context: tuple = items('tokens', lambda x: is_whole(x) and x >= 0)
  after: int = count(0, key='context_after')


@dataclasses.dataclass(frozen=True)
class KL:
  """The KL budget."""

  nats: float = number(least=0, key='kl_budget')
  mode: str = one_of(KL_MODES, key='kl_mode')
  every: int = count(key='kl_every')
  samples: int = count(key='kl_samples')


@dataclasses.dataclass(frozen=True)
class Pool:
  """Samples of the reference, reweighted instead of training."""

  how: str = one_of(('', *REWEIGH, TEMPERED), key='reweigh')
  size: int = count(key='pool')


SHARED = ('sft', 'golden', 'proxy', 'eval')  # groups that runs share


@dataclasses.dataclass(frozen=True)
class Shared:
  """Settings that all runs of a seed share.

  Attributes:
    task, model: dicts, see `configs/base.py`.
    batch_size: the `arm`'s: prompts sampled at once.
  """

  task: dict
  model: dict
  sft: Sft
  golden: Golden
  proxy: Proxy
  eval: Eval
  batch_size: int

  @property
  def settings(self):
    """{group: {key: value}}, as in a config."""
    groups = {name: flat(getattr(self, name)) for name in SHARED}
    arm = {'batch_size': self.batch_size}
    return {'task': self.task, 'model': self.model, 'arm': arm, **groups}


@dataclasses.dataclass(frozen=True)
class Run:
  """One configuration of an arm on one seed.

  Attributes:
    variant: name of its variant. '': the experiment has none.
    arm: name of its arm.
    configuration: label that distinguishes it from the arm's others.
    seed: an int.
    shared: settings shared by all runs of its variant and seed.
    keep_log: whether another run replays its batches.
    set: names of the fields that the arm itself sets.
  """

  variant: str = given()
  arm: str = given()
  configuration: str = given()
  seed: int = given()
  shared: Shared = given()
  keep_log: bool = given()
  set: frozenset = given()
  source: Source
  sampling: Sampling
  labels: Labels
  loss: Loss
  correction: Correction
  updates: Updates
  optimizer: Optimizer
  schedule: Schedule
  critic: Critic
  teacher: Teacher
  kl: KL
  lora: Lora = field('rank, alpha and targets', bool, convert=_lora)
  pool: Pool

  @property
  def name(self):
    """Name of the run, unique within its variant and seed."""
    return f'{self.arm}/{self.configuration}'

  @property
  def label(self):
    """Name of its arm in a comparison, where variants count as arms."""
    return f'{self.variant} {self.arm}' if self.variant else self.arm

  def directory(self, workdir):
    """The folder of the run within a workdir."""
    return workdir / self.variant / f'seed{self.seed}' / self.name

  @property
  def flat(self):
    """{key: value}, as in a config."""
    return flat(self)

  @property
  def needed(self):
    """Names of the runs whose log or last policy it reads."""
    policies = [split(x)[0] for x in (self.teacher.run, *self.source.writers)]
    names = dict.fromkeys([self.source.log_of, *policies])
    return [name for name in names if name not in ('', REFERENCE)]

  def but(self, **values):
    """A copy with other values of its config's fields or of its attributes.

    `name` sets arm and configuration: 'ARM/CONFIGURATION'.
    """
    if 'name' in values:
      values['arm'], values['configuration'] = values.pop('name').split('/', 1)
    own = {k: values.pop(k, getattr(self, k)) for k in GIVEN}
    return build(Run, {**self.flat, **values}, self.where, **own)

  def where(self, key):
    """The full name of the config's field that set `key`."""
    return f'arms.{self.arm}.{key}' if key in self.set else f'arm.{key}'


GIVEN = [f.name for f in dataclasses.fields(Run) if 'given' in f.metadata]
