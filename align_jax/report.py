"""Figures, tables and one self-contained HTML page."""

import base64
import html
import io
import pathlib

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

from align_jax.metrics import write_atomically

COLOURS = plt.get_cmap('tab10').colors

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
.verdict { font-size: 1.15rem; border-left: 4px solid #1f77b4;
  padding: .5rem 1rem; background: #f4f8fb }
table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0;
  display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; text-align: right;
  border-bottom: 1px solid #ddd;
  white-space: nowrap }
td.text, th.text { text-align: left; white-space: normal }
img { max-width: 100% } pre { background: #f6f6f6; padding: .8rem;
  overflow-x: auto; font-size: .8rem } .note { color: #666; font-size: .85rem }
.missing { color: #aaa }
"""


class Page:
  """Collects sections; `write` leaves one file that needs no network."""

  def __init__(self, title):
    self._title = title
    self._parts = [f'<h1>{html.escape(title)}</h1>']

  def heading(self, text):
    self._parts.append(f'<h2>{html.escape(text)}</h2>')

  def text(self, text, css=''):
    self._parts.append(f'<p class="{css}">{html.escape(text)}</p>')

  def code(self, text):
    self._parts.append(f'<pre>{html.escape(text)}</pre>')

  def figure(self, figure, path, alt):
    """Embeds a matplotlib figure and keeps it as a PNG at `path`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=130, bbox_inches='tight')
    plt.close(figure)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    self._parts.append(
      f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
    )

  def table(self, header, rows, text_columns=1):
    """Rows of strings or Estimates; the first `text_columns` align left."""

    def cell(tag, i, content):
      css = 'text' if i < text_columns else ''
      if content == NOT_REACHED:
        css += ' missing'
      return f'<{tag} class="{css}">{html.escape(content)}</{tag}>'

    line = lambda tag, row: ''.join(
      cell(tag, i, str(content)) for i, content in enumerate(row)
    )
    body = ''.join(f'<tr>{line("td", row)}</tr>' for row in rows)
    self._parts.append(
      f'<table><thead><tr>{line("th", header)}</tr></thead>'
      f'<tbody>{body}</tbody></table>'
    )

  def write(self, path):
    body = '\n'.join(self._parts)
    write_atomically(
      path,
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f'<title>{html.escape(self._title)}</title><style>{STYLE}</style></head>'
      f'<body>{body}</body></html>\n',
    )


NOT_REACHED = 'not reached'


def show(estimate, sign=False, digits=2):
  """Estimate -> '1.23 [1.10, 1.35]', or 'not reached'."""
  if not estimate:
    return NOT_REACHED
  form = f'{"+" if sign else ""}.{digits}f'
  return (
    f'{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]'
  )


def frontier_figure(comparison, x, xlabel, ylabel, window=None):
  """Each arm's matched-KL curve with its band.

  Args:
    x: {arm: [K] Estimates} to put on the x-axis, or None for KL itself.
  """
  figure, axes = plt.subplots(figsize=(8.5, 5))
  if window:
    axes.axvspan(*window, color='#eef3f8', zorder=0)
  for colour, name in zip(COLOURS, comparison.arms):
    values = comparison.table[name]
    known = [i for i, e in enumerate(values) if e]
    if not known:
      continue
    across = (
      [comparison.budgets[i] for i in known]
      if x is None
      else [x[name][i].value for i in known]
    )
    axes.plot(
      across,
      [values[i].value for i in known],
      color=colour,
      marker='o',
      markersize=4,
      label=name,
      linewidth=2,
    )
    axes.fill_between(
      across,
      [values[i].low for i in known],
      [values[i].high for i in known],
      color=colour,
      alpha=0.15,
      linewidth=0,
    )
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  if axes.get_legend_handles_labels()[0]:
    axes.legend(frameon=False, fontsize=9)
  axes.spines[['top', 'right']].set_visible(False)
  return figure


def families_figure(families, tables, across, lines, xlabel, ylabel, window):
  """A panel per family of arms, with the same reference lines in each.

  Args:
    families: {title: names of arms}.
    tables: {arm: [Estimate] * K}, the scores.
    across: {arm: [number] * K}, where they are drawn.
    lines: names of the arms that every panel shows, in black.
    window: (low, high) to shade, or None.
  """
  columns = 2
  figure, grid = plt.subplots(
    -(-len(families) // columns),
    columns,
    figsize=(13, 4.2 * -(-len(families) // columns)),
    sharex=True,
    sharey=True,
    squeeze=False,
  )
  styles = ('-', '--', ':')
  for axes, (title, names) in zip(grid.flat, families.items()):
    for i, name in enumerate([*names, *lines]):
      known = [k for k, e in enumerate(tables[name]) if e]
      line = name in lines
      axes.plot(
        [across[name][k] for k in known],
        [tables[name][k].value for k in known],
        color='black' if line else COLOURS[i % 10],
        linestyle=styles[lines.index(name) + 1 if line else i // 10],
        marker=None if line else 'o',
        markersize=3,
        linewidth=1.2,
        label=name,
      )
    if window:
      axes.axvspan(*window, color='#eef3f8', zorder=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize=7, ncols=2)
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.spines[['top', 'right']].set_visible(False)
  for axes in grid.flat[len(families) :]:
    axes.set_visible(False)
  figure.tight_layout()
  return figure


def effects_figure(effects, budgets, window):
  """Each effect's difference over the budgets, with its interval."""
  figure, panels = plt.subplots(
    1,
    len(effects),
    figsize=(2.6 * len(effects) + 1, 3),
    sharey=True,
    squeeze=False,
  )
  for axes, (name, differences) in zip(panels[0], effects.items()):
    known = [(b, e) for b, e in zip(budgets, differences) if e]
    axes.axhline(0, color='#888', linewidth=0.8)
    axes.axvspan(*window, color='#eef3f8', zorder=0)
    if known:
      x, e = zip(*known)
      middle = np.array([v.value for v in e])
      spread = [
        middle - [v.low for v in e],
        np.array([v.high for v in e]) - middle,
      ]
      axes.errorbar(x, middle, yerr=spread, fmt='o-', markersize=3, linewidth=1)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel('KL budget (nats)')
    axes.spines[['top', 'right']].set_visible(False)
  panels[0][0].set_ylabel('difference in gold reward')
  return figure


def training_figure(points, panels):
  """Seed-mean trajectories over steps, one line per configuration.

  Args:
    panels: {field of a point: label}.
  """
  figure, grid = plt.subplots(
    2, -(-len(panels) // 2), figsize=(13, 6.5), squeeze=False
  )
  runs = {}
  for point in points:
    runs.setdefault((point['arm'], point['config']), []).append(point)
  arms = list(dict.fromkeys(arm for arm, _ in runs))
  for axes, (field, label) in zip(grid.flat, panels.items()):
    for (arm, config), run in runs.items():
      steps = sorted({point['step'] for point in run})
      means = [
        np.mean([p[field] for p in run if p['step'] == s]) for s in steps
      ]
      first = [key for key in runs if key[0] == arm][0] == (arm, config)
      axes.plot(
        steps,
        means,
        color=COLOURS[arms.index(arm) % 10],
        linewidth=1.2,
        label=arm if first else None,
      )
    axes.set_title(label, fontsize=10)
    axes.set_xscale('symlog', linthresh=20)
    axes.spines[['top', 'right']].set_visible(False)
  for axes in grid.flat[len(panels) :]:
    axes.set_visible(False)
  grid[0][0].legend(frameon=False, fontsize=8)
  figure.tight_layout()
  return figure
