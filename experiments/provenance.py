"""The origin of a page: registration, commit, versions, and the config used."""

import pprint
import time

from align_jax.files import read_record
from align_jax.lab.reads import reads
from experiments import pages, registration, resume


def registered(cfg, workdir, rules=registration.RULES):
  """Sentences on what was registered, and on what has changed since."""
  old = registration.read(workdir)
  if old is None:
    return ['Not registered: nothing was fixed before the first run.']
  start = f'Registered {old["time"]} at commit {old["commit"]}; '
  changed = registration.changes(cfg, workdir, rules)
  if changed:
    told = [f'{start}changed since: {"; ".join(changed)}.']
  else:
    told = [f'{start}unchanged.']
  further = registration.undeclared(old)
  if further:
    seeds = ', '.join(str(one['seeds']) for one in further)
    times = '1 more time' if len(further) == 1 else f'{len(further)} more times'
    told.append(
      f'Read {times} than was declared, at {seeds} seeds: with these the '
      f'chance of a false claim is at most {registration.spent(old):.2%}.'
    )
  return told


NAMED = 'arms', 'methods'  # {name: arm}
# {group that all runs read: run -> whether it has an effect}.
FULL = {
  'lora': lambda run: run.lora.rank > 0,
  'keep': lambda run: any(run.schedule.keep),
}


def used(cfg, runs, points, shown=()):
  """The config without the fields that no finished run depends on.

  A field counts as read if emptying it makes `runs` fail, or changes the runs
  that have points. All arms read the fields of `resume.shared_settings`. The
  field `pilot` tells the purpose of the seeds.

  Args:
    runs: cfg -> a list of runs.
    shown: names of fields that the page itself reads.
  """
  there = {pages.run_of(p) for p in points}

  def those(cfg):
    try:
      every = runs(cfg)
      return [r for r in every if (r.label, r.configuration, r.seed) in there]
    except (KeyError, ValueError):
      return None

  mine = those(cfg)
  if not mine:
    return cfg
  without = lambda tree, name: {k: v for k, v in tree.items() if k != name}
  always = {*resume.shared_settings(cfg), *registration.FREE, 'report', *shown}
  always |= {'pilot'}
  kept = {
    name: value
    for name, value in cfg.items()
    if name in always or those({**cfg, name: type(value)()}) != mine
  }
  for field in kept.keys() & set(NAMED):
    kept[field] = {
      name: arm
      for name, arm in cfg[field].items()
      if those({**cfg, field: without(cfg[field], name)}) != mine
    }
  kept['arm'] = {
    name: value
    for name, value in cfg['arm'].items()
    if value not in ('', (), {}) and any(is_read(name, run) for run in mine)
  }
  return kept


def is_read(field, run):
  return field in reads(run) and (field not in FULL or FULL[field](run))


def finish(page, cfg, workdir, kept):
  """Adds the page's last section, on how it was made, and writes the page.

  Args:
    kept: the part of the config to show, see `used`.
  """
  path = workdir / 'experiment.json'
  started = read_record(path) if path.exists() else {}
  page.heading('How this page was made')
  today = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
  page.text(f'Written {today} at commit {registration.commit()}.')
  files = {
    'the table': 'table.csv',
    'further measurements': 'measures.csv',
    'all points': 'points.jsonl',
    'what was registered': registration.NAME,
  }
  page.links(
    'Beside this page:',
    [(text, f) for text, f in files.items() if (workdir / f).exists()],
  )
  for field in started.keys() & {'command'}:
    page.code(started[field])
  if 'versions' in started:
    with page.folded('Versions'):
      page.code(started['versions'])
  with page.folded('Config: what these runs read, with nothing left empty'):
    page.code(pprint.pformat(kept, width=88, compact=True, sort_dicts=False))
  page.write(workdir / 'report.html')
