"""Tasks of texts: rows of a prompt and an answer, and a rule that scores.

Rows and a rule make a task. This module supplies the rest: tokens, padding, the
split, demonstrations, and the texts that the rule reads. All seeds have the
same split, so seeds can be paired by prompt.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax.learn.rewards import from_text
from align_jax.models.interface import from_fields
from align_jax.models.vocabulary import only_tokens
from align_jax.tasks import OLD, Prompts, Task
from align_jax.tasks.knobs import whole
from align_jax.types import Batch

BYTES = 256 + len(data_lib.SPECIAL_TOKENS)  # vocabulary of a byte per token
FIELDS = ('prompt', 'completion')  # of a row


class Encoded(NamedTuple):
  """Prompts with one completion each."""

  prompts: Prompts  # N of them
  completions: np.ndarray  # int32 [N, T]  right-padded, EOS included
  valid: np.ndarray  # bool [N, T]


def read(rows, data, dataset, fields):
  """List of Row, from the file `data` if it is set, else from `rows`.

  Raises:
    ValueError: names the first row without a field.
  """
  if dataset not in ('', *data_lib.DATASETS):
    raise ValueError(
      f'task.dataset={dataset!r} is none of {sorted(data_lib.DATASETS)}'
    )
  if data:
    rows = data_lib.task_rows(data, dataset, fields)
  numbered = enumerate(rows, 1)
  placed = [
    data_lib.Row(row, getattr(row, 'where', f'row {i}')) for i, row in numbered
  ]
  for row in placed:
    for name in FIELDS:
      data_lib.field(row, name, str)
  return placed


def check_lengths(rows, id_lists, field, size):
  """Raises ValueError for the first row with more than `size` tokens."""
  lengths = [len(ids) for ids in id_lists]
  for row, length in zip(rows, lengths, strict=True):
    if length > size:
      raise data_lib.row_error(
        row,
        f'{field} of {length} tokens, more than task.{field}_len={size}; the '
        f'longest has {max(lengths)}',
      )


def check_score(score, rows):
  """Raises ValueError if the score of the first row's answer is no number."""
  for row in rows[:1]:
    found = score(row['prompt'], row['completion'], row)
    if np.shape(found) or not np.isfinite(np.float32(found)):
      raise data_lib.row_error(
        row,
        f'the task scores its completion {found!r}, expected a finite number',
      )


def encode(vocabulary, rows, score, prompt_len, completion_len):
  """Tokenises and pads the rows: an Encoded.

  Raises:
    ValueError: a row is too long, or decoding its tokens changes its score.
  """
  tokenizer, bos_id, eos_id = vocabulary
  prompts = data_lib.encode(tokenizer, [r['prompt'] for r in rows])
  prompts = [[bos_id, *ids] for ids in prompts]
  answers = data_lib.encode(tokenizer, [r['completion'] for r in rows])
  answers = [[*ids, eos_id] for ids in answers]
  check_lengths(rows, prompts, 'prompt', prompt_len)
  check_lengths(rows, answers, 'completion', completion_len)
  for row, text in zip(rows, tokenizer.decode_batch(answers), strict=True):
    own = row['completion']
    if text != own:
      before, after = (score(row['prompt'], x, row) for x in (own, text))
      if before != after:
        raise data_lib.row_error(
          row,
          f'the tokenizer turns its completion into {text[-20:]!r}, which '
          f'scores {after}, expected {before}',
        )
  return Encoded(
    Prompts(*data_lib.left_pad(prompts, prompt_len)),
    *data_lib.right_pad(answers, completion_len),
  )


def split(texts, prompts, eval_prompts):
  """Splits rows at random into training and held-out ones.

  Equal prompts count once, so none is on both sides.

  Args:
    texts: the prompts' texts.
    prompts, eval_prompts: see `text_task`.
  Returns:
    int [N'], indices of all rows to train on, and int [eval_prompts].
  """
  distinct = np.unique(texts, return_index=True)[1]
  of = f'{len(distinct)} distinct prompts: '
  whole(1, of=of, prompts=prompts)
  whole(1, len(distinct) - 1, of=of, eval_prompts=eval_prompts)
  order = np.random.default_rng(0).permutation(np.sort(distinct))
  return order[eval_prompts:], order[:eval_prompts]


def check_apart(rows, asked, first):
  """Refuses a prompt of the second task that is one of the first, or twice.

  Args:
    asked: text of each row's prompt, as it is decoded.
    first: number of rows of the first task.
  """
  seen = set(asked[:first])
  for row, text in zip(rows[first:], asked[first:]):
    if text in seen:
      raise data_lib.row_error(
        row, f'its prompt {text[:40]!r} is there before, expected a second task'
      )
    seen.add(text)


def answers_of(encoded, index):
  """The rows `index` with their own completions: a Batch."""
  prompts, prompt_valid = encoded.prompts[index]
  completions, valid = encoded.completions[index], encoded.valid[index]
  return Batch(
    prompts=prompts,
    prompt_valid=prompt_valid,
    completions=completions,
    valid=valid,
    mask=valid,
    rewards=np.ones(len(index), np.float32),
  )


