"""Jitted programs, built once per process: a sweep compiles once."""

import functools

import jax

from align_jax.models import bow, lora
from align_jax.policy import sampling, scoring

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
  return logps, kls, scoring.make_annotate(logps)


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
