"""The KL penalty of a policy gradient: where it enters, and its estimator.

A term is `(outputs, batch) -> Penalty`. A penalty in the rewards acts through
the score function, a penalty in the loss through its own gradient. `beta`
multiplies both. Only some terms have the gradient of the reverse sequence KL in
expectation (Tang and Munos 2025, arXiv 2506.09477). `BIASED` says what the
others have instead; runs with a biased KL term print a warning at start.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.types import Batch, Outputs


class Penalty(NamedTuple):
  """What a KL term takes from the rewards, and adds to the loss."""

  reward: jax.Array  # f32 [B, T]  subtracted from the rewards; constant
  loss: jax.Array  # f32 [B, T]  added to the token losses


def as_outputs(outputs: Outputs | jax.Array) -> Outputs:
  """Wraps log-probs f32 [B, T] in `Outputs`, unless they are that already."""
  return outputs if isinstance(outputs, Outputs) else Outputs(outputs)


def _in_reward(x):
  x = jax.lax.stop_gradient(x)
  return Penalty(x, jnp.zeros_like(x))


def _in_loss(x):
  return Penalty(jnp.zeros_like(x), x)


def _masked_difference(logps, others, batch):
  """Log of a probability ratio inside the mask, else 0: f32 [B, T].

  Log-probs outside the mask may be infinite. They are masked here because
  masking a function of the ratio would still give nan gradients.
  """
  return jnp.where(batch.mask, logps.astype(jnp.float32) - others, 0)


def log_weights(logps: jax.Array, batch: Batch) -> jax.Array:
  """log pi(y_t) - log writer(y_t) inside the mask, else 0: f32 [B, T].

  The writer is the policy that generated the rows. Both probabilities are at
  temperature 1 and untruncated, even if the rows were sampled otherwise.
  """
  return _masked_difference(logps, writer_logps(batch), batch)


def writer_logps(batch: Batch) -> jax.Array:
  """log writer(y_t): f32 [B, T], see `log_weights`.

  Raises:
    ValueError: the batch does not have them.
  """
  if batch.policy_logps is not None:
    return batch.policy_logps
  if batch.sampler_logps is None:
    raise ValueError(
      'an importance weight needs a batch with `sampler_logps`, the log-probs '
      'under the policy that wrote the rows'
    )
  return batch.sampler_logps


def _log_ratios(outputs, batch):
  """log pi(y_t) - log ref(y_t) inside the mask, else 0: f32 [B, T]."""
  ops.require_own_samples(batch)
  return _masked_difference(outputs.logps, batch.ref_logps, batch)


def _estimated(place, estimator):
  def term(outputs, batch):
    return place(estimator(_log_ratios(outputs, batch), 0.0))

  return term


def _exact(outputs, batch):
  ops.require_own_samples(batch)
  if outputs.kls is None:
    raise ValueError('an exact KL term needs outputs with `kls`')
  return jnp.where(batch.mask, outputs.kls.astype(jnp.float32), 0)


def reward_exact(outputs: Outputs, batch: Batch) -> Penalty:
  """The exact KL of each step, in the reward only."""
  return _in_reward(_exact(outputs, batch))


def loss_exact(outputs: Outputs, batch: Batch) -> Penalty:
  """The exact KL of each step, in the loss only."""
  return _in_loss(_exact(outputs, batch))


def exact(outputs: Outputs, batch: Batch) -> Penalty:
  """Rao-Blackwellised gradient (Amini et al. 2025, arXiv 2504.10637).

  The KL of a step enters its own loss, and the reward of all earlier steps.
  """
  kls = _exact(outputs, batch)
  return Penalty(jax.lax.stop_gradient(kls), kls)


def loss_k2_sequence(outputs: Outputs, batch: Batch) -> Penalty:
  """k2 of the whole completion: all log-ratios weigh on every token."""
  k1 = _log_ratios(outputs, batch)
  total = jax.lax.stop_gradient(k1.sum(1, keepdims=True))
  return _in_loss(total * k1)


def loss_k3_weighted(outputs: Outputs, batch: Batch) -> Penalty:
  """k3 times the importance weight of the token (DeepSeek-V3.2, eq. 7)."""
  log_weight = log_weights(outputs.logps, batch)
  return _in_loss(_weighted_k3(log_weight, -_log_ratios(outputs, batch)))


def _weighted_k3(log_weight, x):
  """exp(log_weight) (exp(x) - 1 - x): finite where the product is."""
  large = x > 1
  log_weight = jnp.where(x == 0, 0, log_weight)
  near, far = jnp.where(large, 0, x), jnp.where(large, x, 1)
  return jnp.where(
    large,
    jnp.exp(log_weight + far) * (1 - (1 + far) * jnp.exp(-far)),
    jnp.exp(jnp.where(large, 0, log_weight)) * (jnp.expm1(near) - near),
  )


def none(outputs: Outputs, batch: Batch) -> Penalty:
  """No penalty."""
  return _in_loss(jnp.zeros(batch.mask.shape))


KL_TERMS = {
  'none': none,
  'reward_k1': _estimated(_in_reward, ops.k1),
  'reward_k2': _estimated(_in_reward, ops.k2),
  'reward_k3': _estimated(_in_reward, ops.k3),
  'reward_exact': reward_exact,
  'loss_k1': _estimated(_in_loss, ops.k1),
  'loss_k2': _estimated(_in_loss, ops.k2),
  'loss_k2_sequence': loss_k2_sequence,
  'loss_k3': _estimated(_in_loss, ops.k3),
  'loss_k3_weighted': loss_k3_weighted,
  'loss_exact': loss_exact,
  'exact': exact,
}


def penalty_of(kl: str, outputs: Outputs, batch: Batch, beta: float) -> Penalty:
  """The term of that name, times its price `beta`.

  A price of 0 keeps the log-ratios out of value and gradient, infinite as they
  may be: 0 * inf is no 0.
  """
  ref_logps = ops.there(batch.ref_logps, 'ref_logps')
  priced = jnp.asarray(beta) != 0
  logps = jnp.where(priced, outputs.logps, ref_logps)
  kls = outputs.kls
  kls = kls if kls is None else jnp.where(priced, kls, 0)
  outputs = outputs.replace(logps=logps, kls=kls)
  return Penalty(*(beta * x for x in KL_TERMS[kl](outputs, batch)))


EXACT = {'reward_exact', 'loss_exact', 'exact'}  # need `Outputs.kls`

BIASED = {  # expected on-policy gradient, where it is not the reverse KL's
  'reward_k2': 'of half the squared log-ratio as a reward',
  'reward_k3': 'of k3 as a reward: it lacks k3 itself',
  'reward_exact': 'of later steps alone: no step answers for its own KL',
  'loss_k1': 'zero: it is noise',
  'loss_k2': 'of each step alone: none answers for the KL of later steps',
  'loss_k3': "the forward KL's, of each step alone",
  'loss_k3_weighted': 'of each step alone: none answers for later steps',
  'loss_exact': 'of each step alone: none answers for the KL of later steps',
}
