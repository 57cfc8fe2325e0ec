"""Diversity of completions, by their n-grams: no model, numpy only.

*Per input* is within the M completions of a prompt, *across inputs* is within
one completion of every prompt, as in Kirk et al. 2024 (arXiv 2310.06452). A
policy with one fixed answer to each prompt has none of the first and all of the
second. N-grams are of tokens, lie within one completion, and leave out what
ends it: a text that stops early is not alike another for that.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ORDERS = 5  # n-grams of 1 to 5 tokens, as in Kirk et al.
BLEU_ORDERS = 4  # as in Papineni et al. 2002
# Matches of an n-gram order without any, so that BLEU is not 0 for one of them
# (Chen and Cherry 2014, method 1, with the number that NLTK takes).
UNMATCHED = 0.1
LARGEST = 2**31  # ids above are numbered anew, so that keys fit in 64 bits


class Tally(NamedTuple):
  """How often each row of a group has each n-gram: sorted by group and n-gram.

  U entries, one for each n-gram of a row.
  """

  group: np.ndarray  # int [U]
  row: np.ndarray  # int [U]  within the group
  count: np.ndarray  # int [U]  > 0
  gram: np.ndarray  # int [U]  from 0 up, another one in each group
  holders: np.ndarray  # int [grams]  rows that have it


class Grams(NamedTuple):
  """All n-grams of one length n."""

  ids: np.ndarray  # int [B, T - n + 1]  alike for equal n-grams
  there: np.ndarray  # bool, the same shape: all of its tokens count
  number: int  # above all ids


def grams(
  tokens: np.ndarray, there: np.ndarray, vocab_size: int
) -> Iterator[Grams]:
  """Yields the Grams of 1, 2, ... ORDERS tokens.

  Args:
    tokens: int [B, T].
    there: bool [B, T], which of them count.
  """
  tokens = tokens.astype(np.int64)
  ids, whole, number = tokens, there, vocab_size
  for n in range(1, ORDERS + 1):
    yield Grams(ids, whole, number)
    ids, number = ids[:, :-1] * vocab_size + tokens[:, n:], number * vocab_size
    whole = whole[:, :-1] & there[:, n:]
    if number > LARGEST:
      found, new = np.unique(ids, return_inverse=True)
      ids, number = new.reshape(ids.shape), max(len(found), 1)


def tally(grams: Grams, group: np.ndarray, row: np.ndarray) -> Tally:
  """Counts the n-grams of each row, by groups.

  Args:
    group, row: int [B] each; the row is one of its group, from 0.
  """
  rows = int(row.max()) + 1
  keys = (group[:, None] * grams.number + grams.ids) * rows + row[:, None]
  found, count = np.unique(keys[grams.there], return_counts=True)
  whole = found // rows
  first = np.diff(whole, prepend=-1) > 0
  holders = np.diff(np.append(np.flatnonzero(first), len(found)))
  return Tally(
    whole // grams.number,
    found - whole * rows,
    count,
    np.cumsum(first) - 1,
    holders,
  )


def distinct(found: Tally, groups: int) -> np.ndarray:
  """Distinct n-grams of each group: int [groups]."""
  first = np.diff(found.gram, prepend=-1) > 0
  return np.bincount(found.group[first], minlength=groups)


def shared_out(found: Tally, groups: int, rows: int) -> np.ndarray:
  """The same, divided among the rows that have them: f64 [groups, rows]."""
  places = found.group * rows + found.row
  shares = np.bincount(places, 1 / found.holders[found.gram], groups * rows)
  return shares.reshape(groups, rows)


def expected(drawn: np.ndarray, kinds: np.ndarray) -> np.ndarray:
  """Distinct ones among `drawn` even draws out of so many kinds."""
  return -kinds * np.expm1(drawn * np.log1p(-1 / kinds))


def ead(distinct: np.ndarray, drawn: np.ndarray, vocab_size: int) -> np.ndarray:
  """Expectation-adjusted distinct n-grams, mean over n (arXiv 2202.13587).

  The distinct n-grams over those of as many even draws, of which there are V^n
  kinds. Kirk et al. take V kinds for every n; that is alike where V is far
  above the number of draws, and goes far above 1 where it is not.

  Args:
    distinct, drawn: [ORDERS, ...] each: those, and all n-grams. An n without
      any does not count.
  Returns:
    f64 [...]; 0 where there are none at all.
  """
  n = np.arange(1, len(drawn) + 1).reshape(-1, *[1] * (drawn.ndim - 1))
  most = expected(np.maximum(drawn, 1), float(vocab_size) ** n)
  return (distinct / most).sum(0) / np.maximum((drawn > 0).sum(0), 1)


def matched(found: Tally, groups: int, rows: int) -> np.ndarray:
  """N-grams of each row that others of its group have too: [groups, rows].

  An n-gram counts at most as often as one of the others has it, as in BLEU. So
  all count, but for those that a row has more often than any other.
  """
  often = found.count.max(initial=0) + 1
  order = np.argsort(found.gram * often + found.count)
  last = np.cumsum(found.holders) - 1
  counts = found.count.copy()
  second = found.count[order[last - 1]]  # with one holder, of another n-gram
  counts[order[last]] = np.where(found.holders > 1, second, 0)
  places = found.group * rows + found.row
  return np.bincount(places, counts, groups * rows).reshape(groups, rows)


def bleu(matched: np.ndarray, drawn: np.ndarray, lengths: np.ndarray):
  """BLEU of each row against all others of its group: f64 [groups, rows].

  Papineni et al. 2002, eq. 1 to 3, over the n that a row is long enough for.

  Args:
    matched, drawn: [n, groups, rows].
    lengths: [groups, rows], tokens.
  """
  precisions = np.where(matched, matched, UNMATCHED) / np.maximum(drawn, 1)
  logs = np.where(drawn, np.log(precisions), 0).sum(0)
  mean = logs / np.maximum((drawn > 0).sum(0), 1)
  return np.exp(mean + np.minimum(brevity(lengths), 0))


def brevity(lengths: np.ndarray) -> np.ndarray:
  """1 - r / c of each row of length c; r is that of the nearest other row."""
  own, other = lengths[:, :, None], lengths[:, None]
  away = 2 * np.abs(own - other) + (other > own)
  itself = np.eye(lengths.shape[1], dtype=bool)
  away = np.where(itself, np.iinfo(np.int64).max, away)
  near = np.take_along_axis(
    np.broadcast_to(other, away.shape), away.argmin(2)[:, :, None], 2
  )[:, :, 0]
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(near == lengths, 0.0, 1 - near / lengths)
