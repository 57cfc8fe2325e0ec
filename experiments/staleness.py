"""How old may the policy that writes the samples be?

  python -m experiments.staleness --config=configs/toy.py --workdir=runs/stale

Tang et al. 2024, fig. 13, at matched KL: the online arm as it is, one step
behind, so that sampling overlaps training, and with samplers refreshed every so
many steps (`config.ages`), down to the reference's own samples. Writes
report.html, figures/, table.csv, points.jsonl.
"""

from align_jax.report import Page, frontier_figure, show
from experiments import common
from experiments.pages import (
  GAIN,
  KL_AXIS,
  compare,
  finish,
  gain,
  markdown,
  write_tables,
)

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
  return common.sweep({**cfg, 'arms': arms})


def stale_table(comparison):
  """A row per budget: what each sampler gains, and gains over fresh ones."""
  others = [name for name in comparison.arms if name != FRESH]
  header = ['KL (nats)', *comparison.arms]
  header += [f'{name} - {FRESH}' for name in others]
  differences = [comparison.difference(name, FRESH) for name in others]
  rows = []
  for i, budget in enumerate(comparison.budgets):
    gains = [show(comparison.table[name][i]) for name in comparison.arms]
    rows.append(
      [f'{budget:g}', *gains, *(show(d[i], sign=True) for d in differences)]
    )
  return header, rows


def report(points, cfg, workdir):
  """Writes the page and its tables; returns what the terminal shows."""
  settings = cfg['report']
  comparison = compare(points, settings, gain(points))
  if FRESH not in comparison.arms:
    raise ValueError(f'nothing to compare with: no points of {FRESH!r}')
  header, rows = stale_table(comparison)
  write_tables(workdir, points, header, rows)
  page = Page('How old may the sampler be?')
  page.figure(
    frontier_figure(comparison, None, KL_AXIS, GAIN, settings['window']),
    workdir / 'figures' / 'staleness.png',
    'gold reward against KL, by the age of the sampler',
  )
  page.table(header, rows)
  page.text(
    "An arm's sampler is as old as its name says, at most; the reference never "
    'changes. Brackets are 95% bootstrap intervals over '
    f'{len(comparison.seeds)} seeds, then prompts.',
    'note',
  )
  finish(page, cfg, workdir)
  return markdown(header, rows)


if __name__ == '__main__':
  common.main(runs, report)
