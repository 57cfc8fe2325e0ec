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

import functools
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax import sharding, step
from align_jax.losses.supervised import binary_cross_entropy
from align_jax.models import transformer
from align_jax.models.transformer import ModelConfig
from align_jax.programs import scorer
from align_jax.tasks import Prompts, Task
from align_jax.types import Batch

OPENINGS = 0.5  # share of training windows that are a text's opening
WEIGHT_DECAY = 0.1  # of the judge
LOG_ODDS_SCALE = 0.04  # of the judge's first embedding, else of scale 0.02
PSEUDO_COUNT = 20  # of every token under each label


# --- Texts and windows on them -----------------------------------------------


class Reviews(NamedTuple):
  tokens: np.ndarray  # int32 [N]  one text after the other, EOS after each
  starts: np.ndarray  # int32 [R + 1]
  labels: np.ndarray  # f32 [R]


def read(data, dataset):
  """-> distinct texts and their labels f32 [R], in a fixed random order.

  Distinct, or a held-out text could be trained on under another number.
  """
  if dataset not in data_lib.DATASETS:
    raise ValueError(
      f'task.dataset={dataset!r} is none of {sorted(data_lib.DATASETS)}'
    )
  label_of = {}
  for row in data_lib.DATASETS[dataset](data_lib.rows(data)):
    label_of.setdefault(row['text'], row['label'])
  texts = list(label_of)
  order = np.random.default_rng(0).permutation(len(texts))
  texts = [texts[i] for i in order]
  return texts, np.array([label_of[text] for text in texts], np.float32)


def encode(vocabulary, texts, labels):
  ids = data_lib.encode(vocabulary.tokenizer, texts)
  ids = [row + [vocabulary.eos_id] for row in ids]
  starts = np.cumsum([0, *map(len, ids)])
  return Reviews(
    np.concatenate(ids).astype(np.int32), starts.astype(np.int32), labels
  )


@functools.partial(jax.jit, static_argnames=('prompt_len', 'size'))
def windows(reviews, bos_id, index, offsets, lengths, *, prompt_len, size):
  """Stretches of texts as prompts and completions that go on from them.

  Args:
    reviews: Reviews of arrays.
    bos_id: put in front of every prompt, wherever the window is.
    index: int [P], which texts.
    offsets: int [P], where windows begin; brought back to where the text
      still fills the prompt.
    lengths: int [P], of the completions; they also end where the text does,
      with EOS. At least one token is left to them: of a text too short for
      the prompt, that is EOS, and the prompt is left-padded.
    prompt_len: S, BOS included.
    size: T.
  Returns:
    Batch of P prompts, G = 1; rewards are the labels.
  """
  start, end = reviews.starts[index], reviews.starts[index + 1]
  room = jnp.maximum(end - start - prompt_len, 0)
  begin = start + jnp.minimum(offsets, room)
  split = jnp.minimum(begin + prompt_len - 1, end - 1)
  at = split[:, None] + jnp.arange(-prompt_len, 0)
  first = begin[:, None]
  prompts = jnp.where(at < first, bos_id, reviews.tokens[at])
  prompt_valid = at >= first - 1
  slots = jnp.arange(size)
  at = split[:, None] + slots
  valid = (at < end[:, None]) & (slots < lengths[:, None])
  tokens = reviews.tokens[jnp.minimum(at, len(reviews.tokens) - 1)]
  return Batch(
    prompts=jnp.where(prompt_valid, prompts, 0),
    prompt_valid=prompt_valid,
    completions=jnp.where(valid, tokens, 0),
    valid=valid,
    mask=valid,
    rewards=reviews.labels[index],
  )


