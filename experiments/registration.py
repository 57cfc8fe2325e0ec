"""Registers an experiment before its first run, and counts the looks at it.

`registration.json` holds the digests of the config and of the rules (as code),
the commit, the confirmatory comparison, its window, margin and seeds. It is
written once, before training. The page says what has changed since.

A look is a verdict that was read, for a number of seeds and one comparison.
Declared looks share an error rate of 5% evenly. Each further look adds half as
much as the one before. So a true zero is called a difference in at most 5% of
experiments with only declared looks, and in less than 10% with all looks.
Another workdir has its own registration, and looks there are not counted here.
"""

import hashlib
import json
import pathlib
import subprocess
import time

from align_jax.compare import intervals
from align_jax.files import read_record, write_record
from experiments import begun

ROOT = pathlib.Path(__file__).parents[1]
# Files that turn points into a verdict.
RULES = (
  'align_jax/compare/readings.py',
  'align_jax/compare/frontier.py',
  'align_jax/compare/intervals.py',
  'align_jax/compare/verdict.py',
  'align_jax/compare/words.py',
  'align_jax/tasks/__init__.py',
  'experiments/findings.py',
  'experiments/pages.py',
  'experiments/registration.py',
)
ASKED = ('treatment', 'control', 'window', 'margin')  # fields of a look
CONFIRMATORY = (*ASKED, 'schedule')
# Fields outside the config's digest: they say how and where runs are computed,
# or have an entry of their own.
FREE = (
  'workers',
  'together',
  'mesh',
  'reference_memory',
  'seeds',
  'trackers',
  'profile',
)
NAME = 'registration.json'


def digest(text):
  return hashlib.sha256(text.encode()).hexdigest()


def digest_of(files):
  """A digest of the code that turns points into a verdict."""
  return digest(''.join((ROOT / name).read_text('utf-8') for name in files))


def commit():
  """The commit of this code, with '+' appended if files differ."""

  def git(*args):
    done = subprocess.run(
      ['git', *args], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else None

  try:
    name = git('rev-parse', '--short', 'HEAD')
    changed = git('status', '--porcelain', '--untracked-files=no')
  except OSError:  # git is not installed
    return 'unknown'
  return 'unknown' if name is None else name + ('+' if changed else '')


def entries(cfg, rules=RULES):
  """The entries of an experiment's registration.

  Args:
    rules: files whose code decides the verdict.
  """
  kept = {k: v for k, v in cfg.items() if k not in FREE}
  report = cfg['report']
  kept['report'] = {k: v for k, v in report.items() if k not in CONFIRMATORY}
  return {
    'config': digest(json.dumps(kept, sort_keys=True)),
    'rules': digest_of(rules),
    'commit': commit(),
    'seeds': cfg['seeds'],
    **{name: report[name] for name in CONFIRMATORY},
  }


def register(cfg, workdir, rules=RULES):
  """Writes the registration of an experiment that nothing is computed of."""
  path = workdir / NAME
  looked = (read(workdir) or {}).get('looks')
  if not looked and not begun.experiment(workdir):
    when = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
    rows = {**entries(cfg, rules), 'time': when, 'looks': []}
    write_record(path, rows)


def read(workdir):
  """The registration, or None."""
  path = workdir / NAME
  return read_record(path) if path.exists() else None


def changes(cfg, workdir, rules=RULES):
  """Sentences on the differences from the registration."""
  old = read(workdir)
  if old is None:
    return ['nothing was registered before the first run']
  new = json.loads(json.dumps(entries(cfg, rules)))
  told = [
    f'{name}: {old[name]} registered, {new[name]} now'
    for name in ('seeds', 'commit', *CONFIRMATORY)
    if old[name] != new[name]
  ]
  if old['rules'] != new['rules']:
    told.append('the code of the rules has changed')
  if old['config'] != new['config']:
    told.append('other fields of the config have changed')
  return told


def standing(cfg, workdir, rules=RULES):
  """When an experiment was registered, and what differs now, as a record.

  The commit does not count: it says nothing of what decides a verdict.
  """
  old = read(workdir) or {'time': '', 'commit': ''}
  told = changes(cfg, workdir, rules)
  return {
    'time': old['time'],
    'commit': old['commit'],
    'changed': [x for x in told if not x.startswith('commit: ')],
  }


def declared(schedule, seeds):
  """Numbers of seeds at which a verdict was planned."""
  return set(schedule) or {seeds}


def look(cfg, workdir, seeds):
  """Records that a verdict was read for a number of seeds.

  Returns:
    the level of the verdict's interval, or None if nothing was registered.
  """
  rows = read(workdir)
  if rows is None:
    return None
  asked = {name: cfg['report'][name] for name in ASKED}
  this = json.loads(json.dumps({'seeds': seeds, **asked}))
  if this not in rows['looks']:
    rows['looks'].append(this)
    write_record(workdir / NAME, rows)
  further = undeclared(rows)
  if this not in further:
    return intervals.each_of(len(declared(rows['schedule'], rows['seeds'])))
  return 1 - (1 - intervals.LEVEL) / 2 ** (1 + further.index(this))


def undeclared(rows):
  """The looks that were not declared, in order."""
  planned = declared(rows['schedule'], rows['seeds'])
  asked = {name: rows[name] for name in ASKED}
  return [
    one
    for one in rows['looks']
    if one['seeds'] not in planned or {**one, **asked} != one
  ]


def spent(rows):
  """Upper bound on the probability that a look so far called a zero a
  difference."""
  return (1 - intervals.LEVEL) * (2 - 0.5 ** len(undeclared(rows)))
