"""Losses of games: the second row of a pair comes from another policy."""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses.preference import log_ratios
from align_jax.losses.row import Loss
from align_jax.types import Batch, Scored


def _duels(batch, name):
  if batch.group_size != 2:
    raise ValueError(
      f'{name} needs group_size 2: a completion of the policy and one of its '
      f'opponent, got group_size {batch.group_size}'
    )
  return ops.by_group(batch.rewards, 2)


def nash_md(logps: jax.Array, batch: Batch, *, beta: float = 0.05) -> Scored:
  """Nash-MD's policy gradient (Munos et al. 2023, sec. 7).

  (P(y > y') - 1/2 - beta log-ratio(y)) grad log pi(y), where the opponent y' is
  drawn from the geometric mixture of policy and reference. At the fixed point
  the policy is ref exp(P(y > y') / beta) / Z, the best response to that
  mixture. It is the Nash equilibrium of the regularised game only if the
  mixture is the policy itself.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`. The first row of each pair is the policy's, the
      second its opponent's. `rewards` are the rows' win probabilities.
    beta: price of a nat (tau in the paper), in probability.
  Returns:
    scalar (its gradient matters), {weight: pairs, reward: of the policy, kl}.
  """
  ops.require_own_samples(batch)
  wins = _duels(batch, 'nash_md')[:, 0]
  ratios = jax.lax.stop_gradient(log_ratios(logps, batch))
  ratios = ops.by_group(ratios, 2)[:, 0]
  seq_logps = ops.by_group(ops.masked_sum(logps, batch.mask), 2)[:, 0]
  advantages = wins - 0.5 - beta * ratios
  return -(advantages * seq_logps).mean(), {
    'weight': jnp.float32(wins.size),
    'reward': wins.mean(),
    'kl': ratios.mean(),
  }


def xpo(
  logps: jax.Array,
  batch: Batch,
  *,
  beta: float = 0.1,
  alpha: float = 1e-3,
) -> Scored:
  """Exploratory preference optimisation (Xie et al. 2024, eq. 5).

  Online DPO plus an optimism term, which lowers the likelihood of the
  reference's completions.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`. The first row of each pair is the policy's, the
      second the reference's.
    beta: strength of the KL term, per nat.
    alpha: strength of the optimism term, per nat.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats}. A tied pair has only the
    optimism term.
  """
  rewards = _duels(batch, 'xpo')
  ratios = ops.by_group(log_ratios(logps, batch), 2)
  seq_logps = ops.by_group(ops.masked_sum(logps, batch.mask), 2)
  sign = jnp.sign(rewards[:, 0] - rewards[:, 1])
  margin = sign * (ratios[:, 0] - ratios[:, 1])
  decided = (sign != 0).astype(jnp.float32)
  losses = decided * jax.nn.softplus(-beta * margin) + alpha * seq_logps[:, 1]
  return losses.mean(), {
    'weight': jnp.float32(margin.size),
    'accuracy': (decided * (margin > 0)).mean(),
    'margin': (decided * margin).mean(),
  }


LOSSES = {
  'nash_md': Loss(
    nash_md,
    'Munos et al. 2023, sec. 7',
    rows='duel',
    rewards='chances',
    off={'beta': 0.0},
  ),
  'xpo': Loss(xpo, 'Xie et al. 2024, eq. 5', rows='duel', off={'alpha': 0.0}),
}
