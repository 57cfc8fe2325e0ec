"""Importance weights for rows of a sampler that is not the trained policy.

A sampler differs by its precision, its temperature or truncation, or its age.
Losses on sampled rewards multiply the losses of tokens by `Batch.weights`. The
weights are of the policy as the batch arrives over the sampler, and constant.
They cannot bring back what a truncated sampler never draws.
"""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses.kl import as_outputs
from align_jax.types import Batch, Outputs


def ignore(log_weights: jax.Array, cap: float) -> jax.Array:
  """1 each: the difference is ignored."""
  return jnp.ones_like(log_weights)


def token_truncate(log_weights: jax.Array, cap: float) -> jax.Array:
  """A token's weight, at most `cap` (Yao et al. 2025, TIS)."""
  return jnp.exp(jnp.minimum(log_weights, jnp.log(cap)))


def token_mask(log_weights: jax.Array, cap: float) -> jax.Array:
  """A token's weight, 0 beyond `cap`."""
  return jnp.where(
    log_weights > jnp.log(cap), 0, token_truncate(log_weights, cap)
  )


def _of_sequences(bounded):
  def weights(log_weights: jax.Array, cap: float) -> jax.Array:
    total = log_weights.sum(1, keepdims=True)
    return jnp.broadcast_to(bounded(total, cap), log_weights.shape)

  return weights


# (log-weights f32 [B, T], 0 outside the mask; cap >= 1) -> weights f32 [B, T].
# Those of sequences are Liu et al. 2025, "When speed kills stability".
CORRECTIONS = {
  'ignore': ignore,
  'token_truncate': token_truncate,
  'token_mask': token_mask,
  'sequence_truncate': _of_sequences(token_truncate),
  'sequence_mask': _of_sequences(token_mask),
}


def corrected(
  outputs: Outputs | jax.Array, batch: Batch, correction: str, cap: float = 2.0
) -> Batch:
  """The batch with `weights`, and with `policy_logps` of the trained policy.

  Ratios of a loss are then to the policy as the batch arrived, not to the
  sampler. Where the two are the same, all weights are 1 and nothing changes.

  Args:
    outputs: of the trained policy before an update by this batch.
    batch: needs `sampler_logps`.
    correction: a name in CORRECTIONS.
    cap: the largest weight, at least 1.
  """
  logps = jax.lax.stop_gradient(as_outputs(outputs).logps).astype(jnp.float32)
  sampler_logps = ops.there(batch.sampler_logps, 'sampler_logps')
  log_weights = jnp.where(batch.mask, logps - sampler_logps, 0)
  weights = CORRECTIONS[correction](log_weights, cap)
  return batch.replace(policy_logps=logps, weights=weights)
