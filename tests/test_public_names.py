"""`import align_jax` is cheap, and has the names it promises."""

import ast
import pathlib
import subprocess
import sys

import pytest

import align_jax

ROOT = pathlib.Path(__file__).parents[1]


def test_importing_the_package_imports_no_jax():
  code = 'import sys, align_jax; sys.exit("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize('name', align_jax.__all__)
def test_every_public_name_is_there(name):
  found = getattr(align_jax, name)
  assert getattr(found, '__name__', name).endswith(name)
  assert name in dir(align_jax)


def test_type_checkers_see_the_same_names_in_the_same_places():
  tree = ast.parse((ROOT / 'align_jax' / '__init__.py').read_text())
  homes = {
    alias.name: node.module.removeprefix('align_jax.')
    for block in tree.body
    if isinstance(block, ast.If)
    for node in block.body
    for alias in node.names
  }
  # A module is found in its package.
  homes = {k: v if k != 'sources' else f'{v}.{k}' for k, v in homes.items()}
  assert homes == align_jax._HOMES
  assert sorted(homes) == sorted(align_jax.__all__)


def test_an_unknown_name_is_no_attribute():
  with pytest.raises(AttributeError, match="no attribute 'sampel'"):
    align_jax.sampel
