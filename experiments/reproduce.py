"""Runs all studies of a config: their verdicts, one table, one site.

  align reproduce --config=configs/toy.py --workdir=runs/claims \
    [--only=E3,E8] [--report]

A study lies in WORKDIR/CONFIG/KEY, with its own page. WORKDIR/index.html and
WORKDIR/RESULTS.md have the verdicts of all configs that were run into WORKDIR.
The same command goes on where it was interrupted; --report trains nothing.
"""

import contextlib
import dataclasses
import pathlib
import time

from align_jax import paths
from align_jax.files import read_record, write_record
from align_jax.lab import effects, lock, schedule, sweep
from align_jax.values import nearest
from experiments import command, common, registration, resume, site
from experiments.suite import studies

ONE_HOST = (
  'studies run on one host, and only one by itself, such as '
  'python -m experiments.suite.e02_order, on several'
)


@dataclasses.dataclass(frozen=True)
class Part:
  """A study of one config.

  Attributes:
    study: study.Study.
    runs: its Runs.
    folder: where it lies.
  """

  study: object
  runs: list
  folder: paths.Path


def chosen(only):
  """The studies to run.

  Raises:
    ValueError: a name is no study's key.
  """
  every = studies()
  for key in only:
    if key not in every:
      raise ValueError(f'--only={key}: no such study, {nearest(key, every)}')
  return [study for key, study in every.items() if key in (only or every)]


def parts_of(cfg, folder, only):
  """The Parts of a config, checked.

  A study that the config cannot serve is left out with a note, unless it was
  asked for by name.

  Raises:
    ValueError: what a study that was asked for finds wrong.
  """
  found = []
  for study in chosen(only):
    try:
      runs = study.runs(cfg)
      common.check(cfg, runs)
    except (ValueError, KeyError) as error:
      if only:
        raise ValueError(f'{study.key}: {error}') from None
      resume.say([f'{study.key} is left out: {error}'])
    else:
      found.append(Part(study, runs, folder / study.key))
  return found


def train(cfg, parts, folder):
  """Trains what is unfinished, study by study, under one progress bar."""
  todo = [part_jobs(cfg, part) for part in parts]
  known = (folder / site.REPRODUCED).exists()
  if any(todo) or not known or not all(part.runs for part in parts):
    note(folder)
  workers = common.workers_of(cfg)
  with schedule.Progress([job for own in todo for job in own]) as progress:
    for own in filter(None, todo):  # each has workers of its own
      schedule.run_under(progress, own, common.train_runs, workers)


def part_jobs(cfg, part):
  """Opens the folder of a Part. Returns its jobs, named after the study."""
  lock.drop_unfinished(part.folder)
  registration.register(cfg, part.folder, part.study.rules)
  found = common.opened(cfg, part.runs, part.folder)
  rename = lambda name: f'{part.study.key}/{name}'
  return [
    dataclasses.replace(
      job, name=rename(job.name), needs=tuple(map(rename, job.needs))
    )
    for job in found
  ]


def report(cfg, parts, again=False):
  """Writes the page of every study that has what it needs.

  Args:
    again: of studies without runs only those that have a page already.
  Returns:
    why studies have none: texts.
  """
  failed = []
  for part in parts:
    ended = [resume.finished(part.folder, run) for run in part.runs]
    known = not again or (part.folder / site.VERDICTS).exists()
    if any(ended) or (not part.runs and known):
      print(f'\n{part.study.key}. {part.study.title}', flush=True)
      try:
        common.write_report(part.study.report, cfg, part.folder, part.runs)
      except ValueError as error:  # the others have pages all the same
        failed.append(f'{part.study.key}: {error}')
        print(failed[-1], flush=True)
  return failed


def note(folder):
  """Records each command that trains, and what it is computed with."""
  path = folder / site.REPRODUCED
  began = site.began(read_record(path)) if path.exists() else []
  told = {
    'command': command.command(),
    'date': time.strftime('%Y-%m-%d', time.gmtime()),
    'commit': registration.commit(),
    'machine': common.machine(),
    'versions': common.versions(),
  }
  if told not in began:
    write_record(path, {'began': [*began, told]})


def run(cfg, given):
  if not command.WORKDIR.value:
    raise ValueError('--workdir is required')
  command.refuse_hosts(ONE_HOST)
  if not command.REPORT.value:
    command.refuse_slice(ONE_HOST)
  workdir = paths.absolute(command.WORKDIR.value)
  folder = workdir / pathlib.Path(command.CONFIG.value).stem
  if not command.ONLY.value:  # else each study tells what it finds wrong
    common.check(cfg, sweep.sweep(cfg))
  parts = parts_of(cfg, folder, command.ONLY.value)
  asked = chosen(command.ONLY.value)
  together = lambda cfg: [r for study in asked for r in tried(study, cfg)]
  effects.check(together, cfg, given, lambda x: configs(asked, x))
  if command.REPORT.value:
    check_reported(parts, folder)
    held = lock.held(workdir, command.command())
  else:
    held = trained_in(cfg, workdir, parts)
  with held:
    if not command.REPORT.value:
      train(cfg, parts, folder)
    failed = report(cfg, parts, again=command.REPORT.value)
    print(site.write(workdir, studies()))
  if failed:
    raise ValueError('; '.join(failed))


def check_reported(parts, folder):
  """Raises ValueError where nothing was run that could be reported on."""
  runs = ((part.folder, run) for part in parts for run in part.runs)
  known = (folder / site.REPRODUCED).exists()
  if not known and not any(resume.finished(*one) for one in runs):
    raise ValueError(f'{folder} holds no finished run to report on')


@contextlib.contextmanager
def trained_in(cfg, workdir, parts):
  """Holds the workdir, and the folders where studies may be run alone."""
  with contextlib.ExitStack() as stack:
    stack.enter_context(common.training(cfg, workdir, command.DEVICE.value))
    for part in parts:
      stack.enter_context(lock.held(part.folder, command.command()))
    yield


def tried(study, cfg):
  try:
    return study.runs(cfg)
  except (ValueError, KeyError):
    return []


def configs(asked, cfg):
  """What the studies that are trained make of a config.

  Those that the config cannot serve are left out.
  """
  return [study.config(cfg) for study in asked if tried(study, cfg)]


if __name__ == '__main__':
  command.start(run)
