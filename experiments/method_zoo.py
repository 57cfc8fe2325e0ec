"""Which method makes the most of a KL budget, under the same proxy?

  python -m experiments.method_zoo --config=configs/toy.py \
    --workdir=runs/zoo [--only=METHOD,...] [--report] \
    [--config.arm.kl_budget=2]

Every method of `config.methods` at matched KL: gain in gold reward, its rank,
and best-of-n and the closed-form optimum of the proxy as reference lines. With
`arm.kl_budget` each run is held at that budget instead of being interpolated
there. Writes report.html, figures/, table.csv, points.jsonl.
"""

import itertools

import numpy as np

from align_jax import frontier
from align_jax.report import Page, families_figure, show
from experiments import common
from experiments.pages import (
  GAIN,
  KL_AXIS,
  NOT_NEUTRAL,
  by_prompt,
  compare,
  finish,
  gain,
  last_points,
  markdown,
  proxy_by_prompt,
  write_tables,
)


def runs(cfg):
  if not cfg['methods']:
    raise ValueError('config.methods is empty: nothing to compare')
  arms = cfg['methods']
  ranked = {
    n: len(arm.get('sweep', ({},)))
    for n, arm in arms.items()
    if not arm.get('reweigh')
  }
  frontier.check_equal(ranked, itertools.combinations(ranked, 2))
  return common.sweep({**cfg, 'arms': arms})


def reference_lines(cfg, names):
  return [n for n in names if cfg['methods'][n].get('reweigh')]


def families_of(cfg, names):
  """{family: names}; what no family of `config.families` names is 'methods'."""
  lines = reference_lines(cfg, names)
  left = [n for n in names if n not in lines]
  families = {}
  for title, members in cfg['families'].items():
    families[title] = [n for n in left if n in members]
  known = {n for members in families.values() for n in members}
  families['methods'] = [n for n in left if n not in known]
  return {title: members for title, members in families.items() if members}


def column_budgets(comparison, shown):
  return [
    i for i, b in enumerate(comparison.budgets) if np.isclose(b, shown).any()
  ]


def mean_rank(ranks, columns):
  """Of the budgets that all draws reached: its value, or inf."""
  values = [ranks[i].value for i in columns if ranks[i]]
  return np.mean(values) if values else np.inf


def zoo_table(comparison, cfg):
  """A row per method, the best first; gain and rank at each budget."""
  names = list(comparison.arms)
  lines = reference_lines(cfg, names)
  methods = [n for n in names if n not in lines]
  ranks = comparison.ranks(methods)
  peaks = comparison.peaks()
  columns = column_budgets(comparison, cfg['report']['shown'])
  header = ['method']
  for i in columns:
    budget = f'{comparison.budgets[i]:g} nats'
    header += [f'gain at {budget}', f'rank at {budget}']
  header += ['peak gain', 'KL of the peak']
  order = sorted(methods, key=lambda n: mean_rank(ranks[n], columns))
  rows = []
  for name in [*lines, *order]:
    row = [f'({name})' if name in lines else name]
    for i in columns:
      row += [
        show(comparison.table[name][i]),
        '-' if name in lines else show(ranks[name][i], digits=0),
      ]
    rows.append([*row, *map(show, peaks[name][:2])])
  return header, rows


def matched_how(points, budgets):
  """One sentence: by construction, or by interpolation."""
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
    'being held there by its KL control, and left out where its last '
    f'checkpoint is more than {frontier.HELD_WITHIN:.0%} away as measured on '
    f'fresh samples; elsewhere runs are {between}.'
  )


def held_table(points):
  """Where the runs with a KL budget ended, worst first; None without any."""
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

  A method's strength is the one whose last policies are best on average: with
  more than one, read the rise as the best of them.
  """
  runs = {}
  for p in points:
    if 'gold_samples' in p:
      runs.setdefault((p['arm'], p['config'], p['seed']), []).append(p)
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
  """KL of best-of-n, estimated from the samples, beside its bound."""
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


def values_of(table):
  return {name: [e.value for e in row] for name, row in table.items()}


def report(points, cfg, workdir):
  """Writes the page and its tables; returns what the terminal shows."""
  settings = cfg['report']
  # Reference lines measure gain from their own pool, at n = 1 or beta = inf.
  score = gain_by_arm(points)
  comparison = compare(points, settings, score)
  names = list(comparison.arms)
  lines, families = reference_lines(cfg, names), families_of(cfg, names)
  header, rows = zoo_table(comparison, cfg)
  sentence = matched_how(points, comparison.budgets)
  write_tables(workdir, points, header, rows)
  figures = workdir / 'figures'
  page = Page('Alignment methods at matched KL')
  page.text(sentence, 'verdict')
  page.table(header, rows)
  page.text(
    'A method is the best of its strengths at each budget, chosen on one half '
    'of the prompts and scored on the other; brackets are 95% bootstrap '
    f'intervals over {len(comparison.seeds)} seeds, then prompts, the same '
    'draws for all methods. Rank 1 is the best; lines in parentheses train '
    'nothing and are not ranked. Strengths were chosen while this was built, '
    'on these seeds.',
    'note',
  )
  page.heading('Gold reward at equal KL')
  across = dict.fromkeys(names, list(comparison.budgets))
  page.figure(
    families_figure(
      families,
      comparison.table,
      across,
      lines,
      KL_AXIS,
      GAIN,
      settings['window'],
    ),
    figures / 'zoo_gold_vs_kl.png',
    'gold reward against KL, by family',
  )
  page.heading('Gold against proxy')
  proxy = compare(points, settings, proxy_by_prompt)
  page.figure(
    families_figure(
      families,
      comparison.table,
      values_of(proxy.table),
      lines,
      'proxy reward',
      GAIN,
      None,
    ),
    figures / 'zoo_gold_vs_proxy.png',
    'gold reward against proxy reward, by family',
  )
  page.text(NOT_NEUTRAL, 'note')
  rise = rise_table(points)
  page.heading('From the first policy to the last')
  page.table(*rise, text_columns=2)
  tables = [(header, rows), rise]
  held = held_table(points)
  if held:
    page.heading('How near the runs ended to their budgets')
    page.table(*held)
    tables.append(held)
  bound = best_of_n_table(points)
  if bound[1]:
    page.heading('Best-of-n: its KL and the bound')
    page.table(*bound, text_columns=0)
    tables.append(bound)
  finish(page, cfg, workdir)
  return '\n\n'.join([*(markdown(*table) for table in tables), sentence])


def gain_by_arm(points):
  """point -> gold per prompt above its own first point's.

  Trained arms of a seed share theirs, the reference as evaluated; reweighed
  ones start from their own, larger pool of the reference's samples.
  """
  trained = [p for p in points if 'gold_samples' in p]
  pools = {}
  for p in points:
    if 'gold_samples' not in p and p['step'] == 0:
      pools[p['arm'], p['seed']] = by_prompt(p)
  of_trained = gain(trained) if trained else None

  def score(point):
    if 'gold_samples' in point:
      return of_trained(point)
    return by_prompt(point) - pools[point['arm'], point['seed']]

  return score


if __name__ == '__main__':
  common.main(runs, report)
