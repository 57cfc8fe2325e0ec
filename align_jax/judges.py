"""Judges from published checkpoints: texts in, scores or preferences out.

A reward model scores a completion; a language model, asked in words, says which
of two is better. Both read texts with their own tokenizer, so that any policy
can be judged by any checkpoint. What the figures mean: docs/judges.md.
"""

import dataclasses
import functools
import inspect
import json
import pathlib
import re
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from align_jax import data, rewards, scoring, sharding
from align_jax.data import chat, examples
from align_jax.data.formats import Example
from align_jax.data.messages import said
from align_jax.data.row import RowError
from align_jax.models import hf, transformer
from align_jax.types import Batch

SHORTEST = 16  # rows are padded to powers of two from here on
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


class Reader(NamedTuple):
  """A checkpoint with what it reads texts by."""

  model: hf.Model
  encoder: examples.Encoder  # template None: texts are joined as they are
  max_length: int  # tokens of a row


def _open(folder, head, template, dtype, max_length):
  """The Reader of a folder or hub id, all that can be wrong checked."""
  folder = hf.fetch(folder)
  model = hf.load(folder, dtype=dtype, activations=dtype, max_length=max_length)
  if model.config.head != head:
    raise ValueError(
      f'{folder}: config.json has architectures='
      f'{model.hf_config.get("architectures")}, expected one For{HEADS[head]}'
    )
  vocabulary = data.load_tokenizer(folder, needs_bos=False)
  size = vocabulary.tokenizer.get_vocab_size()
  if size > model.config.vocab_size:
    raise ValueError(
      f'{folder}: the tokenizer has {size} tokens, more than the '
      f'vocab_size={model.config.vocab_size} of the model'
    )
  if template != '':
    template = data.load_template(folder if template is None else template)
  encoder = data.make_encoder(vocabulary, template or None)
  return Reader(model, encoder, max_length)


HEADS = {'scalar': 'SequenceClassification', 'lm': 'CausalLM'}


def _check_length(row, size, limit):
  if size > limit:
    raise ValueError(
      f'row {row} has {size} tokens, more than max_length={limit}'
    )


def _batches(id_lists, batch_size, limit):
  """Yields (index, tokens, valid) of rows of about the same length.

  The last batch repeats rows, to keep one shape.
  """
  lengths = [len(ids) for ids in id_lists]
  order = np.argsort(lengths, kind='stable')
  for start in range(0, len(order), batch_size):
    index = np.arange(start, start + batch_size)
    index = np.take(order, index, mode='clip')
    size = SHORTEST
    while size < lengths[index[-1]]:
      size *= 2
    rows = [id_lists[i] for i in index]
    yield index, *data.left_pad(rows, min(size, limit))


