"""Named lines in one plot: colours, markers, and names at their ends."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from align_jax.compare.frontier import Comparison
from align_jax.compare.intervals import Estimate

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

WIDE, NARROW = 10.0, 3.75  # inches: of a desk's page, and of a phone's

# name: (on white, on black). Series are told apart by colour-blind readers too
# (Okabe and Ito 2008, some darkened to be seen on white).
THEME = {
  'ink': ('#1d2329', '#e6eaee'),
  'soft': ('#5b6671', '#9eaab6'),
  'line': ('#d6dce2', '#39424c'),
  'window': ('#e8eef5', '#222b35'),
  'paper': ('#fefefe', '#14181c'),
  's0': ('#0072b2', '#4fa8e8'),
  's1': ('#d55e00', '#ff8b45'),
  's2': ('#009e73', '#2fc79b'),
  's3': ('#c4689d', '#e69cc7'),
  's4': ('#b58900', '#e3b94d'),
  's5': ('#48a9e0', '#a6dcff'),
  's6': ('#7d6608', '#c9b458'),
  's7': ('#4b3f9e', '#ada3ff'),
}
INK, SOFT, LINE, WINDOW, PAPER = (
  light for light, _ in list(THEME.values())[:5]
)
SERIES = [light for name, (light, _) in THEME.items() if name[0] == 's'][1:]

# how the budget of a value was reached: what fills its marker
FILLED = {
  'held': 'full',
  'stopped': 'right',
  'plateau': 'left',
  'passage': 'none',
}

matplotlib.rcParams.update(
  {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'align_jax',
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': SOFT,
    'axes.facecolor': 'none',
    'axes.titlesize': 10,
    'axes.labelsize': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'xtick.color': SOFT,
    'ytick.color': SOFT,
    'xtick.labelcolor': INK,
    'ytick.labelcolor': INK,
    'xtick.labelsize': 9.5,
    'ytick.labelsize': 9.5,
    'figure.dpi': 72,
  }
)
LABEL = 9.5  # points, of a line's name
ROOM = 1.3  # of a name, in its own height


@dataclasses.dataclass(frozen=True)
class Line:
  """One named line; nan where it is not known.

  Attributes:
    reached: per point a name in `FILLED`, or ''; (): no markers.
    low, high: its interval, drawn where given.
    strong: whether it is what the figure is about.
    dashed: whether it is there for reference.
  """

  name: str
  x: np.ndarray
  y: np.ndarray
  colour: str
  reached: tuple = ()
  low: np.ndarray | None = None
  high: np.ndarray | None = None
  strong: bool = False
  dashed: bool = False

  @property
  def end(self) -> tuple[float, float] | None:
    """Its last known point, or None."""
    known = np.flatnonzero(np.isfinite(self.x) & np.isfinite(self.y))
    return (self.x[known[-1]], self.y[known[-1]]) if len(known) else None


def colours_of(
  names: Sequence[str], first: Iterable[str] = ()
) -> dict[str, str]:
  """{name: colour}, the same for the same names; `first` get the first two."""
  order = [n for n in first if n in names]
  order += [n for n in names if n not in order]
  return {n: SERIES[i % len(SERIES)] for i, n in enumerate(order)}


def lines_of(
  comparison: Comparison,
  strong: Sequence[str] = (),
  dashed: Sequence[str] = (),
  across: Mapping[str, Sequence[Estimate]] | None = None,
  origin: bool = True,
) -> list[Line]:
  """A Line per arm of a `frontier.Comparison`, over its budgets.

  Args:
    strong, dashed: names of arms, see `Line`; the strong show their intervals.
    across: {arm: [K] Estimates} for the x-axis, or None for KL itself.
    origin: whether every arm starts at (0, 0), the reference.
  """
  colours = colours_of([n for n in comparison.arms if n not in dashed], strong)
  lines = []
  for name, row in comparison.table.items():
    x = comparison.budgets if across is None else values(across[name])
    reading = comparison.readings[name]
    reached = tuple(map(reading.reached, range(len(row))))
    y, low, high = (values(row, part) for part in ('value', 'low', 'high'))
    if origin and across is None and np.isfinite(y).any():
      x, y, low, high = (np.r_[0.0, a] for a in (x, y, low, high))
      reached = '', *reached
    lines.append(
      Line(
        name,
        x,
        y,
        colours.get(name, SOFT),
        () if name in dashed else reached,
        low if name in strong else None,
        high if name in strong else None,
        name in strong,
        name in dashed,
      )
    )
  return lines


def values(row: Iterable[Estimate], part: str = 'value') -> np.ndarray:
  """One attribute of each Estimate of a row: [K]."""
  return np.array([getattr(e, part) for e in row])


def spread_apart(
  wanted: ArrayLike, gap: float, low: float, high: float
) -> np.ndarray:
  """Positions nearest to the wanted ones, in their order, `gap` apart.

  Least squares, by pooling neighbours that are too near to each other; with a
  smaller gap where there is no room for it between `low` and `high`.
  """
  wanted = np.asarray(wanted, float)
  if not len(wanted):
    return wanted
  gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
  order = np.argsort(wanted, kind='stable')
  steps = gap * np.arange(len(wanted))
  pools = []
  for value in wanted[order] - steps:
    pools.append([value, 1])
    while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
      (a, m), (b, n) = pools[-2:]
      pools[-2:] = [[(a * m + b * n) / (m + n), m + n]]
  placed = np.concatenate([np.full(n, value) for value, n in pools])
  result = np.empty(len(wanted))
  result[order] = np.clip(placed, low, high - steps[-1]) + steps
  return result


def margin_for(names: Iterable[str]) -> float:
  """Inches that names take to the right of a plot."""
  return 0.3 + max(map(len, names), default=0) * LABEL * 0.56 / 72


def new_figure(
  width: float,
  height: float,
  rows: int = 1,
  columns: int = 1,
  right: float = 0.2,
  between: float = 0.0,
) -> tuple[Figure, np.ndarray]:
  """A figure whose plots leave room for ticks, titles and names of lines.

  Args:
    width, height: inches, of the whole and of one row.
    right: inches to the right of each plot.
    between: inches more between rows, for what stands below each.
  """
  left, bottom, top = 0.62, 0.58, 0.3
  figure, grid = plt.subplots(
    rows, columns, figsize=(width, height * rows), squeeze=False
  )
  plot_width = (width - columns * (left + right)) / columns
  plot_height = height - bottom - top - between
  figure.subplots_adjust(
    left=left / width,
    right=1 - right / width,
    bottom=bottom / (height * rows),
    top=1 - top / (height * rows),
    wspace=(left + right) / plot_width,
    hspace=(bottom + top + between) / plot_height,
  )
  return figure, grid


def draw(axes: Axes, lines: Iterable[Line]) -> None:
  """Draws lines with their intervals and markers; the strong on top."""
  for line in sorted(lines, key=lambda line: line.strong):
    over = 3 if line.strong else 2
    axes.plot(
      line.x,
      line.y,
      color=line.colour,
      linewidth=2.2 if line.strong else 1.1,
      linestyle=(0, (5, 3)) if line.dashed else '-',
      zorder=over,
    )
    draw_interval(axes, line)
    for how, fill in FILLED.items():
      at = [i for i, k in enumerate(line.reached) if k == how]
      if at:
        axes.plot(
          line.x[at],
          line.y[at],
          linestyle='',
          marker='o',
          markersize=7 if line.strong else 5,
          fillstyle='full' if fill == 'none' else fill,
          color=PAPER if fill == 'none' else line.colour,
          markerfacecoloralt=PAPER,
          markeredgecolor=line.colour,
          markeredgewidth=1.3,
          zorder=over + 0.5,
        )


def draw_interval(axes: Axes, line: Line) -> None:
  """Draws the interval of a line, if it has one."""
  if line.low is None or line.high is None:
    return
  known = np.isfinite(line.low) & np.isfinite(line.high)
  if known.sum() > 1:
    axes.fill_between(
      line.x,
      line.low,
      line.high,
      color=line.colour,
      alpha=0.16,
      linewidth=0,
      zorder=1,
    )
  elif known.any():
    [i] = np.flatnonzero(known)
    axes.vlines(line.x[i], line.low[i], line.high[i], color=line.colour)


def verbatim(text: str) -> str:
  """A text for a figure, where a pair of dollars would enclose mathematics."""
  return text.replace('$', r'\$')


def name_ends(axes: Axes, lines: Iterable[Line]) -> None:
  """Writes each line's name to the right of the plot, none over another."""
  named = [(line, line.end) for line in lines if line.end]
  if not named:
    return
  figure = axes.figure
  to_figure = figure.transFigure.inverted()
  ends = axes.transData.transform([end for _, end in named])
  ends = to_figure.transform(ends)
  box = axes.get_position()
  inch = figure.dpi / figure.bbox.height
  gap = ROOM * LABEL / 72 * inch
  heights = spread_apart(ends[:, 1], gap, box.y0, box.y1 - 0.05 * inch)
  x = box.x1 + 0.14 * figure.dpi / figure.bbox.width
  for (line, end), height in zip(named, heights):
    axes.annotate(
      verbatim(line.name),
      end,
      (x, height),
      textcoords='figure fraction',
      annotation_clip=False,
      fontsize=LABEL,
      verticalalignment='center',
      arrowprops=dict(
        arrowstyle='-',
        color=line.colour,
        linewidth=0.8,
        shrinkA=1,
        shrinkB=5,
        alpha=0.75,
        relpos=(0, 0.5),
      ),
    )


def mark_window(axes: Axes, window: Sequence[float] | None) -> None:
  """Shades a window of budgets; a line where it is one budget."""
  if not window:
    return
  if window[0] == window[1]:
    axes.axvline(window[0], color=SOFT, linewidth=1, dashes=(1, 2), zorder=0)
  else:
    axes.axvspan(*window, color=WINDOW, linewidth=0, zorder=0)


def kl_axis(axes: Axes, budgets: Sequence[float], inches: float) -> None:
  """KL as its square root, as runs are interpolated; ticks at budgets."""
  axes.set_xscale(
    'function', functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square)
  )
  if not len(budgets):
    return
  last, ticks = max(budgets), list[float]()
  axes.set_xlim(0, 1.03 * last)
  for budget in sorted({*budgets, 0.0}, reverse=True):  # the last has its place
    room = (ticks[-1] ** 0.5 - budget**0.5) / last**0.5 if ticks else 1
    if room * inches > 0.36:
      ticks.append(budget)
  axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axes.minorticks_off()


def reached(lines: Iterable[Line]) -> list[float]:
  """The x at which some line has a value, without 0."""
  known = [line.x[np.isfinite(line.y) & (line.x > 0)] for line in lines]
  return sorted({float(x) for part in known for x in part})
