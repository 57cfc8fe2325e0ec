"""Which method makes the most of a KL budget, under the same proxy?

  python -m experiments.method_zoo --config=configs/toy.py \
    --workdir=runs/zoo [--only=METHOD,...] [--report] \
    [--config.arm.kl_budget=2]

Every method of `config.methods` at equal KL: gain in gold reward, the group of
methods it cannot be told apart from, the places it may hold, and best-of-n and
the closed-form optimum of the proxy as reference lines. With
`arm.kl_budget` each run is held at that budget instead of being interpolated
there. Writes report.html, figures/, table.csv, points.jsonl.
"""

import dataclasses
import functools
import itertools

import numpy as np

from align_jax.compare import figures, frontier, readings, verdict
from align_jax.compare.lines import lines_of
from align_jax.compare.report import MISSING, Page, show
from align_jax.lab import sweep
from experiments import common, matched, pages, provenance, ranking
from experiments.pages import last_points

FIRST_TO_LAST = 'From the first policy to the last'


def runs(cfg):
  if not cfg['methods']:
    raise ValueError('config.methods is empty: nothing to compare')
  arms = cfg['methods']
  ranked = sweep.sizes(arms)
  frontier.check_equal(ranked, itertools.combinations(ranked, 2))
  return sweep.sweep({**cfg, 'arms': arms})


def reference_lines(cfg, names):
  """Names of the methods that train nothing."""
  return [n for n in pages.reweighed(cfg['methods']) if n in names]


def families_of(cfg, names):
  """{family: names}. Methods in none of `config.families` are in 'methods'."""
  lines = reference_lines(cfg, names)
  left = [n for n in names if n not in lines]
  families = {}
  for title, members in cfg['families'].items():
    families[title] = [n for n in left if n in members]
  known = {n for members in families.values() for n in members}
  families['methods'] = [n for n in left if n not in known]
  return {title: members for title, members in families.items() if members}


@dataclasses.dataclass(frozen=True)
class Zoo:
  """The contents of the page, computed once.

  Attributes:
    lines: names of the methods that train nothing.
    methods: names of the compared methods.
    columns: indices of the budgets to show.
    at: index of the budget at which methods are grouped.
    groups: see `ranking.groups`.
  """

  comparison: frontier.Comparison
  lines: list
  methods: list
  columns: list
  at: int
  groups: list

  @property
  def budget(self):
    return self.comparison.budgets[self.at]

  @property
  def key(self):
    return matched.key(self.comparison, self.methods)

  def gain(self, name, k):
    """A method's gain at a budget; without a mark if it trains nothing."""
    if name in self.lines:
      digits = matched.decimals_of(self.comparison)
      return show(self.comparison.table[name][k], digits=digits)
    return matched.marked(self.comparison, name, k)

  @property
  def rows(self):
    """Pairs (group, method): lines first, then the groups in order."""
    rows = [(ranking.NO_GROUP, name) for name in self.lines]
    for number, names in enumerate(self.groups, 1):
      rows += [(str(number), name) for name in names]
    grouped = {name for names in self.groups for name in names}
    rest = [name for name in self.methods if name not in grouped]
    return rows + [(MISSING, name) for name in rest]


def work_out(comparison, cfg):
  names = list(comparison.arms)
  lines = reference_lines(cfg, names)
  methods = [n for n in names if n not in lines]
  columns = matched.column_budgets(comparison, cfg['report']['shown'])
  at = ranking.main_budget(comparison, methods, columns)
  return Zoo(
    comparison,
    lines,
    methods,
    columns,
    at,
    ranking.groups(comparison, methods, at),
  )


