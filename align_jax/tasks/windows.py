"""Labelled texts as one long array of tokens, and windows of it as Batches."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import data as data_lib
from align_jax.tasks import Prompts
from align_jax.types import Batch

OPENINGS = 0.5  # share of training windows that are a text's opening


class Reviews(NamedTuple):
  """R labelled texts as one array."""

  tokens: np.ndarray  # int32 [N]  all texts, with EOS after each
  starts: np.ndarray  # int32 [R + 1]
  labels: np.ndarray  # f32 [R]


def encode(vocabulary, texts, labels, size):
  """The Reviews of a model with `size` ids."""
  ids = data_lib.encode(vocabulary.tokenizer, texts)
  ids = [row + [vocabulary.eos_id] for row in ids]
  for number, row in enumerate(ids):
    data_lib.check_ids(vocabulary.tokenizer, row, size, f'text {number}')
  starts = np.cumsum([0, *map(len, ids)])
  return Reviews(
    np.concatenate(ids).astype(np.int32), starts.astype(np.int32), labels
  )


@functools.partial(jax.jit, static_argnames=('prompt_len', 'size'))
def windows(reviews, bos_id, index, offsets, lengths, *, prompt_len, size):
  """Windows of texts: a prompt, and the completion that follows it.

  Args:
    reviews: Reviews of arrays.
    bos_id: first token of every prompt.
    index: int [P], indices of the texts.
    offsets: int [P], first token of each window. Too large an offset is reduced
      until the text fills the prompt.
    lengths: int [P], maximum tokens of the completions, which also end with the
      text's EOS. A completion has at least one token. If the text is too short
      for the prompt, that token is EOS and the prompt is left-padded.
    prompt_len: S, BOS included.
    size: T.
  Returns:
    Batch of P prompts with G = 1, whose rewards are the labels.
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
  """Windows of random texts, except the first `held_out`.

  Half of them are openings, as prompts are, and half lie anywhere. Their
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
  """The windows at the beginning of the texts `index`, int [P]: a Batch."""
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
  """The distinct openings of the texts `index`, except those in `without`."""
  batch = openings(reviews, bos_id, index, prompt_len=prompt_len, size=1)
  tokens, valid = np.asarray(batch.prompts), np.asarray(batch.prompt_valid)
  seen = {row.tobytes() for row in without}
  kept = []
  for i, row in enumerate(tokens):
    if row.tobytes() not in seen:
      seen.add(row.tobytes())
      kept.append(i)
  return Prompts(tokens[kept], valid[kept])
