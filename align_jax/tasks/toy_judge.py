"""A learned gold judge of the generated task, larger than its policies.

Gao et al. 2022 (arXiv 2210.10760) and Tang et al. 2024 (arXiv 2405.08448) have
two levels: a large reward model is gold, and a small one that learns from its
labels is the proxy. Here the large one learns from the programmed reward.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import hosts, ops, paths
from align_jax.tasks.folders import make_once
from align_jax.tasks.judge import (
  check_training,
  fit,
  judge_config,
  load_gold,
  save_params,
)
from align_jax.tasks.pair_judge import interval, scores
from align_jax.types import Batch

HELD_OUT = 1024  # pairs that the judge is tested on
GROUP = 8  # completions of a prompt that are compared, each with each


@functools.partial(jax.jit, static_argnames=('size', 'num', 'group'))
def draw_groups(shown, prompts, key, *, size, num, group):
  """Random prompts with unlabelled completions: a Batch.

  Every completion is, with equal chance, of uniform tokens, some of them
  repeated, or demonstrated. So the judge sees both sides of what it judges.

  Args:
    shown: f32 [N, V], logits of the demonstrations of each prompt.
    prompts: int32 [N, S].
    size: tokens of a completion.
    num: how many prompts.
    group: completions of each.
  """
  keys = jax.random.split(key, 4)
  index = jax.random.randint(keys[0], (num,), 0, len(prompts))
  logits = jnp.repeat(shown[index], group, axis=0)
  noisy = logits + jax.random.gumbel(keys[1], logits.shape)
  demonstrated = jax.lax.top_k(noisy, size)[1]
  rows, vocab = logits.shape
  uniform = jax.random.randint(keys[2], (rows, size), 0, vocab)
  either = jax.random.bernoulli(keys[3], shape=(rows, 1))
  full = jnp.ones((rows, size), bool)
  return Batch(
    prompts=prompts[index],
    prompt_valid=jnp.ones((num, prompts.shape[1]), bool),
    completions=jnp.where(either, demonstrated, uniform),
    valid=full,
    mask=full,
    rewards=jnp.zeros(rows),
    group_size=group,
  )


def preferences(scores, batch):
  """Cross entropy of all preferences within a group with their chances.

  The chances are those of Bradley and Terry 1952 under the batch's rewards.
  They say how much better a completion is, and teach more than outcomes do.

  Args:
    scores: f32 [B].
  """
  s, r = (ops.by_group(x, batch.group_size) for x in (scores, batch.rewards))
  ahead = lambda x: x[:, :, None] - x[:, None]
  chances = jax.nn.sigmoid(ahead(r))
  loss = 2 * (chances * jax.nn.softplus(-ahead(s))).mean()
  return loss, {'weight': jnp.float32(len(s))}


def tested(gold, reward, pairs):
  """How far a judge agrees with the programmed reward on pairs.

  Returns:
    dict: `pairs`; `accuracy`, the share that it orders alike, its ties counting
    one half; `interval`, of 95%; `correlation` of the differences within pairs;
    `scale`, the ratio of their standard deviations.
  """
  found, true = scores(gold, pairs), ops.by_group(hosts.fetch(reward(pairs)), 2)
  found, true = (x[:, 0] - x[:, 1] for x in (found, true))
  alike = (0.5 + 0.5 * np.sign(found) * np.sign(true))[true != 0]
  share = float(alike.mean())
  return {
    'pairs': len(alike),
    'accuracy': share,
    'interval': interval(share, len(alike)),
    'correlation': float(np.corrcoef(found, true)[0, 1]),
    'scale': float(true.std() / found.std()),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """The learned gold judge of the task.

  Attributes:
    judge_model: dict of ModelConfig fields, without vocab_size and head. {}:
      the programmed reward is gold.
    judge_steps, judge_batch_size, judge_learning_rate: of its training, a batch
      being prompts with GROUP completions each. 0 without a judge_model.
  """

  judge_model: dict = dataclasses.field(default_factory=dict)
  judge_steps: int = 0
  judge_batch_size: int = 0
  judge_learning_rate: float = 0.0


def check(judge):
  """Refuses a judge that cannot be trained, or knobs without one.

  Raises:
    ValueError: names the knob.
  """
  if judge.judge_model:
    judge_config(judge.judge_model, 1)
    check_training(
      judge.judge_steps, judge.judge_batch_size, judge.judge_learning_rate
    )
  elif judge != Judge():
    raise ValueError(
      f'task.judge_model={{}} is the programmed reward, which is not trained: '
      f'expected no other field of task.judge_*, got {judge}'
    )


def learned(folder, seed, reward, shown, prompts, size, judge, settings):
  """The judge of a seed: Batch -> f32 [B].

  It is trained once. Its differences within pairs have the programmed reward's
  deviation, so that a margin means as much.

  Args:
    folder: of the task; the judge and judge.json are in its seed's.
    reward: the programmed reward, Batch -> f32 [B].
    shown, prompts, size: see `draw_groups`.
    judge: Judge.
    settings: all that the programmed reward and `shown` depend on.
  """
  folder = paths.path(folder) / f'judge{seed}'
  config = judge_config(judge.judge_model, shown.shape[1])
  key = jax.random.fold_in(jax.random.key(seed), HELD_OUT)
  drawn = functools.partial(draw_groups, shown, prompts, size=size)

  def draw(step):
    size = judge.judge_batch_size
    groups = drawn(jax.random.fold_in(key, step), num=size, group=GROUP)
    return groups.replace(rewards=reward(groups))

  def build(partial):
    steps = judge.judge_steps
    params = fit(
      config,
      preferences,
      np.zeros(config.vocab_size, np.float32),  # no token is good in itself
      draw,
      steps=steps,
      learning_rate=judge.judge_learning_rate,
    )
    save_params(partial / 'judge.npz', params)
    gold = load_gold(partial / 'judge.npz', config)
    pairs = drawn(jax.random.fold_in(key, steps), num=HELD_OUT, group=2)
    found = tested(gold, reward, hosts.fetch(pairs))
    text = json.dumps(found, indent=1) + '\n'
    (partial / 'judge.json').write_text(text, encoding='utf-8')

  make_once(folder, build, {**settings, **vars(judge)})
  folder = paths.local(folder)
  gold = load_gold(folder / 'judge.npz', config)
  scale = json.loads((folder / 'judge.json').read_text('utf-8'))['scale']
  return lambda batch: scale * gold(batch)
