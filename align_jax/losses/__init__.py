"""Losses: `(outputs, batch, **hparams) -> (scalar, metrics)`.

A loss knows neither the model nor the config. Its row in `LOSSES` says what it
needs, see `row.Loss`. Its scalar is a mean with denominator
`metrics['weight']`, so microbatches add up to the same gradient.
"""

from collections.abc import Mapping

from align_jax.losses import (
  game,
  group_relative,
  policy_gradient,
  ppo,
  preference,
  reference_free,
  regression,
  supervised,
  trust_region,
)
from align_jax.losses.row import Loss, hparams_of
from align_jax.types import Batch, Outputs

__all__ = 'LOSSES', 'Loss', 'hparams_of', 'prepared'

LOSSES = {
  **supervised.LOSSES,
  **preference.LOSSES,
  **reference_free.LOSSES,
  **policy_gradient.LOSSES,
  **group_relative.LOSSES,
  **ppo.LOSSES,
  **trust_region.LOSSES,
  **regression.LOSSES,
  **game.LOSSES,
}


def prepared(
  name: str, outputs: Outputs, batch: Batch, hparams: Mapping
) -> Batch:
  """The batch with `prepared`, which the loss computes on the whole batch."""
  prepare = LOSSES[name].prepare
  if not prepare:
    return batch
  known = hparams_of(prepare)
  chosen = {k: v for k, v in hparams.items() if k in known}
  return batch.replace(prepared=prepare(outputs, batch, **chosen))
