"""Completions from a policy: prefill P prompts, decode P x G rows."""

import jax
import jax.numpy as jnp

from align_jax.models.interface import of
from align_jax.types import Batch


def inverse_cdf(uniforms, logits):
  """One token per row from one uniform number per row.

  Exact up to float32: a token of probability below about 1e-7 may be lost in
  the running sum. Never returns a token of probability zero.

  Args:
    uniforms: f32 [...] in [0, 1).
    logits: f32 [..., V].
  Returns:
    int32 [...].
  """
  probs = jax.nn.softmax(logits)
  # A parallel cumsum is not quite monotone: impossible tokens are struck out,
  # and the first slot beyond is taken, not the number of slots before it.
  cdf = jnp.where(probs > 0, jnp.cumsum(probs, axis=-1), 0)
  beyond = cdf > uniforms[..., None] * cdf.max(-1, keepdims=True)
  return beyond.argmax(-1).astype(jnp.int32)


def geometric_mixture(logits, shares):
  """Normalised log of the product of policies to the power of their shares.

  Args:
    logits: a list of f32 [..., V], one per policy.
    shares: as many numbers that sum to one.
  Returns:
    f32 [..., V], log-probs.
  """
  mixed = sum(w * jax.nn.log_softmax(l) for w, l in zip(shares, logits))
  return jax.nn.log_softmax(mixed)


def sample(
  params,
  prompts,
  prompt_valid,
  key,
  temperature=1.0,
  other_params=None,
  share=0.0,
  *,
  config,
  group_size,
  max_new_tokens,
  eos_id=None,
):
  """Samples `group_size` completions per prompt, untruncated support.

  Args:
    params: of a model with an 'lm' head.
    prompts, prompt_valid: [P, S], left-padded.
    key: the only source of randomness.
    temperature: of the sampling distribution; > 0, traced.
    other_params, share: sample token by token from the geometric mixture
      params^(1 - share) * other_params^share of two policies instead (Munos et
      al. 2023, sec. 6), in the same decode; share is traced.
    max_new_tokens: T; a completion that has not ended by then is cut off.
    eos_id: ends a completion and is part of it; None: all T tokens are drawn.
  Returns:
    Batch of B = P * G rows with `sampler_logps` at this temperature and zero
    `rewards`; decoding stops once every row has ended.
  """
  num_prompts, shape = prompts.shape[0], (prompts.shape[0], group_size)
  policies, shares = [params], [1.0]
  if other_params is not None:
    policies, shares = [params, other_params], [1 - share, share]
  heads = [of(config).head_weights(p, config) for p in policies]

  def next_logits(states):
    """[P, G, D] of each policy -> f32 [P, G, V] of the sampling policy."""
    logits = [of(config).logits(s, w, config) for s, w in zip(states, heads)]
    if len(logits) == 1:
      return logits[0] / temperature
    return geometric_mixture(logits, shares) / temperature

  def draw(states, index, done):
    """-> token, its log-prob, whether the row has ended."""
    logits = next_logits(states)
    uniforms = jax.random.uniform(jax.random.fold_in(key, index), shape)
    tokens = jnp.where(done, 0, inverse_cdf(uniforms, logits))
    logps = jnp.take_along_axis(
      jax.nn.log_softmax(logits), tokens[..., None], axis=-1
    )[..., 0]
    ended = done if eos_id is None else done | (tokens == eos_id)
    return tokens, jnp.where(done, 0, logps), ended

  def write(rows, token, index):
    return jax.lax.dynamic_update_slice_in_dim(
      rows, token[..., None], index, axis=2
    )

  def more(carry):
    index, done = carry[0], carry[2]
    return (index < max_new_tokens) & ~done.all()

  def decode(tokens, index, caches):
    return zip(
      *(
        of(config).decode_step(
          p, config, tokens, index, kv, prompt_valid, cache
        )
        for p, kv, cache in zip(policies, prompt_kvs, caches)
      )
    )

  def body(carry):
    index, tokens, done, completions, logps, valid, caches = carry
    states, caches = decode(tokens, index - 1, caches)
    valid = write(valid, ~done, index)
    tokens, logp, done = draw(states, index, done)
    return (
      index + 1,
      tokens,
      done,
      write(completions, tokens, index),
      write(logps, logp, index),
      valid,
      caches,
    )

  states, prompt_kvs = zip(
    *(of(config).prefill(p, config, prompts, prompt_valid) for p in policies)
  )
  states = [jnp.broadcast_to(s[:, None], (*shape, s.shape[-1])) for s in states]
  none = jnp.zeros(shape, bool)
  tokens, logp, done = draw(states, 0, none)
  blank = jnp.zeros((*shape, max_new_tokens))
  cache = lambda: of(config).empty_cache(
    config, num_prompts, group_size, max_new_tokens
  )
  carry = (
    jnp.int32(1),
    tokens,
    done,
    write(blank.astype(jnp.int32), tokens, 0),
    write(blank, logp, 0),
    write(blank.astype(bool), ~none, 0),
    tuple(cache() for _ in policies),
  )
  _, _, _, completions, logps, valid, _ = jax.lax.while_loop(more, body, carry)
  rows = lambda x: x.reshape(-1, max_new_tokens)
  return Batch(
    prompts=prompts,
    prompt_valid=prompt_valid,
    completions=rows(completions),
    valid=rows(valid),
    mask=rows(valid),
    rewards=jnp.zeros(num_prompts * group_size),
    sampler_logps=rows(logps),
    group_size=group_size,
  )