def _split(*arrays):
  """Over the mesh in force, by rows; as they are without one."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return arrays
  axes = tuple(('batch', None) for _ in arrays)
  return sharding.place(arrays, axes, mesh)


# --- Reward models ------------------------------------------------------------


@functools.cache
def _last_scores(config):
  """Jitted (params, tokens, valid) -> f32 [B], read at the last token."""

  def scores(params, tokens, valid):
    states, _ = transformer.prefill(params, config, tokens, valid)
    return scoring.values(states, params['head'])

  return jax.jit(scores)


def _conversation(prompt):
  """A prompt, a text or messages, as messages."""
  return [said('user', prompt)] if isinstance(prompt, str) else list(prompt)


def _read_whole(encoder, prompt, completion):
  """Ids of prompt and completion as the checkpoint's own tokenizer has them.

  Tokenised as one text. BOS is there if the template writes it or the tokenizer
  puts it in front of texts, once.
  """
  tokenizer, bos_id, _ = encoder.vocabulary
  if encoder.template is None:
    text, contents = prompt + completion, None
  else:
    messages = [*_conversation(prompt), said('assistant', completion)]
    text, contents = chat.whole(
      encoder.template,
      messages,
      examples.token_names(encoder.vocabulary),
      encoder.control,
    )
  ids, _ = examples.encode_text(encoder, text, contents)
  if bos_id is None:
    return ids
  own = tokenizer.encode('a').ids[:1]
  if own == [bos_id] and ids[:1] != own:
    return [bos_id, *ids]
  if ids[:2] == [bos_id, bos_id]:
    raise ValueError('the chat template writes BOS twice')
  return ids


def reward_model(
  folder, *, template=None, dtype='float32', max_length=2048, batch_size=8
):
  """A sequence-classification checkpoint with one label, as a reward.

  The score is that of transformers' ForSequenceClassification: the head's at
  the last token of the conversation as the checkpoint's template writes it.

  Args:
    folder: a local folder, or the id of a model on the hub, with its tokenizer.
    template: a chat template by name or file, see `data.load_template`; None:
      the folder's own, if it has one; '': prompt and completion are joined as
      they are, as they are where there is none.
    dtype: of parameters and activations.
    max_length: tokens of prompt and completion together.
    batch_size: rows at a time.
  Returns:
    (prompts, completions) -> f32 [B]; prompts are texts, or lists of messages
    where there is a template; completions are texts.
  Raises:
    ValueError, FileNotFoundError: no such checkpoint, or no reward model; a row
      that is too long, by its number. Nothing is ever cut off.
  """
  model, encoder, _ = _open(folder, 'scalar', template, dtype, max_length)
  scores = _last_scores(model.config)

  def reward(prompts, completions):
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
      rows.append(_checked(encoder, len(rows), prompt, completion))
      _check_length(len(rows) - 1, len(rows[-1]), max_length)
    out = np.empty(len(rows), np.float32)
    for index, *arrays in _batches(rows, batch_size, max_length):
      out[index] = scores(model.params, *_split(*arrays))
    return out

  reward.__name__ = f'reward_model {folder}'
  return reward


def _checked(encoder, row, prompt, completion):
  if encoder.template is None and not isinstance(prompt, str):
    raise ValueError(
      f'row {row}: the prompt is a list of messages, and the reward model has '
      'no chat template'
    )
  try:
    ids = _read_whole(encoder, prompt, completion)
  except chat.ChatError as error:
    raise error.at(f'row {row}') from None
  if not ids:
    raise ValueError(f'row {row}: prompt and completion are empty')
  return ids


# --- Language models as judges --------------------------------------------


@functools.cache
def _token_logps(config):
  return jax.jit(functools.partial(scoring.token_logps, config=config))


@dataclasses.dataclass(frozen=True)
class Pairwise:
  """A pairwise judge: (prompts, firsts, seconds) -> f32 [B], see `llm_judge`.

  Both orders of a pair are asked and averaged (Zheng et al. 2023, arXiv
  2306.05685, sec. 3.4; Guo et al. 2024, arXiv 2402.04792, sec. 3).
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
  """Log-probs of labels [B, 2, L] -> that the first is better: f32 [B, 2].

  The labels share one; a tie counts half.
  """
  shares = np.asarray(jax.nn.softmax(asked, -1))
  ties = 0.5 * shares[:, :, 2:].sum(2)
  return np.stack([shares[:, 0, 0], shares[:, 1, 1]], 1) + ties


def flips(orders):
  """Where the verdict is another in the other order: bool [B].

  Args:
    orders: f32 [B, 2], as `Pairwise.orders` has them.
  """
  verdicts = np.sign(orders - 0.5)
  return verdicts[:, 0] != verdicts[:, 1]


def first_shown(orders):
  """Mean probability given to what is shown first, 0.5 without bias: f32 [B].

  Args: as in `flips`.
  """
  return (orders[:, 0] + 1 - orders[:, 1]) / 2


def check_template(template, labels):
  """Raises ValueError for a pairwise prompt that cannot ask."""
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


FIELDS = {'prompt', 'first', 'second'}


def _label_ids(encoder, labels):
  """The tokens of each label as an answer: lists of ids.

  Raises:
    ValueError: one is how another begins, so that one answer would be both.
  """
  ids = _encoded(encoder, 'x', labels).completions
  ids = [x[:-1] for x in ids]  # without EOS
  for i, one in enumerate(ids):
    for j, other in enumerate(ids):
      if i != j and other[: len(one)] == one:
        raise ValueError(
          f'labels {labels[i]!r} and {labels[j]!r} begin with the same tokens: '
          f'{one} and {other}'
        )
  return ids


def _encoded(encoder, question, labels=()):
  """-> examples.Encoded; where there is no template a space is in front."""
  if encoder.template is None:
    answers = [f' {label}' for label in labels]
  else:
    question = [said('user', question)]
    answers = [[said('assistant', label)] for label in labels]
  example = Example('scored', question, answers, [0.0] * len(labels), 'a pair')
  return examples.encode_example(encoder, example)


