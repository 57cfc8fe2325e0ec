"""The generated task: eight distinct tokens, each worth something to a prompt.

A prompt is two tokens (p, q); a completion is exactly T tokens, no EOS. The
gold reward is the sum of w(v) = A[p, v] + B[q, v] over the *distinct* tokens v
of the completion, less a penalty for each repeated one. Demonstrations are
drawn without repeats from preferences that only correlate with w. A policy
that trusts a bag-of-words proxy too far repeats its favourite tokens.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.models.interface import from_fields
from align_jax.tasks import Prompts, Task
from align_jax.types import Batch

WEIGHT_SCALE = 0.7  # standard deviation of A and B


@jax.jit
def gold_reward(weights, repeat_penalty, batch):
  """f32 [B]; weights: (A, B), each f32 [V, V]."""
  first, second = weights
  value = first[batch.prompts[:, 0]] + second[batch.prompts[:, 1]]  # [P, V]
  value = jnp.repeat(value, batch.group_size, axis=0)
  counts = jax.nn.one_hot(batch.completions, value.shape[1])
  counts = jnp.where(batch.valid[..., None], counts, 0).sum(1)  # [B, V]
  present = counts > 0
  repeats = counts.sum(1) - present.sum(1)
  return (value * present).sum(1) - repeat_penalty * repeats


@functools.partial(jax.jit, static_argnames=('size', 'batch_size'))
def demonstrations(weights, prompts, key, *, size, batch_size):
  """Prompts drawn at random and completions without repeats: a Batch.

  Args:
    prompts: int32 [N, 2].
    size: tokens of a completion, by Gumbel top-k.
  """
  pick_key, key = jax.random.split(key)
  first, second = weights
  drawn = prompts[jax.random.randint(pick_key, (batch_size,), 0, len(prompts))]
  logits = first[drawn[:, 0]] + second[drawn[:, 1]]
  noisy = logits + jax.random.gumbel(key, logits.shape)
  full = jnp.ones((batch_size, size), bool)
  return Batch(
    prompts=drawn,
    prompt_valid=jnp.ones(drawn.shape, bool),
    completions=jax.lax.top_k(noisy, size)[1],
    valid=full,
    mask=full,
    rewards=jnp.ones(batch_size),
  )


def split_prompts(num_train, num_eval):
  """Two disjoint sets of token pairs from the smallest square grid.

  The same split for every seed, so that seeds can be paired by prompt.
  """
  side = int(np.ceil(np.sqrt(num_train + num_eval)))
  grid = np.stack(np.divmod(np.arange(side * side), side), 1).astype(np.int32)
  grid = np.random.default_rng(0).permutation(grid)
  wrap = lambda x: Prompts(x, np.ones(x.shape, bool))
  train = wrap(grid[:num_train])
  if not num_eval:
    return train, train
  return train, wrap(grid[num_train : num_train + num_eval])


def prepare(**knobs):
  """Nothing is trained or cached before the first seed."""


def make_task(
  *,
  seed,
  workdir,
  model,
  prompts,
  eval_prompts,
  completion_len,
  peak_shift,
  repeat_penalty,
  sft_batch_size,
):
  """The task with weights drawn from `seed`.

  Args:
    model: dict, see `models.interface.from_fields`.
    prompts, eval_prompts: how many to train on, and how many to hold out; 0
      measures on the training prompts, as Tang et al. do.
    completion_len: T.
    peak_shift: in [0, 1]; how far the best tokens lie from what the
      demonstrations show: 0 not at all, 1 unrelated.
    repeat_penalty: gold reward lost per repeated token.
  """
  del workdir  # nothing is cached
  if not 0 <= peak_shift <= 1:
    raise ValueError(f'task.peak_shift={peak_shift} is not within [0, 1]')
  config = from_fields(**model)
  vocab = config.vocab_size
  train, held_out = split_prompts(prompts, eval_prompts)
  if train.tokens.max() >= vocab or completion_len > vocab:
    raise ValueError(
      f'task.prompts={prompts} and task.completion_len={completion_len} need a '
      f'larger model.vocab_size than {vocab}'
    )
  # A base model has seen prompts of every kind; preferences are taught on the
  # training prompts alone.
  shown_to = np.unique(np.concatenate([train.tokens, held_out.tokens]), axis=0)
  rng = np.random.default_rng([seed, 0])
  draw = lambda: rng.normal(0, WEIGHT_SCALE, (vocab, vocab))
  weights = (draw(), draw())
  shown = tuple((1 - peak_shift) * w + peak_shift * draw() for w in weights)
  weights, shown = jax.tree.map(jnp.float32, (weights, shown))

  def demonstrate(state, key, step):
    sizes = dict(size=completion_len, batch_size=sft_batch_size)
    return demonstrations(shown, shown_to, key, **sizes)

  def decode(batch):
    text = lambda rows: [' '.join(map(str, row)) for row in np.asarray(rows)]
    prompts = np.repeat(np.asarray(batch.prompts), batch.group_size, axis=0)
    return text(prompts), text(batch.completions)

  return Task(
    model=config,
    max_new_tokens=completion_len,
    eos_id=None,
    train_prompts=train,
    eval_prompts=held_out,
    demonstrations=demonstrate,
    gold=lambda batch: gold_reward(weights, repeat_penalty, batch),
    decode=decode,
  )
