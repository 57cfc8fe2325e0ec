"""A figure of each study: its numbers with their intervals, beside 0."""

import pathlib
import re

from align_jax.compare import figures
from align_jax.compare.lines import INK, SERIES, SOFT, WINDOW, verbatim
from configs import base

MADE = pathlib.Path(__file__).parent / 'made'
MARGIN = base.get_config().report.margin
NUMBER = re.compile(r'[+-]?\d+\.\d+')
WIDTH = 6.2  # inches, as are the others; it is read in a column of text
LEFT, RIGHT, TOP, BOTTOM, ROW = 1.4, 0.2, 0.3, 0.3, 0.21


def drawn(study, records, configs):
  """The path of the figure beside the gallery; None without any interval.

  Args:
    records: {config: its record of the study's verdicts}.
    configs: names of all configs, whose order gives the colours.
  """
  panels = [(claim, numbers_of(claim, records)) for claim in study.claims]
  panels = [(claim, numbers) for claim, numbers in panels if numbers]
  if not panels:
    return None
  MADE.mkdir(exist_ok=True)
  path = MADE / f'{study.key}.png'
  path.write_bytes(figures.as_png(figure(panels, configs)))
  return path.relative_to(MADE.parent)


def numbers_of(claim, records):
  """{config: (value, low, high)} of where the claim has an interval."""
  found = {}
  for config, record in records.items():
    for x in record['verdicts']:
      numbers = [float(n) for n in NUMBER.findall(x['value'])]
      if x['claim'] == claim.name and len(numbers) == 3:
        found[config] = numbers
  return found


def figure(panels, configs):
  """A panel for each claim, in its own unit, and a line for each config.

  Args:
    panels: pairs of a Claim and `numbers_of`, none of them empty.
    configs: names, which give the colours.
  """
  plt = figures.plt
  heights = [TOP + BOTTOM + ROW * len(numbers) for _, numbers in panels]
  whole = plt.figure(figsize=(WIDTH, sum(heights)))
  end = sum(heights)
  for (claim, numbers), height in zip(panels, heights):
    end -= height
    place = LEFT, end + BOTTOM, WIDTH - LEFT - RIGHT, ROW * len(numbers)
    scale = WIDTH, sum(heights), WIDTH, sum(heights)
    axes = whole.add_axes([x / y for x, y in zip(place, scale)])
    panel(axes, claim, numbers, configs)
  return whole


def panel(axes, claim, numbers, configs):
  """Draws the intervals of a claim, and what counts as 0."""
  margin = MARGIN if claim.margin is None else claim.margin
  axes.axvspan(-margin, margin, color=WINDOW, linewidth=0)
  axes.axvline(0, color=SOFT, linewidth=0.9)
  for row, (config, (value, low, high)) in enumerate(numbers.items()):
    colour = SERIES[configs.index(config)]
    axes.plot([low, high], [row, row], color=colour, linewidth=1.6)
    axes.plot([value], [row], 'o', color=colour, markersize=5)
  axes.set_yticks(range(len(numbers)), list(numbers))
  axes.set_ylim(len(numbers) - 0.5, -0.5)
  axes.locator_params(axis='x', nbins=6)
  axes.tick_params(axis='y', length=0)
  axes.spines['left'].set_visible(False)
  none = ' (no difference is claimed)' if claim.equal else ''
  axes.set_title(verbatim(claim.name) + none, loc='left', color=INK)
