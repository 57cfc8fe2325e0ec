"""Is online better than offline at the same KL budget, from where on, and why?

  python -m experiments.online_vs_offline --config=configs/toy.py \
    --workdir=runs/toy [--only=ARM,...] [--report]

Tang et al. 2024 (arXiv 2405.08448) with its confound taken apart: their two
arms differ in who samples, in who labels, and in how many pairs there are. The
arms in between (`ref+proxy`, `ref+gold`, `online+gold`, `shuffled`) change one
of these at a time. Writes report.html, figures/, table.csv, points.jsonl.
"""

import dataclasses

import numpy as np

from align_jax.compare import figures, frontier
from align_jax.compare.intervals import LEVEL
from align_jax.compare.lines import lines_of
from align_jax.compare.report import Page, show
from experiments import (
  common,
  equal_steps,
  findings,
  matched,
  pages,
  provenance,
  registration,
  sections,
)


def runs(cfg):
  """A run per arm, configuration and seed.

  Raises:
    ValueError: arms that are compared have unequal numbers of configurations.
  """
  pair = {name: cfg['report'][name] for name in ('treatment', 'control')}
  for field, name in pair.items():
    if name not in cfg['arms']:
      raise ValueError(
        f'report.{field}={name!r} is none of the arms {", ".join(cfg["arms"])}'
      )
  pairs = [tuple(pair.values()), *frontier.EFFECTS.values()]
  frontier.check_equal(common.sizes(cfg['arms']), pairs)
  every = common.sweep(cfg)
  check_window(cfg['report'], [r for r in every if r['arm'] in pair.values()])
  return every


def check_window(settings, compared):
  """Refuses windows of the verdict that nothing can be read at.

  Args:
    compared: the runs of its two arms.
  Raises:
    ValueError: it ends below its start, or all runs are held below it.
  """
  low, high = settings['window']
  if not 0 < low <= high:
    raise ValueError(
      f'report.window={(low, high)}, expected nats from low to high, above 0'
    )
  held = {run['kl_budget'] for run in compared}
  if all(0 < nats < low for nats in held):
    raise ValueError(
      f'report.window={(low, high)} lies beyond arm.kl_budget='
      f'{max(held):g}, where all runs of the verdict are held: none of them '
      'gets there'
    )


EXPLAINED = {
  'online - offline': 'the two arms themselves',
  'amplification': (
    "unlimited proxy labels on the reference's samples instead of the finite "
    'golden pairs'
  ),
  'freshness': "the policy's own samples instead of the reference's",
  'order': 'the online log in order instead of shuffled',
  'pure on-policy': 'freshness under golden labels',
}


@dataclasses.dataclass(frozen=True)
class Result:
  """What a report is of; worked out once.

  Attributes:
    names: of treatment and control.
    references: names of the arms that train nothing.
    effects: {name: K Estimates}.
    refused: sentences on effects that cannot be measured.
    steps, step: all `equal_steps.Step`s and the one to speak of.
    accuracies: see `sections.accuracies`.
  """

  comparison: frontier.Comparison
  finding: findings.Finding
  names: tuple
  references: list
  effects: dict
  refused: list
  steps: list
  step: equal_steps.Step | None
  accuracies: dict

  @property
  def both(self):
    return comparable(self.comparison, self.names)

  @property
  def compared(self):
    """Control and treatment, those that have points."""
    return [n for n in self.names[::-1] if n in self.comparison.arms]

  @property
  def trained(self):
    """Names of the arms that are no references."""
    return [n for n in self.comparison.arms if n not in self.references]

  @property
  def window(self):
    """As compared, or as asked where nothing was."""
    return self.finding.gap.window if self.finding.gap else None

  @property
  def naive(self):
    return equal_steps.sentence(self.step, self.finding.gap, self.names)

  @property
  def ranking(self):
    """The sentence on who ranks pairs better."""
    gap = self.finding.gap
    by_seed = gap.estimate.by_seed if gap else ()
    return sections.accuracy_sentence(self.accuracies, by_seed, self.names)


def comparable(comparison, names):
  """Whether all have points, of equally many configurations."""
  arms = [comparison.arms.get(name) for name in names]
  return all(arms) and len({len(arm.configs) for arm in arms}) == 1


def work_out(points, cfg, workdir):
  """Points -> a Result; a verdict read is a look that is noted."""
  settings = cfg['report']
  names = settings['treatment'], settings['control']
  comparison = pages.compare(points, cfg, pages.gain(points))
  seeds, both = len(comparison.seeds), comparable(comparison, names)
  level = LEVEL
  if both and seeds > 1:
    level = registration.look(cfg, workdir, seeds)
  steps = equal_steps.steps_of(comparison, *names) if both else []
  return Result(
    comparison,
    findings.find(comparison, settings, level),
    names,
    [n for n in pages.reweighed(cfg['arms']) if n in comparison.arms],
    *matched.effects(comparison),
    steps,
    equal_steps.chosen(comparison, names, steps),
    sections.accuracies(points, workdir, comparison.seeds, names[1]),
  )


