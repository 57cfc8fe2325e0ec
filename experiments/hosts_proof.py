"""Several hosts do what one does, and end together when one of them ends.

  python -m experiments.hosts_proof --workdir=runs/hosts --rounds=10

Processes of this machine stand in for hosts. A small experiment runs once in
one process, and again in several with as many devices in all: the points,
metrics, logs and parameters are compared. Then one of two or of four hosts at a
time gets SIGKILL or SIGTERM at a random moment, or is never started. The others
must end in time, with the right status, and name it. The next start goes on, of
two hosts on these again or on one with both devices, until the experiment ends
in the same results as the undisturbed one.
"""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from align_jax.tools.cli import Parser
from experiments import damage

LEADER = 'the leader task was preempted/died'  # JAX of host 0, if it is first
LIMIT = 60  # seconds in which the others must have ended
WAIT = 30  # seconds in which hosts must have come: one may be killed before
# A start that goes on is mostly compiling, but for these. What is set stays.
COMPILED_ONCE = {
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
}
CONFIG = """
from experiments import hosts_proof
get_config = hosts_proof.small
"""


def small():
  """An online run that is held at a KL and a PPO run, of one seed."""
  cfg = damage.small()
  cfg['arms'] = {k: cfg['arms'][k] for k in ('online', 'ppo')}
  cfg['report'].update(control='ppo')
  cfg['arms']['online'].update(kl_budget=0.01, kl_every=2, kl_samples=1)
  return cfg


class Job:
  """The experiment in processes that stand in for hosts.

  Attributes:
    workdir: path.
    processes: one a host; None where it was not started.
  """

  def __init__(
    self, workdir, hosts, devices, absent=(), wait=WAIT, config=CONFIG
  ):
    workdir.parent.mkdir(parents=True, exist_ok=True)
    file = workdir.with_name('config.py')
    file.write_text(config, 'utf-8')
    cache = {'JAX_COMPILATION_CACHE_DIR': str(workdir.with_name('cache'))}
    self._env = {**cache, **COMPILED_ONCE, **os.environ, 'JAX_PLATFORMS': 'cpu'}
    self.workdir, port = workdir, _free_port()
    command = [sys.executable, '-m', 'experiments.online_vs_offline']
    command += [f'--config={file}', f'--workdir={workdir}']
    command += [f'--config.mesh.data={devices}']
    if hosts > 1:
      command += [f'--coordinator=localhost:{port}', f'--num_hosts={hosts}']
      command += [f'--wait_for_hosts={wait}']
    self.processes = [
      None if i in absent else self._begin(command, i, hosts)
      for i in range(hosts)
    ]

  def _begin(self, command, host, hosts):
    command = [*command, f'--host={host}'] if hosts > 1 else command
    with self._log(host).open('w', encoding='utf-8') as log:
      return subprocess.Popen(
        command,
        env=self._env,
        stdout=log,
        stderr=subprocess.STDOUT,
      )

  def _log(self, host):
    return self.workdir.with_name(f'host{host}.log')

  def said(self, host):
    """What a host has printed so far."""
    return self._log(host).read_text('utf-8', errors='replace')

  def wait(self, seconds=None):
    """Exit statuses of the hosts; those that go on so long are killed."""
    limit = time.time() + seconds if seconds else None
    found = []
    for process in filter(None, self.processes):
      try:
        found.append(process.wait(limit and max(limit - time.time(), 0.01)))
      except subprocess.TimeoutExpired:
        process.kill()
        found.append('went on')
    return found


def _free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def distance(first, second):
  """The largest difference between parameters or samples of two workdirs."""
  first, second = damage.results(first), damage.results(second)
  assert first.keys() == second.keys(), first.keys() ^ second.keys()
  pairs = [
    (np.float64(x), np.float64(y))
    for name, xs in first.items()
    if isinstance(xs, list)
    for x, y in zip(xs, second[name], strict=True)
  ]
  return max(np.abs(x - y).max() for x, y in pairs if x.size)


def finish(workdir, hosts, devices):
  """Runs the experiment to its end: the seconds that it took."""
  start, codes = time.time(), Job(workdir, hosts, devices).wait()
  assert not any(codes), f'{workdir}: statuses {codes}'
  return time.time() - start


def equal(folder):
  """Runs the experiment on hosts by devices; whether results are as stated."""
  passed = True
  for devices, hosts in ((2, 2), (4, 2), (4, 4)):
    one = folder / f'one of {devices}'
    many = folder / f'{hosts} of {devices // hosts}'
    finish(one, 1, devices)
    finish(many, hosts, devices)
    gap = distance(one, many)
    same = not damage.differing(damage.results(one), damage.results(many))
    told = 'the same bits' if same else f'differ by at most {gap:.2g}'
    print(f'{hosts} hosts of {devices // hosts} devices: {told}', flush=True)
    passed &= same or gap < 1e-5
  return passed


