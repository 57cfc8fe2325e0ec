"""A file of preferences: prompts, each with a better and a worse answer.

HH-RLHF, UltraFeedback, or any format that `align_jax.data` reads as
preferences. SFT is on the better answers; the gold judge is a reward model,
either trained here on a share of the file's pairs (Bradley-Terry) or loaded;
the pairs that it has not seen are the source 'file_pairs', and their prompts
are what policies are trained on.

`heldout_prompts` different prompts and all their pairs are kept from the
tokenizer, SFT, judge and policies alike: the judge is tested on them, and
policies are measured on them. The split is the same for every seed.
"""

import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax import judges
from align_jax.learn import batches, rewards
from align_jax.models import hf
from align_jax.models.interface import from_fields
from align_jax.tasks import Prompts, Task, pair_files, pair_judge
from align_jax.tasks.folders import make_once
from align_jax.tasks.judge import judge_config, load_gold, save_params
from align_jax.tasks.windows import Reviews, draw_windows
from align_jax.tasks.windows import encode as encode_texts

TRAINED = 'pairs'  # the kind of judge that is trained here
TEMPLATE = 'chat_template.jinja'
STRETCH = 8  # tokens that a stretch of text goes on from


# --- Made once ---------------------------------------------------------------


def _tokenizer_folder(name):
  """A local path, downloaded if it is the id of a model on the hub."""
  path = pathlib.Path(name).expanduser()
  if not name or path.exists():
    return name and str(path)
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
  if tokenizer and pathlib.Path(tokenizer).is_dir():
    for name in set(hf.COPIED) - {'generation_config.json'}:
      if (pathlib.Path(tokenizer) / name).is_file():
        shutil.copyfile(pathlib.Path(tokenizer) / name, folder / name)
  else:
    data_lib.save_vocabulary(folder, vocabulary)
  if template:
    (folder / TEMPLATE).write_text(template, encoding='utf-8')


def build(
  folder,
  *,
  vocab_size,
  data,
  dataset,
  subset,
  split,
  revision,
  tokenizer,
  eos_token,
  template,
  prompt_len,
  completion_len,
  long_prompt,
  long_completion,
  on_bad_row,
  heldout_prompts,
  pretrain_steps,
  judge,
  judge_share,
  judge_model,
  judge_steps,
  judge_batch_size,
  judge_learning_rate,
):
  """Fills `folder` with tokenizer, pairs, counts and judge; see `make_task`."""
  _check_judge(judge, judge_share)
  counts = data_lib.Counts(on_bad_row)
  limits = data_lib.Limits(
    prompt_len, completion_len, long_prompt, long_completion
  )
  limits.check()
  which = dict(split=split, revision=revision or None, config=subset or None)
  examples = pair_files.read(data, dataset, counts, **which)
  parts = pair_files.split(examples, heldout_prompts, judge_share)
  vocabulary, template = _make_tokenizer(
    folder,
    [*parts.judge, *parts.policy],
    _tokenizer_folder(tokenizer),
    template,
    vocab_size,
    eos_token or None,
    keep_texts=bool(pretrain_steps),
  )
  encoder = data_lib.make_encoder(vocabulary, template)
  encoded = pair_files.encode(parts, encoder, limits, counts)
  counts.check(data)
  _keep_pairs(folder, encoded, counts, data, prompt_len, completion_len)
  if judge['kind'] == TRAINED:
    config = judge_config(judge_model, vocab_size)
    params = pair_judge.train(
      batches.load(folder / 'judge_pairs.npz'),
      config,
      steps=judge_steps,
      batch_size=judge_batch_size,
      learning_rate=judge_learning_rate,
    )
    save_params(folder / 'judge.npz', params)
  else:
    asked = {x.where: x.prompt for x in examples}
    _keep_prompts(folder, encoded, asked, vocabulary.tokenizer)
  gold = make_gold(folder, judge, judge_model, vocab_size, vocabulary.tokenizer)
  _judge_the_judge(folder, gold, judge['kind'])


def _make_tokenizer(
  folder, examples, tokenizer, template, vocab_size, eos_token, keep_texts
):
  """-> Vocabulary, chat template or None; their files go into the folder."""
  texts = []
  if keep_texts or not tokenizer:
    texts = _plain_texts(examples, _template(template, tokenizer))
  vocabulary = data_lib.make_vocabulary(
    tokenizer, texts, vocab_size, eos_token=eos_token, needs_bos=False
  )
  template = _template(template, tokenizer, vocabulary)
  _keep_tokenizer(folder, tokenizer, vocabulary, template)
  if keep_texts:
    _keep_texts(folder, vocabulary, texts)
  return vocabulary, template