def against(points, arm):
  """point -> win rates against the last policy of `arm` of the same seed."""
  mine = [p for p in points if p['arm'] == arm]
  last = {seed: p for (_, _, seed), p in pages.last_points(mine).items()}
  return lambda point: frontier.win_rate(
    point['gold_samples'], last[point['seed']]['gold_samples']
  )


def summary_table(comparison, names):
  """Peak, its KL, the fall after it, and the KL that given scores cost."""
  peaks = comparison.peaks()
  best = max(peaks[name][0].value for name in names)
  levels = [share * best for share in (0.25, 0.5, 0.75)]
  grid = np.linspace(0.1, np.sqrt(comparison.budgets[-1]), 60) ** 2
  header = ['arm', 'peak gain', 'KL of the peak', 'fall to the last']
  header += [f'KL needed for {level:.2f}' for level in levels]
  rows = [
    [
      name,
      *map(show, peaks[name]),
      *(show(comparison.kl_needed(name, level, grid)) for level in levels),
    ]
    for name in names
  ]
  return header, rows


def main_table(result):
  """What the terminal shows: both arms and the effects, where some arm got."""
  comparison = result.comparison
  return matched.budget_rows(
    comparison,
    {
      **matched.arm_columns(comparison, result.compared),
      **matched.difference_columns(result.effects),
    },
  )


# --- The page -----------------------------------------------------------------


def add_verdict(page, result, cfg, workdir):
  pages.add_verdict(page, result.finding, result.names)
  for sentence in provenance.registered(cfg, workdir):
    page.note(sentence)


def add_equal_steps(page, result):
  """Is it better, or did it only move further?"""
  if not result.both:
    return
  page.heading('Is it better, or did it only move further?')
  page.cards(equal_steps.cards(result.step, result.finding.gap, result.names))
  page.text(result.naive)
  if result.steps:
    with page.folded('Every number of updates that the runs share'):
      page.table(*equal_steps.table(result.steps, result.names))
      page.note(
        'The step above is the one where the KLs of the arms differ most '
        'before either is held, or else the last. Differences hold together '
        'over the steps.'
      )


def add_matched(page, result, points, settings, folder):
  comparison = result.comparison
  lines = lines_of(comparison, result.names, result.references)
  window = result.window or settings['window']
  page.heading('Gold reward at equal KL')
  key = matched.key(comparison, result.trained)
  caption = [key, pages.window_text(window)]
  if result.references:
    caption.append('Dashed: the reference, reweighed instead of trained.')
  page.figure(
    lambda width: figures.frontier_figure(
      width, lines, pages.KL_AXIS, pages.GAIN, window
    ),
    folder / 'gold_vs_kl.png',
    'gold reward against KL, by arm',
    ' '.join(caption),
  )
  columns = matched.arm_columns(comparison, result.trained)
  page.table(*matched.budget_rows(comparison, columns))
  page.note(
    f'{matched.unreached(comparison, result.trained)} {drawn(result, points)}'
  )


def drawn(result, points):
  """What the lines are, and their intervals."""
  comparison = result.comparison
  text = pages.what_an_arm_is(comparison)
  if len(comparison.seeds) > 1:
    text += (
      ' Bands and brackets are 95% intervals over seeds and prompts, of each '
      'arm by itself, that hold together over its budgets; how arms differ is '
      'known better, see below.'
    )
  scores = [p['gold'] for p in pages.references(points)]
  if scores:
    text += f' The reference itself scores {np.mean(scores):.2f}.'
  return f'{text} {pages.SCALE}'


def add_effects(page, result, settings, folder):
  comparison = result.comparison
  effects = {name: row for name, row in result.effects.items() if any(row)}
  if not effects and not result.refused:
    return
  several = len(effects) > 1
  page.heading(
    'What the difference is made of' if several else 'The difference at each KL'
  )
  if effects:
    window = result.window or settings['window']
    page.figure(
      lambda width: figures.effects_figure(
        width, effects, comparison.budgets, window
      ),
      folder / 'effects.png',
      'differences in gold reward against KL',
      'Differences in gold reward at equal KL, paired by seed and prompt'
      + (
        '; intervals hold together over the budgets, and so are wider than '
        'that of the verdict, one number that was fixed in advance.'
        if len(comparison.seeds) > 1
        else '; of one seed, without intervals.'
      ),
    )
    page.table(
      *matched.budget_rows(comparison, matched.difference_columns(effects))
    )
    if several:
      told = [f'{name}: {EXPLAINED[name]}' for name in effects]
      page.note(f'{"; ".join(told)}.')
  for sentence in result.refused:
    page.note(sentence)


def optima(result, cfg):
  """Names of the arms that are the best there is of a reward."""
  best = pages.reweighed(cfg['arms'], 'optimum')
  return [n for n in best if n in result.references]


