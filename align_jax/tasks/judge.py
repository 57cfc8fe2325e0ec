"""Gold judges of texts, trained on their labels or on preferences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.learn import step
from align_jax.losses.supervised import binary_cross_entropy
from align_jax.models import transformer
from align_jax.models.transformer import ModelConfig
from align_jax.policy.programs import scorer
from align_jax.tasks.windows import draw_windows, windows

WEIGHT_DECAY = 0.1
LOG_ODDS_SCALE = 0.04  # of the first embedding, else of scale 0.02
PSEUDO_COUNT = 20  # of every token under each label


def token_log_odds(good, bad, vocab_size):
  """How much more often each token is in good texts than in bad: f32 [V].

  The naive Bayes weights that Wang & Manning 2012 found hard to beat on short
  texts.

  Args:
    good, bad: int [N], the tokens of all such texts.
  """

  def log_share(tokens):
    counts = np.bincount(tokens, minlength=vocab_size) + PSEUDO_COUNT
    return np.log(counts / counts.sum())

  return np.float32(log_share(good) - log_share(bad))


def log_odds(reviews, held_out, vocab_size):
  """The same of reviews, the first `held_out` of them excepted."""
  begin = reviews.starts[held_out]
  labels = np.repeat(reviews.labels, np.diff(reviews.starts))[begin:]
  tokens = reviews.tokens[begin:]
  return token_log_odds(tokens[labels == 1], tokens[labels == 0], vocab_size)


def init_judge(key, config, odds):
  """Fresh parameters whose embedding knows each token's log odds already.

  A transformer learns word by word what counting gives at once; this saves
  most of its training.

  Args:
    odds: f32 [V], see `token_log_odds`.
  """
  params_key, sign_key = jax.random.split(key)
  params = transformer.init(params_key, config)
  direction = jax.random.rademacher(sign_key, (config.dim,), jnp.float32)
  known = jnp.outer(odds, direction)
  return {**params, 'embed': params['embed'] + LOG_ODDS_SCALE * known}


def fit(config, loss, odds, draw, *, steps, learning_rate):
  """A judge that is trained from nothing.

  Args:
    config: ModelConfig, head 'scalar'.
    odds: f32 [V], see `token_log_odds`.
    draw: step -> Batch.
    learning_rate: of the first half of the steps; falls to 0 over the second.
  Returns:
    params.
  """
  tx = step.make_optimizer(warmup_steps=20, weight_decay=WEIGHT_DECAY)
  train_step = step.make_train_step(scorer(config), loss, tx)
  state = step.init_state(init_judge(jax.random.key(0), config, odds), tx)
  for i in range(steps):
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
  """A classifier of windows with up to `size` tokens after the prompt.

  Args:
    schedule: steps and learning_rate, see `fit`.
  Returns:
    params; `scoring.scores` of them is the logit that a text is good.
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
  """How well it tells the labels of texts that it has not seen.

  Returns:
    dict: `reviews` and the `tokens` shown of each; `opening_accuracy`, on
    their beginnings; `accuracy`, on windows anywhere; `score_std`, of their
    logits.
  """
  room = np.diff(reviews.starts)[:held_out] - prompt_len - size
  anywhere = np.random.default_rng(0).integers(0, np.maximum(room, 0) + 1)
  labels = reviews.labels[:held_out]
  out = {'reviews': held_out, 'tokens': prompt_len + size}
  for name, offsets in (('opening_', 0 * anywhere), ('', anywhere)):
    scores = []
    for start in range(0, held_out, 128):
      # The last batch wraps around, to keep one shape.
      index = np.arange(start, start + 128) % held_out
      batch = windows(
        reviews,
        bos_id,
        index,
        offsets[index],
        np.full(128, size),
        prompt_len=prompt_len,
        size=size,
      )
      scores.append(np.asarray(scorer(config)(params, batch)))
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
  names, arrays, _ = _paths(params)
  np.savez(path, **dict(zip(names, map(np.asarray, arrays))))


def load_params(path, config):
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
  return ModelConfig(vocab_size=vocab_size, head='scalar', **judge_model)
