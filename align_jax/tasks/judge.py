"""Gold judges of texts, trained on their labels or on preferences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import hosts, sharding
from align_jax.learn import optimizers, step, stopping
from align_jax.losses.supervised import binary_cross_entropy
from align_jax.models import transformer
from align_jax.models.transformer import ModelConfig
from align_jax.policy.programs import scorer
from align_jax.tasks.knobs import whole
from align_jax.tasks.windows import draw_windows, windows
from align_jax.values import nearest

WEIGHT_DECAY = 0.1
LOG_ODDS_SCALE = 0.04  # embedding per unit of log odds; the rest has std 0.02
PSEUDO_COUNT = 20  # added to every token's count under each label
WARMUP_STEPS = 20  # of a judge's training
ROWS = 128  # texts that are scored at a time


def token_log_odds(good, bad, vocab_size):
  """Log odds of each token in good against bad texts: f32 [V].

  These are the naive Bayes weights that Wang & Manning 2012 found hard to beat
  on short texts.

  Args:
    good, bad: int [N], the tokens of all good and of all bad texts.
  """

  def log_share(tokens):
    counts = np.bincount(tokens, minlength=vocab_size) + PSEUDO_COUNT
    return np.log(counts / counts.sum())

  return np.float32(log_share(good) - log_share(bad))


def log_odds(reviews, held_out, vocab_size):
  """`token_log_odds` of all reviews but the first `held_out`: f32 [V]."""
  begin = reviews.starts[held_out]
  labels = np.repeat(reviews.labels, np.diff(reviews.starts))[begin:]
  tokens = reviews.tokens[begin:]
  return token_log_odds(tokens[labels == 1], tokens[labels == 0], vocab_size)


def init_judge(key, config, odds):
  """Random parameters whose embedding contains each token's log odds.

  A transformer would learn these slowly, token by token. Starting from them
  saves most of the training.

  Args:
    odds: f32 [V], see `token_log_odds`.
  """
  params_key, sign_key = jax.random.split(key)
  params = transformer.init(params_key, config)
  direction = jax.random.rademacher(sign_key, (config.dim,), jnp.float32)
  known = jnp.outer(odds, direction)
  return {**params, 'embed': params['embed'] + LOG_ODDS_SCALE * known}


def fit(config, loss, odds, draw, *, steps, learning_rate):
  """Trains a judge from random parameters.

  Args:
    config: ModelConfig with head 'scalar'.
    odds: f32 [V], see `token_log_odds`.
    draw: step -> Batch.
    learning_rate: rate of the first half of the steps. It falls to 0 over the
      second half.
  Returns:
    params.
  """
  tx = optimizers.make_optimizer(
    warmup_steps=WARMUP_STEPS, weight_decay=WEIGHT_DECAY
  )
  train_step = step.make_train_step(scorer(config), loss, tx)
  state = step.init_state(init_judge(jax.random.key(0), config, odds), tx)
  for i in range(steps):
    stopping.check('while a judge of texts is trained')
    rate = learning_rate * min(1, 2 * (1 - i / steps))
    state, _ = train_step(state, draw(i), {'learning_rate': rate})
  return state.params


def train_judge(
  reviews,
  bos_id,
  config,
  *,
  held_out,
  prompt_len,
  size,
  batch_size,
  **schedule,
):
  """Trains a classifier of windows with up to `size` tokens after the prompt.

  Args:
    schedule: steps and learning_rate, see `fit`.
  Returns:
    params. `scoring.scores` with them gives the logit that a text is good.
  """
  arrays = jax.tree.map(jnp.asarray, reviews)

  def draw(i):
    return draw_windows(
      arrays,
      bos_id,
      held_out,
      jax.random.fold_in(jax.random.key(0), i),
      batch_size=batch_size,
      prompt_len=prompt_len,
      size=size,
      shortest=-(-size // 4),
    )

  odds = log_odds(reviews, held_out, config.vocab_size)
  return fit(config, binary_cross_entropy, odds, draw, **schedule)


def judge_accuracy(
  params, config, reviews, bos_id, *, held_out, prompt_len, size
):
  """How well the judge predicts the labels of held-out texts.

  Returns:
    dict: `reviews`, their number; `tokens`, how many of each are shown;
    `opening_accuracy`, on beginnings; `accuracy`, on windows anywhere;
    `score_std`, standard deviation of the logits.
  """
  room = np.diff(reviews.starts)[:held_out] - prompt_len - size
  anywhere = np.random.default_rng(0).integers(0, np.maximum(room, 0) + 1)
  labels = reviews.labels[:held_out]
  out = {'reviews': held_out, 'tokens': prompt_len + size}
  for name, offsets in (('opening_', 0 * anywhere), ('', anywhere)):
    scores = []
    for start in range(0, held_out, ROWS):
      # The last batch wraps around, so all batches have one shape.
      index = np.arange(start, start + ROWS) % held_out
      batch = windows(
        reviews,
        bos_id,
        index,
        offsets[index],
        np.full(ROWS, size),
        prompt_len=prompt_len,
        size=size,
      )
      scores.append(hosts.fetch(scorer(config)(params, batch)))
    scores = np.concatenate(scores)[:held_out]
    out[f'{name}accuracy'] = float(((scores > 0) == (labels > 0)).mean())
  return {**out, 'score_std': float(scores.std())}


def _paths(tree):
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  names = [
    jax.tree_util.keystr(p, simple=True, separator='.') for p, _ in leaves
  ]
  return names, [x for _, x in leaves], treedef


def save_params(path, params):
  """Writes parameters as an .npz file."""
  names, arrays, _ = _paths(params)
  np.savez(path, **dict(zip(names, hosts.fetch(arrays))))


def load_params(path, config):
  """Parameters of `config` from what `save_params` wrote."""
  init = functools.partial(transformer.init, c=config)
  names, _, treedef = _paths(jax.eval_shape(init, jax.random.key(0)))
  with np.load(path) as arrays:
    return treedef.unflatten(jnp.asarray(arrays[name]) for name in names)


def load_gold(path, config):
  """The saved judge, on the mesh if there is one: Batch -> f32 [B]."""
  params = load_params(path, config)
  params = sharding.on_mesh(params, sharding.current_mesh())
  return functools.partial(scorer(config), params)


def judge_config(judge_model, vocab_size):
  """The ModelConfig of a judge.

  Raises:
    ValueError: names the wrong field of task.judge_model.
  """
  known = {f.name for f in dataclasses.fields(ModelConfig)}
  for name, value in judge_model.items():
    if name not in known - {'vocab_size', 'head'}:
      raise ValueError(
        f'task.judge_model.{name}={value!r}: no such field, '
        f'{nearest(name, known - {"vocab_size", "head"})}'
      )
  try:
    return ModelConfig(vocab_size=vocab_size, head='scalar', **judge_model)
  except (TypeError, ValueError) as error:
    raise ValueError(f'task.judge_model: {error}') from None


def check_training(steps, batch_size, learning_rate):
  """Raises ValueError unless a judge can be trained by these knobs."""
  whole(1, judge_steps=steps, judge_batch_size=batch_size)
  if not learning_rate > 0:
    raise ValueError(
      f'task.judge_learning_rate={learning_rate!r}, expected a number above 0'
    )