@functools.partial(
  jax.jit, static_argnames=('batch_size', 'prompt_len', 'size', 'shortest')
)
def draw_windows(
  reviews, bos_id, held_out, key, *, batch_size, prompt_len, size, shortest
):
  """Windows on random texts, the first `held_out` of them excepted.

  Half of them are openings, as prompts are; the others lie anywhere. Their
  completions have `shortest` to `size` tokens.
  """
  pick, place, opening, length = jax.random.split(key, 4)
  shape = (batch_size,)
  index = jax.random.randint(pick, shape, held_out, len(reviews.labels))
  lengths = jax.random.randint(length, shape, shortest, size + 1)
  room = reviews.starts[index + 1] - reviews.starts[index] - prompt_len
  offsets = jax.random.randint(place, shape, 0, jnp.maximum(room, 1))
  offsets = jnp.where(
    jax.random.bernoulli(opening, OPENINGS, shape), 0, offsets
  )
  return windows(
    reviews,
    bos_id,
    index,
    offsets,
    lengths,
    prompt_len=prompt_len,
    size=size,
  )


def openings(reviews, bos_id, index, *, prompt_len, size):
  """The windows at the beginning of the texts `index`: int [P]."""
  return windows(
    reviews,
    bos_id,
    index,
    np.zeros(len(index), np.int32),
    np.full(len(index), size),
    prompt_len=prompt_len,
    size=size,
  )


def distinct_prompts(reviews, bos_id, index, prompt_len, without=()):
  """The different openings of the texts `index`, but those in `without`."""
  batch = openings(reviews, bos_id, index, prompt_len=prompt_len, size=1)
  tokens, valid = np.asarray(batch.prompts), np.asarray(batch.prompt_valid)
  seen = {row.tobytes() for row in without}
  kept = []
  for i, row in enumerate(tokens):
    if row.tobytes() not in seen:
      seen.add(row.tobytes())
      kept.append(i)
  return Prompts(tokens[kept], valid[kept])


# --- The gold judge ----------------------------------------------------------


def log_odds(reviews, held_out, vocab_size):
  """How much more often each token is in good texts than in bad: f32 [V].

  The naive Bayes weights that Wang & Manning 2012 found hard to beat on short
  texts.
  """
  begin = reviews.starts[held_out]
  labels = np.repeat(reviews.labels, np.diff(reviews.starts))[begin:]
  tokens = reviews.tokens[begin:]

  def log_share(label):
    counts = np.bincount(tokens[labels == label], minlength=vocab_size)
    counts = counts + PSEUDO_COUNT
    return np.log(counts / counts.sum())

  return np.float32(log_share(1) - log_share(0))


def init_judge(key, config, reviews, held_out):
  """Fresh parameters whose embedding knows each token's log odds already.

  A transformer learns word by word what counting gives at once; this saves
  most of its training.
  """
  params_key, sign_key = jax.random.split(key)
  params = transformer.init(params_key, config)
  direction = jax.random.rademacher(sign_key, (config.dim,), jnp.float32)
  known = jnp.outer(log_odds(reviews, held_out, config.vocab_size), direction)
  return {**params, 'embed': params['embed'] + LOG_ODDS_SCALE * known}


def train_judge(
  reviews,
  bos_id,
  config,
  *,
  held_out,
  prompt_len,
  size,
  steps,
  batch_size,
  learning_rate,
):
  """A classifier of windows with up to `size` tokens after the prompt.

  Returns:
    params; `scoring.scores` of them is the logit that a text is good.
  """
  tx = step.make_optimizer(warmup_steps=20, weight_decay=WEIGHT_DECAY)
  train_step = step.make_train_step(scorer(config), binary_cross_entropy, tx)
  root = jax.random.key(0)
  state = step.init_state(init_judge(root, config, reviews, held_out), tx)
  arrays = jax.tree.map(jnp.asarray, reviews)
  for i in range(steps):
    batch = draw_windows(
      arrays,
      bos_id,
      held_out,
      jax.random.fold_in(root, i),
      batch_size=batch_size,
      prompt_len=prompt_len,
      size=size,
      shortest=-(-size // 4),
    )
    rate = learning_rate * min(1, 2 * (1 - i / steps))
    state, _ = train_step(state, batch, {'learning_rate': rate})
  return state.params


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


# --- What no seed changes, made once -----------------------------------------


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


def judge_config(judge_model, vocab_size):
  return ModelConfig(vocab_size=vocab_size, head='scalar', **judge_model)


def save_vocabulary(folder, vocabulary):
  """As `data.load_tokenizer` reads it."""
  tokenizer, *ids = vocabulary
  tokenizer.save(str(folder / 'tokenizer.json'))
  names = [tokenizer.id_to_token(i) for i in ids]
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(dict(zip(('bos_token', 'eos_token'), names)))
  )


