"""The gold judge of preferences: trained, loaded or a rule; how good it is."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax import hosts, judges, ops
from align_jax.learn import batches, rewards, sources, stopping
from align_jax.losses import LOSSES
from align_jax.tasks.judge import (
  check_training,
  fit,
  judge_config,
  load_gold,
  token_log_odds,
)
from align_jax.values import check_name, count


def length(target):
  """The reward for nearness to a length, and for nothing else.

  Minus the tokens, EOS included, that a completion has more or fewer than
  `target` (Tajwar et al. 2024, arXiv 2404.14367: 'min length' and 'mode length'
  are 0 and what the reference writes most often).

  Returns:
    Batch -> f32 [B].
  """
  away = lambda valid: -jnp.abs(valid.sum(1) - target).astype(jnp.float32)
  program = jax.jit(away)
  return lambda batch: program(batch.valid)


TRAINED = ('pairs', 'labels')  # kinds that are trained here, on such rows
# Kinds that are neither trained nor loaded: what makes one, and its arguments.
RULES = {'length': (length, {'target': count(0)})}
OWN = ('kind', 'checkpoint')  # what every kind may have
DATE = 'date.txt'  # the day on which the folder was filled
Z = 1.96  # of a 95% interval
ROWS = 64  # pairs that are scored at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """Who the gold judge is.

  Attributes:
    judge: `kind`: 'pairs' and 'labels' are trained here, on such rows; those of
      RULES have their arguments. Others are of `judges.JUDGES` and are given
      `checkpoint` and further entries.
    judge_share: of the training prompts, those whose pairs only the judge (and
      SFT) learns from.
    judge_model: dict of ModelConfig fields, without vocab_size and head.
    judge_steps, judge_batch_size, judge_learning_rate: of its training.
  """

  judge: dict
  judge_share: float
  judge_model: dict
  judge_steps: int
  judge_batch_size: int
  judge_learning_rate: float

  @property
  def kind(self):
    """The judge's kind, or None."""
    return self.judge.get('kind')

  @property
  def checkpoint(self):
    """The judge's checkpoint, or None."""
    return self.judge.get('checkpoint')


def check_judge(judge):
  """Refuses a Judge that nothing is known of, or too much.

  Raises:
    ValueError: names the knob.
  """
  kind = judge.kind
  checkpoint = judge.judge.get('checkpoint', '')
  judges.ALLOWED['checkpoint'].checked('task.judge.checkpoint', checkpoint)
  check_name('task.judge.kind', kind, [*TRAINED, *RULES, *judges.JUDGES])
  trained, loaded = kind in TRAINED, kind in judges.JUDGES
  if (bool(judge.judge_share), bool(checkpoint)) != (trained, loaded):
    raise ValueError(
      f'task.judge.kind={kind!r}: {_listed(TRAINED)} learn from '
      'task.judge_share of the rows, without a checkpoint; '
      f'{_listed(judges.JUDGES)} have task.judge.checkpoint and '
      f'task.judge_share=0; {_listed(RULES)} has neither; got '
      f'judge_share={judge.judge_share} and checkpoint={checkpoint!r}'
    )
  if loaded:
    judges.check_settings(judge.judge, 'task.judge')
    return
  _, known = RULES.get(kind, (None, {}))
  own = {k: v for k, v in judge.judge.items() if k not in OWN}
  if own.keys() != known.keys():
    name = min(own.keys() ^ known.keys())
    raise ValueError(
      f'task.judge.{name}={own.get(name)!r}: kind={kind!r} has '
      f'{_listed(known) or "nothing"} beside kind and checkpoint'
    )
  for name, value in own.items():
    known[name].checked(f'task.judge.{name}', value)
  if trained:
    check_training(
      judge.judge_steps, judge.judge_batch_size, judge.judge_learning_rate
    )
    judge_config(judge.judge_model, 1)


def _listed(names):
  return ' and '.join(map(repr, names))


def check_rows(judge, kind, examples, data):
  """Refuses rows that the judge, or SFT, cannot learn from.

  Args:
    kind: see `pair_files.kind_of`.
    examples: all of the file `data`.
  Raises:
    ValueError: names the knob, or says what the file lacks.
  """
  if judge.kind in TRAINED and judge.kind != kind:
    raise ValueError(
      f'task.judge.kind={judge.kind!r}, and {data} is of {kind}: expected '
      f'{kind!r}, or a judge that is loaded'
    )
  found = {x.rewards[0] for x in examples}
  if kind == 'labels' and found != {0.0, 1.0}:
    raise ValueError(
      f'{data}: all labels are {bool(min(found))}, expected both: SFT learns '
      'from the true ones'
    )


