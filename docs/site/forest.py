"""A figure of each study: its numbers with their intervals, beside 0."""

import pathlib

from align_jax.compare import figures
from align_jax.compare.lines import INK, SERIES, SOFT, WINDOW, verbatim

MADE = pathlib.Path(__file__).parent / 'made'
WIDTH = 6.2  # inches, as are the others; it is read in a column of text
LEFT, RIGHT, TOP, BOTTOM, ROW = 1.4, 0.2, 0.3, 0.3, 0.21


def drawn(study, records, configs):
  """The path of the figure beside the gallery; None without any interval.

  Args:
    records: {config: its record of the study's verdicts}.
    configs: names of all configs, whose order gives the colours.
  """
  panels = [(claim, rows_of(claim, records)) for claim in study.claims]
  panels = [(claim, rows) for claim, rows in panels if rows]
  if not panels:
    return None
  MADE.mkdir(exist_ok=True)
  path = MADE / f'{study.key}.png'
  path.write_bytes(figures.as_png(figure(panels, configs)))
  return path.relative_to(MADE.parent)


def rows_of(claim, records):
  """{config: its record of the claim}, of those with an interval."""
  return {
    config: x
    for config, record in records.items()
    for x in record['verdicts']
    if x['claim'] == claim.name and x['interval']
  }


def figure(panels, configs):
  """A panel for each claim, in its own unit, and a line for each config.

  Args:
    panels: pairs of a Claim and its `rows_of`, none of them empty.
    configs: names, which give the colours.
  """
  plt = figures.plt
  heights = [TOP + BOTTOM + ROW * len(rows) for _, rows in panels]
  whole = plt.figure(figsize=(WIDTH, sum(heights)))
  end = sum(heights)
  for (claim, rows), height in zip(panels, heights):
    end -= height
    place = LEFT, end + BOTTOM, WIDTH - LEFT - RIGHT, ROW * len(rows)
    scale = WIDTH, sum(heights), WIDTH, sum(heights)
    axes = whole.add_axes([x / y for x, y in zip(place, scale)])
    panel(axes, claim, rows, configs)
  return whole


def panel(axes, claim, rows, configs):
  """Draws the intervals of a claim, and what counts as 0."""
  for row, (config, record) in enumerate(rows.items()):
    value, low, high = record['interval']
    margin, colour = record['margin'], SERIES[configs.index(config)]
    height = row - 0.5, row + 0.5
    axes.fill_betweenx(height, -margin, margin, color=WINDOW, linewidth=0)
    axes.plot([low, high], [row, row], color=colour, linewidth=1.6)
    axes.plot([value], [row], 'o', color=colour, markersize=5)
  axes.axvline(0, color=SOFT, linewidth=0.9)
  axes.set_yticks(range(len(rows)), list(rows))
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.locator_params(axis='x', nbins=6)
  axes.tick_params(axis='y', length=0)
  axes.spines['left'].set_visible(False)
  none = ' (no difference is claimed)' if claim.equal else ''
  axes.set_title(verbatim(claim.name) + none, loc='left', color=INK)
