"""Advantages: how much better an action was than expected."""

import jax
import jax.numpy as jnp

from align_jax import ops


def _grouped(rewards, group_size, what):
  if group_size < 2:
    raise ValueError(f'{what} needs group_size >= 2, got group_size 1')
  grouped = ops.by_group(rewards, group_size)
  # Subtracting the first reward makes equal rewards give exactly zero.
  relative = grouped - grouped[:, :1]
  return relative - relative.mean(1, keepdims=True)


def group_centred(rewards: jax.Array, group_size: int) -> jax.Array:
  """Reward minus the mean of its group: f32 [B] -> f32 [B].

  Raises:
    ValueError: the group size is 1.
  """
  return _grouped(rewards, group_size, 'a group baseline').reshape(-1)


def leave_one_out(rewards: jax.Array, group_size: int) -> jax.Array:
  """Reward minus the mean of the rest of its group: f32 [B] -> f32 [B].

  Raises:
    ValueError: the group size is 1.
  """
  centred = _grouped(rewards, group_size, 'a leave-one-out baseline')
  return (centred * (group_size / (group_size - 1))).reshape(-1)


def group_normalised(
  rewards: jax.Array, group_size: int, ddof: int = 1
) -> jax.Array:
  """Rewards standardised within each group: f32 [B] -> f32 [B].

  There is no epsilon. A group of equal rewards gives exactly zero, any other
  exactly unit variance. TRL and Tunix add 1e-4 and 1e-6 to the standard
  deviation.

  Args:
    ddof: 1 divides the sum of squares by G - 1, as torch.std does. 0: by G.
  Raises:
    ValueError: the group size is 1.
  """
  centred = _grouped(rewards, group_size, 'a group baseline')
  variance = jnp.square(centred).sum(1, keepdims=True) / (group_size - ddof)
  return (centred / jnp.sqrt(jnp.where(variance > 0, variance, 1))).reshape(-1)


def whiten(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Standardises `x` over the mask.

  Args:
    x: f32 [B, T].
    mask: bool [B, T].
  Returns:
    f32 [B, T], 0 outside the mask. All zero if all values are equal.
  """
  count = jnp.maximum(mask.sum(), 1)
  first = jnp.take(jnp.where(mask, x, 0).reshape(-1), mask.argmax())
  relative = jnp.where(mask, x - first, 0)
  mean = relative.sum() / count
  centred = jnp.where(mask, relative - mean, 0)
  variance = jnp.square(centred).sum() / count
  return centred * jax.lax.rsqrt(jnp.where(variance > 0, variance, 1))


def at_last_token(rewards: jax.Array, mask: jax.Array) -> jax.Array:
  """Each row's reward at its last masked token: f32 [B] -> f32 [B, T].

  A row without masked tokens gets no reward.
  """
  slots = jnp.arange(mask.shape[1])
  last = jnp.where(mask, slots, -1).max(1, keepdims=True)
  return jnp.where(slots == last, rewards.astype(jnp.float32)[:, None], 0.0)


def reward_to_go(rewards: jax.Array, mask: jax.Array) -> jax.Array:
  """Sum of the rewards from each token onwards: f32 [B, T] -> f32 [B, T]."""
  rewards = jnp.where(mask, rewards, 0)
  return jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]


def gae(
  rewards: jax.Array,
  values: jax.Array,
  mask: jax.Array,
  *,
  gamma: float = 1.0,
  lam: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation (Schulman et al. 2015, eq. 16).

  The value after the last token is 0. Tokens outside the mask are not steps:
  the next masked token is the next step.

  Args:
    rewards: f32 [B, T].
    values: f32 [B, T], of the state before each token.
    mask: bool [B, T].
  Returns:
    advantages and returns (advantages + values), f32 [B, T], 0 outside the
    mask.
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
