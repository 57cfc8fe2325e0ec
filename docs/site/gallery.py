"""The page of experiments, from their modules."""

import ast
import importlib
import pathlib

import docstrings
import forest

from align_jax import paths
from experiments import site

ROOT = pathlib.Path(__file__).parents[2]
CLAIMS = paths.absolute(ROOT / 'docs' / 'claims')
FIGURES = {  # of docs/, by module; any other's is docs/MODULE.png, if any
  'online_vs_offline': 'toy.png',
  'method_zoo': 'zoo_gold_vs_kl.png',
}

ALL_CLAIMS = (
  "The claims' numbers with their 95% intervals. An interval right of 0 bears "
  'its claim out. In the shaded band a number counts as 0.'
)


def page(text):
  """The page's head, studies with their claims, experiments, other commands."""
  studies = importlib.import_module('experiments.suite').studies()
  found = {
    config: {
      x.key: record for x, record in site.verdicts_of(CLAIMS, config, studies)
    }
    for config in site.configs_of(CLAIMS)
  }
  own = lambda key: {k: x[key] for k, x in found.items() if key in x}
  parts = [text, '## Studies']
  parts += [
    _study(study, own(key), list(found)) for key, study in studies.items()
  ]
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


def _study(study, records, configs):
  """A study's docstring, its claims with their verdicts, and its figures.

  Args:
    records: {config: its record of verdicts}.
    configs: names of all configs.
  """
  header = 'claim', 'source', 'measured', *records
  rows = [f'| {" | ".join(header)} |', f'|{"---|" * len(header)}']
  for claim in study.claims:
    told = (_told(claim, record) for record in records.values())
    rows.append(
      f'| {" | ".join((claim.says, claim.source, claim.number, *told))} |'
    )
  cost = ', '.join(
    f'{config} {record["seconds"] / 60:.0f}'
    for config, record in records.items()
    if study.trains
  )
  cost = f'Minutes of one core: {cost}. ' if cost else ''
  rows += ['', f'{cost}See [all verdicts](../claims/RESULTS.md).']
  if path := forest.drawn(study, records, configs):
    rows += ['', f'![claims of {study.key}, with their intervals]({path})']
    rows += ['', ALL_CLAIMS]
  for config in records:
    folder = ROOT / 'docs' / 'claims' / config / study.key / 'figures'
    for path in sorted(folder.glob('*.png')):
      rows += ['', f'![{study.title}](../{path.relative_to(ROOT / "docs")})']
      rows += ['', f'{study.key} of {config}.']
  section = _section(pathlib.Path(study.file), f'{study.key}. ')
  return '\n'.join([section, '', *rows])


def _told(claim, record):
  """The word and the number of a claim."""
  for x in record['verdicts']:
    if x['claim'] == claim.name:
      return f'{x["word"]} {x["value"]}'.strip()
  return 'not run'


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
