"""Questions that end in a number: right or wrong, with no judge to please.

The data are in the format of GSM8K (Cobbe et al. 2021, arXiv 2110.14168): a
question, and a worked solution whose last line is '#### NUMBER'. A prompt is
BOS, the question and a line break; the gold reward of a completion is 1 if the
number after its last '####' is the right one, else 0. Without a data set the
questions are the 8100 sums of two numbers of two digits, which a small policy
learns in part.

The split is the same for every seed, so that seeds can be paired by prompt.
"""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax.files import write_atomically
from align_jax.models.interface import from_fields
from align_jax.tasks import Prompts, Task
from align_jax.types import Batch

BYTES = 256 + len(data_lib.SPECIAL_TOKENS)  # a token each
FIELDS = ('prompt', 'completion', 'answer')  # of a row


class Problems(NamedTuple):
  prompts: Prompts  # N of them
  completions: np.ndarray  # int32 [N, T]  right-padded, EOS included
  valid: np.ndarray  # bool [N, T]
  answers: list[str]  # N


def sums():
  """Yields every sum of two numbers of two digits, in a fixed random order."""
  numbers = range(10, 100)
  order = np.random.default_rng(0).permutation(len(numbers) ** 2)
  for a, b in zip(*np.divmod(order, len(numbers))):
    a, b = numbers[a], numbers[b]
    yield dict(
      question=f'What is {a} + {b}?',
      answer=f'{a} + {b} = {a + b}\n#### {a + b}',
    )


def generated(workdir):
  """The file of `sums` under `workdir`, written if it is not there."""
  path = pathlib.Path(workdir) / 'sums.jsonl'
  if not path.exists():
    write_atomically(path, ''.join(json.dumps(row) + '\n' for row in sums()))
  return path


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


def encode(vocabulary, rows, prompt_len, completion_len):
  """-> Problems, a row each.

  Raises:
    ValueError: a row is too long, or its completion is not read back as right.
  """
  tokenizer, bos_id, eos_id = vocabulary
  questions = data_lib.encode(tokenizer, [r['prompt'] for r in rows])
  questions = [[bos_id, *ids] for ids in questions]
  solutions = data_lib.encode(tokenizer, [r['completion'] for r in rows])
  solutions = [[*ids, eos_id] for ids in solutions]
  check_lengths(rows, questions, 'prompt', prompt_len)
  check_lengths(rows, solutions, 'completion', completion_len)
  for row, text in zip(rows, tokenizer.decode_batch(solutions), strict=True):
    if not data_lib.correct(text, row['answer']):
      raise data_lib.row_error(
        row, f'the tokenizer turns its completion into {text[-20:]!r}'
      )
  return Problems(
    Prompts(*data_lib.left_pad(questions, prompt_len)),
    *data_lib.right_pad(solutions, completion_len),
    [row['answer'] for row in rows],
  )


def split(texts, prompts, eval_prompts):
  """Problems at random: to train on, and to hold out.

  Questions that read the same count once, or one could be on both sides.

  Args:
    texts: of the prompts.
    prompts, eval_prompts: see `make_task`.
  Returns:
    int [N'], all there is to train on, int [eval_prompts].
  """
  distinct = np.unique(texts, return_index=True)[1]
  if prompts < 1 or not 0 < eval_prompts < len(distinct):
    raise ValueError(
      f'{len(distinct)} distinct questions leave none to train on or to hold '
      f'out with task.prompts={prompts} and task.eval_prompts={eval_prompts}'
    )
  order = np.random.default_rng(0).permutation(np.sort(distinct))
  return order[eval_prompts:], order[:eval_prompts]


def demonstrator(problems, index, batch_size, wrong_share):
  """The source of random worked solutions among `index`, uniform.

  A share of the questions is shown with another one's solution.
  """
  arrays = jax.tree.map(
    lambda x: jnp.asarray(x[index]),
    (*problems.prompts[:], problems.completions, problems.valid),
  )

  def demonstrate(state, key, step):
    del state, step
    keys = jax.random.split(key, 3)
    draw = lambda k: jax.random.randint(k, (batch_size,), 0, len(index))
    question, other = draw(keys[0]), draw(keys[1])
    wrong = jax.random.uniform(keys[2], (batch_size,)) < wrong_share
    solution = jnp.where(wrong, other, question)
    prompts, prompt_valid = (x[question] for x in arrays[:2])
    completions, valid = (x[solution] for x in arrays[2:])
    return Batch(
      prompts=prompts,
      prompt_valid=prompt_valid,
      completions=completions,
      valid=valid,
      mask=valid,
      rewards=jnp.ones(batch_size),
    )

  return demonstrate


def prepare(**knobs):
  """Generates the data if there are none; checks all; see `make_task`."""
  make_task(seed=0, **knobs)


def make_task(
  *,
  seed,
  workdir,
  model,
  sft_batch_size,
  data,
  dataset,
  tokenizer,
  prompts,
  eval_prompts,
  prompt_len,
  completion_len,
  wrong_share,
):
  """The task.

  Args:
    seed: of the run; all runs have the same task.
    workdir: where sums are generated.
    model: dict, see `models.interface.from_fields`.
    sft_batch_size: demonstrations per step, drawn from all that is not held
      out.
    data: a local file or a hub data set, see `data.rows`; '' generates sums.
    dataset: a name in `data.DATASETS`: how to read its rows.
    tokenizer: a tokenizer.json or its folder, see `data.load_tokenizer`; '' is
      a token per byte, for which model.vocab_size is at least 259.
    prompts, eval_prompts: how many to train on, at most, and to hold out.
    prompt_len: S; a longer prompt is an error.
    completion_len: T, EOS included; a longer solution is an error.
    wrong_share: share of the demonstrations that show the solution of another
      question, in [0, 1]: what SFT then leaves to be learned.
  Raises:
    ValueError, FileNotFoundError: one line that names the file and row, or the
      field, that is wrong.
  """
  del seed
  if not 0 <= wrong_share <= 1:
    raise ValueError(f'task.wrong_share={wrong_share} is not within [0, 1]')
  config = from_fields(**model)
  vocabulary = data_lib.make_vocabulary(
    tokenizer, (), config.vocab_size, size=BYTES
  )
  path = data or generated(workdir)
  rows = list(data_lib.task_rows(path, dataset, FIELDS))
  problems = encode(vocabulary, rows, prompt_len, completion_len)
  asked = data_lib.texts_of(vocabulary.tokenizer, *problems.prompts[:])
  train, held_out = split(asked, prompts, eval_prompts)
  used = [*train, *held_out]
  answers = {asked[i]: problems.answers[i] for i in used}

  decode = data_lib.decoder(vocabulary.tokenizer)

  def gold(batch):
    right = [
      data_lib.correct(completion, answers[prompt])
      for prompt, completion in zip(*decode(batch), strict=True)
    ]
    return jnp.asarray(right, jnp.float32)

  return Task(
    model=config,
    max_new_tokens=completion_len,
    eos_id=vocabulary.eos_id,
    train_prompts=Prompts(*problems.prompts[train[:prompts]]),
    eval_prompts=Prompts(*problems.prompts[held_out]),
    demonstrations=demonstrator(problems, train, sft_batch_size, wrong_share),
    gold=gold,
    decode=decode,
  )
