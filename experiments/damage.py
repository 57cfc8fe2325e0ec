"""What becomes of a workdir that is damaged, or whose process is killed.

  python -m experiments.damage --flips=100 --kills=30 --workdir=runs/damage

A small experiment runs once, undisturbed. Then one file of its workdir at a
time gets a flipped bit, is cut or is deleted, and the same command runs again.
It must name the file, or end in the same points, metrics, logs and parameters,
bit for bit. Then the experiment is killed by SIGKILL at random moments, again
and again, until it ends; it must end in the same bits, too. With
--store=gs://BUCKET/FOLDER it is killed there.
"""

import collections
import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import jax
import numpy as np

from align_jax import paths
from align_jax.files import read_record
from align_jax.lab import lock, setups, stages, sweep
from align_jax.learn import batches, checkpoint
from align_jax.tools.cli import Parser
from configs import base, toy
from experiments import common, online_vs_offline

LOSSLESS = 'points.jsonl', 'metrics.jsonl'  # compared as text
# Written for people, and read by nothing; or the lock.
UNREAD = re.compile(
  r'report\.html|table\.csv|measures\.csv|figures/.*|lock|.*\.lock|seed\d+/\w+/\w+\.jsonl|'
  r'.*/speed\.jsonl'
)


# A process of its own that runs the experiment in the folder it is given.
RUN = (
  'import sys; from align_jax import paths; from experiments import damage; '
)
RUN += 'damage.run(damage.small(), paths.path(sys.argv[1]))'


def small():
  """Offline, online, replayed, PPO, held and stopped runs of one seed."""
  cfg = common.as_dict(base.smoke(toy.get_config()))
  held = dict(kl_budget=0.01, kl_every=2, kl_samples=1)
  plain = dict(loss_kwargs={'beta': 0.1}, learning_rate=1e-3)
  cfg['arms'] = {
    'offline': dict(**plain, source='golden_pairs'),
    'online': plain,
    'in order': dict(**plain, source='log', log_of='online/default'),
    'ppo': dict(loss='ppo', loss_kwargs={'beta': 0.1}),
    'held': {**plain, **held},
    'stopped': {**plain, **held, 'kl_mode': 'stop'},
    'optimum': dict(source='reference', reweigh='optimum'),
  }
  return {**cfg, 'seeds': 1}


def run(cfg, workdir, report=online_vs_offline.report):
  """Runs the experiment in this process, silently."""
  stages._prepared.clear()
  quiet = io.StringIO()
  with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    common.experiment(online_vs_offline.runs, report, cfg, workdir)


def read_stage(cfg, workdir):
  """Reads what runs share, as the next run would; it makes what is missing."""
  stages._prepared.clear()
  own = setups.setups_of(sweep.shared_of(sweep.sweep(cfg)), workdir)
  with contextlib.redirect_stderr(io.StringIO()):
    stages.prepare(own[''], 0)


def results(workdir):
  """{file: its text or arrays} of all that an experiment is judged by."""
  found = {}
  for name in LOSSLESS:  # of runs, and of all; nothing reads a stage's
    for path in (workdir / name, *workdir.glob(f'seed*/*/*/{name}')):
      if path.exists():
        found[_name(path, workdir)] = path.read_text('utf-8')
  for path in (
    *workdir.glob('seed*/*/checkpoints'),
    *workdir.glob('seed*/*/*/checkpoints'),
  ):
    key = f'{_name(path.parent, workdir)}/final'
    found[key] = arrays(checkpoint.final_params(path.parent))
  for path in sorted(workdir.glob('seed*/*.npz')):
    found[_name(path, workdir)] = arrays(batches.load(path))
  for path in sorted(workdir.glob('seed*/*/*/log')):
    from align_jax.learn.train import read_log

    found[_name(path, workdir)] = arrays(read_log(path.parent))
  for path in sorted(workdir.glob('seed*/proxy.json')):
    found[_name(path, workdir)] = read_record(path)
  return found


def _name(path, workdir):
  return path.relative_to(workdir).as_posix()


