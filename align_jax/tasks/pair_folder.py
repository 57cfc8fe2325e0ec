"""What a preference file is made into, once for all runs: a folder.

The tokenizer, the pairs by who learns from them, and a judge that is trained.
"""

import dataclasses
import json
import pathlib
import shutil

import numpy as np

from align_jax import data as data_lib
from align_jax import hosts, judges, paths
from align_jax.learn import batches
from align_jax.models import hf
from align_jax.tasks import pair_files, pair_judge
from align_jax.tasks.judge import judge_config, save_params
from align_jax.tasks.pair_judge import TRAINED, make_gold
from align_jax.tasks.windows import encode as encode_texts

TEMPLATE = 'chat_template.jinja'
MOST_TESTED = 2048  # prompts of each part that the gold judge is tested on


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
  """The file, which of its rows are read, and how many are held out.

  Attributes:
    data: local files or a hub data set, see `data.rows`: of pairs, or of
      answers with labels.
    dataset: a name in `data.DATASETS`; '' finds it by the columns.
    subset, split: of a hub data set or a folder.
    revision: of a hub data set.
    on_bad_row: 'error' | 'skip', see `data.Counts`.
    heldout_prompts: different prompts that nothing is trained on: their number,
      or a share below 1 of all.
  """

  data: str | tuple
  dataset: str
  subset: str
  split: str
  revision: str
  on_bad_row: str
  heldout_prompts: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
  """How rows become tokens.

  Attributes:
    tokenizer: a folder, a tokenizer.json or a hub id; '' trains a byte-level
      BPE of model.vocab_size on the training texts.
    eos_token: another EOS than the tokenizer names; '': that one.
    template: for rows of messages: a name in `data.named_templates.TEMPLATES`
      or a Jinja file; '' is that of the tokenizer.
    prompt_len: S, BOS included.
    completion_len: T, EOS included.
    long_prompt, long_completion: what becomes of longer ones, see
      `data.Limits`.
    pretrain_steps: of the steps of SFT, the first ones, on stretches of whole
      training texts instead of answers.
  """

  tokenizer: str
  eos_token: str = ''
  template: str
  prompt_len: int
  completion_len: int
  long_prompt: str
  long_completion: str
  pretrain_steps: int


def build(folder, vocab_size, file, form, judge, eval_prompts):
  """Fills `folder` with tokenizer, pairs, counts and judge.

  Args:
    vocab_size: of the policy, and of a judge that is trained.
    file, form, judge: a File, a Form and a Judge.
    eval_prompts: how many prompts must be held out, at least.
  """
  counts = data_lib.Counts(file.on_bad_row)
  limits = limits_of(form)
  examples = _read(file, counts)
  kind = pair_files.kind_of(examples)
  pair_judge.check_rows(judge, kind, examples, file.data)
  parts = pair_files.split(examples, file.heldout_prompts, judge.judge_share)
  training = [*parts.judge, *parts.policy]
  vocabulary, template = _make_tokenizer(folder, training, form, vocab_size)
  encoder = data_lib.make_encoder(vocabulary, template, size=vocab_size)
  (folder / pair_judge.DATE).write_text(str(encoder.date), encoding='utf-8')
  for line in data_lib.marker_lines(encoder):
    hosts.say(f'  {line}')
  encoded = pair_files.encode(parts, encoder, limits, counts)
  counts.check(file.data)
  _keep_rows(folder, encoded, counts, file.data, form, kind)
  held_out = {tuple(x.prompt) for x in encoded.held_out}
  pair_files.check_held_out(held_out, eval_prompts)
  if judge.kind in TRAINED:
    _train_judge(folder, judge, vocab_size)
  if judge.kind in judges.JUDGES:
    asked = {x.where: x.prompt for x in examples}
    _keep_prompts(folder, encoded, asked, vocabulary.tokenizer)
  gold = make_gold(folder, judge, vocab_size, vocabulary.tokenizer)
  _judge_the_judge(folder, gold, judge.kind)


def limits_of(form):
  """The Limits that a Form sets on lengths."""
  return data_lib.Limits(
    form.prompt_len, form.completion_len, form.long_prompt, form.long_completion
  )


def _read(file, counts):
  return pair_files.read(
    file.data,
    file.dataset,
    counts,
    split=file.split,
    revision=file.revision or None,
    config=file.subset or None,
  )


def _make_tokenizer(folder, examples, form, vocab_size):
  """-> Vocabulary, chat template or None; their files go into the folder."""
  tokenizer, texts = _tokenizer_folder(form.tokenizer), []
  if form.pretrain_steps or not tokenizer:
    texts = _plain_texts(examples, _template(form.template, tokenizer))
  vocabulary = data_lib.make_vocabulary(
    tokenizer,
    texts,
    vocab_size,
    eos_token=form.eos_token or None,
    needs_bos=False,
  )
  template = _template(form.template, tokenizer, vocabulary)
  _keep_tokenizer(folder, tokenizer, vocabulary, template)
  if form.pretrain_steps:
    _keep_texts(folder, vocabulary, texts, vocab_size)
  return vocabulary, template


