"""Jitted programs, built once per process: a sweep compiles once."""

import dataclasses
import functools

import jax

from align_jax import losses, ops
from align_jax.learn import step
from align_jax.losses import LOSSES
from align_jax.losses.kl import EXACT
from align_jax.models import bow, lora
from align_jax.policy import sampling, scoring
from align_jax.types import Outputs

# Fields of a Batch that no model reads.
UNREAD = 'mask', 'rewards', 'sampler_logps', 'policy_logps', 'ref_logps'


def _reading(f):
  """Jitted `f(params, batch)`: one program, whatever else rows have."""
  program = jax.jit(f)

  def read(params, batch):
    batch = batch.replace(prepared={}, **dict.fromkeys(UNREAD))
    return program(params, batch)

  return read


@functools.cache
def policy_programs(config):
  """Jitted log-probs, exact KLs and reference annotation of a policy."""
  logps = _reading(functools.partial(scoring.token_logps, config=config))
  kls = jax.jit(functools.partial(scoring.token_kls, config=config))
  return logps, kls, step.make_annotate(logps)


@functools.cache
def expectation(config):
  """Jitted (params, batch, worth f32 [B, T, V]) -> f32 [B, T]."""
  return jax.jit(functools.partial(scoring.expected, config=config))


def sampler(task, group_size, slots=0):
  """Jitted (params, prompts, valid, key) -> Batch, as the task ends rows.

  Args:
    slots: rows at a time, see `sampling.sample_many`; 0: all at once.
  """
  model, length, eos_id = task.model, task.max_new_tokens, task.eos_id
  return _sampler(model, group_size, length, eos_id, slots)


@functools.cache
def _sampler(config, group_size, max_new_tokens, eos_id, slots):
  f = sampling.sample
  if slots:
    f = functools.partial(sampling.sample_many, slots=slots)
  return jax.jit(
    functools.partial(
      f,
      config=config,
      group_size=group_size,
      max_new_tokens=max_new_tokens,
      eos_id=eos_id,
    )
  )


def mixture_sampler(task, group_size, slots=0):
  """Jitted ((params, other_params), prompts, valid, key, share) -> Batch."""
  plain = sampler(task, group_size, slots)

  def sample(policies, prompts, valid, key, share):
    params, other = policies
    return plain(params, prompts, valid, key, None, other, share)

  return sample


@functools.cache
def scorer(config):
  """Jitted (params, batch) -> f32 [B]; None stands for the bag of words."""
  if config is None:
    return _reading(bow.scores)
  return _reading(functools.partial(scoring.scores, config=config))


@functools.cache
def token_scorer(config):
  """Jitted (params, batch) -> f32 [B, T], the score after each token."""
  return _reading(functools.partial(scoring.token_scores, config=config))


# --- What a loss is given: (params, batch) or (params, batch, anchors) --------

CRITICS = ('critic', 'value_head')  # keys that are no part of the policy


_merge = jax.jit(lora.merge)


def policy_of(params, base=None):
  """The policy's own parameters: without the critic that PPO trains.

  Args:
    params: a run's; under LoRA its adapters, which are merged into `base`.
  """
  if lora.KEY in params:
    return _merge(base, params[lora.KEY])
  return {k: v for k, v in params.items() if k not in CRITICS}


@functools.cache
def with_lora(forward, reads_anchors, settings):
  """The forward of a full policy as one of adapters, a program per settings."""
  del settings

  def adapted(params, batch, anchors):
    critics = {k: v for k, v in params.items() if k in CRITICS}
    full = {**policy_of(params, lora.base_of(anchors)), **critics}
    return forward(full, batch, *([anchors] if reads_anchors else []))

  return adapted


@functools.cache
def logps_and_kls(config):
  """Log-probs, and exact KLs to the reference."""

  def forward(params, batch, anchors):
    kls, logps, _ = scoring.compare(
      policy_of(params), anchors['ref'], batch, config=config
    )
    return Outputs(logps, kls)

  return forward


