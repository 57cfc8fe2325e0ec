"""Runs contestants in turn and compares what they took."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]


class Failed(Exception):
  """A contestant ended; says which one and its last words."""


class Contestant:
  """A process that answers requests with figures; see `worker`.

  Args:
    command: a list of words.
    log: a path for all that it prints.
  """

  def __init__(self, name, command, log, env=None):
    self.name, self._log = name, log
    with open(log, 'w', encoding='utf-8') as file:
      self._process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=file,
        text=True,
        cwd=ROOT,
        env=env,
      )

  def answer(self):
    """Figures of the warm-up, then of each request.

    Raises:
      Failed.
    """
    line = self._process.stdout.readline()
    if line:
      return json.loads(line)
    status = self._process.wait()
    words = pathlib.Path(self._log).read_text('utf-8').strip().splitlines()
    last = words[-1].strip() if words else 'no word'
    raise Failed(f'{self.name} ended with status {status}: {last}')

  def ask(self):
    try:
      print(file=self._process.stdin, flush=True)
    except BrokenPipeError:
      pass  # `answer` says why
    return self.answer()

  def close(self):
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()


def spec_of(cfg, model, task, kind, scratch):
  fields = {k: cfg[k] for k in ('train', 'cores', 'widen', 'afresh')}
  return {
    **fields,
    'kind': kind,
    'model': model,
    'task': task,
    'seed': 0,
    'scratch': str(scratch),
  }


def clock_of(cfg, platform):
  """Whose seconds count: one thread's are the same on a busy machine."""
  return 'cpu' if cfg['cores'] == 1 and platform == 'cpu' else 'wall'


def worker(name, python, module, spec, log):
  """A Contestant of `experiments.peers`."""
  env = dict(os.environ)
  if spec['afresh']:
    env.pop('JAX_COMPILATION_CACHE_DIR', None)
  if spec['cores']:
    env['OMP_NUM_THREADS'] = str(spec['cores'])
  env |= {
    'HF_HUB_OFFLINE': '1',
    'TOKENIZERS_PARALLELISM': 'false',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # a device is shared
  }
  command = ['-m', 'experiments.peers.worker', module, json.dumps(spec)]
  return Contestant(name, [python or sys.executable, *command], log, env)


def compete(entrants, rounds):
  """Warm-ups one after the other, then rounds in which each has its turn.

  Args:
    entrants: functions without arguments -> Contestant.
  Returns:
    {name: its answers; the warm-up and a first round come before those that
    count}, and what became of the others, a list of str. One that fails loses
    its own figures only.
  """
  running, answers, failures = [], {}, []

  def turn(contestant, ask):
    try:
      answers.setdefault(contestant.name, []).append(ask())
      return True
    except Failed as error:
      answers.pop(contestant.name, None)
      failures.append(str(error))
      contestant.close()
      return False

  try:
    for enter in entrants:
      contestant = enter()
      if turn(contestant, contestant.answer):
        running.append(contestant)
    # A trainer's second step may compile as well: the first round is not
    # counted.
    for _ in range(1 + rounds):
      running = [x for x in running if turn(x, x.ask)]
  finally:
    for contestant in running:
      contestant.close()
  return answers, failures


def summary(answers, clock):
  """Medians of one contestant's answers.

  Args:
    clock: 'cpu' | 'wall', whose seconds count.
  """
  first, _, *rounds = answers
  median = lambda name: statistics.median(r[name] for r in rounds)
  seconds = [r[clock] for r in rounds]
  return {
    'cpu': median('cpu'),
    'wall': median('wall'),
    'seconds': statistics.median(seconds),
    'least': min(seconds),
    'most': max(seconds),
    'peak_mb': rounds[-1]['peak_mb'],
    'compile': first[clock] - statistics.median(seconds),
    'parts': {
      name: statistics.median(r['parts'][name][clock] for r in rounds)
      for name in rounds[0].get('parts', {})
    },
  }


def ratio(theirs, ours, clock):
  """Median over rounds of their seconds per second of ours."""
  pairs = zip(theirs[2:], ours[2:], strict=True)
  return statistics.median(a[clock] / b[clock] for a, b in pairs)


def new_folder(workdir):
  workdir.mkdir(parents=True, exist_ok=True)
  folder = pathlib.Path(tempfile.mkdtemp(dir=workdir))
  print(f'logs of the contestants: {folder}')
  return folder
