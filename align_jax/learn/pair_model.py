"""A preference model as a reward: which of two completions is better."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.policy.programs import bare


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
    policy_logps=None,
    ref_logps=None,
    group_size=len(first),
  )


def sign_of_difference(logits, swapped):
  """1, 0 or, for a tie, 0.5 by r(x, y1, y2) - r(x, y2, y1) (Tang et al. 2024).

  Args:
    logits: f32 [...], that y1 is preferred, which comes first.
    swapped: f32 [...], that y2 is preferred, which comes first.
  """
  return 0.5 + 0.5 * jnp.sign(logits - swapped)


def mean_of_orders(logits, swapped):
  """Probability of y1, both orders averaged (Guo et al. 2024, sec. 3).

  Args: as in `sign_of_difference`.
  """
  return 0.5 * (jax.nn.sigmoid(logits) + 1 - jax.nn.sigmoid(swapped))


def from_preference_model(scores, params, opponents, decide=sign_of_difference):
  """The mean chance to beat fixed completions of the prompt, in [0, 1].

  The same for a completion whatever stands beside it. Both orders of a pair
  are asked, which cancels positional bias.

  Args:
    scores: jitted (params, pair batch) -> f32 logits; a row is one completion
      followed by another, as `ordered_pairs` lays them out.
    opponents: Batch of K completions for each of N prompts; of prompts that
      are there twice, one counts.
    decide: logits of pairs and of the same ones swapped -> probabilities.
  Returns:
    Batch -> f32 [B], for prompts of as many slots as the opponents'. Where it
    is traced, the rewards of a prompt without opponents are nan.
  Raises:
    ValueError: by the reward: a prompt without opponents, or of other slots.
  """
  prompts = np.asarray(_canonical(opponents))
  table = np.unique(prompts, axis=0, return_index=True)
  table, opponents = jax.tree.map(jnp.asarray, (table, bare(opponents)))

  def reward(batch):
    chances, known = _chances(
      scores, decide, params, table, opponents, bare(batch)
    )
    if not isinstance(known, jax.core.Tracer) and not known.all():
      raise ValueError(
        'a preference model rewards prompts that it has opponents for, got '
        f'{int((~known).sum())} others of {len(known)}: the first is number '
        f'{int(known.argmin())} of the batch'
      )
    return chances

  return reward


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chances(scores, decide, params, table, opponents, batch):
  """-> f32 [B], nan where unknown; whether a prompt is known, bool [P]."""
  prompts, index = table
  place, known = _find(prompts, _canonical(batch))

  def beaten(opponent):
    pairs = _both_orders(batch, *opponent)
    logits = scores(params, pairs).reshape(-1, 2, batch.group_size)
    return decide(logits[:, 0], logits[:, 1])

  def by_opponent(x):
    x = ops.by_group(x, opponents.group_size)[index[place]]
    return jnp.moveaxis(x, 1, 0)

  # One opponent at a time, or a batch would grow by as many.
  each = by_opponent(opponents.completions), by_opponent(opponents.valid)
  chances = jax.lax.map(beaten, each).mean(0)
  return jnp.where(known[:, None], chances, jnp.nan).reshape(-1), known


def _canonical(batch):
  """The prompts, whatever their padding is filled with: int [P, S]."""
  return jnp.where(batch.prompt_valid, batch.prompts, -1)


def _find(table, rows):
  """Where rows are in a table, by bisection: never [P, N] of anything.

  Args:
    table: int [N, S], sorted by the first slot, then the next.
    rows: int [P, S].
  Returns:
    int [P], and whether the row is there, bool [P].
  """
  if table.shape[1] != rows.shape[1]:
    raise ValueError(
      f'prompts of {rows.shape[1]} slots, expected the {table.shape[1]} of the '
      'prompts with opponents'
    )

  def before(x, y):
    slot = jnp.argmax(x != y, axis=1)
    return ops.pick(x, slot) < ops.pick(y, slot)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    above = before(table[middle], rows)
    return jnp.where(above, middle + 1, low), jnp.where(above, high, middle)

  last = len(table) - 1
  bounds = jnp.zeros(len(rows), int), jnp.full(len(rows), last)
  low, _ = jax.lax.fori_loop(0, len(table).bit_length(), halve, bounds)
  place = jnp.minimum(low, last)
  return place, (table[place] == rows).all(1)


def _both_orders(batch, completions, valid):
  """Rows in front of one opponent per prompt, then that one in front of them.

  Args:
    batch: P prompts of G completions [B, T].
    completions, valid: [P, T'], of the opponents.
  Returns:
    Batch with 2 G rows of T + T' tokens per prompt.
  """
  size = batch.group_size

  def pairs(own, other):
    own = ops.by_group(own, size)
    other = jnp.repeat(other[:, None], size, 1)
    orders = [jnp.concatenate(x, 2) for x in ((own, other), (other, own))]
    rows = jnp.concatenate(orders, 1)
    return rows.reshape(-1, rows.shape[2])

  return batch.replace(
    completions=pairs(batch.completions, completions),
    valid=pairs(batch.valid, valid),
    group_size=2 * size,
  )


def group_preferences(scores, params, decide=sign_of_difference):
  """How far each completion is preferred to its group's others, in [0, 1].

  What games are played for: no measure of a completion, since its mean over a
  group is one half whatever the policy.

  Args: as in `from_preference_model`.
  """

  @jax.jit
  def wins(params, batch):
    size = batch.group_size
    first, second = np.nonzero(~np.eye(size, dtype=bool))
    logits = scores(params, ordered_pairs(batch))
    table = jnp.zeros((batch.num_prompts, size, size))
    table = table.at[:, first, second].set(ops.by_group(logits, len(first)))
    chances = decide(table, table.swapaxes(1, 2))
    # The diagonal is a tie with oneself: half a win too many.
    return ((chances.sum(2) - 0.5) / (size - 1)).reshape(-1)

  return lambda batch: wins(params, batch)
