"""Labelled texts, such as film reviews: go on from an opening, in good spirits.

A prompt is BOS and the first tokens of a text; the gold reward of a completion
is the logit, from a judge trained on the labels, that prompt and completion
speak well. This is the controlled sentiment of Ziegler et al. 2019
(arXiv 1909.08593) and Rafailov et al. 2023 (arXiv 2305.18290, sec. 6) at a
size that a laptop trains from scratch: tokenizer, policy and judge.

The first `heldout_reviews` texts are kept from the tokenizer, the judge and
SFT alike; the judge is tested on them, and eval prompts are their openings.
The split is the same for every seed, so that seeds can be paired by prompt.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax import paths
from align_jax.models.interface import from_fields
from align_jax.models.vocabulary import only_tokens
from align_jax.tasks import Task
from align_jax.tasks.folders import make_once
from align_jax.tasks.judge import (
  check_training,
  judge_accuracy,
  judge_config,
  load_gold,
  save_params,
  train_judge,
)
from align_jax.tasks.knobs import defaults, fields_of, parted, whole
from align_jax.tasks.windows import (
  Reviews,
  distinct_prompts,
  draw_windows,
  encode,
  openings,
)


def read(data, dataset):
  """-> distinct texts and their labels f32 [R], in a fixed random order.

  Distinct, or a held-out text could be trained on under another number.
  """
  label_of = {}
  for row in data_lib.task_rows(data, dataset, ('text', 'label')):
    label_of.setdefault(row['text'], row['label'])
  texts = list(label_of)
  order = np.random.default_rng(0).permutation(len(texts))
  texts = [texts[i] for i in order]
  return texts, np.array([label_of[text] for text in texts], np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """The texts, and what becomes a prompt.

  Attributes:
    data: a local file or a hub data set, see `data.rows`.
    dataset: a name in `data.DATASETS`: how to read its rows.
    tokenizer: a tokenizer.json or its folder, see `data.load_tokenizer`; ''
      trains a byte-level BPE of model.vocab_size on the training texts.
    heldout_reviews: texts that nothing is trained on.
    prompt_len: S, tokens of a prompt, BOS included.
    completion_len: T.
  """

  data: str
  dataset: str
  tokenizer: str
  heldout_reviews: int
  prompt_len: int
  completion_len: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """The gold judge and its training.

  Attributes:
    judge_model: dict of ModelConfig fields, without vocab_size and head.
    judge_len: most completion tokens that the judge is trained on; longer ones
      say more about their label.
    judge_steps, judge_batch_size, judge_learning_rate: of its training.
  """

  judge_model: dict
  judge_len: int
  judge_steps: int
  judge_batch_size: int
  judge_learning_rate: float


def check(model, *, eval_prompts, **made):
  """Raises ValueError for knobs that do not go together."""
  made = {k: v for k, v in made.items() if k not in ('prompts', 'sft_len')}
  texts, judge = parted(made, Texts, Judge)
  whole(2, prompt_len=texts.prompt_len)
  whole(1, judge_len=judge.judge_len)
  whole(1, texts.heldout_reviews, eval_prompts=eval_prompts)
  check_training(
    judge.judge_steps, judge.judge_batch_size, judge.judge_learning_rate
  )
  judge_config(judge.judge_model, model.get('vocab_size') or 1)


def build(folder, vocab_size, asked, judge):
  """Fills `folder` with tokenizer, encoded texts and judge; see `make_task`.

  Args:
    vocab_size: of policy and judge.
    asked, judge: Texts and Judge.
  """
  config = judge_config(judge.judge_model, vocab_size)
  held_out = asked.heldout_reviews
  texts, labels = read(asked.data, asked.dataset)
  if not held_out or len(set(labels[held_out:])) < 2:
    raise ValueError(
      f'{asked.data}: {len(labels)} distinct texts, of which {held_out} are '
      'held out, must leave some of both labels to train on'
    )
  vocabulary = data_lib.make_vocabulary(
    asked.tokenizer, texts[held_out:], vocab_size
  )
  data_lib.save_vocabulary(folder, vocabulary)
  reviews = encode(vocabulary, texts, labels, vocab_size)
  np.savez(folder / 'reviews.npz', **reviews._asdict())
  sizes = dict(held_out=held_out, prompt_len=asked.prompt_len)
  params = train_judge(
    reviews,
    vocabulary.bos_id,
    config,
    size=judge.judge_len,
    steps=judge.judge_steps,
    batch_size=judge.judge_batch_size,
    learning_rate=judge.judge_learning_rate,
    **sizes,
  )
  save_params(folder / 'judge.npz', params)
  accuracy = judge_accuracy(
    params,
    config,
    reviews,
    vocabulary.bos_id,
    size=asked.completion_len,
    **sizes,
  )
  text = json.dumps(accuracy, indent=1) + '\n'
  (folder / 'judge.json').write_text(text, encoding='utf-8')


@fields_of(Texts, Judge)
def prepare(
  *, workdir, model, prompts, eval_prompts, sft_batch_size, sft_len, **made
):
  """Makes once, in `workdir`, what no seed changes; see `make_task`.

  The folder appears whole or not at all: settings.json, tokenizer.json,
  reviews.npz, judge.npz, and judge.json, which says how good the judge is on
  held-out texts.

  Raises:
    ValueError: the folder was made with other settings.
  """
  del sft_batch_size  # of each run
  check(model, eval_prompts=eval_prompts, **made)
  whole(1, prompts=prompts, sft_len=sft_len)
  texts, judge = parted(made, Texts, Judge)
  size = model['vocab_size']
  settings = {**vars(texts), **vars(judge), 'vocab_size': size}
  settings['data'] = data_lib.fingerprint(texts.data)
  fill = lambda partial: build(partial, size, texts, judge)
  make_once(workdir, fill, settings, defaults(prepare))


@fields_of(Texts, Judge)
def make_task(
  *,
  seed,
  workdir,
  model,
  prompts,
  eval_prompts,
  sft_batch_size,
  sft_len,
  **made,
):
  """The task; makes what `prepare` makes if that is not there yet.

  Args:
    seed: of the run; all runs have the same task.
    workdir: the folder of `prepare`, and of nothing else.
    model: dict, see `models.interface.from_fields`; its vocab_size is also
      the judge's.
    prompts, eval_prompts: how many to train on and to hold out, at most: equal
      ones count once, and training has none of the held-out ones.
    sft_batch_size: demonstrations per step.
    sft_len: completion tokens of a demonstration; half of them are openings,
      half lie anywhere in a text.
    made: fields of Texts and Judge.
  Raises:
    ValueError, FileNotFoundError: one line that names the file and row, or the
      field, that is wrong.
  """
  del seed
  prepare(
    workdir=workdir,
    model=model,
    prompts=prompts,
    eval_prompts=eval_prompts,
    sft_batch_size=sft_batch_size,
    sft_len=sft_len,
    **made,
  )
  texts, judge = parted(made, Texts, Judge)
  prompt_len, heldout_reviews = texts.prompt_len, texts.heldout_reviews
  folder = paths.local(paths.path(workdir))
  config = from_fields(**model)
  tokenizer, bos_id, eos_id = data_lib.load_tokenizer(folder)
  with np.load(folder / 'reviews.npz') as arrays:
    reviews = Reviews(**arrays)
  held_out, train = np.split(np.arange(len(reviews.labels)), [heldout_reviews])
  asked = distinct_prompts(reviews, bos_id, held_out[:eval_prompts], prompt_len)
  trained_on = distinct_prompts(
    reviews, bos_id, train[:prompts], prompt_len, without=asked.tokens
  )
  gold_config = judge_config(judge.judge_model, config.vocab_size)
  arrays = jax.tree.map(jnp.asarray, reviews)

  def demonstrate(state, key, step):
    del state, step
    return draw_windows(
      arrays,
      bos_id,
      heldout_reviews,
      key,
      batch_size=sft_batch_size,
      prompt_len=prompt_len,
      size=sft_len,
      shortest=sft_len,
    )

  def held_out_demonstrations():
    index = held_out[:eval_prompts]
    return openings(arrays, bos_id, index, prompt_len=prompt_len, size=sft_len)

  return Task(
    model=only_tokens(config, tokenizer),
    max_new_tokens=texts.completion_len,
    eos_id=eos_id,
    train_prompts=trained_on,
    eval_prompts=asked,
    demonstrations=demonstrate,
    held_out_demonstrations=held_out_demonstrations,
    gold=load_gold(folder / 'judge.npz', gold_config),
    decode=data_lib.decoder(tokenizer),
    tokenizer=folder,
  )
