"""The papers that are cited, and where: docs/papers.md with its last columns.

docs/papers.md has a row per paper. Where it is cited is read off the code, the
configs, the experiments and the other pages.
"""

import ast
import collections
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
NONE = '–'  # of a paper without a number here
ROW = re.compile(r'^\| ([^|]+ \d{4}) \| ([^|]+) \| ([\d.]+|–) \|$', re.M)
# A line break within a citation, also of a comment.
GAP = r'\s+(?:# *)?'
NAME = rf'(?:Del{GAP})?[A-Z][A-Za-z]+(?:-[A-Z][a-z]+)?'
CITED = re.compile(
  rf'\b((?:{NAME},{GAP})*{NAME}(?:{GAP}et{GAP}al\.|{GAP}(?:and|&){GAP}{NAME})?'
  rf'{GAP}(?:19|20)\d\d)\b'
  rf'(?:[^a-z]{{1,4}}(?:arXiv{GAP})?(\d{{4}}\.\d{{5}}))?'
)
MONTHS = re.compile('(Jan|Feb|March|Apr|May|June|July|Aug|Sep|Oct|Nov|Dec)')


def table(text):
  """{(citation, arXiv id or NONE): title} of docs/papers.md."""
  return {(name, number): title for name, title, number in ROW.findall(text)}


def citations(text):
  """Yields (offset, citation, arXiv id or '') of a text."""
  for found in CITED.finditer(text):
    if not MONTHS.match(found[1]):
      name = re.sub(GAP, ' ', found[1]).replace('&', 'and')
      yield found.start(), name, found[2] or ''


def places():
  """Yields (citation, id, kind, place); kind is docs, configs or code."""
  for page in sorted((ROOT / 'docs').glob('*.md')):
    if page.name != 'papers.md':
      for title, text in _sections(page):
        for _, *cited in citations(text):
          yield *cited, 'docs', title
  for folder in ('configs', 'experiments'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      name = path.relative_to(ROOT)
      for _, *cited in citations(path.read_text('utf-8')):
        yield *cited, 'configs', f'[`{name}`](../{name})'
  for path in sorted((ROOT / 'align_jax').rglob('*.py')):
    text = path.read_text('utf-8')
    for offset, *cited in citations(text):
      line = text.count('\n', 0, offset) + 1
      yield *cited, 'code', _owner(path, text, line)


def _sections(page):
  """Yields (link, text) of a page's parts: the methods, or all of it."""
  text = page.read_text('utf-8')
  if page.name != 'methods.md':
    yield f'[{page.stem}]({page.name})', text
    return
  for title, part in re.findall(r'^##+ (.+)\n((?:(?!#).*\n)*)', text, re.M):
    anchor = re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
    yield f'[{title}](methods.md#{anchor})', part


def _owner(path, text, line):
  """The public definition at a line, or its module."""
  parts = [*path.relative_to(ROOT).with_suffix('').parts]
  module = '.'.join(part for part in parts if part != '__init__')
  for node in ast.parse(text).body:
    named = isinstance(node, ast.FunctionDef | ast.ClassDef)
    if named and node.lineno <= line <= node.end_lineno:
      return module if node.name.startswith('_') else f'{module}.{node.name}'
  return module


def index(rows):
  """{(citation, id): {kind: [place]}}, in the order of `rows`.

  A citation without a number is the paper's that has none, if two have its
  name.

  Raises:
    ValueError: a citation has no row, or could mean two; or a row is cited
      nowhere.
  """
  found = {row: collections.defaultdict(dict) for row in rows}
  wrong = {}
  for name, number, kind, place in places():
    fits = [row for row in rows if row[0] == name and number in ('', row[1])]
    if len(fits) > 1:
      fits = [row for row in fits if row[1] == NONE]
    if len(fits) == 1:
      found[fits[0]][kind][place] = True
    else:
      wrong[f'{name} {number}'.strip()] = place
  if wrong:
    told = '; '.join(f'{name} ({place})' for name, place in wrong.items())
    raise ValueError(f'docs/papers.md: expected a row for each of {told}')
  if idle := [name for (name, _), kinds in found.items() if not kinds]:
    raise ValueError(f'docs/papers.md: cited nowhere: {", ".join(idle)}')
  return found


def page(text):
  """docs/papers.md with columns that say where a paper is cited."""
  rows = table(text)
  lines = ['```{table}', ':class: papers', '']
  lines += ['| paper | methods, guides and configs | code |', '|---|---|---|']
  for (name, number), found in index(rows).items():
    address = f'https://arxiv.org/abs/{number}'
    paper = name if number == NONE else f'[{name}]({address})'
    configs = ', '.join([*found['docs'], *found['configs']])
    code = ', '.join(_links(found['code']))
    lines.append(f'| {paper}: {rows[name, number]} | {configs} | {code} |')
  return text[: text.index('| paper |')] + '\n'.join([*lines, '```', ''])


def _links(names):
  """Links to the API, without a module of which a definition is named."""
  for name in names:
    if not any(other.startswith(f'{name}.') for other in names):
      yield f'{{py:obj}}`{name.removeprefix("align_jax.")} <{name}>`'
