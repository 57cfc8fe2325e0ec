"""Checkpoints opened as judges, and their texts' tokens as batches."""

import datetime
from typing import NamedTuple

import numpy as np

from align_jax import data, sharding
from align_jax.data import examples
from align_jax.models import hf

SHORTEST = 16  # rows are padded to powers of two, from this length up
HEADS = {'scalar': 'SequenceClassification', 'lm': 'CausalLM'}


class Reader(NamedTuple):
  """A checkpoint with the encoder of its texts."""

  model: hf.Model
  encoder: examples.Encoder  # template None: texts are joined as they are


def open_reader(folder, head, template, dtype, max_length, date=None):
  """The Reader of a folder or hub id, checked.

  Args:
    date: what a chat template takes for today: as 2026-01-31, None: today.
  """
  folder = hf.fetch(folder)
  # A judge's chances are of all ids that it has, as transformers has them.
  with sharding.alone():  # each host scores rows of its own
    model = hf.load(
      folder,
      dtype=dtype,
      activations=dtype,
      max_length=max_length,
      no_tokens=(),
    )
  if model.config.head != head:
    raise ValueError(
      f'{folder}: config.json has architectures='
      f'{model.hf_config.get("architectures")}, expected one For{HEADS[head]}'
    )
  vocabulary = data.load_tokenizer(folder, needs_bos=False)
  if template != '':
    template = data.load_template(folder if template is None else template)
  day = datetime.date.fromisoformat(date) if date else None
  size = model.config.vocab_size
  encoder = data.make_encoder(vocabulary, template or None, date=day, size=size)
  return Reader(model, encoder)


def check_length(row, size, limit):
  """Raises ValueError for a row of more than `limit` tokens."""
  if size > limit:
    raise ValueError(
      f'row {row} has {size} tokens, more than max_length={limit}'
    )


def padded(id_lists, batch_size, limit):
  """Yields (index, tokens, valid) of rows of about the same length.

  The last batch repeats rows, to keep the shape.
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


def split(*arrays):
  """Splits arrays by rows over the mesh in force, if there is one."""
  axes = tuple(('batch', None) for _ in arrays)
  return sharding.place(arrays, axes, sharding.current_mesh())
