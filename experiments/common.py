"""Shared by experiments: checks, training of missing runs, reading points."""

import contextlib
import importlib.metadata
import math
import os
import platform
import time

import jax
from jax.tree_util import keystr

from align_jax import hardware, hosts, judges, paths, sharding
from align_jax.compare import points as point_lib
from align_jax.files import read_jsonl, read_record, write_record
from align_jax.lab import (
  checks,
  effects,
  groups,
  jobs,
  links,
  lock,
  protocol,
  schedule,
  setups,
  stage_checks,
  sweep,
)
from align_jax.lab.config_file import as_dict
from align_jax.lab.labels import published_judges
from align_jax.learn import stopping, trackers
from align_jax.models import fused, initial, interface, ring
from align_jax.models.config import scorer_config
from experiments import command, registration, resume
from experiments.resume import finished

__all__ = 'as_dict', 'check', 'experiment', 'main', 'points_of', 'read_points'


def select(runs, only):
  """The runs of the named arms, and the runs that these read.

  Raises:
    ValueError: a name is not an arm's.
  """
  arms = list(dict.fromkeys(run.arm for run in runs))
  for name in only:
    if name not in arms:
      raise ValueError(
        f'--only={name}: no such arm; arms are {", ".join(arms)}'
      )
  if not only:
    return runs
  chosen = [run for run in runs if run.arm in only]
  needed = {(r.variant, name) for r in chosen for name in r.needed}
  return [r for r in runs if r.arm in only or (r.variant, r.name) in needed]


def check(cfg, runs):
  """Raises ValueError for what would fail only after hours of compute."""
  groups.check(cfg)
  shared = sweep.shared_of(runs)
  for one in shared.values():
    stage_checks.check_shared(one)
  stage_checks.check_lent(shared)
  for run in runs:
    checks.check_run(run, run.shared)
  links.check_links(runs)
  check_compared(cfg['report'], runs)
  check_mesh(cfg['mesh'], runs)
  longest = max((run.schedule.steps for run in runs), default=0)
  if cfg['profile'] and runs and cfg['profile'][0] > longest:
    raise ValueError(
      f'profile={tuple(cfg["profile"])}, expected updates within the {longest} '
      'of the longest run'
    )
  trackers.check(cfg['trackers'])
  for one in shared.values():
    check_model_on_mesh(one.model, cfg['mesh'])
    check_proxy_on_mesh(one, cfg['mesh'])
  if cfg['together']:
    check_together(cfg)
  resume.say(note for run in runs for note in checks.notes(run))


def check_compared(settings, runs):
  """What a report compares has to be policies, and no reweighed samples."""
  pools = {run.label for run in runs if run.pool.how}
  for field in ('treatment', 'control', 'golden_policy'):
    if settings[field] in pools:
      raise ValueError(
        f'report.{field}={settings[field]!r} trains nothing, expected an arm '
        'that does'
      )


def check_mesh(mesh, runs):
  """Batches have to divide over the devices that share them."""
  ways = math.prod(mesh.get(axis, 1) for axis in sharding.RULES['batch'])
  for run in runs:
    sizes = {
      run.where('batch_size'): run.updates.batch_size,
      'arm.batch_size': run.shared.batch_size,
      'sft.batch_size': run.shared.sft.batch_size,
      'proxy.batch_size': run.shared.proxy.batch_size,
      **_judged(run),
    }
    for name, size in sizes.items():
      if size % ways:
        raise ValueError(
          f'{name}={size}, expected a multiple of the {ways} devices of '
          f'mesh.{", mesh.".join(sharding.RULES["batch"])} together'
        )


def _judged(run):
  """{field: rows at a time} of the published judges that a run asks."""
  return {
    f'{name}.batch_size': judges.rows_at_once(judge)
    for name, judge in published_judges(run).items()
  }


def check_model_on_mesh(model, mesh):
  """Arrays have to divide over the devices that they are split over.

  A ring needs devices to go round.
  """
  ring.check(model.get('attention', ''), mesh.get('context', 1))
  if model.get('checkpoint') or math.prod(mesh.values()) == 1:
    return  # a checkpoint's sizes are not known here
  check_on_mesh(
    interface.from_fields(**initial.model_fields(model)), mesh, 'model'
  )


