"""Completions from a policy: prefill P prompts, decode P x G rows.

How tokens are drawn (temperature, truncation, what ends a row and when) is
given as arrays: a change of them compiles nothing.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.models import cache
from align_jax.models.interface import of
from align_jax.policy.draw_tokens import (
  Truncation,
  geometric_mixture,
  inverse_cdf,
  row_uniforms,
  truncate,
)
from align_jax.types import Batch

SEGMENT = 32  # tokens; a cache grows by no less


@dataclasses.dataclass
class _Sampler:
  """A policy or the mixture of two, and how its tokens are drawn.

  What it keeps per policy is a tuple of as many: states, keys and values. What
  is made of the parameters here is made once, not once a token.
  """

  config: Any
  cache_dtype: str | None
  policies: tuple
  shares: tuple
  temperature: Any
  truncation: Truncation | None
  eos_id: int | None
  stop_tokens: jax.Array | None

  @functools.cached_property
  def layers(self):
    return [of(self.config).split_layers(p, self.config) for p in self.policies]

  @functools.cached_property
  def heads(self):
    return [of(self.config).decode_head(p, self.config) for p in self.policies]

  def start(self, prompts, valid, uniforms):
    """Prompts [P, S], uniforms [P, G] -> the first tokens, as `draw` returns
    them, and keys and values by policy."""
    shape = uniforms.shape
    states, kvs = [], []
    for params in self.policies:
      state, kv = of(self.config).prefill(
        params, self.config, prompts, valid, self.cache_dtype
      )
      states.append(jnp.broadcast_to(state[:, None], (*shape, state.shape[-1])))
      kvs.append(kv)
    return self.draw(states, uniforms, jnp.ones(shape, bool)), tuple(kvs)

  def empty_caches(self, *sizes):
    """See `transformer.empty_cache`."""
    return tuple(
      of(self.config).empty_cache(self.config, *sizes, self.cache_dtype)
      for _ in self.policies
    )

  def decode(self, tokens, index, kvs, valid, caches):
    """See `transformer.decode_step`; -> states and caches."""
    step = lambda params, kv, cache: of(self.config).decode_step(
      params, self.config, tokens, index, kv, valid, cache, self.cache_dtype
    )
    return tuple(zip(*map(step, self.layers, kvs, caches)))

  def logits(self, states):
    """[..., D] of each policy -> f32 [..., V] at temperature 1."""
    logits = [
      of(self.config).logits(s, w, self.config)
      for s, w in zip(states, self.heads)
    ]
    # XLA would make them part of the search for the largest, and slower.
    logits = jax.lax.optimization_barrier(logits)
    if len(logits) == 1:
      return logits[0]
    return geometric_mixture(logits, self.shares)

  def draw(self, states, uniforms, live):
    """The next token of each row: fields of a Batch, [P, G]; 0 unless `live`.

    Args:
      states: [P, G, D] of each policy.
      uniforms: f32 [P, G].
      live: bool [P, G], rows that have not ended.
    """
    plain = sampled = self.logits(states)
    if self.temperature is not None:
      sampled = sampled / self.temperature
    if self.truncation is not None:
      sampled = truncate(sampled, self.truncation)
    tokens, logps = inverse_cdf(uniforms, sampled)
    new = {'completions': tokens, 'valid': live, 'sampler_logps': logps}
    if sampled is not plain:
      logps = ops.pick(plain, tokens) - jax.nn.logsumexp(plain, axis=-1)
      new['policy_logps'] = logps
    return {k: jnp.where(live, x, jnp.zeros_like(x)) for k, x in new.items()}

  def ends(self, tokens):
    """Whether a token ends its completion."""
    ends = jnp.zeros(tokens.shape, bool)
    if self.eos_id is not None:
      ends |= tokens == self.eos_id
    if self.stop_tokens is not None:
      ends |= (tokens[..., None] == self.stop_tokens).any(-1)
    return ends


def _request(
  params,
  prompts,
  key,
  temperature=None,
  other_params=None,
  share=0.0,
  truncation=None,
  stop_tokens=None,
  limits=None,
  prompt_ids=None,
  *,
  config,
  group_size,
  max_new_tokens,
  eos_id=None,
  cache_dtype=None,
):
  """-> _Sampler, uniforms f32 [P, G, T] and limits int32 [P, G]."""
  policies, shares = (params,), (1.0,)
  if other_params is not None:
    policies, shares = (params, other_params), (1 - share, share)
  sampler = _Sampler(
    config,
    cache_dtype,
    policies,
    shares,
    temperature,
    truncation,
    eos_id,
    stop_tokens,
  )
  # Before any loop is traced, so that they lie outside of all.
  sampler.layers, sampler.heads
  num_prompts = prompts.shape[0]
  if prompt_ids is None:
    prompt_ids = jnp.arange(num_prompts)
  uniforms = row_uniforms(key, prompt_ids, group_size, max_new_tokens)
  limits = jnp.asarray(max_new_tokens if limits is None else limits)
  limits = limits[:, None] if limits.ndim == 1 else limits
  return sampler, uniforms, jnp.broadcast_to(limits, uniforms.shape[:2])


def _batch(prompts, prompt_valid, rows, group_size):
  """A Batch of fields [..., T] as `_Sampler.draw` names them."""
  length = rows['valid'].shape[-1]
  rows = {k: x.reshape(-1, length) for k, x in rows.items()}
  return Batch(
    prompts=prompts,
    prompt_valid=prompt_valid,
    mask=rows['valid'],
    rewards=jnp.zeros(len(rows['valid'])),
    group_size=group_size,
    **rows,
  )


def _segments(length):
  """Lengths of the cache in turn: what is not there yet is not read."""
  step = max(SEGMENT, -(-length // 4))
  return [*range(step, length, step), length]


def sample(params, prompts, prompt_valid, key, *args, **kwargs):
  """Samples `group_size` completions per prompt.

  Args:
    params: of a model with an 'lm' head.
    prompts, prompt_valid: [P, S], left-padded.
    key: the only source of randomness.
    temperature: of the sampling distribution; > 0, traced. None is 1.
    other_params, share: sample token by token from the geometric mixture
      params^(1 - share) * other_params^share of two policies instead (Munos et
      al. 2023, sec. 6), in the same decode; share is traced.
    truncation: a `Truncation`; None is the whole support.
    stop_tokens: int32 [K], each ends a completion as `eos_id` does; pad with
      -1, which is no token.
    limits: int32 [P] or [P, G], the most tokens of a row, where that is less
      than `max_new_tokens`; at least one is drawn.
    prompt_ids: int32 [P], what a prompt's rows take their randomness from,
      with the key; None counts them. A row is the same in whatever batch its
      prompt has the same id, but for the rounding of sums.
    config: what `models.interface.of` knows.
    group_size: G.
    max_new_tokens: T; a completion that has not ended by then is cut off.
    eos_id: ends a completion and is part of it; None: nothing but `stop_tokens`
      does.
    cache_dtype: how keys and values are kept, a name in `cache.STORES`; None:
      as the activations are. Anything coarser samples a policy a little off
      the one that is scored, see `align_jax.tools.cache_cost`.
  Returns:
    Batch of B = P * G rows with zero `rewards` and with the `sampler_logps` of
    the distribution drawn from. With a temperature, 1 or not, or a truncation
    it has `policy_logps` as well, and no KL will be estimated from it. Decoding
    stops once every row has ended.
  """
  sampler, uniforms, limits = _request(params, prompts, key, *args, **kwargs)
  uniforms = jnp.moveaxis(uniforms, -1, 0)
  length, num_prompts, group_size = uniforms.shape

  def ended(new, index):
    over = sampler.ends(new['completions']) | (index + 1 >= limits)
    return over | ~new['valid']

  def write(rows, new, index):
    put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(
      x, y[..., None], index, axis=2
    )
    return jax.tree.map(put, rows, new)

  def body(carry):
    index, tokens, done, rows, caches = carry
    states, caches = sampler.decode(
      tokens, index - 1, prompt_kvs, prompt_valid, caches
    )
    new = sampler.draw(states, uniforms[index], ~done)
    tokens, done = new['completions'], ended(new, index)
    return index + 1, tokens, done, write(rows, new, index), caches

  new, prompt_kvs = sampler.start(prompts, prompt_valid, uniforms[0])
  rows = jax.tree.map(lambda x: jnp.zeros((*x.shape, length), x.dtype), new)
  carry = (
    jnp.int32(1),
    new['completions'],
    ended(new, 0),
    write(rows, new, 0),
    sampler.empty_caches(num_prompts, group_size, 0),
  )
  for size in _segments(length):

    def more(carry, size=size):
      index, done = carry[0], carry[2]
      return (index <= size) & (index < length) & ~done.all()

    carry = (*carry[:-1], cache.grow(carry[-1], size))
    carry = jax.lax.while_loop(more, body, carry)
  rows = carry[3]
  return _batch(prompts, prompt_valid, rows, group_size)


class _Slots(NamedTuple):
  """Rows that are decoded together, each with a copy of its prompt's keys."""

  row: jax.Array  # int32 [slots]; their number where the slot is idle
  index: jax.Array  # int32 [slots], the place of the row's newest token
  token: jax.Array  # int32 [slots], that token
  prompt: Any  # keys and values [slots, K, S, H] and validity [slots, S]
  caches: Any


