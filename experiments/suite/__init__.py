"""Studies of claims about online and offline alignment, a module each."""

import importlib
import pkgutil


def studies():
  """{key: Study} of all modules here, in the order of their files."""
  names = sorted(info.name for info in pkgutil.iter_modules(__path__))
  modules = [importlib.import_module(f'{__name__}.{name}') for name in names]
  return {module.STUDY.key: module.STUDY for module in modules}
