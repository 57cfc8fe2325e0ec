"""Further measurements of arms at equal KL: metrics, and other prompts.

The KL is always that on the held-out prompts, so that a budget has the same
policies in every table.
"""

from typing import NamedTuple

import numpy as np

from align_jax import tasks
from align_jax.compare.intervals import estimate
from align_jax.compare.points import stage_of
from align_jax.compare.report import MISSING, show
from align_jax.learn import metrics
from experiments import matched, pages


class Table(NamedTuple):
  """A table on what was measured.

  Attributes:
    parts: lists of rows, one list for each measurement; none is empty.
    note: what they are, in sentences.
  """

  title: str
  header: list
  parts: list
  note: str

  @property
  def rows(self):
    return sum(self.parts, [])

  @property
  def last(self):
    """The rows at the largest KL of each measurement."""
    return [part[-1] for part in self.parts]


def shared_by(policies, names, found):
  """Names that all policies have, and those that only some have.

  Args:
    names: in order.
    found: (point, name) -> whether the point has it.
  """
  there = {n: [found(p, n) for p in policies] for n in names}
  every = [n for n, has in there.items() if all(has)]
  return every, [n for n, has in there.items() if any(has) and not all(has)]


def measured(policies):
  """Metrics that all policies have: names that vary, that do not, and others.

  The others are those that only some of the policies have.
  """
  field = '{}_by_prompt'.format
  found = lambda point, name: field(name) in point
  names, some = shared_by(policies, metrics.every(), found)
  still = [n for n in names if np.ptp([p[field(n)] for p in policies]) == 0]
  return [name for name in names if name not in still], still, some


def of_reference(points, cfg, values):
  """The reference's own value, or nothing where variants have their own.

  Returns:
    [text] or [].
  """
  start = pages.references(points)
  if any('variant' in p for p in start) or not start:
    return []
  matrix = [values(p) for p in sorted(start, key=stage_of)]
  return [show(estimate(matrix, tasks.shares_prompts(cfg['task']['name'])))]


def rows_of(title, comparison, arms, pair, reference=()):
  """A row for each budget that an arm reached: values, and the difference.

  Args:
    arms: names. Arms without points get empty cells.
    pair: names of the two arms to compare. (): none.
    reference: cells before those of the arms.
  """
  table, none = comparison.table, [False] * len(comparison.budgets)
  values = [table.get(name, none) for name in arms]
  there = pair and all(name in table for name in pair)
  less = comparison.difference(*pair) if there else none
  rows, digits = [], matched.decimals_of(comparison)
  for k, budget in enumerate(comparison.budgets):
    cells = [show(row[k], False, digits) for row in values]
    if set(cells) != {MISSING}:
      cells += [show(less[k], True, digits)] if pair else []
      rows.append([title, f'{budget:g}', *reference, *cells])
  return rows


def columns(first, arms, pair, reference=()):
  return [
    first,
    'KL (nats)',
    *(['reference'] if reference else []),
    *arms,
    *([' - '.join(pair)] if pair else []),
  ]


def of_metrics(points, cfg, budgets, arms, pair):
  """The points' metrics that vary: a Table, or None.

  Args:
    budgets: [K] nats to show.
    arms: names of the trained arms.
    pair: names of the two arms to compare. (): none.
  """
  policies = pages.trained(points)
  names, still, some = measured(policies)
  parts, start = [], []
  for name in names:
    values = pages.metric(name)
    start = of_reference(points, cfg, values)
    compared = pages.compare(policies, cfg, values, budgets)
    parts.append(rows_of(name, compared, arms, pair, start))
  told = [f'{name}: {metrics.explained(name)}' for name in names]
  told.append('Configurations are those that gold prefers.')
  if still:
    told.append(f'Left out, as nothing differs in it: {", ".join(still)}.')
  header = columns('metric', arms, pair, start)
  return table_of('Other metrics at equal KL', header, parts, told, some)


def table_of(title, header, parts, told, some):
  """A Table of the parts that have rows, or None.

  Args:
    told: sentences of the note.
    some: names of what only some points have.
  """
  parts = [part for part in parts if part]
  if some:
    told = [*told, f'Left out, as some points lack it: {", ".join(some)}.']
  return Table(title, header, parts, ' '.join(told)) if parts else None


def on_set(name, field):
  """point -> its values on an evaluation set, by prompt."""
  return lambda point: np.array(point['sets'][name][f'{field}_by_prompt'])


def gain_on(points, name):
  """The same of gold, above the reference's on the same prompts."""
  gold = on_set(name, 'gold')
  start = {stage_of(p): gold(p) for p in pages.references(points)}
  return lambda point: gold(point) - start[stage_of(point)]


def of_sets(points, cfg, budgets, arms, pair):
  """Gold on further eval sets: a Table, or None. Args as in `of_metrics`."""
  policies = pages.trained(points)
  names = dict.fromkeys(name for p in policies for name in p.get('sets', ()))
  found = lambda point, name: name in point.get('sets', ())
  names, some = shared_by(policies, names, found)
  if not names:
    return None
  of = {'held out': pages.gain(policies)}
  for name in names:
    of[name] = gain_on(policies, name)
    of[f'{name}: KL'] = on_set(name, 'kl')
  compare = lambda values: pages.compare(policies, cfg, values, budgets)
  parts = [rows_of(name, compare(f), arms, pair) for name, f in of.items()]
  told = [
    'Gain over the reference on the same prompts, of policies at equal KL on '
    'the held-out ones. Below 0 a policy has lost what the reference could do '
    'there. KL is how far from the reference it is on those prompts, nats.'
  ]
  header = columns('prompts', arms, pair)
  return table_of('Gold reward on other prompts', header, parts, told, some)


def tables(*asked):
  """All Tables that there is something for. Args as in `of_metrics`."""
  return [t for t in (of_metrics(*asked), of_sets(*asked)) if t]