def _question(template, prompt, first, second):
  """The pairwise prompt; several messages are a transcript."""
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
  prompts, valid, tokens, known = _split(
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
  logps = _token_logps(config)(params, batch)
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
):
  """A causal language model, asked which of two completions is better.

  Nothing is generated or parsed: the answer is the probability of the labels
  where the answer begins, relative to one another. A label of several tokens
  has the product of theirs.

  Args:
    folder: a local folder, or the id of a model on the hub, with its tokenizer.
    template: the question, with the fields {prompt}, {first} and {second}.
    labels: of the first and of the second, and of a tie if there is one
      (`TIES_PROMPT` asks for it); the template names them.
    chat_template: by name or file; None: the folder's own, if it has one; '':
      the question is plain text, and the answer goes on after a space.
    dtype: of parameters and activations.
    max_length: tokens of question and answer together.
    batch_size: questions at a time.
  Returns:
    Pairwise: (prompts, firsts, seconds) -> f32 [B], probability that the first
    is better, both orders averaged; prompts are texts or lists of messages.
  Raises:
    ValueError, FileNotFoundError: no such checkpoint, or no language model;
      labels or a template that cannot be asked with; a row that is too long.
  """
  labels = tuple(labels)
  check_template(template, labels)
  model, encoder, _ = _open(folder, 'lm', chat_template, dtype, max_length)
  label_ids = _label_ids(encoder, labels)
  longest = max(map(len, label_ids))

  def label_logps(prompts, firsts, seconds):
    rows = []
    for row, shown in enumerate(zip(prompts, firsts, seconds, strict=True)):
      try:
        rows.append(_encoded(encoder, _question(template, *shown)).prompt)
      except RowError as error:
        raise ValueError(f'row {row}: {error}') from None
      _check_length(row, len(rows[-1]) + longest, max_length)
    out = np.empty((len(rows), len(labels)), np.float32)
    for index, *arrays in _batches(rows, batch_size, max_length - longest):
      out[index] = _answers(model.config, model.params, *arrays, label_ids)
    return out

  return Pairwise(label_logps, f'llm_judge {folder}')


# --- Judges as rewards and labels ---------------------------------------------


def as_reward(judge, decode):
  """Batch -> f32 [B]: a score, or the mean chance against the group's others.

  Args:
    judge: of JUDGES.
    decode: Batch -> (prompts, completions), a text per row.
  """
  if isinstance(judge, Pairwise):
    return rewards.from_pairwise(judge, decode)
  return rewards.from_text(judge, decode)


def check_settings(settings, group_size):
  """Raises ValueError for a `judge` of a config that cannot be made.

  Args:
    settings: dict with `kind`, a name in JUDGES, `checkpoint`, and its knobs.
    group_size: of what it labels.
  """
  kind, checkpoint = settings.get('kind'), settings.get('checkpoint')
  if kind not in JUDGES:
    raise ValueError(f'judge.kind={kind!r} is none of {sorted(JUDGES)}')
  if not checkpoint:
    raise ValueError('judge.checkpoint is empty: a folder, or a model on a hub')
  local = str(checkpoint)[0] in './~'
  if local and not pathlib.Path(checkpoint).expanduser().is_dir():
    raise ValueError(f'judge.checkpoint={checkpoint!r}: no such folder')
  known = set(inspect.signature(JUDGES[kind]).parameters) - {'folder'}
  for name in set(settings) - {'kind', 'checkpoint'} - known:
    raise ValueError(f'judge.{name}: {kind!r} has only {sorted(known)}')
  if kind == 'llm_judge':
    template = settings.get('template', PAIRWISE_PROMPT)
    check_template(template, settings.get('labels', ('A', 'B')))
    if group_size < 2:
      raise ValueError(
        f"judge.kind='llm_judge' compares completions and needs group_size "
        f'>= 2, got {group_size}'
      )


@functools.lru_cache(maxsize=1)
def _make(settings_json):
  settings = json.loads(settings_json)
  kind, checkpoint = settings.pop('kind'), settings.pop('checkpoint')
  checkpoint = pathlib.Path(checkpoint).expanduser()
  return JUDGES[kind](checkpoint, **settings)


def make(settings):
  """The judge of a config's `judge`; the last one is kept."""
  return _make(json.dumps(settings, sort_keys=True))


JUDGES = {  # by the name configs use: (folder, **knobs) -> judge
  'reward_model': reward_model,
  'llm_judge': llm_judge,
}