def _tokenizer_folder(name):
  """A local path, downloaded if it is the id of a model on the hub."""
  path = paths.path(name).expanduser()
  if not name or path.exists():
    return name and str(paths.local(path))
  return str(hf.fetch(name, patterns=hf.TEXTS))


def _template(template, tokenizer, vocabulary=None):
  """The chat template in force, or None; one that is named gets the BOS."""
  if not template:
    return data_lib.load_template(tokenizer) if tokenizer else None
  found = data_lib.load_template(template)
  if found is None or vocabulary is None or vocabulary.bos_id is None:
    return found
  bos = vocabulary.tokenizer.id_to_token(vocabulary.bos_id)
  written = 'bos_token' in found or bos in found
  return found if written else '{{ bos_token }}' + found


def _plain_texts(examples, template):
  names = dict(bos_token='', eos_token=data_lib.SPECIAL_TOKENS[2])
  return [
    text.replace(names['eos_token'], '')
    for text in pair_files.texts(examples, template, names)
  ]


def _keep_tokenizer(folder, tokenizer, vocabulary, template):
  """The files of the tokenizer, as transformers reads them too."""
  home, names = pathlib.Path(tokenizer), hf.COPIED if tokenizer else ()
  if not tokenizer or home.is_file():
    data_lib.save_vocabulary(folder, vocabulary)
    home, names = home.parent, [x for x in names if x == hf.GENERATION]
  for name in names:
    if (home / name).is_file():
      shutil.copyfile(home / name, folder / name)
  if template:
    (folder / TEMPLATE).write_text(template, encoding='utf-8')


def rows_file(folder, part):
  """The file of a part of the rows: pairs, or answers with labels."""
  return pathlib.Path(folder) / f'{part}_pairs.npz'


def _keep_rows(folder, encoded, counts, data, form, kind):
  made = pair_files.summary(counts, encoded, data, kind)
  text = json.dumps(made, indent=1) + '\n'
  (folder / 'counts.json').write_text(text, encoding='utf-8')
  hosts.say(*pair_files.summary_lines(made))
  if not encoded.held_out or not encoded.policy:
    raise ValueError(
      f'{data}: no {kind} are left to hold out or to train on: '
      f'{made[kind]} after dropping {made["dropped"]}'
    )
  for name, part in encoded._asdict().items():
    if part:
      batch = data_lib.make_batch(part, form.prompt_len, form.completion_len)
      batches.save(rows_file(folder, name), batch)


def _keep_prompts(folder, encoded, asked, tokenizer):
  """What each prompt, as it is decoded, is in the file: for other judges."""
  rows = [x for part in encoded for x in part]
  texts = tokenizer.decode_batch([x.prompt for x in rows])
  known = {text: asked[x.where] for text, x in zip(texts, rows, strict=True)}
  (folder / 'prompts.json').write_text(json.dumps(known), encoding='utf-8')


def _train_judge(folder, judge, vocab_size):
  params = pair_judge.train(
    batches.load(rows_file(folder, 'judge')),
    judge_config(judge.judge_model, vocab_size),
    steps=judge.judge_steps,
    batch_size=judge.judge_batch_size,
    learning_rate=judge.judge_learning_rate,
  )
  save_params(folder / 'judge.npz', params)


def _judge_the_judge(folder, gold, kind):
  found = {'kind': kind}
  for name in pair_files.Split._fields:
    path = rows_file(folder, name)
    if path.exists():
      rows = batches.load(path)
      tested = np.arange(min(rows.num_prompts, MOST_TESTED))
      found[name] = pair_judge.accuracy(gold, batches.take(rows, tested))
  text = json.dumps(found, indent=1) + '\n'
  (folder / 'judge.json').write_text(text, encoding='utf-8')
  hosts.say(_judge_line(found['held_out']))


def _judge_line(found):
  if 'pairs' not in found:
    told = f'{found["good"]} good and {found["bad"]} bad held-out answers'
    if found['accuracy'] is None:
      return f'  gold judge: not tested, on {told}'
    return (
      f'  gold judge: a good one above a bad one in {found["accuracy"]:.3f} of '
      f'all couples of {told}; the longer one in {found["longer"]:.3f}'
    )
  low, high = found['interval']
  return (
    f'  gold judge: right on {found["accuracy"]:.3f} [{low:.3f}, {high:.3f}] '
    f'of {found["pairs"]} held-out pairs; the longer answer on '
    f'{found["longer"]:.3f}'
  )


def _keep_texts(folder, vocabulary, texts, size):
  if vocabulary.bos_id is None:
    raise ValueError('task.pretrain_steps needs a tokenizer with a BOS')
  labels = np.zeros(len(texts), np.float32)
  kept = encode_texts(vocabulary, texts, labels, size)
  np.savez(folder / 'texts.npz', **kept._asdict())
