"""What experiments share: command line, sweeps, scheduling, finished runs."""

import copy
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import time

import tqdm
from absl import app, flags, logging
from ml_collections import config_flags

from align_jax import sharding, tasks
from align_jax.files import read_jsonl, write_atomically
from align_jax.lab import checks, jobs, malloc, protocol, stages
from align_jax.lab.jobs import Job
from align_jax.learn import together
from align_jax.models import fused, initial
from align_jax.models.interface import from_fields
from experiments import registration

CONFIG = config_flags.DEFINE_config_file('config', None, 'A file of configs/.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything is written.')
ONLY = flags.DEFINE_list('only', [], 'Train these arms only.')
REPORT = flags.DEFINE_bool(
  'report', False, 'Train nothing; write the page from the points there are.'
)


PILOT_SEEDS = 100  # from this one on; those below confirm


def seeds_of(cfg):
  """The seeds of an experiment: pilots choose a design, the others judge it.

  Raises:
    ValueError: so many that the two kinds would meet.
  """
  if not 1 <= cfg['seeds'] <= PILOT_SEEDS:
    raise ValueError(
      f'seeds={cfg["seeds"]}, expected 1 to {PILOT_SEEDS}: seeds from '
      f'{PILOT_SEEDS} on are pilots'
    )
  first = PILOT_SEEDS if cfg['pilot'] else 0
  return range(first, first + cfg['seeds'])


def sweep(cfg):
  """One run per arm, entry of its `sweep` and seed: a list of dicts.

  An arm says what differs from `cfg.arm`, an entry what differs from its arm.
  """
  runs, numbers = [], seeds_of(cfg)
  for arm, fields in cfg['arms'].items():
    fields = dict(fields)
    for entry in fields.pop('sweep', ({},)):
      for seed in numbers:
        run = copy.deepcopy({**cfg['arm'], **fields, **entry})
        unknown = sorted(set(run) - set(cfg['arm']))
        if unknown:
          raise ValueError(
            f'arms.{arm}: no such field: {", ".join(unknown)}; fields are '
            f'{", ".join(sorted(cfg["arm"]))}'
          )
        config = label(entry)
        run.update(arm=arm, config=config, seed=seed, name=f'{arm}/{config}')
        runs.append(run)
  logged = {run['log_of'] for run in runs if run['log_of']}
  for run in runs:
    run['keep_log'] = run['name'] in logged
  return runs


def sizes(arms):
  """{arm: how many configurations it has}, of those that train."""
  return {
    name: len(arm.get('sweep', ({},)))
    for name, arm in arms.items()
    if not arm.get('reweigh')
  }


def label(entry):
  """{'learning_rate': .1, 'loss_kwargs': {'beta': .2}} -> lr0.1-beta0.2."""
  parts = []
  for name, value in entry.items():
    if hasattr(value, 'items'):
      parts += [label(value)] if value else []
    else:
      name = {'learning_rate': 'lr'}.get(name, name)
      parts.append(
        f'{name}{value:g}' if isinstance(value, float) else f'{name}{value}'
      )
  return '-'.join(parts) or 'default'


def as_dict(cfg):
  """A ConfigDict as plain dicts, tuples kept."""
  return {k: as_dict(v) if hasattr(v, 'items') else v for k, v in cfg.items()}


def guard(directory, settings):
  """Refuses a directory that holds a run with other settings.

  Raises:
    ValueError: names the first field that differs.
  """
  path = directory / 'settings.json'
  text = json.dumps(settings, indent=1, sort_keys=True)
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + '\n')
    return
  old, new = flat(json.loads(path.read_text())), flat(json.loads(text))
  for field in sorted(old.keys() | new.keys()):
    if old.get(field) != new.get(field):
      raise ValueError(
        f'{directory} holds a run with {field}={old.get(field)!r}, this one '
        f'has {new.get(field)!r}: choose another --workdir'
      )


def flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix: tree}
  return {
    k: v
    for name, sub in tree.items()
    for k, v in flat(sub, f'{prefix}.{name}' if prefix else name).items()
  }


def shared_settings(cfg):
  """What the points of all arms depend on."""
  return {
    name: cfg[name]
    for name in ('task', 'model', 'sft', 'golden', 'proxy', 'eval')
  }


def directory(workdir, run):
  return workdir / f'seed{run["seed"]}' / run['name']


def finished(workdir, run):
  return (directory(workdir, run) / 'done.json').exists()


def select(runs, only):
  """The runs of the named arms, and those that they read.

  Raises:
    ValueError: no arm has one of the names.
  """
  arms = list(dict.fromkeys(run['arm'] for run in runs))
  for name in only:
    if name not in arms:
      raise ValueError(
        f'--only={name}: no such arm; arms are {", ".join(arms)}'
      )
  if not only:
    return runs
  needed = {x for run in runs if run['arm'] in only for x in reads(run)}
  return [run for run in runs if run['arm'] in only or run['name'] in needed]


