"""Language models asked which of two completions is better."""

import dataclasses
import re
import string
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from align_jax import data
from align_jax.data import examples
from align_jax.data.formats import Example
from align_jax.data.messages import said
from align_jax.data.row import RowError
from align_jax.judges.reader import check_length, open_reader, padded, split
from align_jax.policy import programs
from align_jax.types import Batch

PAIRWISE_PROMPT = """Which of two answers to a request is better?

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Say A if answer A is better, B if answer B is better. Say nothing else."""
TIES_PROMPT = f"""{PAIRWISE_PROMPT[: PAIRWISE_PROMPT.rindex(' Say')]}
Say C if they are equally good. Say nothing else."""
FIELDS = {'prompt', 'first', 'second'}


@dataclasses.dataclass(frozen=True)
class Pairwise:
  """A pairwise judge: (prompts, firsts, seconds) -> f32 [B], see `llm_judge`.

  Both orders of a pair are asked and averaged (Zheng et al. 2023, arXiv
  2306.05685, sec. 3.4, and Guo et al. 2024, arXiv 2402.04792, sec. 3).
  """

  # (prompts, firsts, seconds) -> log-probs of the labels f32 [B, L], one order
  label_logps: Callable[[Any, Any, Any], np.ndarray]
  __name__: str = 'llm_judge'

  def asked(self, prompts, firsts, seconds):
    """Log-probs of the labels in either order: f32 [B, 2, L]."""
    return np.stack(
      [
        self.label_logps(prompts, firsts, seconds),
        self.label_logps(prompts, seconds, firsts),
      ],
      1,
    )

  def orders(self, prompts, firsts, seconds):
    """Probability that the first is better, asked in either order: f32 [B, 2].

    Column 0 shows it as A, column 1 as B.
    """
    return chances(self.asked(prompts, firsts, seconds))

  def __call__(self, prompts, firsts, seconds):
    return self.orders(prompts, firsts, seconds).mean(1)


def chances(asked):
  """Log-probs of labels [B, 2, L] -> chances of the first: f32 [B, 2].

  The labels' chances are normalised to sum to one. A tie counts half.
  """
  shares = np.asarray(jax.nn.softmax(asked, -1))
  ties = 0.5 * shares[:, :, 2:].sum(2)
  return np.stack([shares[:, 0, 0], shares[:, 1, 1]], 1) + ties


def answers(asked):
  """What the likeliest label says in either order: f64 [B, 2].

  1: the first is better. 0: the second is. 0.5: neither, which labels that are
  as likely say, too.

  Args:
    asked: log-probs of the labels, [B, 2, L].
  """
  one, other = asked[:, :, 0], asked[:, :, 1]
  tie = asked[:, :, 2:].max(2, initial=-np.inf)
  sides = 0.5 + 0.5 * np.sign(np.float64(one) - other)
  shown = np.where(tie > np.maximum(one, other), 0.5, sides)
  return np.stack([shown[:, 0], 1 - shown[:, 1]], 1)


def flips(orders):
  """Where the verdict differs between the two orders: bool [B].

  Args:
    orders: f32 [B, 2], as `Pairwise.orders` has them.
  """
  verdicts = np.sign(orders - 0.5)
  return verdicts[:, 0] != verdicts[:, 1]


def first_shown(orders):
  """Mean probability of the answer shown first, 0.5 without bias: f32 [B].

  Args: as in `flips`.
  """
  return (orders[:, 0] + 1 - orders[:, 1]) / 2


def check_template(template, labels):
  """Raises ValueError for an invalid pairwise prompt."""
  try:
    found = {name for _, name, *_ in string.Formatter().parse(template)}
  except ValueError as error:
    raise ValueError(f'template: {error}; literal braces are doubled') from None
  found -= {None}
  if found != FIELDS:
    raise ValueError(
      f'template has the fields {sorted(found)}, expected {sorted(FIELDS)}'
    )
  if len(labels) not in (2, 3):
    raise ValueError(f'labels={labels}, expected two, or three with a tie')
  for label in labels:
    if not re.search(rf'(?<!\w){re.escape(label)}(?!\w)', template):
      raise ValueError(f'template never mentions the label {label!r}')


