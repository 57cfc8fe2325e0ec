"""Rewards: `reward(batch) -> f32 [B]`, from rules, texts or trained models."""

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops


def from_model(scores, params):
  """The score of a trained reward model.

  Args:
    scores: jitted (params, batch) -> f32 [B].
  """
  return lambda batch: scores(params, batch)


def from_text(fn, decode):
  """A rule over texts, run on the host.

  Args:
    fn: (prompts, completions), lists of str -> one number per completion.
    decode: Batch -> (prompts, completions), a text per row.
  Raises:
    ValueError: `fn` returned another count than one number per completion, or
      a number that is not finite.
  """

  def reward(batch):
    prompts, completions = decode(batch)
    values = np.asarray(fn(prompts, completions), np.float32)
    if values.shape != (len(completions),) or not np.isfinite(values).all():
      raise ValueError(
        f'reward {fn.__name__!r} must return {len(completions)} finite '
        f'numbers, returned shape {values.shape}: {values}'
      )
    return jnp.asarray(values)

  return reward


def ordered_pairs(batch):
  """Every ordered pair of a group's completions, as rows for a pairwise model.

  A row is the first completion followed by the second; its reward is the
  probability that the first one is preferred: 1, 0, or 0.5 for a tie.

  Args:
    batch: G >= 2; completions [B, T].
  Returns:
    Batch with G (G - 1) rows of 2 T tokens per prompt; first index major.
  """
  size = batch.group_size
  if size < 2:
    raise ValueError('pairs need group_size >= 2, got group_size 1')
  first, second = np.nonzero(~np.eye(size, dtype=bool))

  def pairs(x):
    x = ops.by_group(x, size)
    x = jnp.concatenate([x[:, first], x[:, second]], axis=2)
    return x.reshape(-1, x.shape[2])

  rewards = ops.by_group(batch.rewards, size)
  better = jnp.sign(rewards[:, first] - rewards[:, second])
  return batch.replace(
    completions=pairs(batch.completions),
    valid=pairs(batch.valid),
    mask=pairs(batch.mask),
    rewards=(0.5 + 0.5 * better).reshape(-1),
    sampler_logps=None,
    ref_logps=None,
    group_size=len(first),
  )


def from_preference_model(scores, params):
  """Share of the group's others that each completion is preferred to.

  A pair is decided by the sign of r(x, y1, y2) - r(x, y2, y1), which cancels
  positional bias (Tang et al. 2024, sec. 3); a tie counts one half.

  Args:
    scores: jitted (params, pair batch) -> f32 logits, as `ordered_pairs` lays
      them out.
  """

  @jax.jit
  def wins(params, batch):
    size = batch.group_size
    first, second = np.nonzero(~np.eye(size, dtype=bool))
    logits = scores(params, ordered_pairs(batch))
    table = jnp.zeros((batch.num_prompts, size, size))
    table = table.at[:, first, second].set(ops.by_group(logits, len(first)))
    won = 0.5 + 0.5 * jnp.sign(table - table.swapaxes(1, 2))
    # The diagonal is a tie with oneself: half a win too many.
    return ((won.sum(2) - 0.5) / (size - 1)).reshape(-1)

  return lambda batch: wins(params, batch)


def brevity(prompts, completions):
  """Minus the number of words."""
  return [-len(text.split()) for text in completions]


REWARDS = {  # rules over texts, by the name configs use
  'brevity': brevity,
}
