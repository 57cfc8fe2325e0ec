"""Endless streams in a fixed random order, whose whole state is one int.

A stream is an iterator with a `position`: how many items it has given. Another
stream made alike, with that position, continues with the same items.
"""

import itertools

import numpy as np

BLOCK = 4096  # draws of a mixture that are made at once


def shuffled(items, size, rng):
  """The items in a random order, from a buffer of `size` items.

  If `size` is at least their number, this is a uniform permutation. Otherwise
  an item comes at most `size` places early.

  Args:
    items: iterable.
    size: int, at least 1. 1 leaves the order as it is.
    rng: np.random.Generator.
  """
  items = iter(items)
  held = list(itertools.islice(items, size))
  for item in items:
    slot = rng.integers(len(held))
    held[slot], item = item, held[slot]
    yield item
  for slot in rng.permutation(len(held)) if size > 1 else range(len(held)):
    yield held[slot]


class Stream:
  """Repeats items endlessly, in another order every epoch.

  Attributes:
    position: int, items given so far: its whole state.
    size: int, items of an epoch. None until the first epoch has ended.
  """

  def __init__(self, items, *, seed=0, buffer=10_000, position=0):
    """Makes one.

    Args:
      items: () -> iterable, the same items in the same order at every call.
      seed: of the order.
      buffer: items in memory at any time, see `shuffled`.
      position: of the stream that this one continues. It is reached by reading
        again.
    Raises:
      ValueError: there are no items.
    """
    if buffer < 1 or position < 0:
      raise ValueError(
        f'buffer={buffer} and position={position}: at least 1 and 0'
      )
    self.position, self.size = position, None
    self._items, self._seed, self._buffer = items, seed, buffer
    self._now = self._resumed() if position else self._epoch(0)

  def _epoch(self, number):
    rng = np.random.default_rng([self._seed, number])
    return shuffled(self._items(), self._buffer, rng)

  def _resumed(self):
    """The epoch of `position`, from there on."""
    first = self._epoch(0)
    skipped = sum(1 for _ in itertools.islice(first, self.position))
    if skipped == self.position:  # still in the first
      return first
    self.size = skipped
    if not skipped:
      raise ValueError('a stream of no items')
    epoch, rest = divmod(self.position, self.size)
    now = self._epoch(epoch)
    next(itertools.islice(now, rest, rest), None)  # skips `rest` items
    return now

  def __iter__(self):
    return self

  def __next__(self):
    for item in self._now:
      self.position += 1
      return item
    self.size = self.size or self.position
    if not self.size:
      raise ValueError('a stream of no items')
    self._now = self._epoch(self.position // self.size)
    self.position += 1
    return next(self._now)


class Mixture:
  """A stream of items drawn by weight from several streams.

  Attributes:
    position: int, items given so far: its whole state.
    counts: list of int, how many of them came from each stream.
  """

  def __init__(self, makers, weights, *, seed=0, position=0):
    """Makes one.

    Args:
      makers: list of position -> stream, such as
        `lambda position: Stream(items, position=position)`.
      weights: as many positive numbers: shares of the items, up to a factor.
      seed: of the draws.
      position: of the mixture that this one continues.
    Raises:
      ValueError: weights that are not positive, or another number of them.
    """
    weights = np.asarray(weights, np.float64)
    proper = np.isfinite(weights) & (weights > 0)
    if len(makers) != len(weights) or not proper.all() or not len(makers):
      raise ValueError(
        f'{len(makers)} streams with weights {weights.tolist()}: expected as '
        'many positive numbers'
      )
    self._shares = weights / weights.sum()
    self._seed, self.position = seed, position
    self.counts = self._drawn(position)
    self._streams = [make(n) for make, n in zip(makers, self.counts)]
    self._block = self._draws(position // BLOCK)

  def _draws(self, block):
    rng = np.random.default_rng([self._seed, block])
    return rng.choice(len(self._shares), BLOCK, p=self._shares)

  def _drawn(self, position):
    counts = np.zeros(len(self._shares), np.int64)
    for block in range(-(-position // BLOCK)):
      draws = self._draws(block)[: position - block * BLOCK]
      counts += np.bincount(draws, minlength=len(counts))
    return counts.tolist()

  def __iter__(self):
    return self

  def __next__(self):
    if self.position % BLOCK == 0:
      self._block = self._draws(self.position // BLOCK)
    which = self._block[self.position % BLOCK]
    item = next(self._streams[which])
    self.position += 1
    self.counts[which] += 1
    return item


def batches(stream, batch_size, make):
  """Yields make(list of `batch_size` items), endlessly.

  Between two batches `stream.position` is where to continue.
  """
  while True:
    yield make([next(stream) for _ in range(batch_size)])
