"""Modules that mypy checks have their public functions annotated."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['mypy']
PATHS = [ROOT / name for name in SETTINGS['files']]
FILES = [f for p in PATHS for f in (p.glob('*.py') if p.is_dir() else [p])]


def functions(body, prefix=''):
  """Yields the public functions and methods of a module, with their names."""
  for node in body:
    name = getattr(node, 'name', '')
    public = not name.startswith('_') or name.startswith('__')
    if isinstance(node, ast.ClassDef) and public:
      yield from functions(node.body, f'{name}.')
    elif isinstance(node, ast.FunctionDef) and public:
      yield prefix + name, node


def missing(node):
  """What of a function has no type: names of arguments, 'return'."""
  a = node.args
  arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
  for argument in filter(None, arguments):
    if not argument.annotation and argument.arg not in ('self', 'cls'):
      yield argument.arg
  if not node.returns:
    yield 'return'


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_annotated(path):
  tree = ast.parse(path.read_text())
  bare = {name: list(missing(f)) for name, f in functions(tree.body)}
  assert not {name: found for name, found in bare.items() if found}


def test_the_laws_see_a_bare_argument():
  tree = ast.parse('class A:\n  def f(self, x, *y: int) -> int: ...')
  [(name, node)] = functions(tree.body)
  assert name == 'A.f' and list(missing(node)) == ['x']
