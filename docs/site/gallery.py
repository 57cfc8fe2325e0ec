"""The page of experiments, from their modules."""

import ast
import importlib
import pathlib

import docstrings

from align_jax import paths
from align_jax.files import read_record
from experiments.study import NAME

ROOT = pathlib.Path(__file__).parents[2]
FIGURES = {  # of docs/, by module; any other's is docs/MODULE.png, if any
  'online_vs_offline': 'toy.png',
  'method_zoo': 'zoo_gold_vs_kl.png',
}


def page(text):
  """The page's head, studies with their claims, experiments, other commands."""
  studies = importlib.import_module('experiments.suite').studies()
  parts = [text, '## Studies', *map(_study, studies.values())]
  commands = {'Experiments': [], 'Measurements and proofs': []}
  for path in sorted((ROOT / 'experiments').glob('*.py')):
    code = path.read_text('utf-8')
    if f'python -m experiments.{path.stem} ' in code:
      kind = 'Measurements and proofs'
      if '\ndef report(' in code:
        kind = 'Experiments'
      commands[kind].append(_section(path))
  for title, sections in commands.items():
    parts += [f'## {title}', *sections]
  return '\n\n'.join(parts)


def _study(study):
  """A study's docstring, its claims with their verdicts, and its figure."""
  folder = ROOT / 'docs' / 'claims' / 'toy' / study.key
  record = read_record(paths.absolute(folder / NAME))
  found = {x['claim']: x for x in record['verdicts']}
  rows = ['| claim | source | measured | toy |', '|---|---|---|---|']
  for claim in study.claims:
    own = found.get(claim.name)
    told = f'{own["word"]} {own["value"]}'.strip() if own else 'not run'
    rows.append(f'| {claim.says} | {claim.source} | {claim.number} | {told} |')
  cost = f'{record["seconds"] / 60:.0f} minutes of one core.'
  see = 'See [all verdicts](../claims/RESULTS.md).'
  rows += ['', f'{cost} {see}' if study.trains else see]
  figure = folder / 'figures' / study.figure
  if study.figure and figure.exists():
    rows += ['', f'![{study.title}](../{figure.relative_to(ROOT / "docs")})']
  section = _section(pathlib.Path(study.file), f'{study.key}. ')
  return '\n'.join([section, '', *rows])


def _section(path, key=''):
  """A module's docstring: its first line as a title, commands as code."""
  docstring = ast.get_docstring(ast.parse(path.read_text('utf-8')))
  title, *lines = docstring.splitlines()
  name = path.relative_to(ROOT)
  parts = [f'### {key}{title}', f'[`{name}`](../../{name})']
  figure = FIGURES.get(path.stem, f'{path.stem}.png')
  if (ROOT / 'docs' / figure).exists():
    parts.append(f'![gold reward against KL](../{figure})')
  for indent, text in docstrings.blocks(lines):
    parts.append(f'```bash\n{text}\n```' if indent else text)
  return '\n\n'.join(parts)
