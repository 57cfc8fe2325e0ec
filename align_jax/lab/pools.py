"""Pools: samples of the reference, reweighted instead of training."""

import jax
import numpy as np

from align_jax import hosts, ops
from align_jax.compare import reweigh
from align_jax.compare.tempering import TEMPERED
from align_jax.lab.labels import reward_of
from align_jax.lab.streams import POOL, stream
from align_jax.lab.tempered import tempered_points
from align_jax.learn import finite, stopping
from align_jax.learn.logs import Writer
from align_jax.policy.programs import sampler


def reweigh_arm(stage, run):
  """Measures reweighted samples of the reference. Nothing is trained."""
  reward, size = reward_of(stage, run.labels), run.pool.size
  rows = run.updates.batch_size
  if run.pool.how == TEMPERED:
    points = tempered_points(stage, reward, size, rows)
  else:
    pool = draw_pool(stage, reward, size, rows)
    points = reweigh.REWEIGH[run.pool.how](pool)
  with Writer(stage.folder / run.name, 0) as writer:
    for number, point in enumerate(points):
      finite.check_points(writer.names, number, point)
      if number not in writer.points:
        writer.point(number, point)


def draw_pool(stage, reward, size, group_size):
  """Scored samples of the reference on all eval prompts: a Pool.

  Args:
    size: samples per prompt, a multiple of `group_size`.
    group_size: samples per prompt drawn at once.
  """
  task = stage.task
  draw = sampler(task, group_size)
  parts = []
  for start in range(0, size, group_size):
    stopping.check(f'while a pool of {size} samples is drawn')
    key = jax.random.fold_in(stream(stage.seed, POOL), start)
    batch = draw(stage.reference, *task.eval_prompts[:], key)
    ops.require_own_samples(batch)
    columns = (
      reward(batch),
      task.gold(batch),
      stage.proxy(batch),
      batch.sampler_logps.sum(1),
    )
    columns = hosts.fetch(columns)
    parts.append([x.reshape(-1, group_size) for x in columns])
  return reweigh.Pool(*(np.concatenate(x, 1) for x in zip(*parts)))
