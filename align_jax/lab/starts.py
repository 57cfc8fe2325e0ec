"""The start of a run: parameters, anchors and the numbers it carries."""

import dataclasses

import jax.numpy as jnp

from align_jax import hosts, sharding
from align_jax.lab.arms import sources_of
from align_jax.lab.labels import LABELS, reward_of
from align_jax.lab.placing import start_state
from align_jax.lab.streams import LORA, stream
from align_jax.lab.written import params_named
from align_jax.learn import budget
from align_jax.learn.step import PREVIOUS
from align_jax.losses import LOSSES, hparams_of
from align_jax.models import lora
from align_jax.models.interface import of
from align_jax.policy.programs import scorer


def start_of(stage, run, tx):
  """The state at step 0 of a run.

  Args:
    tx: the run's optimizer.
  """
  near = sharding.on_device(stage.reference)
  params, axes = trained_of(dataclasses.replace(stage, reference=near), run)
  anchors = anchors_of(stage, run, params, near)
  return start_state(params, tx, axes, anchors, stats_of(run))


def trained_of(stage, run):
  """The parameters that a run trains, before its first step, and their axes."""
  params, axes = stage.reference, of(stage.task.model).axes(stage.task.model)
  if run.lora.rank:
    params, own_axes = adapters_of(stage, run.lora)
    axes = {**axes, **own_axes}
  if 'values' in needs_of(run.loss):
    critic, critic_axes = critic_of(stage, run)
    params, axes = {**params, **critic}, {**axes, **critic_axes}
  return params, axes


def needs_of(loss):
  """Names in `losses.row.NEEDS` that a settings.Loss needs."""
  return LOSSES[loss.name].needs_of(loss.kwargs)


def anchors_of(stage, run, params, near):
  """The older copies of params that a run reads: {name: params}.

  'ref' may move. The KL is still measured from the original reference.

  Args:
    params: the parameters that the run trains.
    near: the reference on the devices, where `stage.reference` may not be: the
      start of anchors that move, and what adapters read in every update.
  """
  refreshed = run.schedule.refresh_every
  anchors = dict.fromkeys(['ref', *refreshed], near)
  if any(source.anchor == PREVIOUS for source in sources_of(run)):
    anchors[PREVIOUS] = near
  if run.lora.rank and 'ref' in refreshed:
    anchors[lora.BASE] = near
  if not run.lora.rank or lora.BASE in anchors:
    anchors['ref'] = stage.reference
  if run.teacher.run:
    anchors['teacher'] = params_named(stage, run.teacher.run)
  if run.kl.nats:
    anchors |= {budget.INSIDE: params, budget.HELD: params}
  return anchors


def critic_of(stage, run):
  """Params of the critic, to add to the policy's, and their axes."""
  critic = run.critic
  config = dataclasses.replace(stage.task.model, head='scalar')
  size = of(config).width(config)
  head_axes = of(config).axes(config)['head']
  if critic.trunk == 'shared':
    return {'value_head': jnp.zeros(size)}, {'value_head': head_axes}
  axes = {'critic': of(config).axes(config)}
  if critic.init == 'reward_model':
    params, scale = stage.proxy_params, scale_of(stage, run.labels, config)
    return {'critic': {**params, 'head': params['head'] * scale}}, axes
  trunk = {k: v for k, v in stage.reference.items() if k != 'head'}
  return {'critic': {**trunk, 'head': jnp.zeros(size)}}, axes


def scale_of(stage, labels, config):
  """Standard deviation of rewards over that of the proxy's own scores: a float.

  It brings a reward model's head to the scale of what it will predict. Both are
  of the golden pairs. Their means may differ still: a head has no bias.

  Args:
    labels: settings.Labels.
    config: of the reward model.
  """
  if LABELS[labels.name].reads_state:  # unknown before training
    return 1.0
  scores = hosts.fetch(scorer(config)(stage.proxy_params, stage.pairs))
  rewards = hosts.fetch(reward_of(stage, labels)(stage.pairs))
  if not (scores.std() and rewards.std()):
    return 1.0
  return float(rewards.std() / scores.std())


def adapters_of(stage, settings):
  """Params of LoRA adapters for the reference, and their axes."""
  config = stage.task.model
  key = stream(stage.seed, LORA)
  adapters = lora.init(key, stage.reference, config, settings)
  return {lora.KEY: adapters}, {lora.KEY: lora.axes(config, settings)}


def stats_of(run):
  """The numbers that a run carries between steps: {name: start}."""
  loss = LOSSES[run.loss.name]
  known = hparams_of(loss)
  stats = {name: known[name] for name in loss.carries}
  if run.kl.nats and run.kl.mode == 'hold' and has_kl_term(run.loss):
    stats['beta'] = run.loss.kwargs.get('beta', known['beta'])
  return stats


def has_kl_term(loss):
  """Whether the loss has a `beta` that keeps the policy near the reference."""
  row = LOSSES[loss.name]
  return 'beta' in hparams_of(row) and row.reference
