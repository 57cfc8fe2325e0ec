"""How fast are sampling and training, beside peers and the machine's limit?

  python -m experiments.benchmark --config=configs/benchmark.py \
    [--config.peers.trl=PYTHON] [--config.peers.tunix=PYTHON] \
    [--config.sizes=S] [--config.only=SAMPLE,GRPO] [--scaling]

Every contestant is a process of its own; they take turns, round by round, and
medians and ratios are over the rounds. What is printed goes to the page as
well, in place of what an earlier run of the same kind wrote there.
"""

import functools
import importlib.util
import multiprocessing
import os
import sys
from concurrent import futures

from absl import flags

from align_jax import hardware, paths
from experiments import command
from experiments.pages import markdown
from experiments.peers import contest, growth, limits, page, workload

SCALING = flags.DEFINE_bool(
  'scaling', False, 'How the cost of ours grows, instead of the comparison.'
)

ON_CORES = 'align_jax, a device per core'  # needs several cores

# {contestant: (module of experiments.peers, {kind of a task: the module's})}.
same = lambda *kinds: {kind: kind for kind in kinds}
ENTRANTS = {
  'align_jax': ('ours', same(*workload.WORK)),
  'align_jax, static batches': ('ours', {'refill': 'static_batches'}),
  ON_CORES: ('ours', {kind: f'{kind}_on_cores' for kind in workload.WORK}),
  'TRL': ('trl', same(*workload.WORK)),
  'Tunix': ('tunix', same('sample', 'refill', 'dpo', 'dpo_ref', 'grpo')),
}


def interpreters(peers):
  """{module: path of its python}, and a line for each peer left out.

  Raises:
    ValueError: there is no interpreter at a path.
  """
  found, notes = {'ours': sys.executable}, []
  for name, path in peers.items():
    if path and not os.access(path, os.X_OK):
      raise ValueError(f'peers.{name}={path!r}: no such interpreter')
    if path or importlib.util.find_spec(name):
      found[name] = path or sys.executable
    else:
      notes.append(f'{name} is left out: not installed, and peers.{name} is ""')
  return found, notes


def chosen(cfg):
  """Names of the chosen sizes and of the chosen tasks.

  Raises:
    ValueError: a name is unknown.
  """
  names = []
  for field, table in (('sizes', 'models'), ('only', 'tasks')):
    wanted = [x.strip() for x in cfg[field].split(',') if x.strip()]
    for name in wanted:
      if name not in cfg[table]:
        raise ValueError(
          f'{field}={name}: no such name; {table} are {", ".join(cfg[table])}'
        )
    names.append(wanted or list(cfg[table]))
  for field in ('rounds', 'cores'):
    if cfg[field] < (field == 'rounds'):
      raise ValueError(f'{field}={cfg[field]} is too few')
  return names


def parts_of(cfg, size, name):
  task = cfg['tasks'][name]
  return workload.WORK[task['kind']][0](cfg['models'][size], task)


def play(cfg, pythons, size, name, scratch):
  """Runs the contestants of one task at one size: answers, failures."""
  task = cfg['tasks'][name]
  entrants = []
  for who, (module, kinds) in ENTRANTS.items():
    if who == ON_CORES and cfg['cores'] < 2:
      continue
    if module in pythons and task['kind'] in kinds:
      kind = kinds[task['kind']]
      spec = contest.spec_of(cfg, cfg['models'][size], task, kind, scratch)
      log = scratch / f'{size}-{name}-{who}.log'.replace(' ', '_')
      entrants.append(
        functools.partial(
          contest.worker, who, pythons[module], module, spec, log
        )
      )
  return contest.compete(entrants, cfg['rounds'])


def rows_of(cfg, size, name, answers, machine):
  """Lines of the table, one per contestant."""
  task = cfg['tasks'][name]
  _, count, unit = workload.WORK[task['kind']]
  limit, compute, memory = workload.limit(
    parts_of(cfg, size, name), machine.flops, machine.bandwidth
  )
  ours = answers.get('align_jax')
  clock = contest.clock_of(cfg, machine.platform)
  for who, given in answers.items():
    s = contest.summary(given, clock)
    seconds = s['seconds']
    yield [
      f'{name} {size}',
      who,
      page.number(s['cpu']),
      page.number(s['wall']),
      f'{page.number(s["least"])} to {page.number(s["most"])}',
      ' + '.join(page.number(x) for x in s['parts'].values()),
      f'{page.number(count(task) / seconds)} {unit}',
      page.number(contest.ratio(given, ours, clock)) if ours else '',
      page.number(limit),
      page.number(seconds / limit),
      f'{compute / seconds:.0%}',
      f'{memory / seconds:.0%}',
      f'{s["peak_mb"]:,.0f}',
      page.number(s['compile']),
    ]


HEADER = [
  'work',
  'who',
  'CPU s',
  'wall s',
  'least to most',
  'generate + train',
  'per second',
  'times ours',
  'limit s',
  'times the limit',
  'of peak FLOP/s',
  'of bandwidth',
  'peak MB',
  'first call s',
]


def compare(cfg, workdir):
  """Runs the fixed workload with all contestants, alternately."""
  sizes, names = chosen(cfg)
  pythons, notes = interpreters(cfg['peers'])
  scratch = contest.new_folder(workdir)
  for note in notes:
    print(note)
  sets = [
    n
    for size in sizes
    for name in names
    for n in workload.working_sets(parts_of(cfg, size, name))
  ]
  title = f'{", ".join(sizes)} on {page.cores(cfg["cores"])}'
  if cfg['only']:
    title = f'{", ".join(names)}: {title}'
  machine, played, versions = limits.Machine(cfg, sets, scratch), [], {}
  try:
    for size in sizes:
      for name in names:
        machine.look()
        answers, failures = play(cfg, pythons, size, name, scratch)
        notes += [f'{name} {size}: {failure}' for failure in failures]
        for given in answers.values():
          versions |= given[0]['versions']
        played.append((size, name, answers))
        for row in rows_of(cfg, size, name, answers, machine):
          print(' | '.join(row), flush=True)
        for failure in failures:
          print(failure, flush=True)
        # Rewrite all rows after each task, with the best limits so far.
        rows = [r for x in played for r in rows_of(cfg, *x, machine)]
        text = f'{markdown(HEADER, rows)}\n\n{machine.describe()}'
        clock = contest.clock_of(cfg, machine.platform)
        page.publish(cfg, title, text, notes, versions, clock)
  finally:
    machine.close()


def check_device(device):
  """`hardware.check`, in a process that then leaves the device to others."""
  spawn = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(1, spawn) as pool:
    pool.submit(hardware.check, device).result()


def run(cfg, given):
  check_device(command.DEVICE.value)
  workdir = paths.here(command.WORKDIR.value or 'runs/benchmark').resolve()
  (growth.scaling if SCALING.value else compare)(cfg, workdir)


if __name__ == '__main__':
  command.start(run, check=lambda cfg: None)