def _keep_pairs(folder, encoded, counts, data, prompt_len, completion_len):
  made = pair_files.summary(counts, encoded, data)
  (folder / 'counts.json').write_text(json.dumps(made, indent=1) + '\n')
  print(*pair_files.summary_lines(made), sep='\n', file=sys.stderr)
  if not encoded.held_out or not encoded.policy:
    raise ValueError(
      f'{data}: no pairs are left to hold out or to train on: '
      f'{made["pairs"]} after dropping {made["dropped"]}'
    )
  for name, part in encoded._asdict().items():
    if part:
      batch = data_lib.make_batch(part, prompt_len, completion_len)
      batches.save(folder / f'{name}_pairs.npz', batch)


def _keep_prompts(folder, encoded, asked, tokenizer):
  """What each prompt, as it is decoded, is in the file: for other judges."""
  rows = [x for part in encoded for x in part]
  texts = tokenizer.decode_batch([x.prompt for x in rows])
  known = {text: asked[x.where] for text, x in zip(texts, rows, strict=True)}
  (folder / 'prompts.json').write_text(json.dumps(known))


def _judge_the_judge(folder, gold, kind):
  found = {'kind': kind}
  for name in pair_files.Split._fields:
    path = folder / f'{name}_pairs.npz'
    if path.exists():
      found[name] = pair_judge.accuracy(gold, batches.load(path))
  (folder / 'judge.json').write_text(json.dumps(found, indent=1) + '\n')
  print(_judge_line(found['held_out']), file=sys.stderr)


def _judge_line(found):
  low, high = found['interval']
  return (
    f'  gold judge: right on {found["accuracy"]:.3f} [{low:.3f}, {high:.3f}] '
    f'of {found["pairs"]} held-out pairs; the longer answer on '
    f'{found["longer"]:.3f}'
  )


def _keep_texts(folder, vocabulary, texts):
  if vocabulary.bos_id is None:
    raise ValueError('task.pretrain_steps needs a tokenizer with a BOS')
  kept = encode_texts(vocabulary, texts, np.zeros(len(texts), np.float32))
  np.savez(folder / 'texts.npz', **kept._asdict())


def prepare(*, workdir, model, sft_batch_size, eval_prompts, **made):
  """Makes once, in `workdir`, what no seed changes; see `make_task`.

  settings.json, the tokenizer's files, counts.json (every row of the file and
  what became of it), *_pairs.npz, judge.npz (its parameters), and judge.json,
  which says how good the judge is.

  Raises:
    ValueError: the folder was made with other settings.
  """
  del sft_batch_size  # of each run
  if not 0 < eval_prompts <= made['heldout_prompts']:
    raise ValueError(
      f'task.eval_prompts={eval_prompts} is not within 1 and '
      f'task.heldout_prompts={made["heldout_prompts"]}'
    )
  made['vocab_size'] = model['vocab_size']
  settings = dict(made, data=data_lib.fingerprint(made['data']))
  make_once(workdir, lambda partial: build(partial, **made), settings)


# --- The judge ---------------------------------------------------------------


def _check_judge(judge, judge_share):
  kind, trained = judge['kind'], judge['kind'] == TRAINED
  if trained != bool(judge_share) or trained == bool(judge.get('checkpoint')):
    raise ValueError(
      f'task.judge.kind={kind!r}: {TRAINED!r} learns from task.judge_share of '
      'the pairs and has no checkpoint; others have task.judge.checkpoint and '
      f'task.judge_share=0; got judge_share={judge_share} and checkpoint='
      f'{judge.get("checkpoint")!r}'
    )
  if not trained and kind not in judges.JUDGES:
    known = sorted([TRAINED, *judges.JUDGES])
    raise ValueError(f'task.judge.kind={kind!r} is none of {known}')


def make_gold(folder, judge, judge_model, vocab_size, tokenizer):
  """The judge that no training sees: Batch -> f32 [B]."""
  if judge['kind'] != TRAINED:
    knobs = {k: v for k, v in judge.items() if k not in ('kind', 'checkpoint')}
    score = judges.JUDGES[judge['kind']](judge['checkpoint'], **knobs)
    if isinstance(score, judges.Pairwise):
      raise ValueError(
        f'task.judge.kind={judge["kind"]!r} compares two answers, expected a '
        'judge that scores one'
      )
    asked = json.loads((folder / 'prompts.json').read_text())
    # It has a template of its own: it is shown the messages, all of them.
    whole = lambda prompts, completions: score(
      [asked[prompt] for prompt in prompts], completions
    )
    whole.__name__ = judge['kind']
    return rewards.from_text(whole, data_lib.decoder(tokenizer))
  config = judge_config(judge_model, vocab_size)
  return load_gold(folder / 'judge.npz', config)