def _in_chunks(f, arrays, size):
  """f over the leading dimension of `arrays`, `size` at a time."""
  num = len(arrays[0])
  if num <= size:
    return f(*arrays)
  pad = lambda a: jnp.pad(a, ((0, -num % size),) + ((0, 0),) * (a.ndim - 1))
  chunks = [pad(a).reshape(-1, size, *a.shape[1:]) for a in arrays]
  out = jax.lax.map(lambda chunk: f(*chunk), chunks)
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num], out)


def sample_many(
  params, prompts, prompt_valid, key, *args, slots, refill=True, **kwargs
):
  """What `sample` does, `slots` rows at a time.

  A row that ends makes room for the next one in order, so that a few long
  completions do not keep the others waiting. Worth it where P * G is several
  times `slots` and lengths differ much; the keys and values of all P prompts
  are kept meanwhile.

  Args:
    slots: rows that are decoded together.
    refill: False, traced, leaves slots idle until all of them are, as batches
      do: every row is the same, to the bit, and later.
    The others are those of `sample`.
  Returns:
    what `sample` returns, up to the rounding of sums of other shapes, which may
    tip a draw; which slot a row had, and beside whom, leaves no trace.
  """
  sampler, uniforms, limits = _request(params, prompts, key, *args, **kwargs)
  num_prompts, group_size, length = uniforms.shape
  num = num_prompts * group_size
  slots = min(slots, num)
  uniforms, limits = uniforms.reshape(num, length), limits.reshape(num)

  first, prompt_kvs = _in_chunks(
    sampler.start,
    [prompts, prompt_valid, uniforms[:, 0].reshape(num_prompts, group_size)],
    slots,
  )
  first = {k: x.reshape(num) for k, x in first.items()}
  over = sampler.ends(first['completions']) | (limits <= 1)
  sources = prompt_kvs, prompt_valid

  def idle(s):
    return s.row == num

  def fill(carry):
    """Puts the next row into the first idle slot, unless it is over."""
    row, s = carry
    slot = jnp.argmax(idle(s))
    put = lambda x, source: x.at[slot].set(source[row // group_size])
    return row + 1, s._replace(
      row=s.row.at[slot].set(jnp.where(over[row], num, row)),
      index=s.index.at[slot].set(0),
      token=s.token.at[slot].set(first['completions'][row]),
      prompt=jax.tree.map(put, s.prompt, sources),
    )

  def decode(s, rows):
    states, caches = sampler.decode(
      s.token[:, None], s.index, *s.prompt, s.caches
    )
    row, index = jnp.minimum(s.row, num - 1), s.index + 1
    new = sampler.draw(states, uniforms[row, index][:, None], ~idle(s)[:, None])
    new = {k: x[:, 0] for k, x in new.items()}
    # What an idle slot has drawn is out of bounds, and dropped.
    put = lambda x, y: x.at[s.row, index].set(y)
    ended = sampler.ends(new['completions']) | (index + 1 >= limits[row])
    return s._replace(
      row=jnp.where(ended, num, s.row),
      index=index,
      token=new['completions'],
      caches=caches,
    ), jax.tree.map(put, rows, new)

  def body(carry):
    waiting, s, rows = carry
    free = refill | idle(s).all()
    waiting, s = jax.lax.while_loop(
      lambda c: free & (c[0] < num) & idle(c[1]).any(), fill, (waiting, s)
    )
    return waiting, *decode(s, rows)

  empty = lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype)
  blank = jnp.zeros(slots, jnp.int32)
  s = _Slots(
    row=jnp.full(slots, num),
    index=blank,
    token=blank,
    prompt=jax.tree.map(empty, sources),
    caches=sampler.empty_caches(slots, 1, length),
  )
  rows = jax.tree.map(
    lambda x: jnp.zeros((num, length), x.dtype).at[:, 0].set(x), first
  )
  rows = jax.lax.while_loop(
    lambda c: (c[0] < num) | ~idle(c[1]).all(), body, (jnp.int32(0), s, rows)
  )[2]
  return _batch(prompts, prompt_valid, rows, group_size)
