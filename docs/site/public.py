"""Public names of a package, and whether its API pages have all of them.

A name is public if it and all that it is in begin with no underscore.
"""

import ast
import pathlib


def names(path, module):
  """Yields (full name, line, docstring or None) of a file's public names.

  Args:
    path: pathlib.Path of a module's file.
    module: its dotted name.
  """

  def of(body, prefix):
    for node in body:
      function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
      if not (function or isinstance(node, ast.ClassDef)):
        continue
      if not node.name.startswith('_'):
        name = f'{prefix}.{node.name}'
        yield name, node.lineno, ast.get_docstring(node)
        yield from () if function else of(node.body, name)

  tree = ast.parse(path.read_text(encoding='utf-8'))
  yield module, 1, ast.get_docstring(tree)
  yield from of(tree.body, module)


def package(root, name):
  """Yields (path, full name, line, docstring or None) of a whole package."""
  for path in sorted((pathlib.Path(root) / name).rglob('*.py')):
    parts = path.relative_to(root).with_suffix('').parts
    parts = [part for part in parts if part != '__init__']
    if not any(part.startswith('_') for part in parts):
      for found in names(path, '.'.join(parts)):
        yield path, *found


def missing(found, root, package_name):
  """Yields a line per public name that is not among those `found`."""
  for path, name, line, _ in package(root, package_name):
    if name not in found:
      where = f'{path.relative_to(root)}:{line}'
      yield f'{where}: {name} is on no API page; has it a docstring?'