# --- The task ----------------------------------------------------------------


def demonstrator(pairs, batch_size):
  """The source of random better answers: G = 1."""
  best = jax.jit(
    lambda x: x.replace(
      completions=x.completions[::2],
      valid=x.valid[::2],
      mask=x.mask[::2],
      rewards=x.rewards[::2],
      group_size=1,
    )
  )(pairs)

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
  tokens, valid = np.asarray(pairs.prompts), np.asarray(pairs.prompt_valid)
  both = np.where(valid, tokens, -1)
  index = np.sort(np.unique(both, axis=0, return_index=True)[1])
  return Prompts(tokens[index], valid[index])


def _held_out(pairs, eval_prompts):
  found = distinct_prompts(pairs)
  if len(found) < eval_prompts:
    raise ValueError(
      f'task.eval_prompts={eval_prompts}, but of task.heldout_prompts only '
      f'{len(found)} are left within task.prompt_len: see counts.json'
    )
  return Prompts(*found[:eval_prompts])


def make_task(
  *, seed, workdir, model, sft_batch_size, eval_prompts, eos_token='', **made
):
  """The task; makes what `prepare` makes if that is not there yet.

  Args:
    seed: of the run; all runs have the same task.
    workdir: the folder of `prepare`, and of nothing else.
    model: dict of ModelConfig fields of the policy; its vocab_size is also
      that of a judge that is trained.
    sft_batch_size: demonstrations per step.
    eval_prompts: of the held-out ones that fit, how many policies are measured
      on.
    eos_token: another EOS than the tokenizer names; '': that one.
    data: a local file or a hub data set, see `data.rows`.
    dataset: a name in `data.DATASETS`; '' finds it by the columns.
    subset, split, revision: of a hub data set.
    tokenizer: a folder, a tokenizer.json or a hub id; '' trains a byte-level
      BPE of model.vocab_size on the training texts.
    template: for rows of messages: a name in `data.chat.TEMPLATES` or a Jinja
      file; '' is that of the tokenizer.
    prompt_len: S, BOS included.
    completion_len: T, EOS included.
    long_prompt, long_completion: what becomes of longer ones, see
      `data.Limits`.
    on_bad_row: 'error' | 'skip', see `data.Counts`.
    heldout_prompts: different prompts that nothing is trained on.
    pretrain_steps: of the steps of SFT, the first ones, on stretches of whole
      training texts instead of answers.
    judge: `kind`: 'pairs' is trained here, others are of `judges.JUDGES` and
      are given `checkpoint` and all further entries.
    judge_share: of the training prompts, those whose pairs only the judge (and
      SFT) learns from.
    judge_model: dict of ModelConfig fields, without vocab_size and head.
    judge_steps, judge_batch_size, judge_learning_rate: of its training.
  Raises:
    ValueError, FileNotFoundError: one line that names the file and row, or the
      field, that is wrong.
  """
  del seed
  made['eos_token'] = eos_token
  prepare(
    workdir=workdir,
    model=model,
    sft_batch_size=sft_batch_size,
    eval_prompts=eval_prompts,
    **made,
  )
  config, folder = from_fields(**model), pathlib.Path(workdir)
  vocabulary = data_lib.load_tokenizer(
    folder, eos_token=eos_token or None, needs_bos=False
  )
  pairs = batches.load(folder / 'policy_pairs.npz')
  shown = [pairs]
  if made['judge_share']:
    shown.append(batches.load(folder / 'judge_pairs.npz'))
  size = made['prompt_len'] + made['completion_len']
  gold = make_gold(
    folder,
    made['judge'],
    made['judge_model'],
    config.vocab_size,
    vocabulary.tokenizer,
  )
  return Task(
    model=config,
    max_new_tokens=made['completion_len'],
    eos_id=vocabulary.eos_id,
    train_prompts=distinct_prompts(pairs),
    eval_prompts=_held_out(
      batches.load(folder / 'held_out_pairs.npz'), eval_prompts
    ),
    demonstrations=texts_first(
      folder,
      made['pretrain_steps'],
      vocabulary.bos_id,
      sft_batch_size,
      size,
      demonstrator(batches.concatenate(shown), sft_batch_size),
    ),
    gold=gold,
    decode=data_lib.decoder(vocabulary.tokenizer),
    pairs=pairs,
    tokenizer=folder,
  )