def label_tokens(encoder, labels):
  """The tokens of each label as an answer: lists of ids.

  Raises:
    ValueError: one label is a prefix of another, so one answer would be both.
  """
  ids = encoded(encoder, 'x', labels).completions
  ids = [x[:-1] for x in ids]  # without EOS
  for i, one in enumerate(ids):
    for j, other in enumerate(ids):
      if i != j and other[: len(one)] == one:
        raise ValueError(
          f'labels {labels[i]!r} and {labels[j]!r} begin with the same tokens: '
          f'{one} and {other}'
        )
  return ids


def encoded(encoder, question, labels=()):
  """-> examples.Encoded. Without a template a space precedes each label."""
  if encoder.template is None:
    answers = [f' {label}' for label in labels]
  else:
    question = [said('user', question)]
    answers = [[said('assistant', label)] for label in labels]
  example = Example('scored', question, answers, [0.0] * len(labels), 'a pair')
  return examples.encode_example(encoder, example)


def question_of(template, prompt, first, second):
  """The pairwise prompt. Several messages become a transcript."""
  if not isinstance(prompt, str):
    several = len(prompt) > 1
    prompt = '\n\n'.join(
      f'{m["role"]}: {m["content"]}' if several else m['content']
      for m in prompt
    )
  return template.format(prompt=prompt, first=first, second=second)


def _answers(config, params, prompts, valid, labels):
  """Log-probs of the labels after each prompt: f32 [B, L]."""
  size = max(map(len, labels))
  tokens, known = data.right_pad(labels, size)
  tile = lambda x: np.tile(x, (len(prompts), 1))
  prompts, valid, tokens, known = split(
    prompts, valid, *map(tile, (tokens, known))
  )
  batch = Batch(
    prompts=prompts,
    prompt_valid=valid,
    completions=tokens,
    valid=known,
    mask=known,
    rewards=np.zeros(len(tokens), np.float32),
    group_size=len(labels),
  )
  logps = programs.policy_programs(config)[0](params, batch)
  return np.asarray(logps).sum(1).reshape(-1, len(labels))


def llm_judge(
  folder,
  *,
  template=PAIRWISE_PROMPT,
  labels=('A', 'B'),
  chat_template=None,
  dtype='float32',
  max_length=2048,
  batch_size=8,
  date=None,
):
  """A causal language model, asked which of two completions is better.

  Nothing is generated or parsed. The verdict is the relative probability of the
  labels where the answer begins. For a label of several tokens it is the
  product of their probabilities.

  Args:
    folder: a local folder, or the id of a model on the hub, with its tokenizer.
    template: the question, with the fields {prompt}, {first} and {second}.
    labels: of the first and of the second, and of a tie if there is one
      (`TIES_PROMPT` asks for it). The template names them.
    chat_template: by name or file. None: the folder's own, if it has one. '':
      the question is plain text, and the answer follows after a space.
    dtype: of parameters and activations.
    max_length: tokens of question and answer together.
    batch_size: questions at a time.
    date: that a chat template takes for today, as 2026-01-31. None: today.
  Returns:
    Pairwise: (prompts, firsts, seconds) -> f32 [B], probability that the first
    is better, both orders averaged. Prompts are texts or lists of messages.
  Raises:
    ValueError, FileNotFoundError: no such checkpoint, no language model,
      invalid labels or template, or a row that is too long.
  """
  labels = tuple(labels)
  check_template(template, labels)
  model, encoder = open_reader(
    folder, 'lm', chat_template, dtype, max_length, date
  )
  label_ids = label_tokens(encoder, labels)
  longest = max(map(len, label_ids))

  def label_logps(prompts, firsts, seconds):
    rows = []
    for row, shown in enumerate(zip(prompts, firsts, seconds, strict=True)):
      try:
        rows.append(encoded(encoder, question_of(template, *shown)).prompt)
      except RowError as error:
        raise ValueError(f'row {row}: {error}') from None
      check_length(row, len(rows[-1]) + longest, max_length)
    out = np.empty((len(rows), len(labels)), np.float32)
    for index, *arrays in padded(rows, batch_size, max_length - longest):
      out[index] = _answers(model.config, model.params, *arrays, label_ids)
    return out

  return Pairwise(label_logps, f'llm_judge {folder}')