def make_vocabulary(folder, tokenizer, texts, vocab_size):
  """Trains a tokenizer on `texts` unless one is given; keeps it in `folder`."""
  if tokenizer:
    vocabulary = data_lib.load_tokenizer(tokenizer)
  else:
    trained = data_lib.train_tokenizer(texts, vocab_size)
    _, bos, eos = map(trained.token_to_id, data_lib.SPECIAL_TOKENS)
    vocabulary = data_lib.Vocabulary(trained, bos, eos)
  size = vocabulary.tokenizer.get_vocab_size()
  if size > vocab_size:
    raise ValueError(
      f'task.tokenizer={tokenizer} has {size} tokens, more than '
      f'model.vocab_size={vocab_size}'
    )
  save_vocabulary(folder, vocabulary)
  return vocabulary


def build(
  folder,
  *,
  vocab_size,
  data,
  dataset,
  tokenizer,
  heldout_reviews,
  prompt_len,
  completion_len,
  judge_model,
  judge_len,
  judge_steps,
  judge_batch_size,
  judge_learning_rate,
):
  """Fills `folder` with tokenizer, encoded texts and judge; see `make_task`."""
  config = judge_config(judge_model, vocab_size)
  texts, labels = read(data, dataset)
  training = labels[heldout_reviews:]
  if not heldout_reviews or len(set(training)) < 2:
    raise ValueError(
      f'{data}: {len(labels)} distinct texts, of which {heldout_reviews} are '
      'held out, must leave some of both labels to train on'
    )
  vocabulary = make_vocabulary(
    folder, tokenizer, texts[heldout_reviews:], vocab_size
  )
  reviews = encode(vocabulary, texts, labels)
  np.savez(folder / 'reviews.npz', **reviews._asdict())
  bos_id = vocabulary.bos_id
  params = train_judge(
    reviews,
    bos_id,
    config,
    held_out=heldout_reviews,
    prompt_len=prompt_len,
    size=judge_len,
    steps=judge_steps,
    batch_size=judge_batch_size,
    learning_rate=judge_learning_rate,
  )
  save_params(folder / 'judge.npz', params)
  accuracy = judge_accuracy(
    params,
    config,
    reviews,
    bos_id,
    held_out=heldout_reviews,
    prompt_len=prompt_len,
    size=completion_len,
  )
  (folder / 'judge.json').write_text(json.dumps(accuracy, indent=1) + '\n')


def check_settings(folder, settings):
  """Raises ValueError if `folder` was made with others; names the first."""
  made = json.loads((folder / 'settings.json').read_text())
  for name in sorted(made.keys() | settings.keys()):
    if made.get(name) != settings.get(name):
      raise ValueError(
        f'{folder} was made with {name}={made.get(name)!r}, not '
        f'{settings.get(name)!r}: remove it, or work elsewhere'
      )


def prepare(
  *,
  workdir,
  model,
  prompts,
  eval_prompts,
  sft_batch_size,
  sft_len,
  heldout_reviews,
  **made,
):
  """Makes once, in `workdir`, what no seed changes; see `make_task`.

  The folder appears whole or not at all: settings.json, tokenizer.json,
  reviews.npz, judge.npz, and judge.json, which says how good the judge is on
  held-out texts.

  Raises:
    ValueError: the folder was made with other settings.
  """
  del prompts, sft_batch_size, sft_len  # of each run
  if eval_prompts > heldout_reviews:
    raise ValueError(
      f'task.eval_prompts={eval_prompts} is more than '
      f'task.heldout_reviews={heldout_reviews}'
    )
  folder = pathlib.Path(workdir)
  made['heldout_reviews'] = heldout_reviews
  made['vocab_size'] = model['vocab_size']
  settings = dict(made, data=data_lib.fingerprint(made['data']))
  # As they will be read: tuples as lists, a path as text.
  settings = json.loads(json.dumps(settings, default=str))
  if not (folder / 'settings.json').exists():
    partial = folder.with_name(f'{folder.name}.partial-{os.getpid()}')
    partial.mkdir(parents=True)
    try:
      build(partial, **made)
      (partial / 'settings.json').write_text(json.dumps(settings, indent=1))
      _publish(partial, folder)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
  check_settings(folder, settings)