def reads(run):
  """Names of the runs whose log or last policy this one needs."""
  names = run['log_of'], run['teacher_of']
  return [name for name in names if name not in ('', 'reference')]


def check(cfg, runs):
  """Raises ValueError for what would fail only after hours of compute."""
  names = {run['name'] for run in runs}
  for run in runs:
    checks.check_run(run, cfg['proxy'], cfg['model'])
    if run['source'] == 'log' and run['log_of'] not in names:
      raise ValueError(
        f'{run["name"]}: log_of={run["log_of"]!r} is none of the runs '
        f'{", ".join(sorted(names))}'
      )
    if run['teacher_of'] and run['teacher_of'] not in {*names, 'reference'}:
      raise ValueError(
        f'{run["name"]}: teacher_of={run["teacher_of"]!r} is none of the runs '
        f'{", ".join(sorted(names))}'
      )
    check_teacher(run, runs)
  checks.check_proxy(cfg['proxy'], cfg['golden'])
  if cfg['together']:
    check_together(cfg)
  for note in dict.fromkeys(note for run in runs for note in checks.notes(run)):
    print(f'note: {note}', file=sys.stderr)


def check_together(cfg):
  if math.prod(cfg['mesh'].values()) > 1:
    raise ValueError('together=True stacks runs on one device, mesh has more')
  fused.check_vmap(from_fields(**initial.model_fields(cfg['model'])))


def check_teacher(run, runs):
  """A teacher's checkpoint has to hold all of its parameters."""
  for other in runs:
    if other['name'] == run['teacher_of'] and other['lora'].get('rank'):
      raise ValueError(
        f'{run["name"]}: teacher_of={other["name"]!r} trains adapters '
        '(lora.rank > 0), expected a run of all parameters'
      )


def train_runs(cfg, runs, workdir, report):
  """The job of one run or of several together: trains and marks as done."""
  start = time.time()
  protocol.run_arms(cfg, runs, workdir, report)
  done = json.dumps({'seconds': round(time.time() - start, 1)})
  for run in runs:
    write_atomically(directory(workdir, run) / 'done.json', done)


def prepare_task(cfg, workdir, report):
  tasks.prepare(**stages.task_knobs(cfg, workdir))


def prepare_seed(cfg, number, workdir, report):
  stages.prepare_seed(cfg, number, workdir, report=report)


def make_jobs(cfg, runs, workdir):
  """The task, then each seed, then its runs; finished runs are left out."""
  runs = [run for run in runs if not finished(workdir, run)]
  if not runs:
    return []
  result = [Job('task', prepare_task, (cfg, workdir))]
  for number in sorted({run['seed'] for run in runs}):
    result.append(
      Job(
        f'seed{number}',
        prepare_seed,
        (cfg, number, workdir),
        ('task',),
        cfg['sft']['steps'] + cfg['proxy']['steps'],
      )
    )
  # What others wait for goes first.
  unfinished = {(run['name'], run['seed']) for run in runs}
  awaited = {name for run in runs for name in reads(run)}
  first = lambda run: (run['seed'], run['name'] not in awaited)
  runs = sorted(runs, key=first)
  parts = together.groups(runs) if cfg['together'] else [[run] for run in runs]
  job_of = {
    (r['name'], r['seed']): job_name(part) for part in parts for r in part
  }
  for part in parts:
    needs = [f'seed{part[0]["seed"]}']
    for name in reads(part[0]):
      if (name, part[0]['seed']) in unfinished:
        needs.append(job_of[name, part[0]['seed']])
    result.append(
      Job(
        job_name(part),
        train_runs,
        (cfg, part, workdir),
        tuple(needs),
        part[0]['steps'],
      )
    )
  return result


def rehearse(cfg, runs, workdir, report):
  """The job that compiles what the first runs need, and cannot fail.

  An untrained reference may be no good to them: that all its samples are worth
  the same, say, is no mistake. What is one comes up again in earnest.
  """
  try:
    protocol.rehearse(cfg, runs, workdir)
  except Exception as error:
    note = f'note: {runs[0]["name"]} was not rehearsed: {one_line(error)}'
    print(note, file=sys.stderr)


def rehearsals(todo):
  """One of the first runs, for the worker next to the one with the first seed.

  Else both would compile the same programs at the same time.
  """
  for job in todo:
    if job.fn is train_runs and not any(map(waits, job.args[1])):
      return [Job('rehearsal', rehearse, job.args, ('task',))]
  return []


def waits(run):
  """Whether a run has more to do before its first step than its seed has."""
  return bool(reads(run) or run['reweigh'] or run['source'] == 'file_pairs')


def job_name(runs):
  """Of several runs together, the first and how many more."""
  more = f'+{len(runs) - 1}' if len(runs) > 1 else ''
  return f'seed{runs[0]["seed"]}/{runs[0]["name"]}{more}'


