"""Reward models: how good a completion is."""

import functools

import jax
import numpy as np

from align_jax.data import chat, examples
from align_jax.data.messages import said
from align_jax.data.tokens import check_ids
from align_jax.judges.reader import check_length, open_reader, padded, split
from align_jax.models import transformer
from align_jax.models.vocabulary import pad_token_id, scored_at
from align_jax.policy import scoring


@functools.cache
def _last_scores(config):
  """Jitted (params, tokens, valid) -> f32 [B], read at the last token."""

  def scores(params, tokens, valid):
    states, _ = transformer.prefill(params, config, tokens, valid)
    return scoring.values(states, params['head'])

  return jax.jit(scores)


def _conversation(prompt):
  """A prompt as messages, given a text or messages."""
  return [said('user', prompt)] if isinstance(prompt, str) else list(prompt)


def _read_whole(encoder, prompt, completion):
  """Ids of prompt and completion as the checkpoint's own tokenizer has them.

  They are tokenised as one text. BOS is there once, if the template writes it
  or the tokenizer puts it in front of texts.
  """
  tokenizer, bos_id, _ = encoder.vocabulary
  if encoder.template is None:
    text, contents = prompt + completion, None
  else:
    messages = [*_conversation(prompt), said('assistant', completion)]
    text, contents = chat.whole(
      encoder.template,
      messages,
      examples.variables(encoder),
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
  folder,
  *,
  template=None,
  dtype='float32',
  max_length=2048,
  batch_size=8,
  date=None,
):
  """A sequence-classification checkpoint with one label, as a reward.

  The score is that of transformers' ForSequenceClassification. It is the head's
  at the last token of the conversation, as the checkpoint's template writes it,
  that is not the `pad_token_id` of config.json.

  Args:
    folder: a local folder, or the id of a model on the hub, with its tokenizer.
    template: a chat template by name or file, see `data.load_template`. None:
      the folder's own. '', or no template: prompt and completion are joined as
      they are.
    dtype: of parameters and activations.
    max_length: tokens of prompt and completion together.
    batch_size: rows at a time.
    date: that a chat template takes for today, as 2026-01-31. None: today.
  Returns:
    (prompts, completions) -> f32 [B]. Prompts are texts, or lists of messages
    if there is a template. Completions are texts.
  Raises:
    ValueError, FileNotFoundError: no such checkpoint, no reward model, or a row
      that is too long, by its number. Nothing is ever cut off.
  """
  model, encoder = open_reader(
    folder, 'scalar', template, dtype, max_length, date
  )
  scores = _last_scores(model.config)
  pad_id = pad_token_id(model.hf_config)

  def reward(prompts, completions):
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
      ids = _read_row(encoder, len(rows), prompt, completion)
      check_length(len(rows), len(ids), max_length)
      rows.append(ids[: scored_at(ids, pad_id) + 1])
    out = np.empty(len(rows), np.float32)
    for index, *arrays in padded(rows, batch_size, max_length):
      out[index] = scores(model.params, *split(*arrays))
    return out

  reward.__name__ = f'reward_model {folder}'
  return reward


def _read_row(encoder, row, prompt, completion):
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
  tokenizer = encoder.vocabulary.tokenizer
  check_ids(tokenizer, ids, encoder.size, f'row {row}')
  return ids