def zoo_table(zoo, cfg):
  """A row per method, by group: places, gain and share, other budgets."""
  comparison, peaks = zoo.comparison, zoo.comparison.peaks()
  places = comparison.rank_sets(zoo.methods)
  best = [n for n in pages.reweighed(cfg['methods'], 'optimum')]
  best = next((n for n in best if n in comparison.arms), None)
  others = [k for k in zoo.columns if k != zoo.at]
  header = ['method', f'group at {zoo.budget:g} nats', 'places', 'gain']
  header += [f'share of {best}'] if best else []
  header += [f'gain at {comparison.budgets[k]:g} nats' for k in others]
  header += ['peak gain', 'KL of the peak']
  rows = []
  for group, name in zoo.rows:
    line = name in zoo.lines
    row = [f'({name})' if line else name, group]
    row.append('' if line else ranking.places_text(places[name][zoo.at]))
    gain = functools.partial(zoo.gain, name)
    row.append(gain(zoo.at))
    if best:
      row.append(matched.share_of(comparison, name, best, zoo.at))
    row += map(gain, others)
    rows.append([*row, *map(show, peaks[name][:2])])
  return header, rows


def matched_how(points):
  """One sentence on how KL was matched: by budgets, or by interpolation."""
  held = sorted({p.get('kl_budget', 0) for p in points} - {0})
  between = (
    'read off between checkpoints, by linear interpolation in sqrt(KL) and '
    'never beyond what a run reached'
  )
  if not held:
    return f'Budgets are matched as follows: every run is {between}.'
  at = ' and '.join(f'{b:g}' for b in held)
  return (
    f'Budgets are matched as follows: at {at} nats by construction, each run '
    'being held there by its KL controller, and left out where its last '
    f'checkpoint is more than {readings.HELD_WITHIN:.0%} away as measured on '
    f'fresh samples; elsewhere runs are {between}.'
  )


def held_table(points):
  """Table of the final KL of runs with a budget, worst first, or None."""
  last = last_points(p for p in points if p.get('kl_budget'))
  if not last:
    return None
  miss = lambda p: abs(p['kl_seq_nats'] / p['kl_budget'] - 1)
  worst = {}
  for p in last.values():
    if miss(p) >= miss(worst.get(p['arm'], p)):
      worst[p['arm']] = p
  rows = [
    [
      arm,
      f'{p["kl_budget"]:g}',
      f'{p["kl_seq_nats"]:.3f} +- {p["kl_seq_nats_se"]:.3f}',
      f'{miss(p):.1%}',
    ]
    for arm, p in sorted(worst.items(), key=lambda kv: -miss(kv[1]))
  ]
  return ['method', 'budget', 'KL of its furthest run', 'off by'], rows


def rise_table(points):
  """Gold reward of the reference and of each method's last policy, by seed.

  A method with several strengths appears with the one whose last policies are
  best on average, so its rise is a maximum.
  """
  runs = {}
  for p in points:
    if 'gold_samples' in p:
      runs.setdefault((p['arm'], p['configuration'], p['seed']), []).append(p)
  by_arm = {}
  for (arm, config, _), run in runs.items():
    run.sort(key=lambda p: p['step'])
    ends = run[0]['gold'], run[-1]['gold']
    by_arm.setdefault(arm, {}).setdefault(config, []).append(ends)
  rows = []
  for arm, configs in by_arm.items():
    ends = np.array(
      max(configs.values(), key=lambda e: np.mean([end for _, end in e]))
    )
    each = ', '.join(f'{start:.2f} to {end:.2f}' for start, end in ends)
    rise = ends[:, 1] - ends[:, 0]
    rows.append([arm, each, f'{rise.mean():+.2f}', f'{rise.min():+.2f}'])
  rows.sort(key=lambda row: -float(row[2]))
  return ['method', 'start to end, by seed', 'mean rise', 'least rise'], rows


def best_of_n_table(points):
  """Table of best-of-n's KL, estimated from samples, beside its bound."""
  by_n = {}
  for p in points:
    if 'n' in p:
      by_n.setdefault(p['n'], []).append(p)
  rows = [
    [
      str(n),
      f'{np.mean([p["kl_seq_nats"] for p in ps]):.3f}',
      f'{ps[0]["kl_bound_nats"]:.3f}',
    ]
    for n, ps in sorted(by_n.items())
  ]
  return ['n', 'KL estimated (nats)', 'bound log n - (n - 1) / n'], rows


