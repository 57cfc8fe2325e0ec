"""The part of a page on gold reward under many proxies, and on its laws."""

import numpy as np

from align_jax.compare import laws
from align_jax.compare.lines import (
  SOFT,
  WIDE,
  Line,
  colours_of,
  draw,
  kl_axis,
  margin_for,
  name_ends,
  new_figure,
)
from align_jax.compare.report import show
from align_jax.compare.words import show_number
from experiments import pages
from experiments.overoptimisation import KINDS, LEAST_KL, POLICY, Seen

DRAWS = 400  # of a bootstrap


def section(grid):
  """A section of a Study: what was seen under each proxy, and the law of it.

  Args:
    grid: Proxies.
  """
  return lambda *args: add_laws(grid, *args)


def seen_of(grid, evidence, arm):
  """{Proxy: Seen} of an arm, of those proxies that have a law."""
  found = {}
  for proxy in grid:
    try:
      seen = Seen(evidence, proxy, arm)
      seen.law()
    except ValueError:
      continue
    found[proxy] = seen
  return found


def add_laws(grid, page, evidence, folder):
  """See `section`."""
  every = {arm: seen_of(grid, evidence, arm) for arm in KINDS}
  proxies = [proxy for proxy in grid if all(proxy in x for x in every.values())]
  if not proxies:
    return
  page.heading('Gold reward under each proxy, and its law')
  page.figure(
    lambda width: laws_figure(width, every, proxies, evidence.cfg),
    folder / 'laws.png',
    'gold reward against KL under each proxy, with the fitted law',
    'Gold reward above the reference, by the golden pairs of the proxy. Lines: '
    'seeds together, by checkpoint or n; dashed: the law of the same colour.',
  )
  page.table(*table_of(every, proxies, evidence.cfg))
  page.note(
    "Accuracy: share of pairs of the reference's samples that the proxy ranks "
    'as gold does. Off: the distance of the law of the smaller KLs from the '
    'points of the largest, in units of the largest gain. Coefficients are of '
    'one fit to all seeds, with intervals by the jackknife over seeds.'
  )
  page.heading('The same coefficients by bootstrap')
  page.table(*bootstrap_table(every, proxies, evidence.cfg))
  page.note(
    f'From the 2.5th to the 97.5th percentile of {DRAWS} fits to resampled '
    'seeds and, within these, resampled prompts. Verdicts go by the jackknife: '
    'few seeds make percentiles too narrow.'
  )


def bootstrap(seen, draws=DRAWS):
  """Coefficients of resampled seeds and prompts: [draws, 2], alpha and beta.

  Args:
    seen: overoptimisation.Seen.
  """
  rng, fits = np.random.default_rng(0), []
  runs = [
    (
      np.array([p['kl_by_prompt'] for p in run]),
      np.array([seen.gain(p) for p in run]),
    )
    for run in seen.runs.values()
  ]
  while len(fits) < draws:
    data = []
    for i in rng.integers(len(runs), size=len(runs)):
      kls, gains = runs[i]
      drawn = rng.integers(gains.shape[1], size=gains.shape[1])
      kl, own = kls[:, drawn].mean(1), gains[:, drawn]
      errors = own.std(1, ddof=1) / len(drawn) ** 0.5
      far = (kl > LEAST_KL) & (errors > 0)
      data.append((kl[far], own.mean(1)[far], errors[far]))
    law = laws.fit(seen.kind, *map(np.concatenate, zip(*data)))
    fits.append((law.alpha, law.beta))
  return np.array(fits)


def bootstrap_table(every, proxies, cfg):
  """A row per proxy: both intervals of each law's coefficients."""
  header = ['proxy']
  for arm in every:
    header += [f'{arm}: {x}' for x in ('alpha', 'beta')]
  rows = []
  for proxy in proxies:
    row = [proxy.name(cfg)]
    for arm in every:
      ends = np.percentile(bootstrap(every[arm][proxy]), (2.5, 97.5), 0)
      row += [f'[{low:.2f}, {high:.2f}]' for low, high in ends.T]
    rows.append(row)
  return header, rows


def laws_figure(width, every, proxies, cfg):
  """A panel per kind of proxy and arm; a colour for each number of pairs."""
  kinds = list(dict.fromkeys(x.kind(cfg) for x in proxies))
  columns = 2 if width == WIDE else 1
  names = [str(x.pairs(cfg)) for x in proxies]
  colours = colours_of(list(dict.fromkeys(names)))
  panels = [(kind, arm) for kind in kinds for arm in every]
  rows = -(-len(panels) // columns)
  right = margin_for(names)
  figure, grid = new_figure(width, 2.9, rows, columns, right)
  for axes, (kind, arm) in zip(grid.flat, panels):
    lines = []
    for proxy in proxies:
      if proxy.kind(cfg) == kind:
        name = str(proxy.pairs(cfg))
        lines += lines_of(every[arm][proxy], name, colours[name])
    draw(axes, lines)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    top = max(line.x.max() for line in lines)
    ticks = [0.25, 1, 2, 4, 8, 16, 32, 64]
    kl_axis(axes, [x for x in ticks if x <= top], width / columns - right - 0.7)
    axes.set_xlim(0, 1.03 * top)
    axes.set_title(f'{arm}, {kind}', loc='left')
    axes.set_xlabel(pages.KL_AXIS)
    name_ends(axes, [line for line in lines if not line.dashed])
  return figure


def lines_of(seen, name, colour):
  """The mean points of an arm over seeds, and their law."""
  kls, gains = seen.means
  law = seen.law()
  x = np.linspace(min(kls), max(kls), 60)
  return [
    Line(name, np.r_[0.0, kls], np.r_[0.0, gains], colour),
    Line('', x, law(x), colour, dashed=True),
  ]


def table_of(every, proxies, cfg):
  """A row per proxy: accuracy, coefficients, peaks and errors."""
  header = ['proxy', 'accuracy']
  for arm in every:
    header += [f'{arm}: {x}' for x in ('alpha', 'beta', 'peak (nats)', 'off')]
  rows = []
  for proxy in proxies:
    row = [proxy.name(cfg), show_number(every[POLICY][proxy].accuracy)]
    for arm in every:
      seen = every[arm][proxy]
      row += [show(seen.estimate(x)) for x in ('alpha', 'beta')]
      row += [f'{seen.law().peak:.1f}', f'{seen.error:.0%}']
    rows.append(row)
  return header, rows
