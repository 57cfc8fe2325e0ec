"""The index names every file, and whatever the documents name is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted([*ROOT.glob('*.md'), *DOCS.glob('*.md')])
PAGES.append(ROOT / 'launch' / 'README.md')
INDEX = (DOCS / 'README.md').read_text()
LISTED = {
  (DOCS / link).resolve() for link in re.findall(r'\]\(([^)#]+)\)', INDEX)
}
PACKAGES = 'align_jax', 'experiments', 'configs'
FILES = [
  path
  for package in PACKAGES
  for path in (ROOT / package).rglob('*.py')
  # A package is the table of its files; contestants and studies are one line.
  if path.name != '__init__.py' and path.parent.name not in ('peers', 'suite')
]
QUESTION = re.compile(r'^\| (.*\?) \| `(\w+)` in \[`.*`\]\(\.\./(\S+)\) \|')
ANSWERS = [m.groups() for m in map(QUESTION.match, INDEX.splitlines()) if m]


def anchors(page):
  """What a link may name after # in a Markdown file."""
  titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
  bare = (re.sub(r'[^\w\- ]', '', title.lower()) for title in titles)
  return {title.replace(' ', '-') for title in bare}


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_has_its_line(path):
  assert path.resolve() in LISTED


@pytest.mark.parametrize(
  'page', sorted(DOCS.glob('*.md')), ids=lambda p: p.name
)
def test_every_page_has_its_line(page):
  assert page.resolve() in {*LISTED, DOCS / 'README.md'}


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
  prose = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
  for link in re.findall(r'\]\(([^)\s]+)\)', prose):
    if re.match(r'https?:', link):
      continue
    path, _, anchor = link.partition('#')
    found = (page.parent / path).resolve() if path else page
    assert found.exists(), link
    if anchor:
      assert anchor in anchors(found), link


def test_there_are_twenty_questions():
  assert len({question for question, *_ in ANSWERS}) >= 20


@pytest.mark.parametrize('question, name, path', ANSWERS)
def test_an_answer_is_in_the_file_that_it_names(question, name, path):
  assert re.search(rf'\b{name}\b', (ROOT / path).read_text()), question


def test_a_word_has_one_meaning():
  glossary = (DOCS / 'glossary.md').read_text()
  words = re.findall(r'^\| ([^|]+) \|', glossary, re.MULTILINE)
  words = [word for word in words if word not in ('word', '---')]
  assert len(words) >= 25 and len(set(words)) == len(words)


def test_one_online_step_takes_few_files():
  """Six that say who calls whom, ten of mathematics; see the index."""
  section = INDEX.split('## One online step')[1].split('\n## ')[0]
  control, mathematics = section.split('Ten hold the mathematics')
  row = re.compile(r'^\| \[[^]]*\]\(([^)]*)\) \| (.*) \|$', re.MULTILINE)
  links = [row.findall(x) for x in (control, mathematics)]
  assert len(links[0]) <= 6 and sum(map(len, links)) <= 16
  for link, line in sum(links, []):
    text = (DOCS / link).read_text()
    for name in re.findall(r'`(\w+)`', line):
      assert name in text, f'{link} has no {name}'