def check_proxy_on_mesh(shared, mesh):
  """The same of a proxy with a size of its own."""
  model = shared.proxy.model
  if model and not model.get('checkpoint'):  # whose sizes are not known here
    vocab = shared.model.get('vocab_size') or 1
    config = scorer_config(model, vocab, 'proxy.model')
    check_on_mesh(config, mesh, 'proxy.model')


def check_on_mesh(c, mesh, where):
  """Raises ValueError for a parameter that the mesh does not divide."""

  def fits(path, x, names):
    sharding.check(x.shape, names, mesh, f'mesh: {where}{keystr(path)}')

  shapes, axes = interface.shapes(c), interface.of(c).axes(c)
  jax.tree_util.tree_map_with_path(fits, shapes, axes)
  with sharding.sampling():
    jax.tree_util.tree_map_with_path(fits, shapes, axes)


def check_together(cfg):
  if math.prod(cfg['mesh'].values()) > 1:
    raise ValueError('together=True stacks runs on one device, mesh has more')
  if cfg['reference_memory'] == 'host':
    raise ValueError(
      'together=True stacks the references of its runs, expected '
      "reference_memory='device', got 'host'"
    )
  fused.check_vmap(interface.from_fields(**initial.model_fields(cfg['model'])))


def train_runs(setup, runs, report):
  """Trains one run or several together, and marks them as done."""
  start = time.time()
  written = runs if hosts.first() else ()
  for run in written:
    resume.unmark(setup.workdir, run)
  protocol.run_arms(setup, runs, report)
  for run in written:
    resume.mark(setup.workdir, run, round(time.time() - start, 1))


def jobs_of(cfg, runs, workdir):
  """The jobs of all unfinished runs."""
  ended = hosts.agree([finished(workdir, run) for run in runs])
  todo = [run for run, over in zip(runs, ended) if not over]
  if not todo:
    return []
  telemetry = setups.Telemetry(cfg['trackers'], cfg['profile'])
  own = setups.setups_of(
    sweep.shared_of(runs), workdir, telemetry, cfg['reference_memory']
  )
  return schedule.make_jobs(own, todo, train_runs, cfg['together'])


def opened(cfg, runs, workdir):
  """Opens a workdir for runs. Returns the jobs of the unfinished ones."""
  if hosts.first():
    resume.open_workdir(cfg, runs, workdir)
  todo = jobs_of(cfg, runs, workdir)
  if todo and hosts.first():
    note_start(workdir)
  return todo


def execute(cfg, runs, workdir):
  """Trains all unfinished runs, with a progress bar."""
  todo = opened(cfg, runs, workdir)
  if todo:
    schedule.run_all(todo, train_runs, workers_of(cfg))


def workers_of(cfg):
  """The number of processes that train."""
  if math.prod(cfg['mesh'].values()) > 1:
    return 1
  return cfg['workers'] or jobs.default_workers()


@contextlib.contextmanager
def training(cfg, workdir, device):
  """Holds a workdir, and the devices that are trained on within.

  Args:
    device: what to compute on, see `hardware.check`.
  """
  with lock.held(workdir, command.command()), stopping.listening():
    lock.check_shared(workdir)
    sharding.use_mesh(**cfg['mesh'])  # must precede the first use of JAX
    hardware.check(device)
    if cfg['reference_memory'] == 'host':
      sharding.check_host_memory('reference_memory')
    yield


def read_points(workdir, runs):
  """The points of finished runs, with what tells runs apart and their budget.

  An arm's name includes its variant's, so no report pools variants. Reweighted
  samples have no budget.

  Args:
    runs: those that have finished.
  """
  points = []
  for run in runs:
    keys = dict(arm=run.label, configuration=run.configuration, seed=run.seed)
    keys |= {'variant': run.variant} if run.variant else {}
    keys['kl_mode'] = run.kl.mode
    keys['kl_budget'] = 0.0 if run.pool.how else run.kl.nats
    rows = read_jsonl(run.directory(workdir) / 'points.jsonl')
    points.extend({**keys, **row} for row in rows)
  return points


