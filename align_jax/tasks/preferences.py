"""A file of preferences, pairs of answers, or of single answers with labels.

HH-RLHF, UltraFeedback, or any format that `align_jax.data` reads as
preferences or as unpaired ones. SFT is on the better or good answers; the gold
judge is a reward model, either trained here on a share of the file's rows (by
Bradley-Terry on pairs, by logistic regression on labels) or loaded; the rows
that it has not seen are the source 'file_pairs' or 'file_labels', and their
prompts are what policies are trained on.

`heldout_prompts` different prompts and all their rows are kept from the
tokenizer, SFT, judge and policies alike: the judge is tested on them, and
policies are measured on them. The split is the same for every seed.
"""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax import paths
from align_jax.data import named_templates
from align_jax.learn import batches
from align_jax.models.interface import from_fields
from align_jax.models.vocabulary import all_ends, ends, only_tokens
from align_jax.tasks import Prompts, Task
from align_jax.tasks.folders import make_once
from align_jax.tasks.knobs import defaults, fields_of, parted, whole
from align_jax.tasks.pair_files import check_held_out
from align_jax.tasks.pair_folder import (
  File,
  Form,
  build,
  limits_of,
  rows_file,
)
from align_jax.tasks.pair_judge import Judge, check_judge, make_gold
from align_jax.tasks.windows import Reviews, draw_windows
from align_jax.values import check_name

STRETCH = 8  # tokens that a stretch of text goes on from
PAIRS = True  # it has rows of its own, for 'file_pairs' and 'file_labels'


def check(model, *, eval_prompts, **made):
  """Raises ValueError for knobs that do not go together."""
  del model
  file, form, judge = parted(made, File, Form, Judge)
  share = file.heldout_prompts < 1
  most = math.inf if share else int(file.heldout_prompts)
  whole(1, most, eval_prompts=eval_prompts)
  limits_of(form).check()
  named = form.template and not pathlib.PurePath(form.template).suffix
  if named and not paths.path(form.template).expanduser().exists():
    check_name('task.template', form.template, named_templates.TEMPLATES)
  if form.pretrain_steps:
    least = STRETCH + 1 - form.prompt_len
    whole(max(1, least), completion_len=form.completion_len)
  check_judge(judge)


@fields_of(File, Form, Judge)
def prepare(*, workdir, model, sft_batch_size, eval_prompts, **made):
  """Makes once, in `workdir`, what no seed changes; see `make_task`.

  settings.json, the tokenizer's files, counts.json (every row of the file and
  what became of it), *_pairs.npz, judge.npz (its parameters), and judge.json,
  which says how good the judge is.

  Raises:
    ValueError: the folder was made with other settings.
  """
  del sft_batch_size  # of each run
  check(model, eval_prompts=eval_prompts, **made)
  file, form, judge = parted(made, File, Form, Judge)
  size = model['vocab_size']
  settings = {**vars(file), **vars(form), **vars(judge), 'vocab_size': size}
  which = file.split, file.subset or None
  settings['data'] = data_lib.fingerprint(file.data, *which)
  fill = lambda partial: build(partial, size, file, form, judge, eval_prompts)
  make_once(workdir, fill, settings, defaults(prepare))


def good_answers(rows):
  """The better row of every pair, or the rows labelled good: G = 1."""
  if rows.group_size == 2:
    return batches.first_rows(rows, rows.num_prompts)
  return batches.take(rows, np.flatnonzero(np.asarray(rows.rewards) == 1))


def demonstrator(rows, batch_size):
  """The source of random good answers: G = 1."""
  best = good_answers(rows)

  def demonstrate(state, key, step):
    del state, step
    index = jax.random.randint(key, (batch_size,), 0, best.num_prompts)
    return batches.take(best, index)

  return demonstrate


def texts_first(folder, steps, bos_id, batch_size, size, then):
  """The source of stretches of the training texts, and then of another.

  What a model trained from nothing learns its language from.

  Args:
    steps: how many are on texts.
    size: tokens of a stretch, BOS included.
    then: the other source.
  """
  if not steps:
    return then
  with np.load(folder / 'texts.npz') as arrays:
    texts = jax.tree.map(jnp.asarray, Reviews(**arrays))

  def demonstrate(state, key, step):
    if step >= steps:
      return then(state, key, step)
    return draw_windows(
      texts,
      bos_id,
      0,
      key,
      batch_size=batch_size,
      prompt_len=STRETCH,
      size=size - STRETCH,
      shortest=size - STRETCH,
    )

  return demonstrate


def distinct_prompts(pairs):
  """The Prompts of a Batch, each once, in order of first appearance."""
  tokens, valid = np.asarray(pairs.prompts), np.asarray(pairs.prompt_valid)
  both = np.where(valid, tokens, -1)
  index = np.sort(np.unique(both, axis=0, return_index=True)[1])
  return Prompts(tokens[index], valid[index])


def held_out_answers(pairs, eval_prompts):
  """Good answers to held-out prompts, as many as prompts at most: G = 1."""
  best = good_answers(pairs)
  return batches.first_rows(best, min(best.num_prompts, eval_prompts))


def _held_out(pairs, eval_prompts):
  found = distinct_prompts(pairs)
  check_held_out(found, eval_prompts)
  return Prompts(*found[:eval_prompts])


@fields_of(File, Form, Judge)
def make_task(*, seed, workdir, model, sft_batch_size, eval_prompts, **made):
  """The task; makes what `prepare` makes if that is not there yet.

  Args:
    seed: of the run; all runs have the same task.
    workdir: the folder of `prepare`, and of nothing else.
    model: dict of ModelConfig fields of the policy; its vocab_size is also
      that of a judge that is trained.
    sft_batch_size: demonstrations per step.
    eval_prompts: of the held-out ones that fit, how many policies are measured
      on.
    made: fields of File, Form and Judge.
  Raises:
    ValueError, FileNotFoundError: one line that names the file and row, or the
      field, that is wrong.
  """
  del seed
  prepare(
    workdir=workdir,
    model=model,
    sft_batch_size=sft_batch_size,
    eval_prompts=eval_prompts,
    **made,
  )
  _, form, judge = parted(made, File, Form, Judge)
  folder = paths.local(paths.path(workdir))
  config = from_fields(**model)
  vocabulary = data_lib.load_tokenizer(
    folder, eos_token=form.eos_token or None, needs_bos=False
  )
  rows = batches.load(rows_file(folder, 'policy'))
  held_out = batches.load(rows_file(folder, 'held_out'))
  shown = [rows]
  if judge.judge_share:
    shown.append(batches.load(rows_file(folder, 'judge')))
  return Task(
    model=only_tokens(config, vocabulary.tokenizer),
    max_new_tokens=form.completion_len,
    eos_id=all_ends(vocabulary.eos_id, ends(folder)),
    train_prompts=distinct_prompts(rows),
    eval_prompts=_held_out(held_out, eval_prompts),
    demonstrations=texts_first(
      folder,
      form.pretrain_steps,
      vocabulary.bos_id,
      sft_batch_size,
      form.prompt_len + form.completion_len,
      demonstrator(batches.concatenate(shown), sft_batch_size),
    ),
    held_out_demonstrations=lambda: held_out_answers(held_out, eval_prompts),
    gold=make_gold(folder, judge, config.vocab_size, vocabulary.tokenizer),
    decode=data_lib.decoder(vocabulary.tokenizer),
    pairs=rows if rows.group_size == 2 else None,
    labelled=rows if rows.group_size == 1 else None,
    tokenizer=folder,
  )