def arrays(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def differing(first, second):
  """The first result that differs, or ''."""
  for name in sorted(first.keys() | second.keys(), key=str):
    a, b = first.get(name), second.get(name)
    if isinstance(a, list) and isinstance(b, list):
      same = len(a) == len(b) and all(map(np.array_equal, a, b))
    else:
      same = a == b
    if not same:
      return str(name)
  return ''


def damage(path, rng):
  """Damages one file; says how."""
  content = bytearray(path.read_bytes())
  how = rng.choice(['flip', 'flip', 'cut', 'delete'] if content else ['delete'])
  if how == 'flip':
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f'bit {bit} of byte {place} of {len(content)} flipped'
  if how == 'cut':
    size = rng.randrange(len(content))
    path.write_bytes(content[:size])
    return f'cut from {len(content)} to {size} bytes'
  path.unlink()
  return 'deleted'


def kind_of(path):
  """The kind of a file, so that every kind is damaged as often."""
  name = path.name if path.suffix else path.parent.name
  name = re.sub(r'\d+', 'N', name)
  return f'{"kept/" * ("kept" in path.parts)}{name}'


def files(workdir):
  """{kind: files of it} of a workdir."""
  found = collections.defaultdict(list)
  for path in sorted(workdir.rglob('*')):
    name = path.relative_to(workdir)
    if path.is_file() and not UNREAD.fullmatch(name.as_posix()):
      found[kind_of(name)].append(name)
  return found


def trial(cfg, whole, wanted, scratch, rng, number):
  """Damages a copy of the workdir, runs again, and says what became of it."""
  shutil.rmtree(scratch, ignore_errors=True)
  shutil.copytree(whole, scratch)
  kinds = files(scratch)
  name = rng.choice(kinds[sorted(kinds)[number % len(kinds)]])
  told = f'{name}: {damage(scratch / name, rng)}'
  try:
    run(cfg, scratch)
    read_stage(cfg, scratch)
    found = results(scratch)
  except (ValueError, OSError) as error:
    text = ' '.join(str(error).split())
    named = any(part in text for part in (str(name), name.parent.name))
    return ('named' if named else 'unnamed'), f'{told} -> {text:.300}'
  where = differing(wanted, found)
  return ('changed', f'{told} -> {where}') if where else ('same', told)


def flips(cfg, whole, scratch, number, seed=0):
  """Damages `number` files: {outcome: [what was done]}."""
  wanted, rng = results(whole), random.Random(seed)
  outcomes = collections.defaultdict(list)
  for i in range(number):
    outcome, told = trial(cfg, whole, wanted, scratch, rng, i)
    outcomes[outcome].append(told)
  return outcomes


def kills(whole, scratch, number, seed=0):
  """Kills processes of the experiment until it ends; what differs, or ''."""
  wanted, rng, killed, rounds = results(whole), random.Random(seed), 0, 0
  whole_run = None  # seconds of one that was not killed
  while killed < number:
    if scratch.exists():
      paths.remove(scratch)
    rounds += 1
    ended, before = False, killed
    while not ended:
      start = time.time()
      process = subprocess.Popen([sys.executable, '-c', RUN, str(scratch)])
      limit = whole_run and rng.uniform(0.1, 0.95) * whole_run
      try:
        process.wait(limit if killed < number else None)
        ended = True
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        killed += 1
        if not paths.is_local(scratch):  # not to wait until it has run out
          (scratch / lock.NAME).unlink(missing_ok=True)
    if killed == before:
      whole_run = time.time() - start
    if process.returncode:
      return f'ended with status {process.returncode} after {killed} kills'
    where = differing(wanted, results(scratch))
    if where:
      return f'{where} differs after {killed} kills'
    print(f'{killed} kills in {rounds} rounds: the same bits', flush=True)
  return ''


def main():
  parser = Parser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--flips', type=int, default=0)
  parser.add_argument('--kills', type=int, default=0)
  parser.add_argument('--store', help='gs:// folder to be killed in')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  home = paths.here(args.workdir).resolve()
  os.makedirs(home, exist_ok=True)
  cfg, whole = small(), home / 'whole'
  run(cfg, whole)
  scratch = whole.with_name('scratch')
  failed = False
  if args.flips:
    outcomes = flips(cfg, whole, scratch, args.flips, args.seed)
    print(json.dumps({k: len(v) for k, v in sorted(outcomes.items())}))
    wrong = outcomes['changed'] + outcomes['unnamed']
    print(*wrong, sep='\n')
    failed = bool(wrong)
  if args.kills:
    place = paths.path(args.store) if args.store else scratch
    where = kills(whole, place, args.kills, args.seed)
    failed = failed or bool(where)
    print(where)
  sys.exit(failed)


if __name__ == '__main__':
  main()
