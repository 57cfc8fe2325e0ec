"""PPO: clipped ratios, and a critic for the advantages."""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import advantages as adv
from align_jax.losses.kl import penalty_of
from align_jax.losses.surrogate import (
  clipped_loss,
  per_token,
  single,
  with_kl,
)
from align_jax.types import Batch, Outputs, Scored


def gae_targets(
  outputs: Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
  gamma: float = 1.0,
  lam: float = 0.95,
  whiten: float = 1.0,
) -> dict[str, jax.Array]:
  """Advantages, returns and old values of a rollout, each f32 [B, T].

  The last token gets the reward. Each token gets its own KL term.
  """
  penalty = penalty_of(kl, outputs, batch, beta)
  rewards = adv.at_last_token(batch.rewards, batch.mask) - penalty.reward
  old = ops.there(outputs.values, 'values')
  values = jax.lax.stop_gradient(jnp.where(batch.mask, old, 0))
  advantages, returns = adv.gae(
    rewards, values, batch.mask, gamma=gamma, lam=lam
  )
  white = adv.whiten(advantages, batch.mask)
  return {
    'advantages': whiten * white + (1 - whiten) * advantages,
    'returns': returns,
    'values': values,
  }


def ppo(
  outputs: Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  kl: str = 'reward_k1',
  gamma: float = 1.0,
  lam: float = 0.95,
  clip: float = 0.2,
  value_clip: float = 0.2,
  value_coef: float = 0.1,
  whiten: float = 1.0,
) -> Scored:
  """Proximal policy optimisation with a value head (Schulman et al. 2017).

  As used for RLHF (Ouyang et al. 2022, Huang et al. 2024, arXiv 2403.17031):
  per-token KL in the reward, GAE, clipped values, several epochs over a
  rollout. Assume gamma = 1, and either lam = 1 or an exact critic. Then, in the
  first epoch and a large batch, the policy's expected gradient is that of
  E[r] - beta KL divided by the mean length. Otherwise the critic's error
  enters. Whitening only divides by the advantages' standard deviation.

  Args:
    outputs: `Outputs` with `values` (and `kls` for an exact `kl`).
    batch: as prepared by `gae_targets`. Needs `ref_logps`, `sampler_logps`.
    beta: price of a nat, in units of reward.
    kl: a name in `kl.KL_TERMS`.
    gamma, lam: discount, and decay of GAE.
    clip: the token's probability ratio is clipped to 1 -+ clip.
    value_clip: a value is clipped to its value at the rollout -+ value_clip.
    value_coef: weight of the critic's loss.
    whiten: 1 standardises advantages over the batch's tokens, 0 does not.
  Returns:
    scalar, {weight: tokens, reward, kl, clipped, value_loss}.
  """
  penalty = penalty_of(kl, outputs, batch, beta).loss
  prepared = batch.prepared
  loss, metrics = clipped_loss(
    outputs, batch, prepared['advantages'], penalty, clip, clip, per_token
  )
  values = ops.there(outputs.values, 'values').astype(jnp.float32)
  values = jnp.where(batch.mask, values, 0)
  near = jnp.clip(
    values, prepared['values'] - value_clip, prepared['values'] + value_clip
  )
  error = jnp.maximum(
    jnp.square(values - prepared['returns']),
    jnp.square(near - prepared['returns']),
  )
  value_loss = 0.5 * per_token(error, batch)[0]
  metrics = {**metrics, 'value_loss': value_loss}
  return loss + value_coef * value_loss, metrics


LOSSES = {
  'ppo': single(
    ppo,
    'Schulman et al. 2017',
    needs=with_kl('logps', 'values'),
    rewards='absolute',
    prepare=gae_targets,
  ),
}
