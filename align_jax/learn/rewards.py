"""Rewards: `reward(batch) -> f32 [B]`, from rules, texts or trained models."""

import functools

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


def from_pairwise(judge, decode):
  """How likely each completion wins against its group's others, in [0, 1].

  With G = 2 these are the judge's probability and what is left of one: labels
  of online DPO from AI feedback (Guo et al. 2024, arXiv 2402.04792).

  Args:
    judge: (prompts, firsts, seconds), lists of str -> f32 [B], the probability
      that the first is better, whatever the order.
    decode: Batch -> (prompts, completions), a text per row.
  Raises:
    ValueError: groups of one; not a probability for every pair.
  """

  def reward(batch):
    size = batch.group_size
    if size < 2:
      raise ValueError('pairs need group_size >= 2, got group_size 1')
    prompts, completions = decode(batch)
    starts = np.arange(0, len(completions), size)[:, None]
    i, j = ((starts + x).ravel() for x in np.triu_indices(size, 1))
    pick = lambda texts, index: [texts[k] for k in index]
    chances = np.asarray(
      judge(pick(prompts, i), pick(completions, i), pick(completions, j)),
      np.float32,
    )
    if chances.shape != i.shape or not ((chances >= 0) & (chances <= 1)).all():
      raise ValueError(
        f'judge {judge.__name__!r} must return {len(i)} probabilities, '
        f'returned shape {chances.shape}: {chances}'
      )
    wins = np.zeros(len(completions), np.float32)
    np.add.at(wins, i, chances)
    np.add.at(wins, j, 1 - chances)
    return jnp.asarray(wins / (size - 1))

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
    policy_logps=None,
    ref_logps=None,
    group_size=len(first),
  )


def sign_of_difference(logits, turned):
  """1, 0 or, for a tie, 0.5 by r(x, y1, y2) - r(x, y2, y1) (Tang et al. 2024).

  Args:
    logits: f32 [...], that y1 is preferred, which comes first.
    turned: f32 [...], that y2 is preferred, which comes first.
  """
  return 0.5 + 0.5 * jnp.sign(logits - turned)


def mean_of_orders(logits, turned):
  """Probability of y1, both orders averaged (Guo et al. 2024, sec. 3).

  Args: as in `sign_of_difference`.
  """
  return 0.5 * (jax.nn.sigmoid(logits) + 1 - jax.nn.sigmoid(turned))


def from_preference_model(scores, params, opponents, decide=sign_of_difference):
  """The mean chance to beat fixed completions of the prompt, in [0, 1].

  The same for a completion whatever stands beside it. Both orders of a pair
  are asked, which cancels positional bias.

  Args:
    scores: jitted (params, pair batch) -> f32 logits; a row is one completion
      followed by another, as `ordered_pairs` lays them out.
    opponents: Batch of K completions for each of N prompts; of prompts that
      are there twice, one counts.
    decide: logits of pairs and of the same ones turned -> probabilities.
  Returns:
    Batch -> f32 [B], for prompts of as many slots as the opponents'. Where it
    is traced, the rewards of a prompt without opponents are nan.
  Raises:
    ValueError: by the reward: a prompt without opponents, or of other slots.
  """
  prompts = np.asarray(_canonical(opponents))
  table = np.unique(prompts, axis=0, return_index=True)
  table, opponents = jax.tree.map(jnp.asarray, (table, _bare(opponents)))

  def reward(batch):
    chances, known = _chances(
      scores, decide, params, table, opponents, _bare(batch)
    )
    if not isinstance(known, jax.core.Tracer) and not known.all():
      raise ValueError(
        'a preference model rewards prompts that it has opponents for, got '
        f'{int((~known).sum())} others of {len(known)}: the first is number '
        f'{int(known.argmin())} of the batch'
      )
    return chances

  return reward


def _bare(batch):
  """The batch without what differs by where it is from: one program for all."""
  unread = 'mask rewards sampler_logps policy_logps ref_logps'.split()
  return batch.replace(prepared={}, **dict.fromkeys(unread))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chances(scores, decide, params, table, opponents, batch):
  """-> f32 [B], nan where unknown; whether a prompt is known, bool [P]."""
  prompts, index = table
  place, known = _find(prompts, _canonical(batch))

  def beaten(opponent):
    pairs = _both_orders(batch, *opponent)
    logits = scores(params, pairs).reshape(-1, 2, batch.group_size)
    return decide(logits[:, 0], logits[:, 1])

  def turns(x):
    x = ops.by_group(x, opponents.group_size)[index[place]]
    return jnp.moveaxis(x, 1, 0)

  # One opponent at a time, or a batch would grow by as many.
  each = turns(opponents.completions), turns(opponents.valid)
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


def preferences(reward):
  """Rewards as probabilities to win, under Bradley-Terry: in (0, 1).

  A completion's is the mean over its group's others of sigmoid(r - r'), which
  is what the losses of games and of labelled rows expect; 0.5 is a tie.

  Args:
    reward: Batch of groups of at least two -> f32 [B].
  """

  def wins(batch):
    rewards = ops.by_group(reward(batch), batch.group_size)
    chances = jax.nn.sigmoid(rewards[:, :, None] - rewards[:, None])
    # The diagonal is a tie with oneself: half a win too many.
    return ((chances.sum(2) - 0.5) / (batch.group_size - 1)).reshape(-1)

  return wins


def standardised(reward, mean, deviation):
  """The reward in units of a fixed deviation around a fixed mean.

  With the reference's mean and deviation the reference scores 0 (Huang et al.
  2024, detail 3).
  """
  return lambda batch: (reward(batch) - mean) / deviation


# --- Ensembles: rewards of M members f32 [M, B] -> f32 [B] --------------------


def ensemble_mean(scores, weight):
  """The members' mean (Coste et al. 2023, eq. 2)."""
  return scores.mean(0)


def worst_case(scores, weight):
  """The least of the members' scores (Coste et al. 2023, eq. 3)."""
  return scores.min(0)


def uncertainty_weighted(scores, weight):
  """Mean less `weight` times the variance (Coste et al. 2023, eq. 4)."""
  return scores.mean(0) - weight * scores.var(0)


def ensemble(members, combine, weight=0.5):
  """Several reward models as one.

  Args:
    members: a list of rewards, Batch -> f32 [B].
    combine: a function of ENSEMBLES.
    weight: of the variance, where `combine` uses it.
  """
  return lambda batch: combine(jnp.stack([r(batch) for r in members]), weight)


ENSEMBLES = {
  'mean': ensemble_mean,
  'worst_case': worst_case,
  'uncertainty_weighted': uncertainty_weighted,
}


# --- Completions that were cut off: (batch, eos_id, penalty) -> batch ---------


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


# --- Rules over texts -------------------------------------------------------


def brevity(prompts, completions):
  """Minus the number of words."""
  return [-len(text.split()) for text in completions]


REWARDS = {  # rules over texts, by the name configs use
  'brevity': brevity,
}