def make_gold(folder, judge, vocab_size, tokenizer):
  """The judge that no training sees: Batch -> f32 [B]."""
  knobs = {k: v for k, v in judge.judge.items() if k not in OWN}
  if judge.kind in RULES:
    make, _ = RULES[judge.kind]
    return make(**knobs)
  if judge.kind in judges.JUDGES:
    knobs = {**_kept_date(folder, judge.kind), **knobs}
    score = judges.JUDGES[judge.kind](judge.checkpoint, **knobs)
    if isinstance(score, judges.Pairwise):
      raise ValueError(
        f'task.judge.kind={judge.kind!r} compares two answers, expected a '
        'judge that scores one'
      )
    asked = json.loads((folder / 'prompts.json').read_text('utf-8'))
    # It has a template of its own: it is shown the messages, all of them.
    whole = lambda prompts, completions: score(
      [asked[prompt] for prompt in prompts], completions
    )
    whole.__name__ = judge.kind
    return rewards.from_text(whole, data_lib.decoder(tokenizer))
  config = judge_config(judge.judge_model, vocab_size)
  return load_gold(folder / 'judge.npz', config)


def _kept_date(folder, kind):
  """The knob of a judge whose template may ask for the date."""
  path = folder / DATE  # earlier versions keep none
  if not path.exists() or 'date' not in judges.knobs(kind):
    return {}
  return {'date': path.read_text('utf-8')}


def train(rows, config, *, batch_size, **schedule):
  """A transformer with a scalar head: Bradley-Terry, or logistic regression.

  Args:
    rows: Batch, pairs with rewards (1, 0), or G = 1 with labels as rewards.
    config, schedule: see `fit`.
  Returns:
    params.
  """
  order = sources.epochs(rows.num_prompts, batch_size, 0)
  draw = lambda i: batches.take(rows, order(i))
  paired = rows.group_size == 2
  loss = LOSSES['bradley_terry' if paired else 'binary_cross_entropy']
  return fit(config, loss, odds(rows, config), draw, **schedule)


def odds(rows, config):
  """Log odds of each token in good against bad completions: f32 [V]."""
  tokens, valid = np.asarray(rows.completions), np.asarray(rows.valid)
  good = np.asarray(rows.rewards) == 1
  good, bad = (tokens[at][valid[at]] for at in (good, ~good))
  return token_log_odds(good, bad, config.vocab_size)


def scores(gold, rows):
  """The judge's score of every row: f32 [P, G].

  Raises:
    stopping.Stopped: the process was asked to stop meanwhile.
  """
  found = []
  for chunk in batches.chunks(rows, ROWS):
    stopping.check('in the test of the gold judge')
    found.append(hosts.fetch(gold(chunk)))
  grouped = ops.by_group(np.concatenate(found), rows.group_size)
  return grouped[: rows.num_prompts]


def interval(share, count):
  """Wilson's 95% interval of a share of `count` independent trials."""
  middle = share + Z**2 / (2 * count)
  width = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
  return [
    float((middle + sign * width) / (1 + Z**2 / count)) for sign in (-1, 1)
  ]


def accuracy(gold, rows):
  """How often the judge agrees with the labels of pairs, better row first.

  Args:
    gold: Batch -> f32 [B].
    rows: Batch of pairs, or of labelled rows, for which see `_of_labels`.
  Returns:
    dict: `pairs`, their number; `accuracy`, a tie of the judge counting one
    half; `interval`, of 95%; `score_std`, of all its scores; `longer`, what
    preferring the longer answer, cut as it is, would be right in.
  """
  if rows.group_size == 1:
    return _of_labels(gold, rows)
  pairs = rows
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


def _of_labels(gold, rows):
  """How often a good row's score is above that of a bad one.

  Returns:
    dict: `good` and `bad`, their numbers; `accuracy`, the share of all couples
    of both, a tie counting one half, or None if there are none; `score_std`;
    `longer`, the same share for lengths instead of scores.
  """
  found = scores(gold, rows)[:, 0]
  good = np.asarray(rows.rewards) == 1
  lengths = np.asarray(rows.valid).sum(1)
  above = lambda x: 0.5 + 0.5 * np.sign(x[good, None] - x[None, ~good])
  share = lambda x: float(above(x).mean()) if 0 < good.sum() < len(x) else None
  return {
    'good': int(good.sum()),
    'bad': int((~good).sum()),
    'accuracy': share(found),
    'score_std': float(found.std()),
    'longer': share(lengths),
  }
