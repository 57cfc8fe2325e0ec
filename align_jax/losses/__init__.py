"""Losses: `(outputs, batch, **hparams) -> (scalar, metrics)`.

`outputs` are token log-probs f32 [B, T], scores f32 [B] for reward models, or
`types.Outputs` where more is needed. A loss knows no model and no config. Its
scalar is a mean whose denominator is `metrics['weight']`, so that microbatches
recombine to the same gradient.

What a loss needs of the whole batch, such as advantages standardised over it,
is computed before the batch is split: `PREPARE[name]`, of the same arguments,
returns arrays [B, ...] that the loss finds in `batch.prepared`.
"""

import inspect

from align_jax.losses import game, policy_gradient, preference, supervised

LOSSES = {
  **supervised.LOSSES,
  **preference.LOSSES,
  **policy_gradient.LOSSES,
  **game.LOSSES,
}

PREPARE = {**preference.PREPARE, **policy_gradient.PREPARE}


def hparams_of(loss):
  """{name: default} of what a loss may be told."""
  parameters = inspect.signature(loss).parameters.values()
  keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
  return {p.name: p.default for p in keywords}


def prepared(name, outputs, batch, hparams):
  """The batch with what the loss of that name needs of all of it."""
  if name not in PREPARE:
    return batch
  known = hparams_of(PREPARE[name])
  chosen = {k: v for k, v in hparams.items() if k in known}
  return batch.replace(prepared=PREPARE[name](outputs, batch, **chosen))
