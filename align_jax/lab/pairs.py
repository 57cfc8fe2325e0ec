"""Samples of the reference: gold-labelled pairs, and opponents."""

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import hosts, tasks
from align_jax.lab.streams import NOISE, OPPONENTS, stream
from align_jax.learn import batches, finite, stopping
from align_jax.policy.programs import policy_programs, sampler


def sample_parts(draw, params, prompts, key, size, finish):
  """Completions, sampled in parts.

  Args:
    draw: (params, prompts, valid, key) -> Batch.
    prompts: N Prompts.
    size: prompts sampled at once.
    finish: Batch -> Batch, applied to each part.
  Returns:
    Batch of N prompts, on the host.
  """
  parts = []
  for start in range(0, len(prompts), size):
    stopping.check(f'while the reference answers {len(prompts)} prompts')
    # The last batch wraps around, so all batches have one shape.
    rows = np.arange(start, start + size) % len(prompts)
    batch = draw(params, *prompts[rows], jax.random.fold_in(key, start))
    parts.append(finish(batch))
  return batches.take(batches.concatenate(parts), np.arange(len(prompts)))


def sample_pairs(task, params, prompts, seed, which, size, num, writers=None):
  """`num` gold-labelled pairs on random prompts.

  Pairs that the task does not cover are drawn anew.

  Args:
    params: of the reference, which annotates them.
    writers: their sampler and its parameters. None: the reference writes.
  Returns:
    Batch of `num` prompts with G = 2 and rewards (1, 0), or (0.5, 0.5) for
    ties, annotated with the policy as the reference.
  """
  _, _, annotate = policy_programs(task.model)

  def labelled(batch):
    gold = finite.check_scores('gold, of golden pairs', task.gold(batch))
    gold = hosts.fetch(gold).reshape(-1, 2)
    labels = 0.5 + 0.5 * np.sign(gold - gold[:, ::-1])
    batch = batch.replace(rewards=jnp.float32(labels.reshape(-1)))
    return annotate(params, batch)

  rng, key = np.random.default_rng([seed, which]), stream(seed, which)
  draw, written_by = writers or (sampler(task, 2), params)
  found, missing = [], num
  while missing > 0:
    drawn = tasks.Prompts(*prompts[rng.integers(0, len(prompts), num)])
    pairs = sample_parts(draw, written_by, drawn, key, size, labelled)
    pairs = covered(task, pairs)
    found.append(pairs)
    missing -= pairs.num_prompts
    key = jax.random.fold_in(key, num)  # parts have the numbers below
  return batches.take(batches.concatenate(found), np.arange(num))


def covered(task, pairs):
  """The pairs of which the task covers both completions.

  Raises:
    ValueError: it covers none of these pairs.
  """
  if task.covered is None:
    return pairs
  both = np.asarray(task.covered(pairs)).reshape(-1, 2).all(1)
  if not both.any():
    raise ValueError(
      f'golden.pairs: of {len(both)} pairs the task covers none, expected one '
      'or more'
    )
  return batches.take(pairs, np.flatnonzero(both))


def sample_opponents(task, params, seed, size, num):
  """Fixed completions of the policy, the opponents of a preference model.

  Returns:
    Batch of G = `num` for each distinct train or eval prompt.
  """
  both = zip(task.train_prompts[:], task.eval_prompts[:])
  tokens, valid = map(np.concatenate, both)
  rows = np.where(valid, tokens, -1)
  index = np.unique(rows, axis=0, return_index=True)[1]
  prompts = tasks.Prompts(tokens[index], valid[index])
  key = stream(seed, OPPONENTS)
  bare = lambda batch: batch.replace(sampler_logps=None)
  draw = sampler(task, num)
  return sample_parts(draw, params, prompts, key, size, bare)


def flip(pairs, share, seed):
  """The pairs with a random share of their labels flipped."""
  rng = np.random.default_rng([seed, NOISE])
  wrong = np.repeat(rng.random(pairs.num_prompts) < share, 2)
  return pairs.replace(
    rewards=jnp.where(wrong, 1 - pairs.rewards, pairs.rewards)
  )
