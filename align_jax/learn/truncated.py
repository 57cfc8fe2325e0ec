"""Completions that were cut off: (batch, eos_id, penalty) -> batch."""

import jax.numpy as jnp


def unfinished(batch, eos_id):
  """Rows that were cut off: bool [B].

  Args:
    eos_id: the token that ends a row, or all of them [K]; None: nothing does,
      and no row counts as cut off.
  """
  if eos_id is None:
    return jnp.zeros(batch.rewards.shape, bool)
  last = jnp.maximum(batch.valid.sum(1) - 1, 0)[:, None]
  token = jnp.take_along_axis(batch.completions, last, 1)
  return (token != jnp.reshape(jnp.asarray(eos_id), -1)).all(1)


def keep(batch, eos_id, penalty):
  """A completion that was cut off is one like any other."""
  return batch


def mask(batch, eos_id, penalty):
  """No gradient through it (Yu et al. 2025, sec. 3.4: overlong filtering).

  Its reward still counts in the baselines of its group.
  """
  cut = unfinished(batch, eos_id)[:, None]
  return batch.replace(mask=batch.mask & ~cut)


def penalise(batch, eos_id, penalty):
  """Its reward is lower by `penalty` (Huang et al. 2024, detail 4)."""
  cut = unfinished(batch, eos_id)
  return batch.replace(rewards=batch.rewards - penalty * cut)


TRUNCATED = {'keep': keep, 'mask': mask, 'penalise': penalise}
