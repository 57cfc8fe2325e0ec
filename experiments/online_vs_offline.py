"""Is online better than offline at the same KL budget, from where on, and why?

  python -m experiments.online_vs_offline --config=configs/toy.py \
    --workdir=runs/toy [--only=ARM,...] [--report]

Tang et al. 2024 (arXiv 2405.08448) with its confound taken apart: their two
arms differ in who samples, in who labels, and in how many pairs there are. The
arms in between (`ref+proxy`, `ref+gold`, `online+gold`, `shuffled`) change one
of these at a time. Writes report.html, figures/, table.csv, points.jsonl.
"""

import json

import numpy as np

from align_jax import frontier
from align_jax.report import (
  Page,
  effects_figure,
  frontier_figure,
  show,
  training_figure,
)
from experiments import common
from experiments.pages import (
  GAIN,
  KL_AXIS,
  NOT_NEUTRAL,
  compare,
  finish,
  gain,
  last_points,
  markdown,
  proxy_by_prompt,
  references,
  write_tables,
)

runs = common.sweep

PANELS = {
  'gold': 'gold reward',
  'kl_seq_nats': 'KL from the reference (nats)',
  'proxy': 'proxy reward',
  'implicit_accuracy': "policy's implicit accuracy, held-out pairs",
  'proxy_accuracy': "proxy's accuracy on the policy's samples",
  'chosen_log_ratio': 'log-ratio of chosen (nats)',
  'rejected_log_ratio': 'log-ratio of rejected (nats)',
  'repeats': 'repeated tokens per completion',
}


def against(points, arm):
  """point -> win rates against the last policy of `arm` of the same seed."""
  mine = [p for p in points if p['arm'] == arm]
  last = {seed: p for (_, _, seed), p in last_points(mine).items()}
  return lambda point: frontier.win_rate(
    point['gold_samples'], last[point['seed']]['gold_samples']
  )


def verdict(comparison, settings):
  """One sentence with its interval; what the rule of the design says."""
  first, second = settings['treatment'], settings['control']
  if not {first, second} <= set(comparison.arms):
    return f'Nothing to compare yet: {first!r} and {second!r} have no points.'
  try:
    gap, by_seed, (low, high) = comparison.gap(
      first, second, settings['window']
    )
  except ValueError as error:
    return f'No verdict: {error}.'
  differences = comparison.difference(first, second)
  inside = [
    e for b, e in zip(comparison.budgets, differences) if e and low <= b <= high
  ]
  positive = np.mean([e.value > 0 for e in inside]) if inside else 0
  sign = np.sign(gap.value)
  sure = gap.low > 0 or gap.high < 0
  agree = (np.sign(by_seed) == sign).all()
  most = positive >= 2 / 3 if sign > 0 else positive <= 1 / 3
  word = 'above' if sign > 0 else 'below'
  claim = (
    f'is {word}' if sure and agree and most else 'is not shown to differ from'
  )
  turns = frontier.crossings(differences, comparison.budgets)
  where = '; '.join(f'between {a:g} and {b:g} nats' for a, b in turns)
  return (
    f'At equal KL from the reference, {first} {claim} {second} in gold reward '
    f'over {low:.2f} to {high:.2f} nats: {show(gap, sign=True)} on average '
    f'(95% interval over {len(comparison.seeds)} seeds and the prompts; by '
    f'seed {", ".join(f"{x:+.2f}" for x in by_seed)}). '
    + (
      f'The sign turns {where}.'
      if where
      else 'The sign does not turn for sure.'
    )
  )


def matched_table(comparison, settings):
  """Budgets as rows; arms, then the effects, as columns."""
  effects = comparison.effects()
  header = ['KL (nats)', *comparison.arms, *effects]
  rows = []
  for i, budget in enumerate(comparison.budgets):
    arms = [show(comparison.table[name][i]) for name in comparison.arms]
    differences = [show(e[i], sign=True) for e in effects.values()]
    rows.append([f'{budget:g}', *arms, *differences])
  return header, rows


def summary_table(comparison):
  """Peak, its KL, the fall after it, and the KL that given scores cost."""
  peaks = comparison.peaks()
  best = max(peak[0].value for peak in peaks.values())
  levels = [share * best for share in (0.25, 0.5, 0.75)]
  grid = np.linspace(0.1, np.sqrt(comparison.budgets[-1]), 60) ** 2
  header = [
    'arm',
    'peak gain',
    'KL of the peak',
    'fall to the last checkpoint',
    *(f'KL needed for {level:.2f}' for level in levels),
  ]
  rows = [
    [
      name,
      *map(show, peaks[name]),
      *(show(comparison.kl_needed(name, level, grid)) for level in levels),
    ]
    for name in comparison.arms
  ]
  return header, rows


def accuracy_table(points, workdir, seeds, settings):
  """The two numbers that decide the sign of the gap."""
  mine = [p for p in points if p['arm'] == settings['control']]
  last = last_points(mine)
  rows = []
  for seed in seeds:
    proxy = json.loads((workdir / f'seed{seed}' / 'proxy.json').read_text())
    policy = [p['implicit_accuracy'] for k, p in last.items() if k[2] == seed]
    span = f'{min(policy):.3f} to {max(policy):.3f}' if policy else '-'
    rows.append(
      [str(seed), f'{proxy["held_out"]:.3f}', f'{proxy["golden"]:.3f}', span]
    )
  return (
    [
      'seed',
      'proxy, held-out pairs',
      'proxy, its training pairs',
      f'{settings["control"]} policies as classifiers, held-out pairs',
    ],
    rows,
  )


