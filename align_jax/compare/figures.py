"""Figures, for a desk and for a phone: functions of their width.

One that is shrunk to a phone has letters that nobody reads. Drawn as SVG their
colours are names of the page's theme, so that they are dark where the page is.
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from align_jax.compare.intervals import Estimate
from align_jax.compare.lines import (
  INK,
  LABEL,
  ROOM,
  SOFT,
  THEME,
  WIDE,
  Line,
  colours_of,
  draw,
  kl_axis,
  margin_for,
  mark_window,
  name_ends,
  new_figure,
  reached,
  values,
  verbatim,
)


def frontier_figure(
  width: float,
  lines: Sequence[Line],
  xlabel: str,
  ylabel: str,
  window: Sequence[float] | None = None,
  kl: bool = True,
) -> Figure:
  """Every arm's line in one plot, its name at its end.

  Args:
    kl: whether the x-axis is the KL.
  """
  right = margin_for([line.name for line in lines])
  height = 4.6 if width == WIDE else 3.7
  figure, [[axes]] = new_figure(width, height, right=right)
  draw(axes, lines)
  if kl:
    kl_axis(axes, reached(lines), width - right - 0.62)
    mark_window(axes, window)
    axes.set_ylim(*axes.get_ylim())
  axes.set_xlabel(xlabel)
  axes.set_title(ylabel, loc='left')
  name_ends(axes, lines)
  return figure


def families_figure(
  width: float,
  families: Mapping[str, Sequence[str]],
  lines: Mapping[str, Line],
  xlabel: str,
  ylabel: str,
  window: Sequence[float] | None,
  kl: bool = True,
) -> Figure:
  """A panel per family of arms, with the same reference lines in each.

  Args:
    families: {title: names of arms}.
    lines: {arm: Line}; the dashed are in every panel.
  """
  columns = 2 if width == WIDE else 1
  rows = -(-len(families) // columns)
  right = margin_for(list(lines))
  dashed = [line for line in lines.values() if line.dashed]
  most = len(dashed) + max(map(len, families.values()))
  height = max(3.2, 1.05 + most * ROOM * LABEL / 72)
  figure, grid = new_figure(width, height, rows, columns, right, between=0.1)
  limits = shared_limits(lines.values())
  for axes, (title, names) in zip(grid.flat, families.items()):
    colours = colours_of(names)
    shown = [
      dataclasses.replace(lines[name], colour=colours[name]) for name in names
    ]
    shown += dashed
    draw(axes, shown)
    if kl:
      inches = width / columns - right - 0.62
      kl_axis(axes, reached(lines.values()), inches)
      mark_window(axes, window)
    axes.set_ylim(*limits)
    axes.set_title(verbatim(f'{title}: {ylabel}'), loc='left')
    axes.set_xlabel(xlabel)
    name_ends(axes, shown)
  hide_rest(grid, len(families))
  return figure


def shared_limits(lines: Iterable[Line]) -> tuple[float, float]:
  """A little more than all values take."""
  known = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
  low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
  return low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9


def hide_rest(grid: np.ndarray, used: int) -> None:
  """Hides the axes of a grid from number `used` on."""
  for axes in grid.flat[used:]:
    axes.set_visible(False)


def effects_figure(
  width: float,
  effects: Mapping[str, Sequence[Estimate]],
  budgets: ArrayLike,
  window: Sequence[float] | None = None,
) -> Figure:
  """A panel per difference over the budgets, with its interval."""
  columns = 2 if width != WIDE or len(effects) in (2, 4) else 3
  columns = min(columns, len(effects))
  rows = -(-len(effects) // columns)
  figure, grid = new_figure(width, 2.7, rows, columns, right=0.12)
  budgets = np.asarray(budgets)
  known = [
    b for k, b in enumerate(budgets) if any(r[k] for r in effects.values())
  ]
  for axes, (name, row) in zip(grid.flat, effects.items()):
    value, low, high = (values(row, part) for part in ('value', 'low', 'high'))
    axes.axhline(0, color=SOFT, linewidth=0.9)
    axes.plot(budgets, value, 'o-', color=INK, markersize=4, linewidth=1.2)
    axes.vlines(budgets, low, high, color=INK, linewidth=1.2)
    kl_axis(axes, known, width / columns - 0.74)
    mark_window(axes, window)
    axes.set_title(verbatim(name.replace(' - ', ' − ')), loc='left')
    axes.set_xlabel('KL (nats)')
  share_limits(grid.flat[: len(effects)])
  hide_rest(grid, len(effects))
  return figure


def share_limits(panels: np.ndarray) -> None:
  """The same limits for all, as `sharey` would hide the ticks of."""
  limits = np.array([axes.get_ylim() for axes in panels])
  for axes in panels:
    axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def training_figure(
  width: float, panels: Mapping[str, Sequence[Line]]
) -> Figure:
  """Trajectories over updates, a line per arm in each panel.

  Args:
    panels: {label: Lines over updates}.
  """
  columns = 2 if width == WIDE else 1
  rows = -(-len(panels) // columns)
  every = [line for lines in panels.values() for line in lines]
  right = margin_for([line.name for line in every])
  figure, grid = new_figure(width, 2.6, rows, columns, right)
  positive = [x for line in every for x in line.x if x > 0]
  for axes, (label, lines) in zip(grid.flat, panels.items()):
    draw(axes, lines)
    if positive:
      step_axis(axes, min(positive), max(positive))
    axes.set_title(verbatim(label), loc='left')
    axes.set_xlabel('updates')
    name_ends(axes, lines)
  hide_rest(grid, len(panels))
  return figure


def step_axis(axes: Axes, first: float, last: float) -> None:
  """Updates, as log-spaced as they were measured, from 0 on."""
  axes.set_xscale('symlog', linthresh=first, linscale=0.5)
  middle = round((first * last) ** 0.5)
  ticks = sorted({0, int(first), middle, int(last)})
  axes.set_xticks(ticks, [str(tick) for tick in ticks])
  axes.minorticks_off()
  axes.set_xlim(0, last)


# --- Files ------------------------------------------------------------------


def as_png(figure: Figure) -> bytes:
  """Bytes, on white."""
  return _saved(figure, 'png', dpi=130, facecolor='white')


def as_svg(figure: Figure, name: str) -> str:
  """A piece of HTML in the theme's colours, its letters the page's own.

  Args:
    name: unlike that of any other figure of the page.
  """
  with matplotlib.rc_context({'svg.hashsalt': name}):
    text = _saved(figure, 'svg', transparent=True, metadata={'Date': None})
  text = text.decode()
  text = text[text.index('<svg') :]
  for part in ('metadata', 'style'):  # of the whole page, it would be
    text = re.sub(rf'<{part}.*?</{part}>', '', text, flags=re.DOTALL)
  text = re.sub(r'<!--.*?-->', '', text, flags=re.DOTALL)
  text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', '', text)
  text = re.sub(r'font: ([\d.]+px) [^;"]*', r'font-size: \1', text)
  text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1', text, count=1)
  text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1', text, count=1)
  for css, (light, _) in THEME.items():
    text = text.replace(light, f'var(--{css})')
  return re.sub(r'\s*\n\s*', '\n', text)


def _saved(figure, kind, **kwargs):
  buffer = io.BytesIO()
  figure.savefig(buffer, format=kind, **kwargs)
  plt.close(figure)
  return buffer.getvalue()
