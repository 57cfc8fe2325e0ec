"""Completions from a policy: prefill P prompts, decode P x G rows."""

import jax
import jax.numpy as jnp

from align_jax.models import transformer
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


def sample(
  params,
  prompts,
  prompt_valid,
  key,
  temperature=1.0,
  *,
  config,
  group_size,
  max_new_tokens,
  eos_id=None,
):
  """Samples `group_size` completions per prompt, untruncated support.

  Args:
    params: of a transformer with an 'lm' head.
    prompts, prompt_valid: [P, S], left-padded.
    key: the only source of randomness.
    temperature: of the sampling distribution; > 0, traced.
    max_new_tokens: T; a completion that has not ended by then is cut off.
    eos_id: ends a completion and is part of it; None: all T tokens are drawn.
  Returns:
    Batch of B = P * G rows with `sampler_logps` at this temperature and zero
    `rewards`; decoding stops once every row has ended.
  """
  num_prompts, shape = prompts.shape[0], (prompts.shape[0], group_size)
  weights = transformer.head_weights(params, config)

  def draw(state, index, done):
    """state [P, G, D] -> token, its log-prob, whether the row has ended."""
    logits = jnp.einsum('pgd,dv->pgv', state, weights.astype(state.dtype))
    logits = logits.astype(jnp.float32) / temperature
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

  def body(carry):
    index, tokens, done, completions, logps, valid, cache = carry
    state, cache = transformer.decode_step(
      params, config, tokens, index - 1, prompt_kv, prompt_valid, cache
    )
    valid = write(valid, ~done, index)
    tokens, logp, done = draw(state, index, done)
    return (
      index + 1,
      tokens,
      done,
      write(completions, tokens, index),
      write(logps, logp, index),
      valid,
      cache,
    )

  state, prompt_kv = transformer.prefill(params, config, prompts, prompt_valid)
  state = jnp.broadcast_to(state[:, None], (*shape, state.shape[-1]))
  none = jnp.zeros(shape, bool)
  tokens, logp, done = draw(state, 0, none)
  blank = jnp.zeros((*shape, max_new_tokens))
  carry = (
    jnp.int32(1),
    tokens,
    done,
    write(blank.astype(jnp.int32), tokens, 0),
    write(blank, logp, 0),
    write(blank.astype(bool), ~none, 0),
    transformer.empty_cache(config, num_prompts, group_size, max_new_tokens),
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