def add_table(page, zoo, table):
  """Adds the groups, and the evidence for them."""
  comparison = zoo.comparison
  groups = [group for group, _ in zoo.rows]
  changes = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
  page.table(*table, breaks=changes)
  page.note(
    f'{zoo.key} {MISSING} not every seed reached this KL. '
    f'{pages.what_an_arm_is(comparison, "method")} '
    'Lines in parentheses train nothing and are not ranked.'
  )
  page.note(
    'A group holds what cannot be told apart from its best method, by '
    'differences that hold together over all pairs; within it there is no '
    'order. Places are those that a method may hold, 1 the best, each set at '
    '95%. Intervals of a method hold together over the budgets. Strengths are '
    "the config's, chosen while it was written; the seeds that chose them may "
    'be among these.'
  )


def descriptive(seeds):
  """A sentence on what few seeds can show."""
  if seeds == 1:
    return 'One seed says nothing of others: no intervals, and one group.'
  return (
    f'Descriptive: with {seeds} seeds no exact sign test can reach 5%, and '
    'intervals trust that seeds are normally distributed.'
  )


def add_figures(page, zoo, points, cfg, folder):
  """Adds figures of gold against KL and against the proxy, by family."""
  families = families_of(cfg, list(zoo.comparison.arms)) or {'': []}
  window = zoo.budget, zoo.budget
  lines = lines_of(zoo.comparison, dashed=zoo.lines)
  by_name = lambda lines: {line.name: line for line in lines}
  page.heading('Gold reward at equal KL')
  page.figure(
    lambda width: figures.families_figure(
      width, families, by_name(lines), pages.KL_AXIS, 'gold gained', window
    ),
    folder / 'zoo_gold_vs_kl.png',
    'gold reward against KL, by family',
    f'{zoo.key} Dotted: the KL of the groups. Dashed: what trains nothing. '
    f'{pages.SCALE}',
  )
  page.heading('Gold against proxy')
  proxy = pages.compare(points, cfg, pages.proxy_by_prompt)
  across = lines_of(zoo.comparison, (), zoo.lines, proxy.table)
  page.figure(
    lambda width: figures.families_figure(
      width,
      families,
      by_name(across),
      'proxy reward',
      'gold gained',
      None,
      kl=False,
    ),
    folder / 'zoo_gold_vs_proxy.png',
    'gold reward against proxy reward, by family',
    pages.NOT_NEUTRAL,
  )


def add_tables(page, points):
  """Adds the other tables that have rows."""
  tables = {
    FIRST_TO_LAST: rise_table(points),
    'How near the runs ended to their budgets': held_table(points),
    'Best-of-n: its KL and the bound': best_of_n_table(points),
  }
  tables = {k: table for k, table in tables.items() if table and table[1]}
  for heading, table in tables.items():
    page.heading(heading)
    page.table(*table, text_columns=1 + (heading == FIRST_TO_LAST))
  return list(tables.values())


def report(points, cfg, workdir):
  """Writes the page and its tables. Returns the text for the terminal."""
  zoo = work_out(pages.compare(points, cfg, pages.gain(points)), cfg)
  seeds = len(zoo.comparison.seeds)
  table, how = zoo_table(zoo, cfg), matched_how(points)
  pages.write_tables(workdir, points, *table)
  page = Page('Alignment methods at equal KL')
  told = ranking.sentence(zoo.groups, zoo.budget, seeds)
  number = len(zoo.groups)
  word = f'{number} group{"" if number == 1 else "s"}'
  notes = [how, *([descriptive(seeds)] if seeds < verdict.EXACT_FROM else [])]
  page.verdict('groups', f'{len(zoo.methods)} methods,', word, '', told, notes)
  for sentence in provenance.registered(cfg, workdir):
    page.note(sentence)
  add_table(page, zoo, table)
  add_figures(page, zoo, points, cfg, workdir / 'figures')
  others = add_tables(page, points)
  kept = provenance.used(cfg, runs, points, shown=('families',))
  provenance.finish(page, cfg, workdir, kept)
  tables = [pages.markdown(*t) for t in (table, *others)]
  return '\n\n'.join([*tables, zoo.key, told, *notes])


if __name__ == '__main__':
  common.main(runs, report)
