"""Groups of methods that cannot be distinguished at a budget."""

import numpy as np

from align_jax.compare.intervals import each_of, estimate
from align_jax.compare.report import MISSING

NO_GROUP = ''  # group of a reference line, which is not ranked


def groups(comparison, names, k):
  """Splits methods into groups that cannot be distinguished from their best.

  The method with the highest value at the budget opens group 1. All methods
  that do not differ significantly from it join the group. The best of the rest
  opens group 2, and so on. The intervals of all pairs' differences hold
  simultaneously at 95% (Bonferroni). A group has no order: two methods may
  differ from each other while neither differs from the group's best.

  Args:
    names: the methods. Those that did not reach the budget are left out.
    k: index of the budget.
  Returns:
    lists of names, each sorted by value.
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
  """Index of the budget to group at, among those shown.

  It is the budget where most methods were held. If none was held, it is the one
  that most methods reached. The largest wins a tie.
  """
  readings = [comparison.readings[name] for name in names]
  held = lambda k: sum(r.reached(k) == 'held' for r in readings)
  there = lambda k: sum(bool(comparison.table[n][k]) for n in names)
  return max(columns, key=lambda k: (held(k), there(k), k))


def places_text(places):
  """The places that a method may have, as text: (1, 7) -> '1-7'."""
  if places is None:
    return MISSING
  first, last = places
  return str(first) if first == last else f'{first}-{last}'


def sentence(grouped, budget, seeds):
  """A sentence on the groups and on the number of seeds."""
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
    alone = f'the first is {first[0]} alone'
    many = f'{len(first)} of them share the first: {", ".join(first)}'
    text += f'; {many if len(first) > 1 else alone}'
  return f'{text}.'
