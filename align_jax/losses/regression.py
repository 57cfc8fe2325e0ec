"""Weighted regression: a policy is fitted to its own samples, reweighed."""

import jax
import jax.numpy as jnp

from align_jax import ops
from align_jax.losses import advantages as adv
from align_jax.losses.kl import as_outputs, writer_logps
from align_jax.losses.row import Loss
from align_jax.losses.surrogate import metrics_of, per_sequence_sum, weighed
from align_jax.types import Batch, Outputs, Scored


def batch_advantages(
  logps: jax.Array | Outputs, batch: Batch
) -> dict[str, jax.Array]:
  """Group-centred rewards over the batch's deviation: {'advantages': f32 [B]}.

  Rows without tokens do not count.
  """
  rewards = batch.rewards.astype(jnp.float32)
  centred = adv.group_centred(rewards, batch.group_size)[:, None]
  there = batch.mask.any(1, keepdims=True)
  return {'advantages': adv.whiten(centred, there)[:, 0]}


def dar(
  logps: jax.Array | Outputs,
  batch: Batch,
  *,
  beta: float = 0.05,
  alpha: float = 0.1,
  cap: float = 20.0,
) -> Scored:
  """Dual-regularised advantage regression (He et al. 2026, arXiv 2602.11523).

  Regression to the optimum of E[A] - beta KL(policy || ref^alpha
  writer^(1 - alpha)), by a weight (ref / writer)^alpha exp(A / beta) for each
  of the writer's completions. On fresh samples it ends, without the cap, at
  ref * exp(A / (alpha beta)) / Z.

  Args:
    logps: f32 [B, T].
    batch: as prepared by `batch_advantages`; needs `ref_logps`,
      `sampler_logps` and group_size >= 2.
    beta: price of a nat, in standard deviations of the batch's advantages.
    alpha: share of the reference in what the KL is from.
    cap: a completion weighs at most this.
  Returns:
    scalar, {weight: rows, reward, kl, capped: share of rows}.
  """
  out = as_outputs(logps)
  ref_logps = ops.there(batch.ref_logps, 'ref_logps')
  # Rows have the sampler's law, unless `weights` make it the policy's.
  own = batch.weights is not None
  drawn = batch if own else batch.replace(policy_logps=None)
  away = ops.masked_sum(ref_logps - writer_logps(drawn), batch.mask)
  log_weight = alpha * away + batch.prepared['advantages'] / beta
  weight = jnp.minimum(jnp.exp(log_weight), cap)
  losses = weighed(-weight[:, None] * out.logps, batch)
  loss, rows = per_sequence_sum(losses, batch)
  capped = (jnp.exp(log_weight) > cap).mean()
  return loss, metrics_of(rows, out, batch, capped=capped)


LOSSES = {
  'dar': Loss(
    dar,
    'He et al. 2026, arXiv 2602.11523',
    rewards='absolute',
    weighted=True,
    prepare=batch_advantages,
  ),
}
