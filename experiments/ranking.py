"""Which methods can be told apart at a budget, and which cannot."""

import numpy as np

from align_jax.compare.intervals import each_of, estimate
from align_jax.compare.report import MISSING

NO_GROUP = ''  # of a line that is not ranked


def groups(comparison, names, k):
  """Parts methods into groups that cannot be told apart from their best.

  The method with the highest value at the budget opens group 1, and with it go
  all that no difference tells apart from it; the best of the rest opens group
  2, and so on. The differences of all pairs hold together at 95% (Bonferroni).
  Within a group there is no order: two of its methods may even be told apart
  from each other, as neither is from the one that opened it.

  Args:
    names: of the methods, those that did not reach the budget are left out.
    k: index of the budget.
  Returns:
    lists of names, each by value.
  """
  values = {n: comparison.readings[n].values[:, :, k] for n in names}
  left = [n for n in names if np.isfinite(values[n]).all()]
  left.sort(key=lambda n: -values[n].mean())
  level = each_of(len(left) * (len(left) - 1) // 2)
  result = []
  while left:
    best = left[0]
    alike = [
      n
      for n in left
      if n == best
      or not estimate(
        values[best] - values[n], comparison.shared_prompts, level
      ).sign
    ]
    result.append(alike)
    left = [n for n in left if n not in alike]
  return result


def main_budget(comparison, names, columns):
  """Index of the budget to group at, of those that are shown.

  Where most methods were held; without any, where most of them are. The largest
  of several.
  """
  held = lambda k: sum(comparison.readings[n].kind(k) == 'held' for n in names)
  there = lambda k: sum(bool(comparison.table[n][k]) for n in names)
  return max(columns, key=lambda k: (held(k), there(k), k))


def places_text(places):
  """(1, 7) -> '1-7', the places that a method may hold."""
  if places is None:
    return MISSING
  first, last = places
  return str(first) if first == last else f'{first}-{last}'


def sentence(grouped, budget, seeds):
  """What the groups say, and from how many seeds."""
  number = sum(map(len, grouped))
  if not number:
    return f'No method reached {budget:g} nats with every seed.'
  first = grouped[0]
  if len(grouped) == 1:
    text = f'No method of the {number} can be told apart from the best'
  else:
    text = (
      f'The {number} methods fall into {len(grouped)} groups, each of what '
      'cannot be told apart from its best'
    )
  text += f' at {budget:g} nats, over {seeds} seed{"s" if seeds > 1 else ""}'
  if len(grouped) > 1:
    text += f'; {len(first)} of them share the first: {", ".join(first)}'
  return f'{text}.'
