"""The generated task: choose distinct tokens that are worth most to a prompt.

A prompt is a few tokens (p_1, p_2, ...). A completion is exactly T tokens
without EOS. The gold reward is the sum of w(v) = W_1[p_1, v] + W_2[p_2, v] +
... over the *distinct* tokens v of the completion, less a penalty for each
repeated token. Demonstrations have no repeats and follow preferences that only
correlate with w. A policy that overoptimises a bag-of-words proxy repeats the
tokens with the highest weights. With `judge_model` gold is not this reward but
a transformer that has learned it.

A second task, of prompts with tokens of their own, is what a policy may forget:
demonstrations teach it, and its gold reward is what they follow.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.models.interface import from_fields
from align_jax.tasks import OLD, Prompts, Task, toy_judge
from align_jax.tasks.knobs import fields_of
from align_jax.tasks.toy_judge import Judge
from align_jax.types import Batch

WORTH_SCALE = 1.0  # standard deviation of a token's worth to a prompt
# Every seed draws its own weights, so equal prompts of two seeds share only
# their tokens.
SHARED_PROMPTS = False


def worth(weights, prompts):
  """Worth of each token to each prompt: f32 [P, V].

  Args:
    weights: a f32 [V, V] for each position of a prompt.
    prompts: int32 [P, S].
  """
  return sum(w[prompts[:, i]] for i, w in enumerate(weights))


@jax.jit
def gold_steps(weights, repeat_penalty, batch):
  """Gold reward that each token would add after its prefix.

  Returns:
    f32 [B, T, V]. The entries of the chosen tokens add up to the reward.
  """
  value = worth(weights, batch.prompts)  # [P, V]
  value = jnp.repeat(value, batch.group_size, axis=0)[:, None]
  tokens = jax.nn.one_hot(batch.completions, value.shape[-1])
  tokens = jnp.where(batch.valid[..., None], tokens, 0)
  before = jnp.cumsum(tokens, 1) - tokens > 0
  return jnp.where(before, -repeat_penalty, value)


@jax.jit
def gold_reward(weights, repeat_penalty, batch):
  """Gold reward f32 [B], the sum of `gold_steps` over the chosen tokens."""
  value = worth(weights, batch.prompts)
  tokens = ops.by_group(batch.completions, batch.group_size)
  taken = jax.vmap(lambda of, rows: of[rows])(value, tokens)
  taken = taken.reshape(batch.completions.shape)
  same = batch.completions[:, :, None] == batch.completions[:, None]
  earlier = jnp.tril(same, -1) & batch.valid[:, None]
  taken = jnp.where(earlier.any(2), -repeat_penalty, taken)
  return ops.masked_sum(taken, batch.valid, axis=1)


@functools.partial(jax.jit, static_argnames=('size', 'batch_size'))
def demonstrations(weights, prompts, key, *, size, batch_size):
  """Random prompts, and completions without repeats: a Batch.

  Args:
    prompts: int32 [N, S].
    size: tokens of a completion, drawn by Gumbel top-k.
  """
  pick_key, key = jax.random.split(key)
  drawn = prompts[jax.random.randint(pick_key, (batch_size,), 0, len(prompts))]
  logits = worth(weights, drawn)
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


# The stream of held-out demonstrations; training's are low.
HELD_OUT = 2**31 - 1
EVAL_SETS = ('train', 'ood', OLD)  # names of further prompts to measure on


def side_of(number, length):
  """Tokens whose prompts of that length are so many, at least."""
  side = 1
  while side**length < number:
    side += 1
  return side


MOST = 2**20  # prompts that there are, of which some are drawn


def split_prompts(num_train, num_eval, length):
  """Two disjoint sets of prompts, drawn from the smallest cube of tokens.

  All seeds have the same split.

  Args:
    length: S, tokens of a prompt.
  """
  side = side_of(num_train + num_eval, length)
  cube = np.indices((side,) * length, np.int32).reshape(length, -1).T
  cube = np.random.default_rng(0).permutation(cube)
  wrap = lambda x: Prompts(x, np.ones(x.shape, bool))
  train = wrap(cube[:num_train])
  if not num_eval:
    return train, train
  return train, wrap(cube[num_train : num_train + num_eval])


def out_of_distribution(prompts, seen, vocab_size):
  """The prompts, each with one token that no training has; alike in all seeds.

  Args:
    seen: the tokens of all other prompts are below this.
  """
  rng = np.random.default_rng(1)
  tokens, rows = prompts.tokens.copy(), np.arange(len(prompts))
  places = rng.integers(0, tokens.shape[1], len(prompts))
  tokens[rows, places] = rng.integers(seen, vocab_size, len(prompts))
  return Prompts(tokens, prompts.valid)


def second_task(number, length, first):
  """Prompts of tokens from `first` on, and the token behind their last."""
  side = number and side_of(number, length)
  cube, _ = split_prompts(number, 0, length)
  return Prompts(cube.tokens + first, cube.valid), first + side


def eval_sets(train, held_out, seen, vocab_size, old=()):
  """{name: Prompts} to measure on beside the held-out ones.

  Args:
    seen: tokens of all training are below this.
    old: Prompts of the second task.
  """
  found = {OLD: old} if len(old) else {}
  if held_out is not train:  # else they are measured anyhow
    found['train'] = Prompts(*train[: len(held_out)])
  if seen < vocab_size:
    found['ood'] = out_of_distribution(held_out, seen, vocab_size)
  return found


def prepare(**knobs):
  """Does nothing: all that the task needs is drawn from the seed."""


def check(
  model,
  *,
  prompts,
  eval_prompts,
  prompt_len,
  completion_len,
  peak_shift,
  repeat_penalty,
  old_prompts=0,
  uncovered=0,
  **judge,
):
  """Raises ValueError where the model has too few tokens, or for the judge."""
  del peak_shift, repeat_penalty
  toy_judge.check(Judge(**judge))
  vocab = model.get('vocab_size', math.inf)
  for field, number in (
    ('prompts', prompts + eval_prompts),
    ('old_prompts', old_prompts),
  ):
    if side_of(number, prompt_len) ** prompt_len > MOST:
      raise ValueError(
        f'task.prompt_len={prompt_len}, expected fewer tokens: task.{field} '
        f'are some of all prompts of that length, which are more than {MOST}'
      )
  needed = side_of(prompts + eval_prompts, prompt_len)
  needed += old_prompts and side_of(old_prompts, prompt_len)
  if needed > vocab or completion_len > vocab:
    raise ValueError(
      f'task.prompts={prompts}, task.old_prompts={old_prompts} and '
      f'task.completion_len={completion_len} need a larger model.vocab_size '
      f'than {vocab}'
    )
  if uncovered > vocab - completion_len:
    raise ValueError(
      f'task.uncovered={uncovered}, expected at most {vocab - completion_len}: '
      'the reference repeats no token'
    )


@fields_of(Judge)
def make_task(
  *,
  seed,
  workdir,
  model,
  prompts,
  eval_prompts,
  prompt_len,
  completion_len,
  peak_shift,
  repeat_penalty,
  sft_batch_size,
  old_prompts=0,
  uncovered=0,
  **judge,
):
  """The task with weights drawn from `seed`.

  Args:
    model: dict, see `models.interface.from_fields`.
    prompts: number of prompts to train on.
    eval_prompts: number of prompts to hold out. 0: measure on the training
      prompts, as Tang et al. do.
    prompt_len: S.
    completion_len: T.
    peak_shift: distance of the best tokens from the demonstrated ones, in
      [0, 1]. 0: none, 1: unrelated.
    repeat_penalty: gold reward lost per repeated token.
    old_prompts: number of prompts of the second task. 0: there is none.
    uncovered: number of tokens, the first of the vocabulary, that no golden
      pair contains.
    judge: fields of Judge.
  """
  settings = dict(
    prompts=prompts,
    eval_prompts=eval_prompts,
    prompt_len=prompt_len,
    completion_len=completion_len,
    peak_shift=peak_shift,
    repeat_penalty=repeat_penalty,
    old_prompts=old_prompts,
  )
  check(model, uncovered=uncovered, **settings, **judge)
  judge = Judge(**judge)
  config = from_fields(**model)
  vocab = config.vocab_size
  train, held_out = split_prompts(prompts, eval_prompts, prompt_len)
  new = side_of(prompts + eval_prompts, prompt_len)
  old, seen = second_task(old_prompts, prompt_len, new)
  # Demonstrations cover all prompts, as a base model has seen all kinds of
  # prompts. Only preferences are restricted to the training prompts.
  shown_to = (train.tokens, held_out.tokens, old.tokens)
  shown_to = np.unique(np.concatenate(shown_to), axis=0)
  rng = np.random.default_rng([seed, 0])
  scale = WORTH_SCALE * prompt_len**-0.5
  draw = lambda: rng.normal(0, scale, (vocab, vocab))
  weights = tuple(draw() for _ in range(prompt_len))
  shown = tuple((1 - peak_shift) * w + peak_shift * draw() for w in weights)
  for wanted, followed in zip(weights, shown):
    wanted[new:seen] = followed[new:seen]
  weights, shown = jax.tree.map(jnp.float32, (weights, shown))

  def demonstrate(state, key, step):
    sizes = dict(size=completion_len, batch_size=sft_batch_size)
    return demonstrations(shown, shown_to, key, **sizes)

  def held_out_demonstrations():
    sizes = dict(size=completion_len, batch_size=len(held_out))
    key = jax.random.fold_in(jax.random.key(seed), HELD_OUT)
    return demonstrations(shown, held_out.tokens, key, **sizes)

  def covered(batch):
    return (batch.completions >= uncovered).all(1)

  def decode(batch):
    text = lambda rows: [' '.join(map(str, row)) for row in np.asarray(rows)]
    prompts = np.repeat(np.asarray(batch.prompts), batch.group_size, axis=0)
    return text(prompts), text(batch.completions)

  gold = lambda batch: gold_reward(weights, repeat_penalty, batch)
  steps = lambda batch: gold_steps(weights, repeat_penalty, batch)
  if judge.judge_model:
    gold = toy_judge.learned(
      workdir,
      seed,
      gold,
      worth(shown, shown_to),
      shown_to,
      completion_len,
      judge,
      {**settings, 'vocab_size': vocab},
    )

  return Task(
    model=config,
    max_new_tokens=completion_len,
    eos_id=None,
    train_prompts=train,
    eval_prompts=held_out,
    demonstrations=demonstrate,
    gold=gold,
    gold_steps=None if judge.judge_model else steps,
    decode=decode,
    held_out_demonstrations=held_out_demonstrations,
    covered=covered if uncovered else None,
    eval_sets=eval_sets(train, held_out, seen, vocab, old),
  )
