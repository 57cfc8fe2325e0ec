"""The optimum of a reward on a stage's eval prompts, see `compare.tempering`.

A move keeps the first few tokens of a completion and draws the rest anew from
the reference. That the reference is reversible under it holds for completions
of any length: one that has ended by then stays as it is.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np

from align_jax import hosts
from align_jax.compare import reweigh
from align_jax.compare.tempering import TILTS, kl_of, temper
from align_jax.lab.streams import TEMPER, stream
from align_jax.learn import stopping
from align_jax.policy.programs import sampler
from align_jax.types import Batch

# Numbers of tokens that moves keep, at most. Each is a program to compile.
MOST_CUTS = 8


def tempered_points(stage, reward, size, rows):
  """Points of the optimum at ever larger KL, the reference first.

  Args:
    reward: Batch -> f32 [B], scores each completion by itself.
    size: particles per prompt.
    rows: prompts at once.
  """
  starts = [
    _Population(stage, reward, size, slice(first, first + rows))
    for first in range(0, len(stage.task.eval_prompts), rows)
  ]
  rewards = np.concatenate([x.start['rewards'] for x in starts])
  deviation = reweigh.deviation_of(rewards)
  tilts = [tilt / deviation for tilt in TILTS]
  for points in zip(*(x.pools(tilts) for x in starts)):
    pools, kls, beta = zip(*points)
    whole = reweigh.Pool(
      *(
        np.concatenate([getattr(pool, field.name) for pool in pools])
        for field in dataclasses.fields(reweigh.Pool)
      )
    )
    yield {**reweigh.even_point(whole, np.concatenate(kls)), 'beta': beta[0]}


class _Population:
  """Particles of some of the eval prompts.

  Attributes:
    start: `tempering.Particles` of the reference.
  """

  def __init__(self, stage, reward, size, which):
    self.stage, self.reward, self.size = stage, reward, size
    self.prompts, self.valid = stage.task.eval_prompts[which]
    key = jax.random.fold_in(stream(stage.seed, TEMPER), which.start)
    keys = (jax.random.fold_in(key, i) for i in itertools.count())
    self.next_key = functools.partial(next, keys)
    self.rng = np.random.default_rng([stage.seed, TEMPER, which.start])
    draw = sampler(stage.task, size)
    batch = draw(stage.reference, self.prompts, self.valid, self.next_key())
    self.start = self.particles(*hosts.fetch((batch.completions, batch.valid)))

  def pools(self, tilts):
    """Yields a Pool of equal weights, its KLs [E] and beta."""
    yield self.pool(self.start), np.zeros(len(self.prompts)), float('inf')
    length = self.stage.task.max_new_tokens
    number = min(length, MOST_CUTS)
    cuts = np.arange(number) * length // number
    moves = [functools.partial(self.move, int(cut)) for cut in cuts]
    for tilt, particles, log_z in temper(self.start, moves, tilts, self.rng):
      kls = kl_of(tilt, particles, log_z)
      yield self.pool(particles), kls, float(1 / tilt)

  def batch(self, completions, valid):
    """Rows [E * N, T] as a Batch."""
    return Batch(
      prompts=self.prompts,
      prompt_valid=self.valid,
      completions=completions,
      valid=valid,
      mask=valid,
      rewards=np.zeros(len(valid), np.float32),
      group_size=self.size,
    )

  def by_prompt(self, x):
    return np.asarray(x).reshape(-1, self.size, *np.shape(x)[1:])

  def particles(self, completions, valid):
    rewards = hosts.fetch(self.reward(self.batch(completions, valid)))
    columns = dict(completions=completions, valid=valid, rewards=rewards)
    return {name: self.by_prompt(x) for name, x in columns.items()}

  def rows(self, particles):
    """Completions and what of them is valid: [E * N, T] each."""
    both = particles['completions'], particles['valid']
    return [x.reshape(-1, x.shape[-1]) for x in both]

  def pool(self, particles):
    task, batch = self.stage.task, self.batch(*self.rows(particles))
    scores = hosts.fetch((task.gold(batch), self.stage.proxy(batch)))
    gold, proxy = map(self.by_prompt, scores)
    rewards = particles['rewards']
    return reweigh.Pool(rewards, gold, proxy, np.zeros(rewards.shape))

  def move(self, cut, particles):
    """Proposes completions that are the reference's after `cut` tokens."""
    stopping.check('while particles are moved')
    old, valid = self.rows(particles)
    task, repeated = self.stage.task, lambda x: np.repeat(x, self.size, 0)
    rest = dataclasses.replace(task, max_new_tokens=task.max_new_tokens - cut)
    drawn = sampler(rest, 1)(
      self.stage.reference,
      np.concatenate([repeated(self.prompts), old[:, :cut]], 1),
      np.concatenate([repeated(self.valid), valid[:, :cut]], 1),
      self.next_key(),
    )
    new, longer = hosts.fetch((drawn.completions, drawn.valid))
    ended = ~valid[:, cut, None]
    join = lambda x, y: np.where(ended, x, np.concatenate([x[:, :cut], y], 1))
    return self.particles(join(old, new), join(valid, longer))
