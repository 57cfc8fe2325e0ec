"""Jitted programs, built once per process, so that a sweep compiles once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from align_jax import hosts, sharding, values
from align_jax.models import bow, cache, lora
from align_jax.models.config import DTYPES
from align_jax.policy import sampling, scoring
from align_jax.policy.draw_tokens import Truncation

# Fields of a Batch that no model reads.
UNREAD = 'mask', 'rewards', 'sampler_logps', 'policy_logps', 'ref_logps'
UNREAD += ('weights',)


def bare(batch):
  """The batch without its unread fields, so that one program serves all."""
  return batch.replace(prepared={}, **dict.fromkeys(UNREAD))


def _jit(f, **fixed):
  """Jitted `f(*args, **fixed)`, for arrays on devices or on their hosts."""

  def near(*args, **more):
    args, more = sharding.on_device((args, more))
    return f(*args, **fixed, **more)

  near.__name__ = f.__name__
  return jax.jit(near)


def _reading(f, **fixed):
  """Jitted `f(params, batch)`: one program, whichever other fields are set."""
  program = _jit(f, **fixed)
  return lambda params, batch: program(params, bare(batch))


class Programs(NamedTuple):
  """Jitted programs of a policy, see `scoring`."""

  logps: Callable  # (params, batch) -> f32 [B, T]
  # (params, ref_params, batch) -> exact KL, log-ratio [B, T]. It waits for
  # them, and raises ValueError where the KL is infinite.
  kls: Callable
  annotate: Callable  # (ref_params, batch) -> batch with `ref_logps`


@functools.cache
def policy_programs(config):
  """The Programs of the policy that a config describes."""
  logps = _reading(scoring.token_logps, config=config)
  return Programs(logps, _finite_kls(config), scoring.make_annotate(logps))


@functools.cache
def exact_kls(config):
  """Jitted `scoring.token_kls`."""
  return _jit(scoring.token_kls, config=config)


def _finite_kls(config):
  """`scoring.token_kls`, with an error that names a token of infinite KL."""
  kls = exact_kls(config)
  forbidden = _jit(scoring.forbidden_draw, config=config)

  def checked(params, ref_params, batch):
    found = kls(params, ref_params, batch)
    largest = np.max(hosts.fetch(found[0]), initial=0)
    if largest < -scoring.FORBIDDEN * 1e-3:
      return found
    tokens = hosts.fetch(forbidden(params, ref_params, batch))
    for row, place in np.argwhere(tokens >= 0):
      raise ValueError(
        f'the KL is infinite: after {place} tokens of completion {row} the '
        f'policy may draw token {tokens[row, place]}, which the reference '
        'forbids (its logit is -inf)'
      )
    return found

  return checked


@functools.cache
def expectation(config):
  """Jitted (params, batch, worth f32 [B, T, V]) -> f32 [B, T]."""
  return _jit(scoring.expected, config=config)


@functools.cache
def entropies(config):
  """Jitted (params, batch) -> entropy of the next token, f32 [B, T]."""
  return _reading(scoring.token_entropies, config=config)


DRAWING = {  # what each field of Sampling may be
  'temperature': values.number(above=0),
  'top_p': values.number(above=0, most=1),
  'top_k': values.count(0),
  'min_p': values.number(least=0, most=1),
  'dtype': values.one_of(('', *DTYPES)),
  'cache_dtype': values.one_of(('', *cache.STORES)),
  'stop_tokens': values.items(
    'token ids', lambda x: values.is_whole(x) and x >= 0
  ),
}


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How completions are drawn; by default from the policy itself.

  Attributes:
    temperature: divides the logits; > 0.
    top_p, top_k, min_p: see `draw_tokens.Truncation`; 1, 0 and 0 cut nothing.
    dtype: of activations, and so of the weights where they meet them; '': the
      model's own.
    cache_dtype: how keys and values are kept, a name in `cache.STORES`; '': as
      the activations are.
    stop_tokens: ids that end a completion, as the task's EOS does.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0
  dtype: str = ''
  cache_dtype: str = ''
  stop_tokens: tuple[int, ...] = ()

  def __post_init__(self):
    for name, allowed in DRAWING.items():
      kept = allowed.checked(f'sampling.{name}', getattr(self, name))
      object.__setattr__(self, name, kept)

  @property
  def own(self):
    """Whether tokens have the policy's own probabilities."""
    return self.temperature == 1 and not self.truncates

  @property
  def truncates(self):
    """Whether some tokens have no chance."""
    return (self.top_p, self.top_k, self.min_p) != (1, 0, 0)

  def arguments(self):
    """What `sampling.sample` is told: arrays, of what differs from default."""
    found = {}
    if self.temperature != 1:
      found['temperature'] = self.temperature
    if self.truncates:
      every = 2**30  # more than any vocabulary
      found['truncation'] = Truncation(
        self.top_k or every, self.top_p, self.min_p
      )
    if self.stop_tokens:
      found['stop_tokens'] = np.array(self.stop_tokens, np.int32)
    return found

  def ends(self, eos_id):
    """All tokens that end a completion.

    Args:
      eos_id: the task's: an id, a tuple of several or None.
    Returns:
      int32 [K], or `eos_id` where no others do.
    """
    if not self.stop_tokens:
      return eos_id
    eos = () if eos_id is None else np.ravel(eos_id)
    return np.array([*eos, *self.stop_tokens], np.int32)


