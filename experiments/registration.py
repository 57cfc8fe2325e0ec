"""What was fixed before the first run, and how often it has been looked at.

`registration.json` holds the digests of the config and of the rules as code,
the commit, the confirmatory comparison, its window, margin and seeds. It is
written once, before anything is trained; the page says what has changed since.
Every number of seeds at which a verdict was read is a look, and looks share the
5%: those of the declared schedule from the start, others as they come.
"""

import hashlib
import json
import pathlib
import subprocess
import time

from align_jax import frontier, intervals, readings, verdict
from align_jax.metrics import write_atomically

RULES = readings, frontier, intervals, verdict  # what a verdict depends on
CONFIRMATORY = ('treatment', 'control', 'window', 'margin', 'schedule')
# How and where runs are computed, and what is shown of them.
FREE = ('workers', 'together', 'mesh', 'seeds')
NAME = 'registration.json'


def digest(text):
  return hashlib.sha256(text.encode()).hexdigest()


def rules():
  """A digest of the code that turns points into a verdict."""
  files = [pathlib.Path(module.__file__) for module in RULES]
  return digest(''.join(file.read_text('utf-8') for file in files))


def commit():
  """The commit that this code is of, '+' behind it where files differ."""
  here = pathlib.Path(__file__).parent

  def git(*args):
    done = subprocess.run(
      ['git', *args], cwd=here, capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else None

  try:
    name = git('rev-parse', '--short', 'HEAD')
    changed = git('status', '--porcelain', '--untracked-files=no')
  except OSError:  # there is no git
    return 'unknown'
  return 'unknown' if name is None else name + ('+' if changed else '')


def entries(cfg):
  """What a registration says of an experiment."""
  kept = {k: v for k, v in cfg.items() if k not in FREE}
  return {
    'config': digest(json.dumps(kept, sort_keys=True)),
    'rules': rules(),
    'commit': commit(),
    'seeds': cfg['seeds'],
    **{name: cfg['report'][name] for name in CONFIRMATORY},
  }


def register(cfg, workdir):
  """Writes the registration of an experiment, unless something was run."""
  path = workdir / NAME
  if not path.exists() and not any(workdir.glob('seed*')):
    when = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
    rows = {**entries(cfg), 'time': when, 'looks': []}
    write_atomically(path, json.dumps(rows, indent=1))


def read(workdir):
  """The registration, or None where there is none."""
  path = workdir / NAME
  return json.loads(path.read_text('utf-8')) if path.exists() else None


def changes(cfg, workdir):
  """What differs from the registration: a list of sentences."""
  old = read(workdir)
  if old is None:
    return ['nothing was registered before the first run']
  new = json.loads(json.dumps(entries(cfg)))
  named = {
    name: f'{name}: {old[name]} registered, {new[name]} now'
    for name in ('seeds', 'commit', *CONFIRMATORY)
  }
  told = [text for name, text in named.items() if old[name] != new[name]]
  if old['rules'] != new['rules']:
    told.append('the code of the rules has changed')
  if old['config'] != new['config'] and not any(
    old[name] != new[name] for name in CONFIRMATORY
  ):
    told.append('the config has changed')
  return told


def look(cfg, workdir, seeds):
  """Notes that a verdict was read with so many seeds: its level.

  Looks, declared in `report.schedule` or not, share the 5% evenly
  (Bonferroni), so that a true zero is called a difference in at most 5% of
  experiments, however they grew.
  """
  rows = read(workdir)
  seen = rows['looks'] if rows else []
  if rows and seeds not in seen:
    seen = [*seen, seeds]
    write_atomically(
      workdir / NAME, json.dumps({**rows, 'looks': seen}, indent=1)
    )
  return intervals.each_of(len({*cfg['report']['schedule'], *seen, seeds}))