@functools.cache
def with_values(config, critic_config, exact):
  """Log-probs and the values of a critic: params['critic'], a trunk of its own,
  or params['value_head'] on the policy's states."""

  def values(params, batch):
    if 'value_head' in params:
      states = scoring.predicting_states(params, config, batch)
      return scoring.values(states, params['value_head'])
    critic = params['critic']
    states = scoring.predicting_states(critic, critic_config, batch)
    return scoring.values(states, critic['head'])

  def forward(params, batch, anchors):
    if exact:
      out = logps_and_kls(config)(params, batch, anchors)
    else:
      out = Outputs(scoring.token_logps(params, batch, config=config))
    return out.replace(values=values(params, batch))

  return forward


def with_context(batch, context, after):
  """The batch as a teacher sees it: with the context in every prompt."""
  if not context:
    return batch
  prompts, valid = ops.insert(context, batch.prompts, batch.prompt_valid, after)
  return batch.replace(prompts=prompts, prompt_valid=valid)


@functools.cache
def divergence(config, forward_kl, context=(), after=0):
  """Exact KLs between policy and anchors['teacher'], in either direction.

  The teacher alone sees `context`, see `ops.insert` (Snell et al. 2022).
  """

  def forward(params, batch, anchors):
    pair = (
      (params, batch),
      (
        anchors['teacher'],
        with_context(batch, context, after),
      ),
    )
    (p, p_batch), (q, q_batch) = pair[::-1] if forward_kl else pair
    return scoring.compare(p, q, p_batch, q_batch, config=config)[0]

  return forward


def forward_of(config, run):
  """The forward of a run's loss, and whether it reads the anchors.

  Args:
    run: the fields of `configs.base`'s `arm`.
  """
  forward, reads_anchors = _full_forward_of(config, run)
  settings = lora.Lora(**run['lora'])
  if settings.rank:
    return with_lora(forward, reads_anchors, settings), True
  return forward, reads_anchors


def _full_forward_of(config, run):
  kl = losses.hparams_of(LOSSES[run['loss']]).get('kl')
  exact = run['loss_kwargs'].get('kl', kl) in EXACT
  if run['loss'] == 'ppo':
    critic = dataclasses.replace(config, head='scalar')
    return with_values(config, critic, exact), True
  if run['loss'] in ('forward_kl', 'reverse_kl'):
    context = tuple(run['context']), run['context_after']
    return divergence(config, run['loss'] == 'forward_kl', *context), True
  if exact:
    return logps_and_kls(config), True
  return policy_programs(config)[0], False


_train_steps = {}


def train_program(forward, run, state, reads_anchors=False):
  """The train step of a run, its numbers to trace, and its optimizer state.

  Args:
    forward: (params, batch) -> outputs, the same object for the same program.
    run: the fields of `configs.base`'s `arm`.
    state: TrainState, placed.
    reads_anchors: see `step.make_train_step`.
  """
  kwargs = dict(run['loss_kwargs'])
  static = {k: v for k, v in kwargs.items() if isinstance(v, str)}
  updates = run.get('num_epochs', 1), run.get('num_minibatches', 1)
  key = (
    forward,
    run['loss'],
    tuple(static.items()),
    optimizer(run),
    run['num_microbatches'],
    run.get('microbatch_tokens', 0),
    updates,
  )
  if key not in _train_steps:
    name = run['loss']

    def prepare(outputs, batch, hparams):
      return losses.prepared(name, outputs, batch, {**hparams, **static})

    meshed = not jax.sharding.get_abstract_mesh().empty
    _train_steps[key] = step.make_train_step(
      forward,
      functools.partial(LOSSES[name], **static),
      optimizer(run),
      prepare=prepare if name in losses.PREPARE else None,
      reads_anchors=reads_anchors,
      num_microbatches=run['num_microbatches'],
      microbatch_tokens=run.get('microbatch_tokens', 0),
      num_epochs=updates[0],
      num_minibatches=updates[1],
      state=state if meshed else None,
    )
  hparams = {k: v for k, v in kwargs.items() if k not in static}
  return _train_steps[key], {**hparams, 'learning_rate': run['learning_rate']}


def optimizer(run):
  return _optimizer(
    run['warmup_steps'], run['max_grad_norm'], run['weight_decay']
  )


@functools.cache
def _optimizer(warmup_steps, max_grad_norm, weight_decay):
  return step.make_optimizer(
    warmup_steps=warmup_steps,
    max_grad_norm=max_grad_norm,
    weight_decay=weight_decay,
  )
