"""Continues in a workdir: which settings may differ from the runs in it."""

import json
import math
import time

from align_jax import hosts, tasks
from align_jax.files import (
  damaged,
  digest,
  read_jsonl,
  read_record,
  write_record,
)
from align_jax.lab import setups, sweep
from align_jax.lab.arms import sources_of
from align_jax.lab.labels import DATE
from align_jax.lab.reads import idle
from align_jax.lab.settings import SHARED
from align_jax.learn import kept
from align_jax.learn.checkpoint import newest_step
from align_jax.learn.schedules import reads_steps
from configs import base
from experiments import begun

# Fields that change no update: when to write, when and what to measure, and how
# much to compute at once. `steps` has its own rules, see `check_steps`.
FREE = {
  'steps',
  'save_every',
  'log_every',
  'stop_on',
  'points',
  'keep.steps',
  'keep.kls',
  'num_microbatches',
  'microbatch_tokens',
  'proxy.num_microbatches',
  'eval.first_step',
  'model.remat',
  'eval.points',
  'eval.metrics',
  'eval.sets',
}


# {name in earlier versions: name now}
RENAMED = {'slots': 'rows_at_once', 'config': 'configuration'}


def shared_settings(cfg):
  """The settings that the points of all arms depend on."""
  return {name: cfg[name] for name in ('task', 'model', *SHARED)}


LOGS = 'points.jsonl', 'metrics.jsonl'


def done_of(path):
  """The record that the run in a directory has ended. None: none, or broken."""
  try:
    return read_record(path / 'done.json')
  except (FileNotFoundError, ValueError):
    return None


def finished(workdir, run):
  """Whether a run has done all steps, or has stopped at its budget earlier."""
  path = run.directory(workdir)
  done = done_of(path)
  if done is None or damaged(path, done.get('logs', {})):
    return False
  # Earlier versions did not record steps in done.json.
  steps = done.get('steps', newest_step(path))
  stopped = done.get('stopped', False) and steps < run.schedule.steps
  return bool(run.pool.how or stopped or steps == run.schedule.steps)


def mark(workdir, run, seconds):
  """Records that a run has ended, and after how many steps."""
  path = run.directory(workdir)
  steps = newest_step(path)
  stopped = 0 < steps < run.schedule.steps
  done = {'seconds': seconds, 'steps': steps, 'stopped': stopped}
  done['points'] = len(read_jsonl(path / 'points.jsonl'))
  done['logs'] = {name: digest(path / name) for name in LOGS}
  write_record(path / 'done.json', done)


def unmark(workdir, run):
  """Removes the record that a run has ended, because it continues."""
  (run.directory(workdir) / 'done.json').unlink(missing_ok=True)


def flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix: tree}
  return {
    k: v
    for name, sub in tree.items()
    for k, v in flat(sub, f'{prefix}.{name}' if prefix else name).items()
  }


def defaults(cfg):
  """{field: value} for fields that settings of an earlier version lack.

  The fields are those of runs and of the experiment. Arguments of a loss depend
  on the loss, so they have no default here.
  """
  known = base.get_config().to_dict()
  knobs = tasks.defaults(cfg['task']['name'])
  shared = {**shared_settings(known), 'task': knobs}
  filled = flat({**known['arm'], 'keep_log': False, **shared})
  return {k: v for k, v in filled.items() if 'loss_kwargs' not in k}


def held(path):
  """The settings in a directory, or None."""
  path = path / 'settings.json'
  return read_record(path) if path.exists() else None


def compare(path, settings, filled, idle=()):
  """Refuses a directory that holds a run with other settings.

  Args:
    settings: nested dicts.
    filled: {field: value} of fields that the directory may lack.
    idle: names of fields that are not read.
  Raises:
    ValueError: names the first field that differs, or the file that is gone.
  """
  old = held(path)
  if old is None:
    if newest_step(path) or (path / 'done.json').exists():
      raise ValueError(
        f'{path / "settings.json"}: no such file, and a run has begun there: '
        f'put it back, or remove {path}'
      )
    return
  old = {RENAMED.get(k, k): v for k, v in old.items() if k not in idle}
  new = {k: v for k, v in as_read(settings).items() if k not in idle}
  old, new = flat(old), flat(new)
  filled = flat(as_read(filled))
  old = {**{k: v for k, v in filled.items() if k in new}, **old}
  for field in sorted((old.keys() | new.keys()) - FREE):
    if old.get(field) != new.get(field):
      raise ValueError(
        f'{path} holds a run with {field}={old.get(field)!r}, this one '
        f'has {new.get(field)!r}: choose another --workdir'
      )


def as_read(settings):
  """The settings as JSON returns them, with lists for tuples."""
  return json.loads(json.dumps(settings))


def write(path, settings):
  write_record(path / 'settings.json', as_read(settings))


def check_steps(path, run):
  """Refuses a number of steps to which the run in `path` cannot continue.

  Raises:
    ValueError: there are fewer steps than done, or a replay's order changes.
  """
  done, old = begun.steps(path), held(path)
  if old is None or run.pool.how or not done:
    return
  if run.schedule.steps < done:
    raise ValueError(
      f'{path} holds a run with {done} steps done, this one has steps='
      f'{run.schedule.steps}: expected at least {done}, or another --workdir'
    )
  both = old['steps'], run.schedule.steps
  schedule = run.optimizer.schedule['name']
  if both[0] != both[1] and reads_steps(schedule):
    raise ValueError(
      f'{path} holds {done} steps under a schedule {schedule!r} of steps='
      f'{both[0]}, this one has steps={both[1]}, and other learning rates from '
      'the start: choose another --workdir'
    )
  replays = any('log_of' in source.reads for source in sources_of(run))
  if replays and not same_order(run.source.shuffle, done, *both):
    raise ValueError(
      f'{path} holds {done} steps of a replay shuffled for steps={both[0]}, '
      f'this one has steps={both[1]} and shuffle={run.source.shuffle}, another '
      'order: remove that directory, or leave the arm out with --only'
    )


