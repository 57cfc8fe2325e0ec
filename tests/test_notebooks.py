"""Notebooks run on a clean kernel, at small sizes, and keep their outputs."""

import json
import pathlib
import re

import pytest

nbformat = pytest.importorskip('nbformat')
run = pytest.importorskip('notebooks.run')

ALL = sorted(run.FOLDER.glob('*.ipynb'))
ROOT = run.FOLDER.parent


@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
def test_it_runs(path):
  book = run.execute(path, small=True, timeout=600)
  code = [c for c in book.cells if c.cell_type == 'code']
  assert all(c.execution_count for c in code)
  # A command of the shell that fails ends no notebook.
  printed = ''.join(x.get('text', '') for c in code for x in c.outputs)
  assert not re.search(r'^(error:|Traceback)', printed, re.MULTILINE), printed


@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
def test_it_keeps_its_outputs_and_imports_the_package(path):
  book = json.loads(path.read_text())
  code = [c for c in book['cells'] if c['cell_type'] == 'code']
  assert any(c['outputs'] for c in code)
  assert all(c['execution_count'] for c in code), 'a cell was not run'
  sources = ''.join(''.join(c['source']) for c in book['cells'])
  assert 'align_jax' in sources and f'notebooks/{path.name}' in sources


def test_each_leads_to_the_next():
  for path, after in zip(ALL, ALL[1:]):
    assert f']({after.name})' in path.read_text(), path
  listed = pathlib.Path(ROOT / 'README.md').read_text()
  assert all(f'notebooks/{path.name}' in listed for path in ALL)
