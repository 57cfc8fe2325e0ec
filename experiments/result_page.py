"""The page of a result: its sections, in their order."""

import numpy as np

from align_jax.compare import figures
from align_jax.compare.lines import lines_of
from experiments import (
  equal_steps,
  matched,
  pages,
  provenance,
  sections,
)
from experiments.result import (
  against,
  optima,
  reference_table,
  summary_table,
)


def add_verdict(page, result, cfg, workdir):
  pages.add_verdict(page, result.finding, result.names)
  for sentence in provenance.registered(cfg, workdir):
    page.note(sentence)


def add_equal_steps(page, result):
  """Adds the comparison at equal updates: better, or only further away?"""
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
  """Sentences that explain a figure's lines and intervals."""
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


def add_effects(page, result, settings, folder, explained):
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
    told = [f'{name}: {explained[name]}' for name in effects if explained]
    if several and told:
      page.note(f'{"; ".join(told)}.')
  for sentence in result.refused:
    page.note(sentence)


def add_references(page, result):
  if not result.references:
    return
  best = optima(result)
  page.heading('Share of the attainable' if best else 'Without training')
  page.table(*reference_table(result))
  for optimum in best:
    labels = result.references[optimum].labels.name
    page.note(
      f"Shares are an arm's gain over that of {optimum!r} at the same KL: the "
      'reference reweighed by exp(r / beta), than which nothing has more of '
      f'the reward r, here that of {labels!r}. They are ratios of means, '
      'without intervals; above 100% an arm has more gold than that gives.'
    )


def add_measures(page, result):
  """Adds the policies' metrics, and their gold on other prompts."""
  for table in result.measures:
    page.heading(table.title)
    breaks = np.cumsum([len(part) for part in table.parts])[:-1].tolist()
    page.table(table.header, table.rows, breaks=breaks)
    page.note(table.note)


def add_accuracies(page, result):
  if not result.accuracies:
    return
  page.heading('Who ranks pairs better')
  page.text(result.ranking)
  table = sections.accuracy_table(result.accuracies, result.names[1])
  with page.folded('By seed'):
    page.table(*table)


def add_other_axes(page, result, points, cfg, folder):
  """Adds the comparison against the proxy, and as win rates."""
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


def fill(page, result, points, cfg, workdir, about):
  """Adds all sections, except the one on how the page was made."""
  settings, folder = cfg['report'], workdir / 'figures'
  add_verdict(page, result, cfg, workdir)
  add_equal_steps(page, result)
  add_matched(page, result, points, settings, folder)
  add_effects(page, result, settings, folder, about.explained)
  add_references(page, result)
  add_measures(page, result)
  add_accuracies(page, result)
  if result.trained:
    page.heading('Peaks, and what a score costs')
    page.table(*summary_table(result.comparison, result.trained))
  add_samples(page, result, points, settings)
  add_training(page, result, points, folder)
  add_other_axes(page, result, points, cfg, folder)