def same_order(shuffle, done, old, new):
  """Whether replays of `old` and `new` steps agree on the first `done`.

  Args:
    shuffle: steps per window. 0: one window of all steps.
  """
  if old == new:
    return True
  end = math.ceil(done / shuffle) * shuffle if shuffle else math.inf
  return end <= min(old, new)


def check_taught(workdir, run):
  """Refuses to extend a run whose last policy was another run's teacher.

  Raises:
    ValueError: names the taught run.
  """
  done = newest_step(run.directory(workdir))
  if not done or finished(workdir, run) or run.schedule.steps == done:
    return
  mine = run.directory(workdir)
  # A name of a configuration may have a / in it, such as that of a teacher.
  depths = ('*/*/settings.json', '*/*/*/settings.json')
  found = [path for x in depths for path in mine.parents[1].glob(x)]
  for path in sorted(found):
    begun = (path.parent / 'done.json').exists() or newest_step(path.parent)
    old = held(path.parent)
    read = [old.get('teacher_of'), *old.get('writers', ())]
    if begun and run.name in read:
      raise ValueError(
        f'{mine} would go on from {done} to steps={run.schedule.steps}, but '
        f'{path.parent} has learned from its policy after {done}: remove that '
        'directory, or choose another --workdir'
      )


def notes(workdir, run):
  """Notes for the user on a run that continues: a list of str."""
  path, told = run.directory(workdir), []
  done, old = newest_step(path), held(path)
  if old is None or run.pool.how or not done:
    return []
  for what in kept.missed(path, run.schedule.keep, done):
    told.append(f'{path}: {what} is past, after {done} steps, and was not kept')
  if finished(workdir, run) or not run.kl.nats:
    return told
  ended = done == old['steps'] and done % run.kl.every
  if old['steps'] != run.schedule.steps and (run.kl.mode == 'hold' or ended):
    told.append(
      f'{path}: goes on from {done} steps under kl_budget={run.kl.nats:g}'
      f', which was controlled for steps={old["steps"]}: a run of steps='
      f'{run.schedule.steps} from the start would differ'
    )
  return told


def left_out(workdir, runs):
  """Notes on runs that ended, after other steps or with damage since."""
  told = []
  for run in runs:
    path = run.directory(workdir)
    if not (path / 'done.json').exists() or finished(workdir, run):
      continue
    done = done_of(path)
    if done is None:
      why = f'{path / "done.json"} is damaged'
    else:
      why = damaged(path, done.get('logs', {})) or (
        f'{path}: {newest_step(path)} steps are done, the config has steps='
        f'{run.schedule.steps}'
      )
    told.append(f'{why}: not in the report')
  return told


def say(lines):
  for line in dict.fromkeys(lines):
    hosts.say(f'note: {line}')


def settings_of(run):
  """The settings to keep beside a run's points."""
  names = 'arm', 'configuration', 'seed', 'name'
  own = {name: getattr(run, name) for name in names}
  return {**run.flat, **own, 'keep_log': run.keep_log}


def check_settings(cfg, runs, workdir):
  """Compares the settings of what has begun in `workdir` with those of runs.

  Raises:
    ValueError: a field differs that must not; names the field and both values.
  """
  filled = defaults(cfg)
  for name, one in sweep.shared_of(runs).items():
    if begun.stage(workdir / name):
      own = {'arm.batch_size': one.batch_size}  # earlier versions did not say
      compare(workdir / name, one.settings, {**filled, **own})
  for run in runs:
    path = run.directory(workdir)
    if begun.run(path):
      compare(path, settings_of(run), filled, idle(run))


def incomplete(runs, ended):
  """Seeds that an arm has not finished, of arms that have ended some runs.

  Args:
    ended: those of the runs that have.
  Returns:
    {seed: the name of an unfinished run}.
  """
  which = lambda run: (run.variant, run.seed, run.name)
  known, over = {run.label for run in ended}, set(map(which, ended))
  return {
    run.seed: run.name
    for run in runs
    if run.label in known and which(run) not in over
  }


def open_workdir(cfg, runs, workdir):
  """Checks that the runs can continue in `workdir`, then keeps their settings.

  It writes nothing before all checks have passed.

  Raises:
    ValueError: a field differs that must not; names the field and both values.
  """
  check_settings(cfg, runs, workdir)
  for run in runs:
    check_steps(run.directory(workdir), run)
    check_taught(workdir, run)
  say(line for run in runs for line in notes(workdir, run))
  shared = sweep.shared_of(runs)
  for name, one in shared.items():
    write(workdir / name, one.settings)
    if not (workdir / name / DATE).exists():
      today = time.strftime('%Y-%m-%d')
      write_record(workdir / name / DATE, {'date': today})
  if any(shared):
    setups.write_owners(setups.setups_of(shared, workdir))
  for run in runs:
    write(run.directory(workdir), settings_of(run))
