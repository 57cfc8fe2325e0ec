"""What a page rests on: registration, commit, versions, and the config used."""

import json
import pprint
import time

from experiments import common, pages, registration


def registered(cfg, workdir):
  """Sentences on what was fixed before the first run, and what of it holds."""
  old = registration.read(workdir)
  if old is None:
    return ['Not registered: nothing was fixed before the first run.']
  start = f'Registered {old["time"]} at commit {old["commit"]}; '
  changed = registration.changes(cfg, workdir)
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


NAMED = 'arms', 'methods'  # records of arms, by name
# Fields of an arm that only some runs read, and which.
PARTS = {
  'judge': lambda run: run['labels'] == 'judge',
  'lora': lambda run: run['lora'].get('rank', 0) > 0,
  'mixture': lambda run: 'mixture' in f'{run["source"]} {run["parts"]}',
  'shuffle': lambda run: 'log' in (run['source'], *run['parts']),
  'pool': lambda run: run['reweigh'],
  'context_after': lambda run: run['context'],
  'truncation_penalty': lambda run: run['truncated'] == 'penalise',
}
PARTS |= dict.fromkeys(('critic', 'critic_init'), lambda r: r['loss'] == 'ppo')
PARTS |= dict.fromkeys(
  ('kl_mode', 'kl_every', 'kl_samples'), lambda run: run['kl_budget'] > 0
)


def used(cfg, runs, points, shown=()):
  """The config less what no finished run depends on.

  A field counts as read where `runs` fails or answers otherwise without it, for
  the runs that have points. All arms read what `common.shared_settings` names.

  Args:
    runs: cfg -> a list of runs.
    shown: names of fields that the page itself reads.
  """
  there = {pages.run_of(p) for p in points}

  def those(cfg):
    try:
      return [r for r in runs(cfg) if pages.run_of(r) in there]
    except (KeyError, ValueError):
      return None

  mine = those(cfg)
  if not mine:
    return cfg
  without = lambda tree, name: {k: v for k, v in tree.items() if k != name}
  always = {*common.shared_settings(cfg), *registration.FREE, 'report', *shown}
  kept = {
    name: value
    for name, value in cfg.items()
    if name in always or those(without(cfg, name)) != mine
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
    if value not in ('', (), {}) and is_read(name, mine)
  }
  return kept


def is_read(field, runs):
  return field not in PARTS or any(map(PARTS[field], runs))


def finish(page, cfg, workdir, kept):
  """How the page was made, below everything; writes it.

  Args:
    kept: what to show of the config, see `used`.
  """
  path = workdir / 'experiment.json'
  started = json.loads(path.read_text('utf-8')) if path.exists() else {}
  page.heading('How this page was made')
  today = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
  page.text(f'Written {today} at commit {registration.commit()}.')
  files = {
    'the table': 'table.csv',
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
