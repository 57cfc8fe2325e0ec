"""How old may the policy that writes the samples be?

  python -m experiments.staleness --config=configs/toy.py --workdir=runs/stale

Tang et al. 2024, fig. 13, at matched KL: the online arm as it is, one step
behind, so that sampling overlaps training, and with samplers refreshed every so
many steps (`config.ages`), down to the reference's own samples. Writes
report.html, figures/, table.csv, points.jsonl.
"""

from align_jax.compare import figures
from align_jax.compare.lines import lines_of
from align_jax.compare.report import Page
from align_jax.lab import sweep
from experiments import common, matched, pages, provenance

FRESH = 'fresh'


def runs(cfg):
  """The arm `online` of the config, once for each age of its sampler."""
  online = {'source': 'policy', **cfg['arms'].get('online', {})}
  arms = {
    FRESH: online,
    'one step': {**online, 'source': 'one_step_stale'},
  }
  for age in cfg['ages']:
    arms[f'{age} steps'] = {
      **online,
      'source': 'sampler',
      'refresh_every': {'sampler': age},
    }
  arms['reference'] = {**online, 'source': 'reference'}
  return sweep.sweep({**cfg, 'arms': arms})


def differences(comparison):
  """{'AGE - fresh': K Estimates} for all other ages."""
  return {
    f'{name} - {FRESH}': comparison.difference(name, FRESH)
    for name in comparison.arms
    if name != FRESH
  }


def add_figures(page, comparison, against, folder):
  """Adds figures of each sampler's gain, and of its gain over fresh ones."""
  oldest = list(comparison.arms)[-1]
  lines = lines_of(comparison, (FRESH, oldest))
  page.figure(
    lambda width: figures.frontier_figure(
      width, lines, pages.KL_AXIS, pages.GAIN
    ),
    folder / 'staleness.png',
    'gold reward against KL, by the age of the sampler',
    f'{matched.key(comparison)} {pages.SCALE}',
  )
  columns = matched.arm_columns(comparison, list(comparison.arms))
  page.table(*matched.budget_rows(comparison, columns))
  if not against:
    return
  page.heading('What age costs')
  page.figure(
    lambda width: figures.effects_figure(width, against, comparison.budgets),
    folder / 'staleness_differences.png',
    'difference to fresh samples against KL, by the age of the sampler',
    'Differences in gold reward to fresh samples at equal KL.',
  )
  columns = matched.difference_columns(against)
  page.table(*matched.budget_rows(comparison, columns))


def note(comparison):
  """A sentence that explains ages and intervals."""
  seeds = len(comparison.seeds)
  text = (
    "An arm's sampler is as old as its name says, at most; the reference never "
    f'changes. {pages.what_an_arm_is(comparison)} '
  )
  if seeds < 2:
    return f'{text}One seed: no intervals.'
  return (
    f'{text}Brackets are 95% intervals over {seeds} seeds and the prompts; '
    'those of a column hold together. Differences are paired by seed and '
    'prompt.'
  )


def report(points, cfg, workdir):
  """Writes the page and its tables. Returns the text for the terminal."""
  comparison = pages.compare(points, cfg, pages.gain(points))
  if FRESH not in comparison.arms:
    raise ValueError(f'nothing to compare with: no points of {FRESH!r}')
  against = differences(comparison)
  table = matched.csv_table(comparison, against)
  pages.write_tables(workdir, points, *table)
  page = Page('How old may the sampler be?')
  for sentence in provenance.registered(cfg, workdir):
    page.note(sentence)
  add_figures(page, comparison, against, workdir / 'figures')
  told = f'{note(comparison)} {matched.unreached(comparison)}'.strip()
  page.note(told)
  kept = provenance.used(cfg, runs, points)
  provenance.finish(page, cfg, workdir, kept)
  columns = {
    **matched.arm_columns(comparison, list(comparison.arms)),
    **matched.difference_columns(against),
  }
  shown = pages.markdown(*matched.budget_rows(comparison, columns))
  return '\n\n'.join([shown, matched.key(comparison), told])


if __name__ == '__main__':
  common.main(runs, report)