def reference_table(result, cfg):
  """What reweighing the reference gains, and each arm's share of the best."""
  comparison = result.comparison
  columns = matched.reference_columns(comparison, result.references)
  for optimum in optima(result, cfg):
    columns |= matched.share_columns(comparison, result.trained, optimum)
  return matched.budget_rows(comparison, columns)


def add_references(page, result, cfg):
  if not result.references:
    return
  best = optima(result, cfg)
  page.heading('Share of the attainable' if best else 'Without training')
  page.table(*reference_table(result, cfg))
  for optimum in best:
    labels = cfg['arms'][optimum].get('labels', cfg['arm']['labels'])
    page.note(
      f"Shares are an arm's gain over that of {optimum!r} at the same KL: the "
      'reference reweighed by exp(r / beta), than which nothing has more of '
      f'the reward r, here that of {labels!r}. They are ratios of means, '
      'without intervals; above 100% an arm has more gold than that gives.'
    )


def add_accuracies(page, result):
  page.heading('Who ranks pairs better')
  page.text(result.ranking)
  table = sections.accuracy_table(result.accuracies, result.names[1])
  with page.folded('By seed'):
    page.table(*table)


def add_other_axes(page, result, points, cfg, folder):
  """The same against the proxy, and as win rates."""
  comparison, strong = result.comparison, result.names
  page.heading('Gold against proxy')
  proxy = pages.compare(points, cfg, pages.proxy_by_prompt)
  lines = lines_of(comparison, strong, result.references, proxy.table)
  page.figure(
    lambda width: figures.frontier_figure(
      width, lines, 'proxy reward', pages.GAIN, kl=False
    ),
    folder / 'gold_vs_proxy.png',
    'gold reward against proxy reward, by arm',
    pages.NOT_NEUTRAL,
  )
  golden = cfg['report']['golden_policy']
  if golden in comparison.arms:
    page.heading('Win rate')
    policies = pages.trained(points)
    wins = pages.compare(policies, cfg, against(policies, golden))
    wins = lines_of(wins, strong, origin=False)
    page.figure(
      lambda width: figures.frontier_figure(
        width,
        wins,
        pages.KL_AXIS,
        f'win rate against the last {golden} policy',
        result.window or cfg['report']['window'],
      ),
      folder / 'win_rate_vs_kl.png',
      'win rate against KL, by arm',
    )


def add_samples(page, result, points, settings):
  if not result.both:
    return
  seed = result.comparison.seeds[0]
  budget = float(np.mean(result.window or settings['window']))
  who, prompts = sections.samples(points, seed, result.names[::-1], budget)
  page.heading('Samples side by side')
  page.note(
    f'The first held-out prompts of seed {seed}, one sample each, of policies '
    f'near {budget:.2g} nats; gold is the reward of that sample.'
  )
  for prompt, said in prompts:
    page.samples(
      prompt,
      [(w, f'gold {gold:+.2f}', text) for w, (text, gold) in zip(who, said)],
    )


def add_training(page, result, points, folder):
  panels = sections.training_lines(points, result.names)
  page.heading('Training')
  page.figure(
    lambda width: figures.training_figure(width, panels),
    folder / 'training.png',
    'training curves, by arm',
    'A line is the mean over the configurations and seeds of an arm, as far as '
    'all of its runs go.',
  )


def report(points, cfg, workdir):
  """Writes the page and its tables; returns what the terminal shows."""
  settings, folder = cfg['report'], workdir / 'figures'
  result = work_out(points, cfg, workdir)
  table = matched.csv_table(
    result.comparison, result.effects, result.references
  )
  pages.write_tables(workdir, points, *table)
  page = Page('Online against offline at equal KL')
  add_verdict(page, result, cfg, workdir)
  add_equal_steps(page, result)
  add_matched(page, result, points, settings, folder)
  add_effects(page, result, settings, folder)
  add_references(page, result, cfg)
  add_accuracies(page, result)
  if result.trained:
    page.heading('Peaks, and what a score costs')
    page.table(*summary_table(result.comparison, result.trained))
  add_samples(page, result, points, settings)
  add_training(page, result, points, folder)
  add_other_axes(page, result, points, cfg, folder)
  provenance.finish(page, cfg, workdir, provenance.used(cfg, runs, points))
  return terminal(result, cfg)


def terminal(result, cfg):
  """What is printed: the page's main tables and its sentences."""
  finding, arms = result.finding, result.compared
  parts = [
    pages.markdown(*main_table(result)),
    f'{matched.key(result.comparison, arms)} '
    f'{matched.unreached(result.comparison)}'.strip(),
    pages.markdown(*reference_table(result, cfg)) if result.references else '',
    result.ranking,
    '\n'.join([finding.sentence, *finding.notes]),
    result.naive if result.both else '',
  ]
  return '\n\n'.join(filter(None, parts))


if __name__ == '__main__':
  common.main(runs, report)
