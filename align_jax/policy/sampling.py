"""Completions from a policy: prefill P prompts, decode P x G rows.

Temperature, truncation, stop tokens and limits are arrays, so changing them
compiles nothing.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops, sharding
from align_jax.models import cache, cpu
from align_jax.models.interface import of
from align_jax.policy.draw_tokens import (
  Truncation,
  geometric_mixture,
  inverse_cdf,
  row_uniforms,
  truncate,
)
from align_jax.types import Batch, Params

# A cache grows in at most so many lengths, and by at least so many tokens. Each
# length is a loop to compile. Both are chosen, not measured.
MAX_SEGMENTS = 4
MIN_SEGMENT = 32


@dataclasses.dataclass(frozen=True)
class _Sampler:
  """A policy or the mixture of two, and how its tokens are drawn.

  States, keys and values are tuples with one entry per policy.
  """

  config: Any
  cache_dtype: str | None
  policies: tuple  # parameters of each policy
  layers: list  # of each policy, see `transformer.split_layers`
  heads: list  # of each policy, see `transformer.decode_head`
  shares: tuple
  temperature: Any
  truncation: Truncation | None
  eos_id: int | tuple[int, ...] | None
  stop_tokens: jax.Array | None

  def start(self, prompts, valid, uniforms):
    """The first tokens, as `draw` returns them, and each policy's cache.

    Args:
      prompts, valid: [P, S].
      uniforms: f32 [P, G].
    """
    shape = uniforms.shape
    states, kvs = [], []
    for params in self.policies:
      with jax.named_scope('prefill'):
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

  @jax.named_scope('decode')
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
    if sharding.platform() == 'cpu':
      # Else XLA fuses the logits into the argmax, which is slower.
      logits = cpu.separate(logits)
    if len(logits) == 1:
      return logits[0]
    return geometric_mixture(logits, self.shares)

  @jax.named_scope('draw')
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
    over = jnp.zeros(tokens.shape, bool)
    for ids in (self.eos_id, self.stop_tokens):
      if ids is not None:
        over |= (tokens[..., None] == jnp.ravel(jnp.asarray(ids))).any(-1)
    return over


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
  policies: tuple = (params,)
  shares: tuple = (1.0,)
  if other_params is not None:
    policies, shares = (params, other_params), (1 - share, share)
  model = of(config)
  policies = tuple(model.laid_out(p, config) for p in policies)
  # Computed once, since a loop over tokens is traced after this.
  layers = [model.split_layers(p, config) for p in policies]
  heads = [model.decode_head(p, config) for p in policies]
  sampler = _Sampler(
    config,
    cache_dtype,
    policies,
    layers,
    heads,
    shares,
    temperature,
    truncation,
    eos_id,
    stop_tokens,
  )
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
  """The lengths that the cache grows to, so that it is read no further."""
  step = max(MIN_SEGMENT, -(-length // MAX_SEGMENTS))
  return [*range(step, length, step), length]


@sharding.sampling()
def sample(
  params: Params,
  prompts: jax.Array,
  prompt_valid: jax.Array,
  key: jax.Array,
  *args: Any,
  **kwargs: Any,
) -> Batch:
  """Samples `group_size` completions per prompt.

  Args:
    params: of a model with an 'lm' head.
    prompts, prompt_valid: [P, S], left-padded.
    key: the only source of randomness.
    temperature: of the sampling distribution; > 0, traced. None is 1.
    other_params, share: sample token by token from the geometric mixture
      params^(1 - share) * other_params^share of two policies instead (Munos et
      al. 2023, sec. 6), in the same decode. share is traced.
    truncation: a `Truncation`. None: the whole support.
    stop_tokens: int32 [K]. Each ends a completion as `eos_id` does. Pad with
      -1, which is no token.
    limits: int32 [P] or [P, G], the most tokens of a row, if less than
      `max_new_tokens`. At least one is drawn.
    prompt_ids: int32 [P]. With the key they seed the rows of a prompt. None:
      0, 1, 2, ... A row is the same in any batch where its prompt has the same
      id, up to the rounding of sums.
    config: what `models.interface.of` knows.
    group_size: G.
    max_new_tokens: T. A completion that has not ended by then is cut off.
    eos_id: ends a completion and is part of it, as each of several does. None:
      only `stop_tokens` do.
    cache_dtype: how keys and values are stored, a name in `cache.STORES`. None:
      in the dtype of activations. A coarser one samples a policy that differs
      slightly from the scored one, see `align_jax.tools.cache_cost`.
  Returns:
    Batch of B = P * G rows with zero `rewards` and the `sampler_logps` of the
    sampling distribution. If a temperature (even 1) or a truncation is given it
    also has `policy_logps`, and no KL is estimated from it. Decoding stops once
    every row has ended.
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

  row: jax.Array  # int32 [slots]; the number of rows where the slot is idle
  # int32 [slots], the place of the row's newest token
  index: jax.Array  # type: ignore[assignment]
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


@sharding.sampling()
def sample_many(
  params: Params,
  prompts: jax.Array,
  prompt_valid: jax.Array,
  key: jax.Array,
  *args: Any,
  slots: int,
  refill: bool | jax.Array = True,
  **kwargs: Any,
) -> Batch:
  """What `sample` does, `slots` rows at a time.

  The next row takes the slot of a row that has ended, so a few long completions
  do not keep the others waiting. This pays where P * G is several times `slots`
  and lengths differ much. The keys and values of all P prompts stay in memory.

  Args:
    slots: rows that are decoded together.
    refill: traced. False leaves slots idle until all of them are, as batches
      do. Every row is the same to the bit, and ends later.
    The others are those of `sample`.
  Returns:
    what `sample` returns, up to the rounding of sums of other shapes, which may
    change a draw. A row does not depend on its slot or on the other slots.
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
    # An idle slot's index is out of bounds, so its token is dropped.
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
