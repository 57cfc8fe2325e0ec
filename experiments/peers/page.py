"""The page: tables, and blocks of text that a command can write again."""

import datetime
import os
import pathlib
import platform
import re

from align_jax.files import write_atomically
from experiments import command


def number(x):
  """Three digits that count."""
  if abs(x) >= 100:
    return f'{x:,.0f}'
  return f'{x:.3g}' if abs(x) >= 0.001 else f'{x:.1e}'


def cores(count):
  return {0: 'all cores', 1: '1 core'}.get(count, f'{count} cores')


def machine():
  """One line: processor, cores, memory."""
  name = platform.processor() or platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    found = re.search(r'model name\s*: (.*)', info.read_text('utf-8'))
    name = found.group(1) if found else name
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
  return f'{name}, {os.cpu_count()} cores, {memory:.0f} GiB'


COUNTED = {'cpu': 'CPU seconds count', 'wall': 'wall seconds count'}


def block(title, text, notes, versions, clock, cfg):
  """A section that says where its figures come from."""
  told = [f'{name} {version}' for name, version in sorted(versions.items())]
  lines = [
    f'## {title}',
    f'`{command.command()}`',
    text,
    f'Medians of {cfg["rounds"]} rounds; {COUNTED[clock]}. '
    f'{datetime.date.today()}, {machine()}; Python '
    f'{platform.python_version()}, {", ".join(told)}.',
    *(f'- {note}' for note in notes),
  ]
  return '\n\n'.join(lines)


def replace(path, name, text):
  """Writes a block into a page in place of the one of the same name."""
  old = path.read_text('utf-8') if path.exists() else '# How fast\n'
  begin, end = f'<!-- {name} -->', '<!-- end -->'
  new = f'{begin}\n{text}\n{end}'
  pattern = re.compile(f'{re.escape(begin)}\n.*?{end}', re.DOTALL)
  if pattern.search(old):
    new = pattern.sub(lambda _: new, old, count=1)
  else:
    new = f'{old.rstrip()}\n\n{new}\n'
  write_atomically(path, new)


def publish(cfg, title, text, notes, versions, clock):
  text = block(title, text, notes, versions, clock, cfg)
  if cfg['page']:
    replace(pathlib.Path(cfg['page']), title, text)