def demonstrator(encoded, index, batch_size, wrong_share):
  """A source of uniformly random rows among `index`.

  A share `wrong_share` of the prompts gets the completion of another prompt.
  """
  arrays = jax.tree.map(
    lambda x: jnp.asarray(x[index]),
    (*encoded.prompts[:], encoded.completions, encoded.valid),
  )

  def demonstrate(state, key, step):
    del state, step
    keys = jax.random.split(key, 3)
    draw = lambda k: jax.random.randint(k, (batch_size,), 0, len(index))
    asked, other = draw(keys[0]), draw(keys[1])
    wrong = jax.random.uniform(keys[2], (batch_size,)) < wrong_share
    answer = jnp.where(wrong, other, asked)
    prompts, prompt_valid = (x[asked] for x in arrays[:2])
    completions, valid = (x[answer] for x in arrays[2:])
    return Batch(
      prompts=prompts,
      prompt_valid=prompt_valid,
      completions=completions,
      valid=valid,
      mask=valid,
      rewards=jnp.ones(batch_size),
    )

  return demonstrate


def check(model, *, prompt_len, eval_prompts, tokenizer='', **rest):
  """Raises ValueError for knobs that do not go together, before any row."""
  del rest
  whole(2, prompt_len=prompt_len)
  whole(1, eval_prompts=eval_prompts)
  size = model.get('vocab_size', BYTES)
  if not tokenizer and not model.get('adapter') and size < BYTES:
    raise ValueError(
      f"model.vocab_size={size}, expected at least {BYTES} with tokenizer='', "
      'a token per byte'
    )


def text_task(
  rows,
  score,
  fields=FIELDS,
  old=(),
  *,
  model,
  sft_batch_size,
  tokenizer='',
  data='',
  dataset='',
  prompts,
  eval_prompts,
  prompt_len,
  completion_len,
  wrong_share=0.0,
):
  """The task of rows and a rule.

  Args:
    rows: iterable of dicts with texts `prompt` and `completion`, and any field
      that `score` reads.
    score: (prompt, completion, row) -> float, the gold reward. It gets the
      decoded texts and the prompt's row.
    fields: names that rows of a file must have.
    old: rows of a second task, of the same score. Demonstrations show them with
      the others. They are the evaluation set OLD.
    model: dict, see `models.interface.from_fields`.
    sft_batch_size: demonstrations per step, drawn from all rows that are not
      held out, and from `old`.
    tokenizer: a tokenizer.json or its folder, see `data.load_tokenizer`. '': a
      token per byte, which needs model.vocab_size >= 259.
    data: a local file or a hub data set, see `data.rows`. '': `rows`.
    dataset: a name in `data.DATASETS`: how to read the rows of `data`.
    prompts: maximum number of prompts to train on.
    eval_prompts: number of prompts to hold out.
    prompt_len: S, BOS included. A longer prompt is an error.
    completion_len: T, EOS included. A longer completion is an error.
    wrong_share: share of the demonstrations with the completion of another row,
      in [0, 1]. It leaves something to learn after SFT.
  Raises:
    ValueError, FileNotFoundError: one line that names the wrong file and row,
      or the wrong field.
  """
  whole(2, prompt_len=prompt_len)
  whole(1, completion_len=completion_len)
  if not 0 <= wrong_share <= 1:
    raise ValueError(f'task.wrong_share={wrong_share} is not within [0, 1]')
  config = from_fields(**model)
  vocabulary = data_lib.make_vocabulary(
    tokenizer, (), config.vocab_size, size=BYTES
  )
  rows = read(rows, data, dataset, fields)
  check_score(score, rows)
  first, rows = len(rows), [*rows, *read(old, '', '', fields)]
  encoded = encode(vocabulary, rows, score, prompt_len, completion_len)
  for row, *ids in zip(rows, encoded.prompts.tokens, encoded.completions):
    used = np.concatenate(ids)
    where = data_lib.place(row)
    data_lib.check_ids(vocabulary.tokenizer, used, config.vocab_size, where)
  asked = data_lib.texts_of(vocabulary.tokenizer, *encoded.prompts[:])
  train, held_out = split(asked[:first], prompts, eval_prompts)
  second = np.arange(first, len(rows))
  check_apart(rows, asked, first)
  row_of = {asked[i]: rows[i] for i in (*train, *held_out, *second)}

  def gold(prompts, completions):
    pairs = zip(prompts, completions, strict=True)
    return [score(prompt, text, row_of[prompt]) for prompt, text in pairs]

  decode = data_lib.decoder(vocabulary.tokenizer)
  return Task(
    model=only_tokens(config, vocabulary.tokenizer),
    max_new_tokens=completion_len,
    eos_id=vocabulary.eos_id,
    train_prompts=Prompts(*encoded.prompts[train[:prompts]]),
    eval_prompts=Prompts(*encoded.prompts[held_out]),
    demonstrations=demonstrator(
      encoded, np.concatenate([train, second]), sft_batch_size, wrong_share
    ),
    held_out_demonstrations=lambda: answers_of(encoded, held_out),
    gold=from_text(gold, decode),
    decode=decode,
    eval_sets={OLD: Prompts(*encoded.prompts[second])} if len(second) else {},
  )