def _publish(partial, folder):
  try:
    partial.rename(folder)
  except OSError:
    if not (folder / 'settings.json').exists():
      raise
    # Another process was faster, and has made the same.


def make_task(
  *,
  seed,
  workdir,
  model,
  prompts,
  eval_prompts,
  prompt_len,
  completion_len,
  sft_batch_size,
  sft_len,
  heldout_reviews,
  judge_model,
  **made,
):
  """The task; makes what `prepare` makes if that is not there yet.

  Args:
    seed: of the run; all runs have the same task.
    workdir: the folder of `prepare`, and of nothing else.
    model: dict of ModelConfig fields of the policy; its vocab_size is also
      the judge's.
    prompts, eval_prompts: how many to train on and to hold out, at most: equal
      ones count once, and training has none of the held-out ones.
    prompt_len: S, tokens of a prompt, BOS included.
    completion_len: T.
    sft_batch_size: demonstrations per step.
    sft_len: completion tokens of a demonstration; half of them are openings,
      half lie anywhere in a text.
    heldout_reviews: texts that nothing is trained on.
    judge_model: dict of ModelConfig fields, without vocab_size and head.
    data: a local file or a hub data set, see `data.rows`.
    dataset: a name in `data.DATASETS`: how to read its rows.
    tokenizer: a tokenizer.json or its folder, see `data.load_tokenizer`; ''
      trains a byte-level BPE of model.vocab_size on the training texts.
    judge_len: most completion tokens that the judge is trained on; longer ones
      say more about their label.
    judge_steps, judge_batch_size, judge_learning_rate: of its training.
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
    prompt_len=prompt_len,
    completion_len=completion_len,
    sft_batch_size=sft_batch_size,
    sft_len=sft_len,
    heldout_reviews=heldout_reviews,
    judge_model=judge_model,
    **made,
  )
  config, folder = ModelConfig(**model), pathlib.Path(workdir)
  tokenizer, bos_id, eos_id = data_lib.load_tokenizer(folder)
  with np.load(folder / 'reviews.npz') as arrays:
    reviews = Reviews(**arrays)
  held_out, train = np.split(np.arange(len(reviews.labels)), [heldout_reviews])
  asked = distinct_prompts(reviews, bos_id, held_out[:eval_prompts], prompt_len)
  trained_on = distinct_prompts(
    reviews, bos_id, train[:prompts], prompt_len, without=asked.tokens
  )
  judge = judge_config(judge_model, config.vocab_size)
  judge_params = load_params(folder / 'judge.npz', judge)
  mesh = sharding.current_mesh()
  if mesh is not None:
    judge_params = sharding.on_mesh(judge_params, mesh)
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

  def gold(batch):
    # Without what the judge does not read: one program for all batches.
    batch = batch.replace(sampler_logps=None, ref_logps=None)
    return scorer(judge)(judge_params, batch)

  def texts(tokens, valid):
    rows = zip(np.asarray(tokens), np.asarray(valid))
    return tokenizer.decode_batch([t[v].tolist() for t, v in rows])

  def decode(batch):
    prompts = texts(batch.prompts, batch.prompt_valid)
    prompts = [text for text in prompts for _ in range(batch.group_size)]
    return prompts, texts(batch.completions, batch.valid)

  return Task(
    model=config,
    max_new_tokens=completion_len,
    eos_id=eos_id,
    train_prompts=trained_on,
    eval_prompts=asked,
    demonstrations=demonstrate,
    gold=gold,
    decode=decode,
  )