def samples_table(points, comparison, settings):
  """The same prompts answered by the reference and both arms at one KL."""
  first, second = settings['treatment'], settings['control']
  budget = next(
    (
      b
      for b, x, y in zip(
        comparison.budgets, comparison.table[first], comparison.table[second]
      )
      if x and y and b >= np.mean(settings['window'])
    ),
    None,
  )
  if budget is None:
    return None
  seed = comparison.seeds[0]
  mine = [p for p in points if p['seed'] == seed]
  reference = references(mine)[0]
  columns, header = [reference], ['prompt', 'reference']
  for arm in (second, first):
    near = min(
      (p for p in mine if p['arm'] == arm),
      key=lambda p: abs(p['kl_seq_nats'] - budget),
    )
    columns.append(near)
    header.append(f'{arm}, KL {near["kl_seq_nats"]:.2f}')
  rows = [
    [shown[0]['prompt'], *(s['completion'] for s in shown)]
    for shown in zip(*(p['shown'] for p in columns))
  ]
  return header, rows


def main_table(comparison, settings):
  """What the terminal shows: both arms and the effects."""
  arms = [
    name
    for name in (settings['control'], settings['treatment'])
    if name in comparison.arms
  ]
  effects = comparison.effects()
  rows = []
  for i, budget in enumerate(comparison.budgets):
    values = [show(comparison.table[name][i]) for name in arms]
    values += [show(e[i], sign=True) for e in effects.values()]
    rows.append([f'{budget:g}', *values])
  return ['KL (nats)', *arms, *effects], rows


def report(points, cfg, workdir):
  """Writes the page and its tables; returns what the terminal shows."""
  settings = cfg['report']
  comparison = compare(points, settings, gain(points))
  page = Page('Online against offline at matched KL')
  sentence = verdict(comparison, settings)
  page.text(sentence, 'verdict')
  header, rows = matched_table(comparison, settings)
  write_tables(workdir, points, header, rows)
  figures = workdir / 'figures'
  both = {settings['treatment'], settings['control']} <= set(comparison.arms)

  reference = ', '.join(
    f'{p["gold"]:.2f} (seed {p["seed"]})' for p in references(points)
  )
  page.heading('Gold reward at equal KL')
  page.figure(
    frontier_figure(
      comparison,
      None,
      KL_AXIS,
      GAIN,
      settings['window'],
    ),
    figures / 'gold_vs_kl.png',
    'gold reward against KL, by arm',
  )
  page.text(
    "A curve is the best of an arm's configurations at each budget, chosen on "
    'one half of the prompts and scored on the other; bands are 95% bootstrap '
    'intervals over seeds, then prompts. A curve ends where the last '
    'configuration does; it breaks where the one in the lead ends. The verdict '
    'speaks of the shaded window, which was fixed in advance. The reference '
    f'itself scores {reference}.',
    'note',
  )
  page.table(header, rows)

  page.heading('What the gap is made of')
  effects = comparison.effects()
  if effects:
    page.figure(
      effects_figure(effects, comparison.budgets, settings['window']),
      figures / 'effects.png',
      'effects against KL',
    )
  page.text(
    "Amplification: unlimited proxy labels on the reference's samples instead "
    "of the finite golden pairs. Freshness: the policy's own samples instead "
    "of the reference's. Order: the online log in order instead of shuffled. "
    'Pure on-policy: freshness under golden labels.',
    'note',
  )

  page.heading('Peaks, and what a score costs')
  page.table(*summary_table(comparison))

  page.heading('What decides the sign')
  accuracies = accuracy_table(points, workdir, comparison.seeds, settings)
  page.table(*accuracies)
  page.text(
    'Online wins where the proxy ranks completions better than the offline '
    'policy does as a classifier, and loses where it does not.',
    'note',
  )

  page.heading('Gold against proxy')
  proxy = compare(points, settings, proxy_by_prompt)
  page.figure(
    frontier_figure(comparison, proxy.table, 'proxy reward', GAIN),
    figures / 'gold_vs_proxy.png',
    'gold reward against proxy reward, by arm',
  )
  page.text(NOT_NEUTRAL, 'note')

  if settings['golden_policy'] in comparison.arms:
    page.heading('Win rate')
    wins = compare(points, settings, against(points, settings['golden_policy']))
    page.figure(
      frontier_figure(
        wins,
        None,
        KL_AXIS,
        f'win rate against the last {settings["golden_policy"]} policy',
        settings['window'],
      ),
      figures / 'win_rate_vs_kl.png',
      'win rate against KL, by arm',
    )

  page.heading('Training')
  page.figure(
    training_figure(points, PANELS),
    figures / 'training.png',
    'training curves',
  )

  samples = samples_table(points, comparison, settings) if both else None
  if samples:
    page.heading('Samples side by side')
    page.table(*samples, text_columns=9)

  finish(page, cfg, workdir)
  tables = main_table(comparison, settings), accuracies
  return '\n\n'.join([*(markdown(*table) for table in tables), sentence])


if __name__ == '__main__':
  common.main(runs, report)