def ended(job, host, number):
  """Sends a signal to one host: seconds to the end, and what is wrong.

  SIGTERM is a request once the hosts have joined; before, it ends a process. It
  changes nothing while the page is written: then the run is over.
  """
  start, every = time.time(), range(len(job.processes))
  job.processes[host].send_signal(number)
  codes = job.wait(LIMIT)
  seconds, said = time.time() - start, [job.said(i) for i in every]
  if not any(codes):
    stopped = all('stopped: ' in text for text in said)
    right = number == signal.SIGTERM and (stopped or 'page: ' in said[0])
    return seconds, '' if right else f'statuses {codes}'
  for i in every:
    told, named = said[i], f'host {host}' in said[i]
    if i == host:
      right = codes[i] == -number
    else:
      right = codes[i] in (1, -signal.SIGABRT)
      right &= named or (host == 0 and LEADER in told)
    if not right:
      return seconds, f'host {i} of statuses {codes}: {told[-300:]}'
  return seconds, ''


def disturbed(workdir, wanted, number, rounds, whole, rng, devices=2):
  """Sends a signal at random moments, to one of the hosts, again and again.

  What goes on after it are as many hosts again, of one device each; of two, it
  may also be one that has both.

  Args:
    wanted: the workdir of an undisturbed experiment.
    number: the signal.
    rounds: how often.
    whole: seconds of an undisturbed one.
    devices: and hosts.
  Returns:
    whether all was as it must be.
  """
  seconds, wrong, sent = [], [], 0
  next_ones = (1, 2) if devices == 2 else (devices,)
  while sent < rounds:
    shutil.rmtree(workdir, ignore_errors=True)
    over, hosts = False, devices
    while not over:
      job = Job(workdir, hosts, devices)
      disturb = hosts > 1 and sent < rounds
      moment = rng.uniform(0.1, 0.9) * whole if disturb else None
      try:
        job.processes[0].wait(moment)
        over = True
      except subprocess.TimeoutExpired:
        if 'page: ' in job.said(0):
          over = True  # nothing is left to disturb
          continue
        took, what = ended(job, rng.randrange(hosts), number)
        seconds.append(took)
        sent, hosts = sent + 1, rng.choice(next_ones)
        if what:
          wrong.append(what)
    codes = job.wait(LIMIT)
    where = damage.differing(damage.results(wanted), damage.results(workdir))
    if any(codes) or where:
      wrong.append(f'the end: statuses {codes}, {where or "nothing"} differs')
  told = f'{sent} times, ended within {max(seconds):.0f} s; wrong: {wrong}'
  name = signal.Signals(number).name
  print(f'{name} to one of {devices}: {told}', flush=True)
  return not wrong


def missing(folder, rounds, rng, hosts=2):
  """One of the hosts never comes: whether the others name it, and end."""
  seconds, wrong = [], []
  for _ in range(rounds):
    absent = rng.randrange(hosts)
    shutil.rmtree(folder / 'missing', ignore_errors=True)
    start = time.time()
    job = Job(folder / 'missing', hosts, hosts, absent=[absent], wait=5)
    codes = job.wait(LIMIT)
    seconds.append(time.time() - start)
    there = [job.said(i) for i in range(hosts) if i != absent]
    if {*codes} != {1} or not all(f'host {absent}' in x for x in there):
      wrong.append(f'statuses {codes}: {there[0][-300:]}')
  told = f'{rounds} times, ended within {max(seconds):.0f} s; wrong: {wrong}'
  print(f'missing, one of {hosts}: {told}', flush=True)
  return not wrong


def main():
  parser = Parser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  folder, rng = args.workdir.resolve(), random.Random(args.seed)
  passed = equal(folder)
  for hosts, wanted in ((2, 'one of 2'), (4, '4 of 1')) if args.rounds else ():
    passed &= missing(folder, args.rounds, rng, hosts)
    workdir = folder / 'disturbed'
    shutil.rmtree(workdir, ignore_errors=True)
    whole = finish(workdir, hosts, hosts)
    for number in (signal.SIGTERM, signal.SIGKILL):
      given = folder / wanted, number, args.rounds, whole, rng, hosts
      passed &= disturbed(workdir, *given)
  sys.exit(not passed)


if __name__ == '__main__':
  main()
