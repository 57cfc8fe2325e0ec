"""The command `align`: finds what was asked for, and only then imports it."""

import argparse
import importlib
import importlib.util
import os
import pathlib
import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

COMMANDS = {  # words: (module of `align_jax.tools` with a `main`, what it does)
  'run': ('', 'trains and compares: align run EXPERIMENT --config=... ...'),
  'reproduce': ('', 'runs all studies of a config: verdicts and a site'),
  'data show': ('show_data', 'a file, as the model will see it'),
  'frontier': ('show_frontier', 'the arms of a table of points at equal KL'),
  'kl': ('measure_kl', 'the sequence KL of two checkpoints, in nats'),
  'export': ('export', "a run's policy as a Hugging Face folder"),
  'check': ('check_model', 'compares a checkpoint with transformers'),
  'agreement': ('agreement', 'how far a judge agrees with people'),
  'cache cost': ('cache_cost', 'the KL that a coarser key-value cache costs'),
  'fit': ('fit', 'whether a config fits a TPU slice, compiled without a TPU'),
  'import memory': ('measure_import', 'host memory that an import takes'),
}


class Parser(argparse.ArgumentParser):
  """Flags of a tool: each is written out, and given once."""

  def __init__(self, **settings: Any) -> None:
    super().__init__(allow_abbrev=False, **settings)

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """As argparse, which would take the last of two."""
    given = sys.argv[1:] if args is None else list(args)
    names = Counter(self._flag(x) for x in given)
    for name, times in names.items():
      if name and times > 1:
        self.error(f'{name} is given {times} times, expected one')
    return super().parse_known_args(args, namespace)

  def _flag(self, argument: str) -> str:
    """The first name of the flag that an argument gives, or ''."""
    action = self._option_string_actions.get(argument.partition('=')[0])
    return max(action.option_strings, key=len) if action else ''


def whole(text: str) -> int:
  """A flag's whole number, at least 1, for argparse."""
  try:
    number = int(text)
  except ValueError:
    number = 0
  if number < 1:
    raise argparse.ArgumentTypeError(f'{text}, expected a whole number above 0')
  return number


def usage() -> Iterator[str]:
  """The lines of `align --help`."""
  width = max(map(len, COMMANDS))
  yield 'usage: align COMMAND ..., or align COMMAND --help'
  yield ''
  for words, (_, does) in COMMANDS.items():
    yield f'  {words:{width}}  {does}'


def folder_of(package: str) -> pathlib.Path:
  """Where an installed package lies.

  Raises:
    ValueError: it is not installed.
  """
  spec = importlib.util.find_spec(package)
  if not spec or not spec.submodule_search_locations:
    raise ValueError(
      f'the package {package!r} is not there: run in a checkout of align_jax, '
      'or pip install it'
    )
  return pathlib.Path(spec.submodule_search_locations[0])


def show(lines: Iterator[str]) -> None:
  """Prints lines as they come; a mistake is one line, and exit status 1."""
  try:
    for line in lines:
      print(line, flush=True)
  except BrokenPipeError:  # whoever reads has enough, such as `head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
  except (ValueError, OSError) as error:
    sys.exit(f'error: {" ".join(str(error).split())}')


def experiments() -> list[str]:
  """Names of the modules of `experiments` that have a command line."""
  files = sorted(folder_of('experiments').glob('*.py'))
  main = "__name__ == '__main__'"
  return [file.stem for file in files if main in file.read_text('utf-8')]


def with_config(arguments: Sequence[str]) -> list[str]:
  """The arguments, --config=PATH of the installed configs if none is here.

  With --help, which shows the fields of one, also where none is given.

  Raises:
    ValueError: there is no such file in either place.
  """
  arguments = list(arguments)
  named = any(x.lstrip('-').partition('=')[0] == 'config' for x in arguments)
  if not named and {'--help', '-h'} & set(arguments):
    return [*arguments, f'--config={folder_of("configs") / "base.py"}']
  for i, argument in enumerate(arguments):
    flag, equals, value = argument.partition('=')
    if flag not in ('-config', '--config'):
      continue
    at = i if equals else i + 1
    value = value if equals else ''.join(arguments[at : at + 1])
    path = value.partition(':')[0]  # what follows is for its get_config
    if not path or pathlib.Path(path).exists():
      continue
    installed = folder_of('configs').parent / path
    if not installed.exists():
      raise ValueError(f'{flag}={path}: no such file, expected configs/NAME.py')
    found = str(installed) + value[len(path) :]
    arguments[at] = f'{flag}={found}' if equals else found
  return arguments


def run(arguments: Sequence[str]) -> None:
  """Runs an experiment as `python -m experiments.NAME` does.

  Raises:
    ValueError: there is none of that name.
  """
  name, *rest = arguments or ['']
  if name not in experiments():
    raise ValueError(
      f'align run {name}: expected one of {", ".join(experiments())}'
    )
  sys.argv[1:] = with_config(rest)
  runpy.run_module(f'experiments.{name}', run_name='__main__', alter_sys=True)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one of COMMANDS; a mistake is one line, and exit status 1."""
  arguments = sys.argv[1:] if argv is None else list(argv)
  for size in (2, 1):
    words = ' '.join(arguments[:size])
    if words in COMMANDS:
      break
  else:
    if not arguments or arguments[0] in ('-h', '--help'):
      print('\n'.join(usage()))
      return
    sys.exit(
      f'error: align {words}: no such command, expected one of '
      f'{", ".join(COMMANDS)}'
    )
  name, _ = COMMANDS[words]
  if name:
    tool = importlib.import_module(f'align_jax.tools.{name}')
    sys.exit(tool.main(arguments[size:]))
  try:
    own = [words] if words != 'run' else []
    run([*own, *arguments[size:]])
  except ValueError as error:
    sys.exit(f'error: {error}')


if __name__ == '__main__':
  main()