def points_of(workdir):
  """The points of the last report in `workdir`."""
  return point_lib.read(workdir / 'points.jsonl')


def note_start(workdir):
  """Records each command line that trains, and the versions of the first."""
  path = workdir / 'experiment.json'
  told = {'command': command.command(), 'versions': versions()}
  if path.exists():
    old = read_record(path)
    lines = dict.fromkeys([*old['command'].splitlines(), told['command']])
    told = {**old, 'command': '\n'.join(lines)}
  write_record(path, told)


def machine():
  """Processor and cores, such as 'Intel Xeon @ 2.2GHz, 2 cores'."""
  name = platform.processor() or platform.machine()
  info = paths.path('/proc/cpuinfo')
  if info.exists():
    lines = info.read_text('utf-8').splitlines()
    models = [x for x in lines if x.startswith('model name')]
    name = models[0].partition(':')[2].strip() if models else name
  return f'{name}, {os.cpu_count()} cores'


def versions():
  names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  lines = [f'{name} {importlib.metadata.version(name)}' for name in names]
  return '\n'.join(
    [f'python {platform.python_version()}', *lines, f'devices {jax.devices()}']
  )


def experiment(
  runs,
  report,
  cfg,
  workdir,
  only=(),
  report_only=False,
  device='auto',
  start=lambda: None,
  rules=registration.RULES,
):
  """Checks the config, trains unfinished runs, and reports.

  Of several hosts all train, and host 0 reports.

  Args:
    runs: cfg -> a list of runs, see `lab.sweep`.
    report: (points, cfg, workdir) -> text to print. It writes the page.
    only: names of arms to train. (): all.
    report_only: train nothing.
    device: what to compute on, see `hardware.check`.
    start: joins the other hosts, see `hosts.start`.
    rules: files whose code decides the verdict.
  """
  everything = runs(cfg)
  check(cfg, everything)
  chosen = select(everything, only)
  if not report_only:
    start()
    if hosts.count() > 1:
      own = {'--only': sorted(only), 'commit': registration.commit()}
      hosts.check_alike({**own, **resume.flat(cfg, 'config')})
    with training(cfg, workdir, device):
      if hosts.first():
        lock.drop_unfinished(workdir)
        registration.register(cfg, workdir, rules)
      execute(cfg, chosen, workdir)
  if hosts.first():
    write_report(report, cfg, workdir, everything)
  hosts.finish()


def write_report(report, cfg, workdir, everything):
  """Reports on the finished runs of the seeds that no arm lacks.

  Raises:
    ValueError: no run is finished, or settings are not those of the runs.
  """
  resume.check_settings(cfg, everything, workdir)
  resume.say(resume.left_out(workdir, everything))
  ended = [run for run in everything if finished(workdir, run)]
  lacking = resume.incomplete(everything, ended)
  whole = [run for run in ended if run.seed not in lacking]
  if whole:  # else such as one seed of each arm, and none of all
    resume.say(
      f'seed {seed} is not in the report: {name} is not finished'
      for seed, name in lacking.items()
    )
  points = read_points(workdir, whole or ended)
  if everything and not points:
    raise ValueError(f'{workdir} holds no finished run to report on')
  print(report(points, cfg, workdir))
  print(f'page: {workdir / "report.html"}')


def main(
  runs,
  report,
  settle=lambda cfg, given: cfg,
  rules=registration.RULES,
  made=None,
):
  """The command line of an experiment.

  Args:
    runs, report, rules: see `experiment`.
    settle: (config, its overrides) -> the experiment's config.
    made: see `effects.check`.
  """

  def run(cfg, given):
    if not command.WORKDIR.value:
      raise ValueError('--workdir is required')
    if command.REPORT.value:
      command.refuse_hosts('--report runs on one host')
    cfg = settle(cfg, given)
    effects.check(runs, cfg, given, made)
    workdir = paths.absolute(command.WORKDIR.value)
    flags = command.ONLY.value, command.REPORT.value, command.DEVICE.value
    start = command.join_hosts
    experiment(runs, report, cfg, workdir, *flags, start, rules)

  command.start(run)
