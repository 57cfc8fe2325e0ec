"""The site's sources: its pages, the API's docstrings, papers and errors.

`launch/docs.sh` builds it, and there a warning is an error.
"""

import ast
import pathlib
import re
import runpy
import sys

import matplotlib.pyplot as plt
import pytest

from align_jax import paths
from align_jax.files import read_record
from experiments.claims import Claim, Exact
from experiments.suite import studies

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / 'docs' / 'site'))

import docstrings  # noqa: E402
import forest  # noqa: E402
import gallery  # noqa: E402
import papers  # noqa: E402
import public  # noqa: E402

CONTENTS = (ROOT / 'docs' / 'site' / 'contents.md').read_text('utf-8')
ERRORS = (ROOT / 'docs' / 'errors.md').read_text('utf-8')
QUOTED = re.findall(r'^\| `([^`]+)` \|', ERRORS, re.MULTILINE)
PAPERS = (ROOT / 'docs' / 'papers.md').read_text('utf-8')
FOLDERS = 'align_jax', 'experiments'


def test_every_page_is_in_the_contents():
  pages = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]
  pages += ROOT.glob('docs/claims/*.md')
  pages += [*ROOT.glob('notebooks/*.ipynb'), ROOT / 'launch' / 'README.md']
  conf = runpy.run_path(str(ROOT / 'docs' / 'site' / 'conf.py'))
  assert conf['root_doc'] == 'README'
  names = {str(x.relative_to(ROOT).with_suffix('')) for x in pages}
  blocks = re.findall(r'```{toctree}\n(.*?)```', CONTENTS, re.DOTALL)
  listed = re.findall(r'^(?:.* <)?([\w./]+)>?$', '\n'.join(blocks), re.M)
  assert names - {'README'} == {x for x in listed if '/site/' not in x}
  assert len(listed) == len(set(listed))


def test_every_public_name_has_a_docstring():
  lines = [
    f'{where}: {name}'
    for where, name, docstring in public.names(ROOT, 'align_jax')
    if not docstring
  ]
  assert not lines


def test_a_name_without_its_place_is_missed(tmp_path):
  folder = tmp_path / 'made'
  folder.mkdir()
  (folder / '__init__.py').write_text('"""A package."""\n')
  code = '"""A module."""\n\ndef f():\n  """One."""\n\ndef g(): pass\n'
  (folder / 'one.py').write_text(code + '\nclass _C: pass\n')
  shown = {'made', 'made.one', 'made.one.g'}
  assert list(public.missing(tmp_path, 'made', shown)) == [
    'made/one.py:3: made.one.f is on no API page',
    'made/one.py:6: made.one.g has no docstring',
  ]


def messages():
  """Every text of the code but docstrings, with … for what is filled in."""
  for folder in FOLDERS:
    for path in (ROOT / folder).rglob('*.py'):
      tree = ast.parse(path.read_text('utf-8'))
      alone = {x.value for x in ast.walk(tree) if isinstance(x, ast.Expr)}
      for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
          parts = (getattr(part, 'value', '') for part in node.values)
          yield ''.join(x if isinstance(x, str) else '…' for x in parts)
        elif isinstance(node, ast.Constant) and node not in alone:
          yield str(node.value)


ALL = '\n'.join(messages())


@pytest.mark.parametrize('message', QUOTED)
def test_a_quoted_error_is_in_the_code(message):
  assert message in ALL


def test_errors_are_quoted_once():
  assert len(QUOTED) == len(set(QUOTED)) >= 40
  assert len(QUOTED) == len(re.findall(r'^\| `', ERRORS, re.MULTILINE))


def test_the_papers_are_those_that_the_code_cites():
  rows = papers.table(PAPERS)
  assert len(papers.index(rows)) == PAPERS.count('\n| ') - 1
  assert sum(number != papers.NONE for _, number in rows) >= 40


@pytest.mark.parametrize(
  ('change', 'error'),
  [
    (lambda x: x.replace('| Azar et al. 2023', '| Azar et al. 2024'), 'Azar'),
    (lambda x: f'{x}| Nobody 1999 | A title | – |\n', 'cited nowhere: Nobody'),
  ],
)
def test_a_paper_without_its_citation_is_an_error(change, error):
  with pytest.raises(ValueError, match=error):
    papers.page(change(PAPERS))


def test_citations_are_read_over_line_ends_and_without_months():
  text = (
    'see Tang et\n# al. 2024 (arXiv 2405.08448), in May 2024; Ho & Ito 1999'
  )
  found = [cited for _, *cited in papers.citations(text)]
  assert found == [['Tang et al. 2024', '2405.08448'], ['Ho and Ito 1999', '']]


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """With figures that are laid out, and not drawn; `launch/docs.sh` draws."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(forest, 'MADE', tmp_path_factory.mktemp('site') / 'made')
    undrawn = lambda figure: plt.close(figure) or b''
    patch.setattr(forest.figures, 'as_png', undrawn)
    yield gallery.page('')


def test_the_page_of_experiments_has_every_study_and_command(page):
  modules = [*(ROOT / 'experiments' / 'suite').glob('e*.py')]
  modules += [ROOT / 'experiments' / 'online_vs_offline.py']
  for path in modules:
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    assert f'python -m {name} ' in page
  kept = (ROOT / 'docs' / 'claims').glob('*/*/figures/*.png')
  assert all(f'../{path.relative_to(ROOT / "docs")})' in page for path in kept)
  found = (ROOT / 'docs' / 'claims').glob('*/*/verdicts.json')
  every = [
    x for path in found for x in read_record(paths.absolute(path))['verdicts']
  ]
  told = [f'| {x["word"]} {x["value"]}'.strip() for x in every]
  assert told and all(words in page for words in told)


def test_every_study_with_an_interval_has_a_figure_of_its_claims(page):
  for key, study in studies().items():
    exact = all(isinstance(claim, Exact) for claim in study.claims)
    assert (f'(made/{key}.png)' in page) == (not exact), key


def test_intervals_are_drawn_as_the_records_have_them():
  claim = Claim('a', '', '', '', None)
  row = dict(claim='a', interval=[-0.1, -1.0, 0.0], margin=0.2)
  without = {'verdicts': [{**row, 'interval': []}]}
  records = {'toy': without, 'text': {'verdicts': [row]}}
  rows = forest.rows_of(claim, records)
  assert rows == {'text': row}
  figure = forest.figure([(claim, rows)], list(records))
  [axes] = figure.axes
  line, dot, _ = axes.lines
  assert [*line.get_xdata(), *dot.get_xdata()] == [-1, 0, -0.1]
  [band] = axes.collections
  assert set(band.get_paths()[0].vertices[:, 0]) == {-0.2, 0.2}
  assert [x.get_text() for x in axes.get_yticklabels()] == ['text']
  plt.close(figure)


def test_a_docstring_becomes_restructured_text():
  text = """A row | of *f32* [B]; `x` and `y_z = 1`s.

    python -m a

  Args:
    x, y: f32 [B],
      in nats.
  Returns:
    scalar, {weight: rows}.
  """.replace('\n  ', '\n')
  assert [x for x in docstrings.to_rst(text.splitlines()) if x.strip()] == [
    r'A row \| of \*f32\* [B]; :py:obj:`x` and ``y_z = 1``\ s.',
    '::',
    '  python -m a',
    ':Args:',
    r'  * **x, y** – f32 [B], in nats.',
    ':Returns:',
    '  scalar, {weight: rows}.',
  ]