def execute(cfg, runs, workdir):
  """Trains what is not finished yet, with a progress bar."""
  guard(workdir, shared_settings(cfg))
  for run in runs:
    guard(directory(workdir, run), run)
  todo = make_jobs(cfg, runs, workdir)
  if not todo:
    return
  meshed = math.prod(cfg['mesh'].values()) > 1
  workers = 1 if meshed else cfg['workers'] or jobs.default_workers()
  if workers > 1:
    todo[2:2] = rehearsals(todo)  # behind the task and the first seed
  with Progress(todo) as progress:
    jobs.run(todo, workers=workers, progress=progress)


class Progress:
  """One bar over the steps of all jobs, with the newest point."""

  def __init__(self, todo):
    self._steps = {job.name: job.steps for job in todo}
    self._done = dict.fromkeys(self._steps, 0)
    # A log file gets a line now and then, a terminal a live bar.
    slow = {} if sys.stderr.isatty() else {'mininterval': 15, 'ascii': True}
    self._bar = tqdm.tqdm(
      total=sum(self._steps.values()), unit='step', smoothing=0.02, **slow
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()

  def __call__(self, name, step, info):
    new = min(step, self._steps[name]) - self._done[name]
    self._done[name] += new
    point = ' '.join(f'{key}={value:.2f}' for key, value in info.items())
    self._bar.set_postfix_str(f'{name} {point}', refresh=False)
    self._bar.update(new)


def read_points(workdir, runs):
  """The points of all finished runs, with their arm, config, seed and budget.

  Samples that are weighed anew are held at no budget.
  """
  points = []
  for run in runs:
    if finished(workdir, run):
      keys = {name: run[name] for name in ('arm', 'config', 'seed', 'kl_mode')}
      keys['kl_budget'] = 0.0 if run['reweigh'] else run['kl_budget']
      rows = read_jsonl(directory(workdir, run) / 'points.jsonl')
      points.extend({**keys, **row} for row in rows)
  return points


def points_of(workdir):
  """The points that the last report in `workdir` was written from."""
  return read_jsonl(workdir / 'points.jsonl')


def note_start(workdir):
  """Keeps the first command line, for the page, with the versions it met."""
  path = workdir / 'experiment.json'
  if not path.exists():
    write_atomically(
      path, json.dumps({'command': command(), 'versions': versions()})
    )


def versions():
  names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  lines = [f'{name} {importlib.metadata.version(name)}' for name in names]
  import jax

  return '\n'.join(
    [f'python {platform.python_version()}', *lines, f'devices {jax.devices()}']
  )


def experiment(runs, report, cfg, workdir, only=(), report_only=False):
  """Checks, trains what is not finished, and reports.

  Args:
    runs: cfg -> a list of runs, see `sweep`.
    report: (points, cfg, workdir) -> what to print; writes the page.
    only: names of arms to train; none: all.
    report_only: train nothing.
  """
  everything = runs(cfg)
  if not report_only:
    sharding.use_mesh(**cfg['mesh'])  # first: JAX must not have started
  check(cfg, everything)
  chosen = select(everything, only)
  if not report_only:
    note_start(workdir)
    registration.register(cfg, workdir)
    execute(cfg, chosen, workdir)
  points = read_points(workdir, everything)
  if not points:
    raise ValueError(f'{workdir} holds no finished run to report on')
  print(report(points, cfg, workdir))
  print(f'page: {workdir / "report.html"}')


def main(runs, report):
  """The command line of an experiment."""

  def run(cfg):
    if WORKDIR.value is None:
      raise ValueError('--workdir is required')
    workdir = pathlib.Path(WORKDIR.value).resolve()
    experiment(runs, report, cfg, workdir, ONLY.value, REPORT.value)

  start(run)


def start(run):
  """Parses the command line, then run(cfg).

  What the user got wrong ends in one line, not in a traceback.
  """

  mistakes = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    OSError,
    flags.Error,
  )

  def parse(argv):
    try:
      return flags.FLAGS(argv)
    except mistakes as error:
      sys.exit(one_line(error))

  def guarded(argv):
    logging.set_verbosity(logging.ERROR)  # orbax tells each step of a save
    try:
      if len(argv) > 1:
        raise ValueError(f'unexpected argument {argv[1]!r}')
      if CONFIG.value is None:
        raise ValueError('--config is required')
      run(as_dict(CONFIG.value))
    except (ValueError, FileNotFoundError) as error:
      if os.environ.get('ALIGN_JAX_TRACEBACK'):
        raise
      sys.exit(one_line(error))

  malloc.keep()
  app.run(guarded, flags_parser=parse)


def one_line(error):
  """A KeyError's text is the repr of its argument, hence `args`."""
  text = error.args[0] if isinstance(error, KeyError) else error
  return f'error: {" ".join(str(text).split())}'


def command():
  """The command line as typed, for the page."""
  spec = sys.modules['__main__'].__spec__
  program = ['python', '-m', spec.name] if spec else sys.argv[:1]
  return shlex.join([*program, *sys.argv[1:]])
