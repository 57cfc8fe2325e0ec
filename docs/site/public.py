"""Public names of a package, and whether the API pages have all of them.

A name is public if neither it nor what it is in begins with an underscore.
"""

import ast
import importlib
import inspect

DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


def modules(root, package):
  """Yields (path, name) of the public modules of a package."""
  for path in sorted((root / package).rglob('*.py')):
    *folders, last = path.relative_to(root).with_suffix('').parts
    parts = folders if last == '__init__' else [*folders, last]
    if not any(part.startswith('_') for part in parts):
      yield path, '.'.join(parts)


def names(root, package):
  """Yields ('FILE:LINE', name, docstring or None), modules included."""
  for path, module in modules(root, package):
    tree = ast.parse(path.read_text('utf-8'))
    for node, name in _defined(tree, module):
      line = getattr(node, 'lineno', 1)
      yield f'{path.relative_to(root)}:{line}', name, ast.get_docstring(node)


def _defined(node, name):
  yield node, name
  if isinstance(node, ast.Module | ast.ClassDef):
    for child in node.body:
      if isinstance(child, DEFINITIONS) and not child.name.startswith('_'):
        yield from _defined(child, f'{name}.{child.name}')


def missing(root, package, shown):
  """Yields a line for each public name that is not shown, or says nothing."""
  for where, name, docstring in names(root, package):
    if not docstring:
      yield f'{where}: {name} has no docstring'
    elif name not in shown:
      yield f'{where}: {name} is on no API page'


def unwrap(root, package):
  """Puts functions in place of what `jax.custom_vjp` and such made of them.

  autodoc takes those for data.
  """
  for _, name in modules(root, package):
    module = importlib.import_module(name)
    for key, x in list(vars(module).items()):
      if getattr(x, '__module__', '') == name and not inspect.isroutine(x):
        setattr(module, key, inspect.unwrap(x))


def starts(package):
  """Functions and classes in a package's `__all__`, as named within it."""
  whole = importlib.import_module(package)
  found = [getattr(whole, name) for name in whole.__all__]
  kinds = type, type(starts)
  chosen = [x for x in found if isinstance(x, kinds)]
  names = (f'{x.__module__}.{x.__name__}' for x in chosen)
  return [name.removeprefix(f'{package}.') for name in names]
