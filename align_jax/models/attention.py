"""Attention over keys and values that are stored in several arrays."""

import jax
import jax.numpy as jnp

from align_jax.models.layers import soft_cap

MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


def masked(scores, mask, softcap=None):
  """Scores in float32, capped, and `MASKED` where the mask is False."""
  scores = soft_cap(scores.astype(jnp.float32), softcap)
  return jnp.where(mask, scores, MASKED)


@jax.named_scope('attention')
def attend(q, parts, softcap=None):
  """Softmax attention over all keys of all parts.

  The parts are never concatenated. The sum of the weights divides the weighted
  values, not the weights. Doing otherwise would copy the largest arrays.

  Args:
    q: [..., T, H], scaled.
    parts: a list of (equations, keys, values, mask). The equations are one of
      `PROMPT`, `SHARED` and `OWN`, which give the shapes of keys and values.
      The mask broadcasts to the scores [..., T, keys].
    softcap: of the scores, see `layers.soft_cap`.
  Returns:
    the shape and dtype of q. Finite also where the mask hides every key.
  """

  def score(equations, keys, mask):
    return masked(jnp.einsum(equations[0], q, keys), mask, softcap)

  parts = [part for part in parts if part[1].shape[-2]]  # not empty
  scores = [score(equations, k, mask) for equations, k, _, mask in parts]
  tops = [s.max(-1, keepdims=True) for s in scores]
  top = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, tops))
  weights = [jnp.exp(s - top) for s in scores]
  total = sum(w.sum(-1, keepdims=True) for w in weights)
  values = sum(
    jnp.einsum(equations[1], w.astype(q.dtype), v)
    for w, (equations, _, v, _) in zip(weights, parts)
  )
  return (values / total).astype(q.dtype)


# The einsum of the scores, then that of the weighted values.
PROMPT = 'pkrsh,pkth->pkrst', 'pkrst,pkth->pkrsh'  # one sequence
SHARED = 'pkgrth,pksh->pkgrts', 'pkgrts,pksh->pkgrth'  # one for all G
OWN = 'pkgrth,pkguh->pkgrtu', 'pkgrtu,pkguh->pkgrth'  # each of G its own
