"""Policy gradients on sampled rewards."""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import preference


def leave_one_out(rewards, group_size):
  """Reward minus the mean of the group's others: f32 [B] -> f32 [B].

  Raises:
    ValueError: the group size is 1, where nothing is left over.
  """
  if group_size < 2:
    raise ValueError(
      'a leave-one-out baseline needs group_size >= 2, got group_size 1'
    )
  grouped = ops.by_group(rewards, group_size)
  # Relative to the first, so that equal rewards leave exactly zero.
  relative = grouped - grouped[:, :1]
  centred = relative - relative.mean(1, keepdims=True)
  return (centred * (group_size / (group_size - 1))).reshape(-1)


def rloo(logps, batch, *, beta=0.05):
  """REINFORCE leave-one-out, the KL in the reward (Ahmadian et al. 2024).

  Maximises E[r] - beta KL(policy || reference); with samples of the current
  policy the gradient is unbiased for it. The whole completion is one action.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`; group_size >= 2; `rewards` f32 [B].
    beta: price of a nat, in units of reward.
  Returns:
    scalar (its gradient matters, not its value), {weight: rows, reward,
    kl: mean log-ratio in nats}.
  """
  ratios = jax.lax.stop_gradient(preference.log_ratios(logps, batch))
  advantages = leave_one_out(batch.rewards - beta * ratios, batch.group_size)
  seq_logps = ops.masked_sum(logps, batch.mask)
  return -(advantages * seq_logps).mean(), {
    'weight': jnp.float32(advantages.size),
    'reward': batch.rewards.mean(),
    'kl': ratios.mean(),
  }


LOSSES = {'rloo': rloo}
