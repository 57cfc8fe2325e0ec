"""A reward model of preferences as the gold judge, and how good it is."""

import numpy as np

from align_jax import ops
from align_jax.learn import batches, sources
from align_jax.losses import LOSSES
from align_jax.tasks.judge import fit, token_log_odds

Z = 1.96  # of a 95% interval
ROWS = 64  # pairs that are scored at a time


def train(pairs, config, *, batch_size, **schedule):
  """A transformer with a scalar head, under Bradley-Terry.

  Args:
    pairs: Batch, G = 2, rewards (1, 0).
    config, schedule: see `fit`.
  Returns:
    params.
  """
  order = sources.epochs(pairs.num_prompts, batch_size, 0)
  draw = lambda i: batches.take(pairs, order(i))
  loss = LOSSES['bradley_terry']
  return fit(config, loss, odds(pairs, config), draw, **schedule)


def odds(pairs, config):
  tokens, valid = np.asarray(pairs.completions), np.asarray(pairs.valid)
  good, bad = (tokens[i::2][valid[i::2]] for i in (0, 1))
  return token_log_odds(good, bad, config.vocab_size)


def scores(gold, pairs):
  """The judge's score of every row: f32 [N, 2]."""
  found = [np.asarray(gold(x)) for x in batches.parts(pairs, ROWS)]
  return ops.by_group(np.concatenate(found), 2)[: pairs.num_prompts]


def interval(share, count):
  """Wilson's 95% interval of a share of `count` independent trials."""
  middle = share + Z**2 / (2 * count)
  width = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
  return [
    float((middle + sign * width) / (1 + Z**2 / count)) for sign in (-1, 1)
  ]


def accuracy(gold, pairs):
  """How often the judge agrees with the labels of pairs, better row first.

  Returns:
    dict: `pairs`, their number; `accuracy`, a tie of the judge counting one
    half; `interval`, of 95%; `score_std`, of all its scores; `longer`, what
    preferring the longer answer, cut as it is, would be right in.
  """
  found = scores(gold, pairs)
  right = lambda x: float((0.5 + 0.5 * np.sign(x[:, 0] - x[:, 1])).mean())
  lengths = ops.by_group(np.asarray(pairs.valid).sum(1), 2)
  share = right(found)
  return {
    'pairs': len(found),
    'accuracy': share,
    'interval': interval(share, len(found)),
    'score_std': float(found.std()),
    'longer': right(lengths),
  }
