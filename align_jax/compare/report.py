"""One self-contained HTML page: headings, tables, figures, folded parts."""

import contextlib
import html
import math
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from matplotlib.figure import Figure

from align_jax import paths
from align_jax.compare import figures
from align_jax.compare.intervals import Estimate
from align_jax.compare.lines import NARROW, THEME, WIDE
from align_jax.compare.words import digits_of, show_number
from align_jax.files import write_atomically

STYLE = """
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.15rem; font-weight: 600; color: var(--soft);
  margin: 0 0 1rem }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .6rem }
h3 { font-size: 1rem; margin: 0 0 .3rem }
p { margin: .5rem 0; max-width: 46rem }
a { color: var(--s0) }
.verdict { border-left: 5px solid var(--soft); padding: .2rem 0 .2rem 1.2rem }
.verdict.above { border-color: var(--s0) }
.verdict.below { border-color: var(--s1) }
.word { font-size: 2.1rem; line-height: 1.15; margin: 0 0 .6rem;
  letter-spacing: -.01em }
.above .word strong { color: var(--s0) }
.below .word strong { color: var(--s1) }
.verdict + .verdict { margin-top: 1.6rem }
.verdict ul { padding-left: 1.1rem; margin: .6rem 0; color: var(--soft);
  font-size: .9rem; max-width: 46rem }
.note { color: var(--soft); font-size: .9rem }
.columns { display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)) }
.card { background: var(--window); border-radius: .5rem; padding: .9rem 1.1rem }
.card p { margin: .15rem 0 } .number { font-size: 1.5rem; line-height: 1.3 }
.number small { font-size: .95rem; color: var(--soft); white-space: nowrap }
.scroll { overflow-x: auto; margin: .8rem 0 }
table { border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .28rem 0 .28rem 1rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400 }
.break td { border-top: 2px solid var(--soft) }
thead th { color: var(--soft); vertical-align: bottom; white-space: normal }
th:first-child, td:first-child { padding-left: 0 }
th.text, td.text { text-align: left }
td.long { white-space: normal; min-width: 14rem }
.missing { color: var(--soft) }
figure { margin: 1rem 0 }
figure svg { display: block; width: 100%; height: auto }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem }
.narrow { display: none }
svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif }
details { margin: .6rem 0 } summary { cursor: pointer; color: var(--soft);
  font-size: .9rem }
pre { background: var(--window); border-radius: .4rem; padding: .8rem;
  overflow-x: auto; font-size: .8rem; line-height: 1.4 }
.sample { border-top: 1px solid var(--line); padding: .8rem 0 }
.sample p { margin: .1rem 0 } .sample .columns { margin: .4rem 0;
  gap: .5rem 1.2rem } .sample b { color: var(--ink);
  white-space: nowrap }
.said { font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 44rem) { .wide { display: none } .narrow { display: block }
  .word { font-size: 1.6rem } body { padding-top: 1.2rem } }
"""

MISSING = '–'  # in a cell: not every seed got there
LONG = 50  # characters of a cell from which it may take several lines


def theme() -> str:
  """The colours of page and figures, for light and dark screens."""
  light, dark = (
    ''.join(f'--{name}: {pair[i]}; ' for name, pair in THEME.items())
    for i in (0, 1)
  )
  return (
    f':root {{ color-scheme: light dark; {light}}}\n'
    f'@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}'
  )


def typeset(text: str) -> str:
  """Text as HTML, with a minus for negative numbers and in differences."""
  return re.sub(r'(?<![\w.-])-(?=\d)|(?<= )-(?= )', '−', html.escape(text))


