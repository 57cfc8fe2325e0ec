"""Further measurements of arms at equal KL: metrics, and other prompts."""

import numpy as np

from align_jax.compare.report import MISSING, show
from align_jax.learn import metrics
from experiments import pages


def measured(policies):
  """Metrics that all policies have: names that vary, names that do not."""
  field = '{}_by_prompt'.format
  there = lambda name: all(field(name) in p for p in policies)
  names = [name for name in metrics.METRICS if there(name)]
  still = [n for n in names if np.ptp([p[field(n)] for p in policies]) == 0]
  return [name for name in names if name not in still], still


def header(first, arms, pair):
  return [first, 'KL (nats)', *arms, *([' - '.join(pair)] if pair else [])]


def rows_of(title, comparison, arms, pair):
  """A row for each budget that an arm reached: values, and the difference.

  Args:
    arms: names. Arms without points get empty cells.
    pair: names of the two arms to compare. (): none.
  """
  table, none = comparison.table, [False] * len(comparison.budgets)
  values = [table.get(name, none) for name in arms]
  there = pair and all(name in table for name in pair)
  less = comparison.difference(*pair) if there else none
  rows = []
  for k, budget in enumerate(comparison.budgets):
    cells = [show(row[k]) for row in values]
    if set(cells) != {MISSING}:
      cells += [show(less[k], sign=True)] if pair else []
      rows.append([title, f'{budget:g}', *cells])
  return rows


def add_table(page, title, first, parts, arms, pair):
  """Adds a heading and one table, if there are rows. Returns whether it did.

  Args:
    first: title of the first column.
    parts: lists of rows, with a line between two lists.
  """
  parts = [part for part in parts if part]
  if not parts:
    return False
  page.heading(title)
  breaks = np.cumsum([len(part) for part in parts])[:-1].tolist()
  page.table(header(first, arms, pair), sum(parts, []), breaks=breaks)
  return True


def add_metrics(page, points, cfg, budgets, arms, pair):
  """Adds a section on the points' metrics, if any of them varies.

  Args:
    budgets: [K] nats to show.
    arms: names of the trained arms.
    pair: names of the two arms to compare. (): none.
  """
  policies = pages.trained(points)
  names, still = measured(policies)
  of = lambda name: pages.compare(policies, cfg, pages.metric(name), budgets)
  parts = [rows_of(name, of(name), arms, pair) for name in names]
  title = 'Other metrics at equal KL'
  if not add_table(page, title, 'metric', parts, arms, pair):
    return
  told = [f'{name}: {metrics.explained(name)}' for name in names]
  told.append('Configurations are those that gold prefers.')
  if still:
    told.append(f'Left out, as nothing differs in it: {", ".join(still)}.')
  page.note(' '.join(told))


def add_sets(page, points, cfg, budgets, arms, pair):
  """Adds a section on further eval sets, if any. Args as in `add_metrics`."""
  policies = pages.trained(points)
  names = dict.fromkeys(name for p in policies for name in p.get('sets', ()))
  if not names:
    return
  sets = {'held out': policies}
  sets |= {name: pages.on_set(policies, name) for name in names}
  of = lambda mine: pages.compare(mine, cfg, pages.gain(mine), budgets)
  parts = [rows_of(name, of(mine), arms, pair) for name, mine in sets.items()]
  title = 'Gold reward on other prompts'
  if add_table(page, title, 'prompts', parts, arms, pair):
    page.note(
      'Gain over the reference on the same prompts, at equal KL there. Runs '
      'are held at a KL on the held-out prompts alone; elsewhere they are read '
      'off between checkpoints.'
    )
