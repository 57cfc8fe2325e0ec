"""Streams: their order, their position, and what they are made of."""

import collections
import itertools
import json

import numpy as np
import pytest

from align_jax import data
from align_jax.data import pipeline
from align_jax.data.examples import make_encoder
from align_jax.data.stream import Mixture, Stream, batches, shuffled


def take(stream, n):
  return list(itertools.islice(stream, n))


@pytest.mark.parametrize('buffer', [1, 3, 10, 99])
def test_every_epoch_has_every_item_in_another_order(buffer):
  stream = Stream(lambda: range(10), seed=1, buffer=buffer)
  epochs = [take(stream, 10) for _ in range(6)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert stream.position == 60 and stream.size in (None, 10)
  if buffer == 1:
    assert epochs[0] == list(range(10))
  else:
    assert len(set(map(tuple, epochs))) == 6
  other = Stream(lambda: range(10), seed=2, buffer=buffer)
  assert (take(other, 10) == epochs[0]) == (buffer == 1)


@pytest.mark.parametrize('buffer', [1, 4, 10_000])
def test_a_position_is_all_that_is_needed_to_go_on(buffer):
  make = lambda at: Stream(lambda: range(7), buffer=buffer, position=at)
  whole = take(make(0), 50)
  for at in range(30):
    stream = make(at)
    assert take(stream, 20) == whole[at : at + 20]
    assert stream.position == at + 20


def test_a_large_enough_buffer_is_a_uniform_order():
  rng = np.random.default_rng(0)
  orders = collections.Counter(
    tuple(shuffled(range(3), 3, rng)) for _ in range(6000)
  )
  assert len(orders) == 6 and max(abs(n - 1000) for n in orders.values()) < 150


def test_items_are_read_as_they_are_used():
  read = []
  stream = Stream(lambda: map(read.append, range(10**9)), buffer=5)
  take(stream, 10)
  assert len(read) <= 16


@pytest.mark.parametrize('position', [0, 3])
def test_no_items(position):
  with pytest.raises(ValueError, match='a stream of no items'):
    next(Stream(lambda: [], position=position))
  with pytest.raises(ValueError, match='buffer=0'):
    Stream(lambda: [1], buffer=0)


def mixture(position=0, weights=(3, 1)):
  makers = [
    lambda at: Stream(lambda: range(0, 5), seed=1, position=at),
    lambda at: Stream(lambda: range(10, 13), seed=2, position=at),
  ]
  return Mixture(makers, weights, seed=3, position=position)


def test_a_mixture_has_its_weights():
  mixed = mixture()
  found = take(mixed, 10_000)
  share = np.mean(np.array(found) < 5)
  assert abs(share - 0.75) < 0.02 and sum(mixed.counts) == 10_000
  assert mixed.counts[0] == sum(x < 5 for x in found)
  assert 0.2 < np.mean(np.array(take(mixture(weights=(1, 3)), 1000)) < 5) < 0.3


@pytest.mark.parametrize('position', [0, 1, 17, 4095, 4096, 4097, 9000])
def test_a_mixture_goes_on_where_it_was(position):
  whole = take(mixture(), position + 50)
  resumed = mixture(position)
  assert take(resumed, 50) == whole[position:]
  assert resumed.position == position + 50


@pytest.mark.parametrize('weights', [(1,), (1, 0), (1, -1), (1, float('nan'))])
def test_weights_that_cannot_be(weights):
  with pytest.raises(ValueError, match='2 streams with weights'):
    mixture(weights=weights)


def test_batches_of_two_files_resume_exactly(tmp_path):
  """From files to Batches, and on from a position between two of them."""
  encoder = make_encoder(data.Vocabulary(data.train_tokenizer((), 259), 1, 2))
  for name, size in (('a', 5), ('b', 9)):
    rows = [
      dict(prompt=f'{name}{i}', chosen='x', rejected='y') for i in range(size)
    ]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (tmp_path / f'{name}.jsonl').write_text(text)

  def make(name):
    items = lambda: pipeline.read(tmp_path / f'{name}.jsonl', encoder)
    return lambda at: Stream(items, position=at)

  def start(position):
    mixed = Mixture([make('a'), make('b')], [2, 1], position=position)
    stack = lambda rows: pipeline.make_batch(rows, 4, 2)
    return mixed, batches(mixed, 4, stack)

  mixed, found = start(0)
  first = [next(found) for _ in range(3)]
  assert mixed.position == 12
  _, rest = start(8)
  np.testing.assert_array_equal(next(rest).prompts, first[2].prompts)
  assert first[0].group_size == 2 and first[0].prompts.shape == (4, 4)
