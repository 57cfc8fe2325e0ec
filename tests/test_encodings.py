"""Text files are UTF-8, whatever the locale."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
  path
  for package in ('align_jax', 'experiments', 'configs', 'launch')
  for path in (ROOT / package).rglob('*.py')
)
# The place of the encoding, and that of the mode, by the name called.
PLACES = {
  'read_text': (0, None),
  'write_text': (1, None),
  'open': (2, 0),  # of a path; the function has the file first
  'fdopen': (3, 1),
}
BINARY = {'gzip', 'np', 'webbrowser', 'tarfile', 'zipfile', 'safetensors'}


def argument(call, name, place):
  """The constant value of an argument: None without it, '?' for others."""
  named = [x.value for x in call.keywords if x.arg == name]
  at = call.args[place : place + 1] if place is not None else []
  for value in [*named, *at]:
    return value.value if isinstance(value, ast.Constant) else '?'


def without_encoding(tree):
  """Yields the lines of calls that open a text and name no encoding."""
  for call in ast.walk(tree):
    if not isinstance(call, ast.Call):
      continue
    attribute = isinstance(call.func, ast.Attribute)
    name = getattr(call.func, 'attr' if attribute else 'id', None)
    if name not in PLACES:
      continue
    owner = getattr(call.func, 'value', None)
    if name == 'open' and getattr(owner, 'id', None) == 'os':  # a descriptor
      continue
    encoding, mode = PLACES[name]
    if attribute and getattr(owner, 'id', None) in BINARY:
      mode = 1
      if 't' not in str(argument(call, 'mode', mode) or 'b'):
        continue
    elif name == 'open' and (not attribute or getattr(owner, 'id', '') == 'io'):
      encoding, mode = encoding + 1, mode + 1
    if 'b' in str(argument(call, 'mode', mode) or ''):
      continue
    found = argument(call, 'encoding', encoding)
    if found is None or str(found).lower() in ('locale', ''):
      yield call.lineno


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_text_names_its_encoding(path):
  tree = ast.parse(path.read_text(encoding='utf-8'))
  assert list(without_encoding(tree)) == []


@pytest.mark.parametrize(
  'line, found',
  {
    'open(x)': 1,
    "open(x, 'w')": 1,
    "open(x, mode='a')": 1,
    "io.open(x, 'w')": 1,
    'x.open()': 1,
    "x.open('a')": 1,
    'x.read_text()': 1,
    'x.write_text(y)': 1,
    "os.fdopen(1, 'w')": 1,
    "gzip.open(x, 'rt')": 1,
    "open(x, 'w', encoding='utf-8')": 0,
    "open(x, 'rb')": 0,
    "x.open('wb')": 0,
    'gzip.open(x)': 0,
    "x.read_text('utf-8')": 0,
    "x.write_text(y, 'utf-8')": 0,
    "x.write_text(y, encoding='utf-8')": 0,
  }.items(),
)
def test_what_is_found(line, found):
  assert len(list(without_encoding(ast.parse(line)))) == found