class Page:
  """Collects sections; `write` leaves one file that needs no network."""

  def __init__(self, title: str) -> None:
    self._title = title
    self._parts = [f'<h1>{html.escape(title)}</h1>']

  def _add(self, *parts: str) -> None:
    self._parts.extend(parts)

  def heading(self, text: str) -> None:
    """Adds a heading."""
    self._add(f'<h2>{html.escape(text)}</h2>')

  def text(self, text: str, css: str = '') -> None:
    """Adds a paragraph, of a CSS class if one is named."""
    css = f' class="{css}"' if css else ''
    self._add(f'<p{css}>{typeset(text)}</p>')

  def note(self, text: str) -> None:
    """Adds a paragraph in small print."""
    self.text(text, 'note')

  def code(self, text: str) -> None:
    """Adds text as it is, in a fixed-width font."""
    self._add(f'<pre>{html.escape(text)}</pre>')

  def verdict(
    self,
    css: str,
    before: str,
    word: str,
    after: str,
    sentence: str,
    notes: Iterable[str],
  ) -> None:
    """One word, large, between what it is of; then what it rests on."""
    before, word, after, sentence = map(
      typeset, (before, word, after, sentence)
    )
    listed = ''.join(f'<li>{typeset(note)}</li>' for note in notes)
    headline = f'{before} <strong>{word}</strong> {after}'.strip()
    self._add(
      f'<section class="verdict {css}"><p class="word">{headline}</p>',
      f'<p>{sentence}</p><ul>{listed}</ul></section>',
    )

  def cards(self, cards: Iterable[tuple[str, str, str, Iterable[str]]]) -> None:
    """Short texts side by side: (title, number, its interval, lines)."""
    self._add('<div class="columns">')
    for title, number, interval, lines in cards:
      title, number, interval = map(typeset, (title, number, interval))
      below = ''.join(f'<p class="note">{typeset(x)}</p>' for x in lines)
      self._add(
        f'<section class="card"><h3>{title}</h3><p class="number">{number} '
        f'<small>{interval}</small></p>{below}</section>'
      )
    self._add('</div>')

  def samples(
    self, prompt: str, answers: Iterable[tuple[str, str, str]]
  ) -> None:
    """A prompt and its answers: (who, what it scores, text) each."""
    self._add(
      '<article class="sample"><p class="said">'
      f'{html.escape(prompt)}</p><div class="columns">'
    )
    for who, score, said in answers:
      self._add(
        f'<div><p class="note">{typeset(who)} · <b>{typeset(score)}</b></p>'
        f'<p class="said">{html.escape(said)}</p></div>'
      )
    self._add('</div></article>')

  @contextlib.contextmanager
  def folded(self, summary: str) -> Iterator[None]:
    """What is added within is shown on a click."""
    self._add(f'<details><summary>{html.escape(summary)}</summary>')
    yield
    self._add('</details>')

  def figure(
    self,
    draw: Callable[[float], Figure],
    path: str | pathlib.Path,
    alt: str,
    caption: str = '',
  ) -> None:
    """Embeds a figure at two widths, and keeps the wide as a PNG at `path`.

    Args:
      draw: width in inches -> a matplotlib figure.
    """
    target, drawn = paths.path(path), {x: draw(x) for x in (WIDE, NARROW)}
    with paths.writing(target, 'wb') as file:
      file.write(figures.as_png(drawn[WIDE]))
    alt = html.escape(alt)
    self._add('<figure>')
    for css, width in (('wide', WIDE), ('narrow', NARROW)):
      svg = figures.as_svg(drawn[width], f'{target.stem} {css}')
      self._add(f'<div class="{css}" role="img" aria-label="{alt}">{svg}</div>')
    if caption:
      self._add(f'<figcaption>{typeset(caption)}</figcaption>')
    self._add('</figure>')

  def table(
    self,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int = 1,
    breaks: Collection[int] = (),
    links: Sequence[str] = (),
  ) -> None:
    """Rows of strings, if any; the first `text_columns` align left.

    Args:
      breaks: indices of the rows that a line parts from those above.
      links: for each row the file that its first cell leads to. (): none.
    """

    if not rows:
      return

    def cell(tag, i, content, href):
      names = ['text'] if i < text_columns else []
      names += ['missing'] if content == MISSING else []
      names += ['long'] if len(content) > LONG else []
      css = f' class="{" ".join(names)}"' if names else ''
      scope = '' if tag == 'td' else ' scope="col"'
      shown = typeset(content)
      if href and not i:
        shown = f'<a href="{html.escape(href)}">{shown}</a>'
      return f'<{tag}{css}{scope}>{shown}</{tag}>'

    line = lambda tag, row, href='': ''.join(
      cell(tag, i, str(content), href) for i, content in enumerate(row)
    )
    tag = lambda i: '<tr class="break">' if i in breaks else '<tr>'
    hrefs = links or [''] * len(rows)
    body = ''.join(
      f'{tag(i)}{line("td", row, href)}</tr>\n'
      for i, (row, href) in enumerate(zip(rows, hrefs))
    )
    self._add(
      f'<div class="scroll"><table><thead><tr>{line("th", header)}</tr></thead>'
      f'<tbody>{body}</tbody></table></div>'
    )

  def links(self, before: str, links: Iterable[tuple[str, str]]) -> None:
    """A line of links to files beside the page: (text, file) each."""
    listed = ', '.join(
      f'<a href="{html.escape(file)}">{html.escape(text)}</a>'
      for text, file in links
    )
    self._add(f'<p>{html.escape(before)} {listed}.</p>')

  def write(self, path: pathlib.Path) -> None:
    """Writes the page, whole or not at all."""
    body = '\n'.join(self._parts)
    write_atomically(
      path,
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f'<title>{html.escape(self._title)}</title>'
      f'<style>{theme()}{STYLE}</style></head>'
      f'<body><main>{body}</main></body></html>\n',
    )


def decimals(rows: Iterable[Iterable[Estimate]]) -> int:
  """Decimals for all cells of a table, see `words.digits_of`."""
  return digits_of(*(cell.value for row in rows for cell in row if cell))


def show(estimate: Estimate, sign: bool = False, digits: int | None = 2) -> str:
  """Estimate -> '1.23 [1.10, 1.35]', '1.23' of one seed, MISSING of none.

  Args:
    digits: decimals. None: as many as it needs, see `words.digits_of`.
  """
  if not estimate:
    return MISSING
  digits = digits or digits_of(estimate.value, estimate.low, estimate.high)
  told = lambda x: show_number(x, sign, digits)
  if math.isnan(estimate.low):
    return told(estimate.value)
  return f'{told(estimate.value)} [{told(estimate.low)}, {told(estimate.high)}]'


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table for the terminal, and for a page of Markdown."""
  lines = [header, ['--:'] * len(header), *rows]
  told = lambda cell: str(cell).replace('|', r'\|')
  return '\n'.join(f'| {" | ".join(map(told, line))} |' for line in lines)
