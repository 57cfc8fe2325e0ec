"""Advantages: how much better an action was than expected."""

import jax
import jax.numpy as jnp

from align_jax import ops


def _grouped(rewards, group_size, what):
  if group_size < 2:
    raise ValueError(f'{what} needs group_size >= 2, got group_size 1')
  grouped = ops.by_group(rewards, group_size)
  # Relative to the first, so that equal rewards leave exactly zero.
  relative = grouped - grouped[:, :1]
  return relative - relative.mean(1, keepdims=True)


def group_centred(rewards, group_size):
  """Reward minus the mean of its group: f32 [B] -> f32 [B].

  Raises:
    ValueError: the group size is 1, where nothing is left.
  """
  return _grouped(rewards, group_size, 'a group baseline').reshape(-1)


def leave_one_out(rewards, group_size):
  """Reward minus the mean of the group's others: f32 [B] -> f32 [B].

  Raises:
    ValueError: the group size is 1, where nothing is left over.
  """
  centred = _grouped(rewards, group_size, 'a leave-one-out baseline')
  return (centred * (group_size / (group_size - 1))).reshape(-1)


def group_normalised(rewards, group_size, ddof=1):
  """Standardised within the group: f32 [B] -> f32 [B].

  No epsilon: a group of equal rewards gives exactly zero, any other exactly
  unit variance (trl and tunix add 1e-4 and 1e-6 to the deviation).

  Args:
    ddof: 1 divides the squares by G - 1, as torch.std does; 0 by G.
  Raises:
    ValueError: the group size is 1.
  """
  centred = _grouped(rewards, group_size, 'a group baseline')
  variance = jnp.square(centred).sum(1, keepdims=True) / (group_size - ddof)
  return (centred / jnp.sqrt(jnp.where(variance > 0, variance, 1))).reshape(-1)


def whiten(x, mask):
  """Divided by the deviation over `mask`, after taking the mean away.

  Args:
    x: f32 [B, T]; mask: bool [B, T].
  Returns:
    f32 [B, T], 0 outside the mask; all zero where all are equal.
  """
  count = jnp.maximum(mask.sum(), 1)
  first = jnp.take(jnp.where(mask, x, 0).reshape(-1), mask.argmax())
  relative = jnp.where(mask, x - first, 0)
  mean = relative.sum() / count
  centred = jnp.where(mask, relative - mean, 0)
  variance = jnp.square(centred).sum() / count
  return centred * jax.lax.rsqrt(jnp.where(variance > 0, variance, 1))


def at_last_token(rewards, mask):
  """f32 [B] -> f32 [B, T]: the row's reward where its mask ends, float32.

  A row without any masked token has no place for it, and gets none.
  """
  slots = jnp.arange(mask.shape[1])
  last = jnp.where(mask, slots, -1).max(1, keepdims=True)
  return jnp.where(slots == last, rewards.astype(jnp.float32)[:, None], 0.0)


def reward_to_go(rewards, mask):
  """Sum of the rewards from each token on: f32 [B, T] -> f32 [B, T]."""
  rewards = jnp.where(mask, rewards, 0)
  return jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]


def gae(rewards, values, mask, *, gamma=1.0, lam=0.95):
  """Generalised advantage estimation (Schulman et al. 2015, eq. 16).

  Nothing is worth anything after the last token, and tokens outside the mask
  are no steps: the next masked token is the next step.

  Args:
    rewards, values: f32 [B, T]; values[t] is worth of the state before token t.
    mask: bool [B, T].
  Returns:
    advantages and returns (advantages + values), f32 [B, T]; 0 outside.
  """

  def step(carry, inputs):
    next_value, next_advantage = carry
    reward, value, on = inputs
    delta = reward + gamma * next_value - value
    advantage = delta + gamma * lam * next_advantage
    carry = (
      jnp.where(on, value, next_value),
      jnp.where(on, advantage, next_advantage),
    )
    return carry, jnp.where(on, advantage, 0)

  zero = jnp.zeros(rewards.shape[0])
  _, advantages = jax.lax.scan(
    step, (zero, zero), (rewards.T, values.T, mask.T), reverse=True
  )
  advantages = advantages.T
  return advantages, jnp.where(mask, advantages + values, 0)