def sampler(task, group_size, rows_at_once=0, how=Sampling()):
  """Jitted (params, prompts, valid, key) -> Batch, as the task ends rows.

  Args:
    rows_at_once: see `sampling.sample_many`; 0: all at once.
    how: Sampling. Its numbers are traced: they compile nothing.
  """
  model = task.model
  if how.dtype:
    model = dataclasses.replace(model, dtype=how.dtype)
  program = _sampler(
    model,
    group_size,
    task.max_new_tokens,
    task.eos_id,
    rows_at_once,
    how.cache_dtype or None,
  )
  arguments = how.arguments()
  return functools.partial(program, **arguments) if arguments else program


@functools.cache
def _sampler(
  config, group_size, max_new_tokens, eos_id, rows_at_once, cache_dtype
):
  f, more = sampling.sample, {}
  if rows_at_once:
    f, more = sampling.sample_many, {'slots': rows_at_once}
  return _jit(
    f,
    config=config,
    group_size=group_size,
    max_new_tokens=max_new_tokens,
    eos_id=eos_id,
    cache_dtype=cache_dtype,
    **more,
  )


def mixture_sampler(task, group_size, rows_at_once=0, how=Sampling()):
  """Jitted ((params, other_params), prompts, valid, key, share) -> Batch."""
  draw = sampler(task, group_size, rows_at_once, how)

  def sample(policies, prompts, valid, key, share):
    params, other = policies
    return draw(params, prompts, valid, key, other_params=other, share=share)

  return sample


@functools.cache
def scorer(config):
  """Jitted (params, batch) -> f32 [B]. None is the bag of words."""
  if config is None:
    return _reading(bow.scores)
  return _reading(scoring.scores, config=config)


@functools.cache
def token_scorer(config):
  """Jitted (params, batch) -> f32 [B, T], the score after each token."""
  return _reading(scoring.token_scores, config=config)


CRITICS = ('critic', 'value_head')  # keys that are not the policy's


_merge = _jit(lora.merge)


def policy_of(params, base=None):
  """The policy's own parameters: without the critic that PPO trains.

  Args:
    params: a run's; under LoRA its adapters, which are merged into `base`.
  """
  if lora.KEY in params:
    return _merge(base, params[lora.KEY])
  return {k: v for k, v in params.items() if k not in CRITICS}


def policy_in(state):
  """The parameters of the policy in a run's state, merged, without critic."""
  return policy_of(state.params, lora.base_of(state.anchors))
