"""Splits a file of preferences or labels by prompt, and counts every row."""

import json
from typing import NamedTuple

import numpy as np

from align_jax import data as data_lib
from align_jax.data import chat, named_templates

KINDS = {  # of examples: what the file is of
  'preference': 'pairs',
  'implicit_preference': 'pairs',
  'unpaired': 'labels',
}
LEAK = 'its prompt, once it is cut, is held out'


class Split(NamedTuple):
  """A list for each part of a file. No prompt is in two parts."""

  held_out: list  # nothing is trained on these
  judge: list  # training data of the gold judge
  policy: list  # the rest


def read(path, dataset, counts, **which):
  """Reads Examples: all of them pairs, or all single answers with a label.

  Args:
    path, dataset, counts, which: see `data.read_examples`. dataset='' detects
      the format.
  Returns:
    list of Example.
  Raises:
    ValueError: the file contains something else, or no row that is good.
  """
  examples = list(
    data_lib.read_examples(path, dataset or None, counts=counts, **which)
  )
  for example in examples:
    if example.format not in KINDS:
      raise ValueError(
        f'{example.where}: is a row of {example.format!r}, expected a '
        'preference with chosen and rejected, or an answer with a label'
      )
  if not examples:
    raise ValueError(f'{path}: no row is good')
  return examples


def kind_of(examples):
  """'pairs' or 'labels'."""
  return KINDS[examples[0].format]


def held_out_of(heldout_prompts, count):
  """How many of `count` prompts are held out; a share is rounded."""
  if heldout_prompts < 1:
    return max(1, round(heldout_prompts * count))
  return int(heldout_prompts)


def split(examples, heldout_prompts, judge_share):
  """Splits examples at random, with equal prompts in the same part: a Split.

  Args:
    examples: see `read`.
    heldout_prompts: distinct prompts to hold out, a number or a share.
    judge_share: share of the other prompts for the judge, in [0, 1].
  Raises:
    ValueError: there are too few prompts.
  """
  keys = [json.dumps(x.prompt) for x in examples]
  distinct = sorted(set(keys))
  held_out = held_out_of(heldout_prompts, len(distinct))
  rest = len(distinct) - held_out
  judge = round(judge_share * rest)
  if held_out < 1 or rest - judge < 1 or (judge_share and not judge):
    raise ValueError(
      f'{len(distinct)} different prompts leave none to hold out, to judge by '
      f'or to train on with task.heldout_prompts={heldout_prompts} (a share, '
      f'if below 1) and task.judge_share={judge_share}'
    )
  order = np.random.default_rng(0).permutation(len(distinct))
  place = dict(zip((distinct[i] for i in order), range(len(distinct))))
  ends = np.array([held_out, held_out + judge])
  parts = Split([], [], [])
  for key, example in zip(keys, examples):
    parts[int((place[key] >= ends).sum())].append(example)
  return parts


def texts(examples, template, names):
  """The prompt and good answer of each example, formatted by the template.

  Answers whose label is bad are left out. Rows that the template refuses are
  skipped here, and counted by `encode`.

  Args:
    names: special tokens that a template may write.
  """
  for example in examples:
    if not example.rewards[0]:
      continue
    if isinstance(example.prompt, str):
      yield example.prompt + example.completions[0]
      continue
    if template is None:
      raise ValueError(
        f'{example.where}: messages need task.template, one of '
        f'{sorted(named_templates.TEMPLATES)} or a file'
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


def check_held_out(prompts, eval_prompts):
  """Raises ValueError if fewer prompts are held out than are measured on.

  Args:
    prompts: those that are held out and fit.
  """
  if len(prompts) < eval_prompts:
    raise ValueError(
      f'task.eval_prompts={eval_prompts}, but of task.heldout_prompts only '
      f'{len(prompts)} are left within task.prompt_len: see counts.json'
    )


def summary(counts, parts, path, kind='pairs'):
  """Counts of the file's rows by what happened to them, as a dict for JSON.

  Args:
    kind: see `kind_of`. The entry of that name has the numbers of the parts.
  """
  named = {name: len(part) for name, part in parts._asdict().items()}
  return dict(
    data=str(path),
    rows=counts.rows,
    more=counts.more,
    kept=counts.kept,
    bad=dict(counts.bad),
    dropped=dict(counts.dropped),
    of_the_kept=dict(counts.notes),
    ignored=sorted(counts.ignored),
    **{kind: named},
  )


def summary_lines(made):
  """The lines of a `summary` for the terminal."""
  rows = made['rows'] + made['more']
  yield f'{made["data"]}: {rows} rows, {made["kept"]} kept'
  for name in ('bad', 'dropped', 'of_the_kept'):
    for reason, count in made[name].items():
      yield f'  {name.replace("_", " ")}: {count}  {reason}'
  if made['ignored']:
    yield f'  ignored columns: {", ".join(made["ignored"])}'
  kind = 'pairs' if 'pairs' in made else 'labels'
  parts = made[kind]
  told = ', '.join(f'{n} {name}' for name, n in parts.items())
  yield f'  {kind} by prompt: {told}'
  if parts['held_out'] > parts['policy']:
    yield (
      f'  note: {parts["held_out"]} are held out, {parts["policy"]} left for '
      'policies: task.heldout_prompts=0.1 holds out a tenth of the prompts'
    )
