"""Losses: `(outputs, batch, **hparams) -> (scalar, metrics)`.

`outputs` are token log-probs f32 [B, T] or, for reward models, scores f32 [B].
A loss knows no model and no config. Its scalar is a mean whose denominator is
`metrics['weight']`, so that microbatches recombine to the same gradient.
"""

from align_jax.losses import policy_gradient, preference, supervised

LOSSES = {
  **supervised.LOSSES,
  **preference.LOSSES,
  **policy_gradient.LOSSES,
}
