"""Jitted programs, built once per process: a sweep compiles once."""

import functools

import jax

from align_jax import sampling, scoring, step
from align_jax.losses import LOSSES
from align_jax.models import bow


@functools.cache
def policy_programs(config):
  """Jitted log-probs, exact KLs and reference annotation of a policy."""
  logps = jax.jit(functools.partial(scoring.token_logps, config=config))
  kls = jax.jit(functools.partial(scoring.token_kls, config=config))
  return logps, kls, step.make_annotate(logps)


@functools.cache
def sampler(config, group_size, max_new_tokens, eos_id):
  """Jitted (params, prompts, valid, key) -> Batch."""
  return jax.jit(
    functools.partial(
      sampling.sample,
      config=config,
      group_size=group_size,
      max_new_tokens=max_new_tokens,
      eos_id=eos_id,
    )
  )


@functools.cache
def scorer(config):
  """Jitted (params, batch) -> f32 [B]; None stands for the bag of words."""
  if config is None:
    return jax.jit(bow.scores)
  return jax.jit(functools.partial(scoring.scores, config=config))


_train_steps = {}


def train_program(forward, run, state):
  """The train step of a run, its numbers to trace, and its optimizer state.

  Args:
    forward: (params, batch) -> outputs, the same object for the same program.
    run: the fields of `configs.base`'s `arm`.
    state: TrainState, placed.
  """
  kwargs = dict(run['loss_kwargs'])
  static = {k: v for k, v in kwargs.items() if isinstance(v, str)}
  key = (
    forward,
    run['loss'],
    tuple(static.items()),
    optimizer(run),
    run['num_microbatches'],
  )
  if key not in _train_steps:
    meshed = not jax.sharding.get_abstract_mesh().empty
    _train_steps[key] = step.make_train_step(
      forward,
      functools.partial(LOSSES[run['loss']], **static),
      optimizer(run),
      num_microbatches=run['num_microbatches'],
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
