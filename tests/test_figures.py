"""Names of lines, and their colours, in figures for a desk and for a phone."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from align_jax.compare import figures, lines


def ending_together(number):
  x = np.array([0.0, 1.0, 2.0])
  return [
    lines.Line(f'an arm of {i}', x, x * (1 + 1e-3 * i), lines.SERIES[i % 8])
    for i in range(number)
  ]


def boxes(figure):
  """Of the names of lines, in pixels."""
  figure.canvas.draw()
  renderer = figure.canvas.get_renderer()
  return [
    Text.get_window_extent(text, renderer)  # without its leader
    for axes in figure.axes
    for text in axes.texts
  ]


@pytest.mark.parametrize('width', [lines.WIDE, lines.NARROW])
def test_names_of_lines_lie_neither_on_each_other_nor_outside(width):
  figure = figures.frontier_figure(width, ending_together(8), 'x', 'y')
  named = boxes(figure)
  assert len(named) == 8
  for a, b in itertools.combinations(named, 2):
    assert not a.overlaps(b)
  for box in named:
    assert 0 <= box.x0 and box.x1 <= figure.bbox.width
    assert 0 <= box.y0 and box.y1 <= figure.bbox.height


def test_a_line_that_has_no_point_has_no_name():
  empty = lines.Line('empty', np.array([1.0]), np.array([np.nan]), lines.INK)
  figure = figures.frontier_figure(10, [*ending_together(2), empty], 'x', 'y')
  assert len(boxes(figure)) == 2


def test_positions_are_spread_as_little_as_needed():
  spread = lines.spread_apart
  np.testing.assert_allclose(spread([5, 1], 1, 0, 9), [5, 1])
  np.testing.assert_allclose(spread([3, 3, 3], 1, 0, 9), [2, 3, 4])
  np.testing.assert_allclose(spread([0, 0], 1, 0, 9), [0, 1])
  np.testing.assert_allclose(spread([9, 9], 1, 0, 9), [8, 9])
  np.testing.assert_allclose(spread([1, 1, 1], 9, 0, 2), [0, 1, 2])


def test_arms_keep_their_colours():
  first = lines.colours_of(['a', 'b', 'c'], ('c', 'a'))
  assert first['c'] == lines.SERIES[0] and first['a'] == lines.SERIES[1]
  assert len(set(first.values())) == 3


def test_dollars_in_names_are_dollars():
  names = '$x^', 'a$b$c', r'$\frac$'
  x = np.array([0.0, 1.0])
  many = [lines.Line(n, x, x + i, lines.INK) for i, n in enumerate(names)]
  figure = figures.frontier_figure(lines.WIDE, many, 'x', 'y')
  text = figures.as_svg(figure, 'dollars')
  assert all(name in text for name in names)
