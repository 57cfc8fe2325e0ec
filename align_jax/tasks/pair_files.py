"""Splits a preference file by prompt, tokenises it and counts every row."""

import json
from typing import NamedTuple

import numpy as np

from align_jax import data as data_lib
from align_jax.data import chat

KINDS = ('preference', 'implicit_preference')
LEAK = 'its prompt, once it is cut, is held out'


class Split(NamedTuple):
  """A list for each part of a file. No prompt is in two parts."""

  held_out: list  # nothing is trained on these
  judge: list  # training data of the gold judge
  policy: list  # the rest


def read(path, dataset, counts, **which):
  """Reads Examples, each a prompt with a better and a worse answer.

  Args:
    path, dataset, counts, which: see `data.read_examples`. dataset='' detects
      the format.
  Returns:
    list of Example.
  Raises:
    ValueError: the file does not contain preferences.
  """
  examples = list(
    data_lib.read_examples(path, dataset or None, counts=counts, **which)
  )
  for example in examples:
    if example.kind not in KINDS:
      raise ValueError(
        f'{example.where}: is a row of {example.kind!r}, expected a preference '
        'with chosen and rejected'
      )
  return examples


def split(examples, heldout_prompts, judge_share):
  """Splits examples at random, with equal prompts in the same part: a Split.

  Args:
    examples: see `read`.
    heldout_prompts: number of distinct prompts to hold out.
    judge_share: share of the other prompts for the judge, in [0, 1].
  Raises:
    ValueError: there are too few prompts.
  """
  keys = [json.dumps(x.prompt) for x in examples]
  distinct = sorted(set(keys))
  rest = len(distinct) - heldout_prompts
  judge = round(judge_share * rest)
  if heldout_prompts < 1 or rest - judge < 1 or (judge_share and not judge):
    raise ValueError(
      f'{len(distinct)} different prompts leave none to hold out, to judge by '
      f'or to train on with task.heldout_prompts={heldout_prompts} and '
      f'task.judge_share={judge_share}'
    )
  order = np.random.default_rng(0).permutation(len(distinct))
  place = dict(zip((distinct[i] for i in order), range(len(distinct))))
  ends = np.array([heldout_prompts, heldout_prompts + judge])
  parts = Split([], [], [])
  for key, example in zip(keys, examples):
    parts[int((place[key] >= ends).sum())].append(example)
  return parts


def texts(examples, template, names):
  """The prompt and better answer of each example, formatted by the template.

  Rows that the template refuses are skipped here, and counted by `encode`.

  Args:
    names: special tokens that a template may write.
  """
  for example in examples:
    if isinstance(example.prompt, str):
      yield example.prompt + example.completions[0]
      continue
    if template is None:
      raise ValueError(
        f'{example.where}: messages need task.template, one of '
        f'{sorted(chat.TEMPLATES)} or a file'
      )
    sides = example.prompt, example.completions[0]
    try:
      yield chat.render(template, *sides, names, tools=example.tools).text
    except chat.ChatError:
      continue


def encode(parts, encoder, limits, counts):
  """Encodes a Split of Examples into a Split of Encoded.

  Truncating a long prompt may leave exactly a held-out prompt. Such rows are
  dropped and counted as LEAK.
  """
  encoded = Split(
    *(
      list(data_lib.encode_examples(part, encoder, limits, counts))
      for part in parts
    )
  )
  known = {tuple(x.prompt) for x in encoded.held_out}
  kept = [encoded.held_out]
  for part in encoded[1:]:
    kept.append([x for x in part if tuple(x.prompt) not in known])
    lost = len(part) - len(kept[-1])
    if lost:
      counts.kept -= lost
      counts.dropped[LEAK] += lost
  return Split(*kept)


def summary(counts, parts, path):
  """Counts of the file's rows by what happened to them, as a dict for JSON."""
  named = {name: len(part) for name, part in parts._asdict().items()}
  return dict(
    data=str(path),
    rows=counts.rows,
    more=counts.more,
    kept=counts.kept,
    bad=dict(counts.bad),
    dropped=dict(counts.dropped),
    of_the_kept=dict(counts.notes),
    pairs=named,
  )


def summary_lines(made):
  """The lines of a `summary` for the terminal."""
  rows = made['rows'] + made['more']
  yield f'{made["data"]}: {rows} rows, {made["kept"]} kept'
  for name in ('bad', 'dropped', 'of_the_kept'):
    for reason, count in made[name].items():
      yield f'  {name.replace("_", " ")}: {count}  {reason}'
  parts = ', '.join(f'{n} {name}' for name, n in made['pairs'].items())
  yield f'  pairs by prompt: {parts}'
