"""Jobs of an experiment: the task, then each seed, then its runs."""

import sys

import tqdm

from align_jax import hosts, tasks
from align_jax.lab import grouping, jobs, protocol, setups, stages
from align_jax.lab.jobs import Job


def prepare_task(setup, report):
  """The job that prepares a variant's task, once for all seeds."""
  tasks.prepare(**setups.task_knobs(setup))


def prepare_seed(setup, number, report):
  """The job that prepares the stage of a seed."""
  stages.prepare(setup, number, report)


def make_jobs(setups, runs, train, together=False):
  """Jobs for all of the runs.

  Args:
    setups: {variant: setups.Setup}.
    train: (setup, runs, report), the job of one run or of several together.
    together: whether runs that differ only in numbers become one program.
  """
  used = [name for name in setups if any(r.variant == name for r in runs)]
  result = []
  for name in used:
    result += _stage_jobs(setups, name, {r.seed for r in runs}, result)
  # Runs that others wait for go first.
  awaited = {(r.variant, name) for r in runs for name in r.needed}
  order = list(setups)
  first = lambda r: (
    order.index(r.variant),
    r.seed,
    (r.variant, r.name) not in awaited,
  )
  runs = sorted(runs, key=first)
  parts = grouping.groups(runs) if together else [[run] for run in runs]
  job_of = {_id(r): job_name(part) for part in parts for r in part}
  for part in parts:
    one = part[0]
    needs = [seed_name(one.variant, one.seed)]
    for name in one.needed:
      if (one.variant, one.seed, name) in job_of:
        needs.append(job_of[one.variant, one.seed, name])
    args = setups[one.variant], part
    result.append(
      Job(job_name(part), train, args, tuple(needs), one.schedule.steps)
    )
  return result


def _stage_jobs(setups, variant, seeds, known):
  """Jobs of a variant's task and seeds, each after the jobs it needs."""
  setup, names = setups[variant], {job.name for job in known}
  owners = sorted(set(setup.owners.values()) - {variant})
  task = task_name(setup.owners['task'])
  result = []
  if task not in names:
    owner = setups[setup.owners['task']]
    result.append(Job(task, prepare_task, (owner,)))
  for owner in owners:  # its stages are needed even if it has no run left
    if seed_name(owner, min(seeds)) not in names:
      result += _stage_jobs(setups, owner, seeds, known + result)
      names |= {job.name for job in result}
  steps = setup.shared.sft.steps + setup.shared.proxy.steps
  for number in sorted(seeds):
    needs = task, *(seed_name(owner, number) for owner in owners)
    name = seed_name(variant, number)
    result.append(Job(name, prepare_seed, (setup, number), needs, steps))
  return result


def task_name(variant):
  """Name of the job `prepare_task` of a variant."""
  return f'{variant}/task' if variant else 'task'


def seed_name(variant, number):
  """Name of the job `prepare_seed` of a variant and seed."""
  return f'{variant}/seed{number}' if variant else f'seed{number}'


def job_name(runs):
  """The first run's name, and the number of further runs trained with it."""
  more = f'+{len(runs) - 1}' if len(runs) > 1 else ''
  one = runs[0]
  return f'{seed_name(one.variant, one.seed)}/{one.name}{more}'


def _id(run):
  return run.variant, run.seed, run.name


def rehearse(setup, runs, report):
  """A job that compiles the programs of the first runs, and never fails.

  An untrained reference may cause errors, such as equal rewards for all
  samples. A real error appears again when the runs start.
  """
  try:
    protocol.rehearse(setup, runs)
  except Exception as error:
    text = ' '.join(str(error).split())
    note = f'note: {runs[0].name} was not rehearsed: error: {text}'
    print(note, file=sys.stderr)


def rehearsals(todo, train):
  """A job that rehearses one of the first runs while the first seed is made.

  It needs the task alone, the first of all jobs.
  Otherwise both workers would later compile the same programs at once.
  """
  for job in todo:
    if job.fn is train and not any(map(waits, job.args[1])):
      return [Job('rehearsal', rehearse, job.args, (todo[0].name,))]
  return []


def waits(run):
  """Whether a run needs more than its seed's stage before its first step."""
  of_file = run.source.name in ('file_pairs', 'file_labels')
  return bool(run.needed or run.pool.how or of_file)


def run_all(todo, train, workers):
  """Runs the jobs with a progress bar."""
  with Progress(todo) as progress:
    run_under(progress, todo, train, workers)


def run_under(progress, todo, train, workers):
  """Runs the jobs, whose steps a Progress counts."""
  if workers > 1:  # after the task and the first seed
    todo = [*todo[:2], *rehearsals(todo, train), *todo[2:]]
  jobs.run(todo, workers=workers, progress=progress)


class Progress:
  """A progress bar over the steps of all jobs, with the newest point."""

  def __init__(self, todo):
    self._steps = {job.name: job.steps for job in todo}
    self._done = dict.fromkeys(self._steps, 0)
    # A terminal gets a live bar, a log file a line every 15 seconds.
    slow = {} if sys.stderr.isatty() else {'mininterval': 15, 'ascii': True}
    self._bar = tqdm.tqdm(
      total=sum(self._steps.values()),
      unit='step',
      smoothing=0.02,
      disable=not hosts.first(),
      **slow,
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()

  def __call__(self, name, step, info):
    if name not in self._steps:  # a rehearsal is no part of the work
      return
    new = min(step, self._steps[name]) - self._done[name]
    self._done[name] += new
    point = ' '.join(f'{key}={value:.2f}' for key, value in info.items())
    self._bar.set_postfix_str(f'{name} {point}', refresh=False)
    self._bar.update(new)
