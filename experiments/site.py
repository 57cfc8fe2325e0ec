"""All verdicts of a workdir: index.html and RESULTS.md, made from records.

Nothing here is computed, so the same records give the same bytes.
"""

import itertools

from align_jax.compare.report import Page
from align_jax.files import read_record, write_atomically
from experiments import claims
from experiments.study import NAME as VERDICTS

REPRODUCED = 'reproduced.json'  # of a config
HEADER = ['study', 'verdict', 'claim', 'measured', 'number', 'seeds']
MEASURED = HEADER.index('measured')


def configs_of(workdir):
  """{name of a config: its record} of all that were run into `workdir`."""
  return {
    path.parent.name: read_record(path)
    for path in sorted(workdir.glob(f'*/{REPRODUCED}'))
  }


def verdicts_of(workdir, config, studies):
  """Pairs (Study, its record of verdicts) of those that were reported on."""
  found = []
  for study in studies.values():
    path = workdir / config / study.key / VERDICTS
    if path.exists():
      found.append((study, read_record(path)))
  return found


def rows_of(verdicts):
  """A row for each claim."""
  return [
    [
      study.key,
      x['word'],
      says + EQUAL * x['equal'],
      x['number'],
      x['value'] or x['why'],
      str(x['seeds'] or ''),
    ]
    for study, record in verdicts
    for x, says in zip(record['verdicts'], told_apart(record['verdicts']))
  ]


def told_apart(verdicts):
  """What each claims, with its name where another one says the same."""
  every = [x['says'] for x in verdicts]
  return [
    f'{x["says"][:-1]} ({x["claim"]}).' if every.count(x['says']) > 1 else says
    for x, says in zip(verdicts, every)
  ]


def counted(rows):
  """'5 reproduced, 2 undecided': how many claims got each word."""
  words = [word for _, word, *_ in rows]
  told = [f'{words.count(w)} {w}' for w in claims.WORDS if w in words]
  return ', '.join(told)


def began(record):
  """The commands of a config, each with what it was computed with."""
  if 'began' in record:
    return record['began']
  # Earlier versions noted only what the first was computed with.
  first, *more = record['commands']
  unknown = dict.fromkeys(
    ('date', 'commit', 'machine', 'versions'), 'not noted'
  )
  return [
    {**record, 'command': first},
    *({**unknown, 'command': line} for line in more),
  ]


def made_by(record):
  """Pairs (commands, when and on what they ran)."""

  def note(x):
    versions = x['versions'].replace('\n', ', ')
    return f'{x["date"]}, commit {x["commit"]}; {x["machine"]}; {versions}'

  for told, same in itertools.groupby(began(record), note):
    yield [x['command'] for x in same], told


def write(workdir, studies):
  """Writes index.html and RESULTS.md. Returns a line for the terminal.

  Args:
    studies: {key: Study}.
  """
  page = Page('Claims about online and offline alignment')
  page.note(' '.join(INTRODUCTION).replace('`', ''))
  page.note(' '.join(WORDS).replace('*', '').replace('- ', ''))
  lines = ['# Claims of papers', '', *INTRODUCTION, '', *WORDS, '']
  configs = configs_of(workdir)
  every = {x: verdicts_of(workdir, x, studies) for x in configs}
  run = {study.key: study for found in every.values() for study, _ in found}
  lines += [f'- {x}: {run[x].title}' for x in studies if x in run] + ['']
  for config, record in configs.items():
    verdicts = every[config]
    rows, told = rows_of(verdicts), list(made_by(record))
    spent = f'{sum(x.get("seconds", 0) for _, x in verdicts) / 60:.0f}'
    notes = [f'{spent} minutes of one core in training', *standing(verdicts)]
    told.append(([], '. '.join(notes)))
    add_config(page, config, rows, told)
    lines += markdown_of(workdir, config, verdicts, rows, told)
  page.write(workdir / 'index.html')
  write_atomically(workdir / 'RESULTS.md', '\n'.join(lines))
  return f'site: {workdir / "index.html"}'


INTRODUCTION = (
  'Each claim is of a paper. Its number, its rule and its margin are code,',
  'registered before the first run: `experiments/suite/` has a module for each',
  'study. What changed after that stands with each config.',
  'A number above 0 speaks for the claim, unless no difference is claimed.',
  'Brackets are 95% intervals over seeds and prompts.',
  '"Below 0.1", "over 1.3" and the like: the number is the distance to that',
  'bound, above 0 on the side that the claim says. Statistics of all seeds at',
  'once are jackknifed, so a number may lie beyond what is possible. "K of N',
  'cases break it" has no interval: it is reproduced if K is 0.',
)


# What the words mean, of `claims`.
WORDS = (
  '- *reproduced*: the interval lies above 0.',
  '- *opposite*: it lies below 0.',
  '- *not reproduced*: neither of these, and the number is equivalent to 0, by',
  "  two one-sided tests within the claim's margin.",
  '- *undecided*: none of these; the seeds are too few.',
  '- *no verdict*: the points do not give the number; the reason stands there.',
  '',
  'Where no difference is claimed, *reproduced* is what is equivalent to 0,',
  'and *not reproduced* what lies beyond the margin.',
)
EQUAL = ' No difference is claimed.'


def standing(verdicts):
  """Sentences on what was registered before the runs, and changed since.

  Args:
    verdicts: as `verdicts_of` returns them.
  """
  by_standing = {}
  for study, record in verdicts:
    told = standing_of(record.get('registered'))
    by_standing.setdefault(told, []).append(study.key)
  return [f'{told}: {", ".join(keys)}' for told, keys in by_standing.items()]


def standing_of(known):
  """The same of one record, see `registration.standing`; None: not noted."""
  if not known:
    return 'Registration not noted'
  if not known['time']:
    return 'Not registered before the first run'
  if not known['changed']:
    return 'As registered before the first run'
  return f'Changed since it was registered ({"; ".join(known["changed"])})'


def add_config(page, config, rows, told):
  """Adds the table of a config to the index."""
  page.heading(f'{config}: {counted(rows)}')
  links = [f'{config}/{row[0]}/report.html' for row in rows]
  # What is measured is on a study's page, and would hide the numbers here.
  short = [row[:MEASURED] + row[MEASURED + 1 :] for row in [HEADER, *rows]]
  page.table(short[0], short[1:], text_columns=3, links=links)
  for commands, note in told:
    for line in (*commands, note):
      page.note(line)


def markdown_of(workdir, config, verdicts, rows, told):
  """The lines of a config in RESULTS.md."""
  yield f'## {config}'
  yield ''
  yield f'{counted(rows)}.'
  yield ''
  for commands, note in told:
    yield from [*(f'    {line}' for line in commands), '', f'{note}.', '']
  yield f'| {" | ".join(HEADER)} |'
  yield f'|{" --- |" * len(HEADER)}'
  for row in rows:
    yield f'| {" | ".join(row)} |'
  yield ''
  for study, _ in verdicts:
    figure = workdir / config / study.key / 'figures' / study.figure
    if study.figure and figure.exists():
      yield f'![{study.title}]({figure.relative_to(workdir)})'
      yield ''
      yield f'{study.key}. {study.title}'
      yield ''
