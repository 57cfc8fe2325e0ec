"""Tables at equal KL, whose cells show a value and how it was read."""

import math

import numpy as np

from align_jax.compare import readings
from align_jax.compare.report import MISSING, decimals, show

# {how a budget was reached, see `Reading.reached`: (mark, explanation)}.
MARKS = {
  'held': ('●', 'held at this KL by its controller'),
  'stopped': ('◑', 'stopped at this KL, on its way'),
  'plateau': (
    '◐',
    f'near the end of its KL, at most {readings.PLATEAU:.0%} of it to come',
  ),
  'passage': ('○', 'read in passing, on its way to larger KL'),
}


def decimals_of(comparison):
  """Decimals for all cells of a comparison's table."""
  return decimals(comparison.table.values())


def marked(comparison, name, k):
  """An arm at a budget: '● 1.23 [1.10, 1.35]'."""
  how = comparison.readings[name].reached(k)
  value = show(comparison.table[name][k], digits=decimals_of(comparison))
  return f'{MARKS[how][0]} {value}' if how else value


def key(comparison, names=None):
  """One sentence that explains the marks that these arms have."""
  found = {
    comparison.readings[name].reached(k)
    for name in names or comparison.arms
    for k in range(len(comparison.budgets))
  }
  told = [f'{mark} {text}' for k, (mark, text) in MARKS.items() if k in found]
  return f'{"; ".join(told)}.' if told else ''


def unreached(comparison, names=None):
  """Sentences on empty cells and omitted budgets, or ''."""
  rows = [comparison.table[name] for name in names or comparison.arms]
  at = list(zip(comparison.budgets, zip(*rows)))
  left = [f'{budget:g}' for budget, row in at if not any(row)]
  text = ''
  if any(any(row) and not all(row) for _, row in at):
    text = f'{MISSING} not every seed reached this KL. '
  if left:
    text += f'Left out, as no arm reached them: {", ".join(left)} nats.'
  return text.strip()


def column_budgets(comparison, shown):
  """Indices of the budgets to show and of those where methods are held.

  All budgets if there are none.
  """
  every = range(len(comparison.budgets))
  read = comparison.readings.values()
  held = lambda k: any(r.reached(k) in ('held', 'stopped') for r in read)
  near = lambda k: np.isclose(comparison.budgets[k], shown).any()
  return [k for k in every if near(k) or held(k)] or list(every)


def effects(comparison, pairs):
  """The measurable effects, and a sentence on each of the others.

  Args:
    pairs: {title: names of two arms}.
  Returns:
    {name: K Estimates}, [sentence].
  """
  measured, refused = {}, []
  for name, pair in pairs.items():
    if set(pair) <= set(comparison.arms):
      try:
        measured[name] = comparison.difference(*pair)
      except ValueError as error:
        refused.append(f'No {name!r}: {error}.')
  return measured, refused


def budget_rows(comparison, columns):
  """A row for each budget that has at least one value.

  Args:
    columns: {title: k -> text}.
  """
  rows = []
  for k, budget in enumerate(comparison.budgets):
    cells = [cell(k) for cell in columns.values()]
    if set(cells) != {MISSING}:
      rows.append([f'{budget:g}', *cells])
  return ['KL (nats)', *columns], rows


def arm_columns(comparison, names):
  return {
    name: lambda k, name=name: marked(comparison, name, k) for name in names
  }


def reference_columns(comparison, names):
  """Columns of arms that train nothing, which have no marks."""
  digits = decimals_of(comparison)
  return {
    name: lambda k, row=comparison.table[name]: show(row[k], digits=digits)
    for name in names
  }


def difference_columns(differences):
  digits = decimals(differences.values())
  return {
    name: lambda k, row=row: show(row[k], True, digits)
    for name, row in differences.items()
  }


def share_of(comparison, name, optimum, k):
  """An arm's gain divided by the optimum's: '71%', or MISSING."""
  mine, best = comparison.table[name][k], comparison.table[optimum][k]
  if not mine or not best or best.value <= 0:
    return MISSING
  return f'{mine.value / best.value:.0%}'


def share_columns(comparison, names, optimum):
  return {
    name: lambda k, name=name: share_of(comparison, name, optimum, k)
    for name in names
  }


def csv_table(comparison, differences, references=()):
  """Table of all budgets: arms, differences, and the trained arms' readings.

  Args:
    references: names of arms that train nothing, see `reference_columns`.
  """
  trained = [name for name in comparison.arms if name not in references]
  header = ['KL (nats)', *comparison.arms, *differences]
  for name in trained:
    header += [f'{name}: read', f'{name}: share of KL to come']
  rows, digits = [], decimals_of(comparison)
  for k, budget in enumerate(comparison.budgets):
    row = [f'{budget:g}']
    row += [show(x[k], False, digits) for x in comparison.table.values()]
    row += [show(d[k], True, digits) for d in differences.values()]
    for name in trained:
      reading = comparison.readings[name]
      how, left = reading.reached(k), reading.to_come[:, k].mean()
      row += [how, f'{left:.2f}' if how and math.isfinite(left) else '']
    rows.append(row)
  return header, rows
