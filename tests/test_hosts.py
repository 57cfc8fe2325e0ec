"""Processes of this machine, as hosts: what they share, and how they end.

`python -m experiments.hosts_proof` shows the same of whole experiments.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from align_jax import hosts, roll_call
from align_jax.files import read_jsonl
from align_jax.lab import lock
from align_jax.learn.checkpoint import final_params
from experiments import command, common, hosts_proof, online_vs_offline

POINTS = 'points.jsonl'
LIMIT = 60  # seconds in which hosts must have ended
SHARED = """
import json, sys, time
from align_jax import hosts, sharding

hosts.start(sys.argv[1], 2, int(sys.argv[2]), wait=LIMIT)
sharding.use_mesh(data=2, fsdp=2)
import jax, numpy as np
from align_jax.learn import rewards
from align_jax.types import Batch

mesh, own = sharding.current_mesh(), hosts.index()
rows = np.arange(12)[:, None]
batch = Batch(
  prompts=rows[::2], prompt_valid=rows[::2] >= 0, completions=rows,
  valid=rows >= 0, mask=rows >= 0, rewards=np.zeros(12, np.float32),
  group_size=2,
)
even = jax.tree.map(lambda x: x[: len(x) * 2 // 3], batch)
placed, counts = sharding.place_batch(even, mesh), []

def score(batch):
  counts.append(len(batch.rewards))
  alone = jax.jit(lambda x: sharding.shard(x, 'batch', None))
  counts.append(len(alone(batch.completions).devices()))
  return np.float32(batch.completions[:, 0])

reward = rewards.on_hosts(score)
told = {
  'agreed': hosts.agree({'host': own}),
  'gathered': hosts.gather(np.array([own])).tolist(),
  'asked': [hosts.largest(own * n) for n in (5, 7, 0, 0)],
  'parts': len(placed.completions.addressable_shards),
  'dtype': str(placed.completions.dtype),
  'fetched': hosts.fetch(placed).completions[:, 0].tolist(),
  'scores': hosts.fetch([reward(placed), reward(batch)]),
  'counts': counts,
}
print(json.dumps(told, default=np.ndarray.tolist), flush=True)
while True:
  hosts.largest(0)
  time.sleep(0.01)
""".replace('LIMIT', str(LIMIT))


def free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def begin(code, number):
  """Processes of the code, given an address and their numbers."""
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join([str(here), str(here.parent)])
  env = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}
  env.pop('XLA_FLAGS', None)
  where = f'localhost:{free_port()}'
  return [
    subprocess.Popen(
      [sys.executable, '-c', code, where, str(host)],
      env=env,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for host in range(number)
  ]


@pytest.fixture(scope='module')
def killed():
  """What two hosts told, and how host 0 ended when host 1 was killed."""
  both, told = begin(SHARED, 2), []
  try:
    for process in both:
      lines = iter(process.stdout.readline, '')
      told += [next(json.loads(x) for x in lines if x.startswith('{'))]
    both[1].kill()
    _, said = both[0].communicate(timeout=LIMIT)
  finally:
    for process in both:
      process.kill()
  return told, both[0].returncode, said


def test_hosts_share_what_they_compute(killed):
  told, *_ = killed
  for host, one in enumerate(told):
    assert one['agreed'] == {'host': 0}
    assert one['gathered'] == [0, 1]
    assert one['asked'] == [0, 5, 7, 0]  # one call late
    assert one['parts'] == 2 and one['fetched'] == list(range(8))
    assert one['dtype'] == 'int32'
    assert one['scores'] == [list(range(8)), list(range(12))]
    # Of eight rows and of twelve, each with two devices of its own.
    assert one['counts'] == [4, 2, 6, 2], host


def test_a_host_that_is_killed_ends_the_others_and_is_named(killed):
  _, code, said = killed
  assert code == 1 and 'error: host 1 (' in said


REPORTED = """
import sys, time
from align_jax import hosts
from align_jax.learn import stopping

hosts.start(sys.argv[1], 2, int(sys.argv[2]), wait=LIMIT)
with stopping.listening():
  hosts.barrier()
print('trained', flush=True)
if hosts.first():
  sys.stdin.readline()  # host 0 reports, and the other waits
hosts.finish()

class Last:
  def __del__(self, sleep=time.sleep):
    print('over', flush=True)
    sleep(1)

last = Last()  # deleted as Python closes
""".replace('LIMIT', str(LIMIT))


@pytest.fixture
def reporting():
  """Two hosts that have trained, the first of which reports."""
  both = begin(REPORTED, 2)
  try:
    for process in both:
      assert process.stdout.readline() == 'trained\n'
    yield both
  finally:
    for process in both:
      process.kill()


@pytest.mark.parametrize('asked', [0, 1])
def test_a_request_to_stop_after_training_ends_no_host(reporting, asked):
  reporting[asked].terminate()
  time.sleep(0.2)
  assert [x.poll() for x in reporting] == [None, None]
  reporting[0].stdin.write('\n')
  reporting[0].stdin.flush()
  assert [x.stdout.readline() for x in reporting] == ['over\n'] * 2
  reporting[1 - asked].terminate()
  told = [x.communicate(timeout=LIMIT) for x in reporting]
  assert [x.returncode for x in reporting] == [0, 0], told


def call(port, text):
  """A connection to host 0, which may not be there yet, and its answer."""
  while True:
    try:
      caller = socket.create_connection(('localhost', port), 10)
      break
    except ConnectionRefusedError:
      time.sleep(0.01)
  caller.sendall(text.encode())
  return caller, caller.recv(200).decode()


def refused(number, *callers):
  """The error of host 0, and what it answered to whoever called."""
  port, calls = free_port(), []  # callers stay on the line

  def come():
    calls.extend(call(port, text) for text in callers)

  threading.Thread(target=come, daemon=True).start()
  with pytest.raises(roll_call.Absent) as found:
    roll_call.gather(port, number, 1)
  return str(found.value), [answer for _, answer in calls]


def test_hosts_that_do_not_come_are_named():
  said, answers = refused(4, 'GET / HTTP/1.1\n', 'align_jax 4 2 second\n')
  assert said.startswith('host 1, 3 of 4 did not come within 1 seconds')
  assert answers[0] == ''


@pytest.mark.parametrize(
  'caller, wrong',
  [
    ('align_jax 3 1 first', 'host 1 (first) has num_hosts=3, host 0 has 2'),
    ('align_jax 2 0 again', 'host 0 (again) is there twice'),
  ],
)
def test_hosts_that_count_differently_are_refused(caller, wrong):
  said, _ = refused(2, f'{caller}\n')
  assert wrong in said


def test_a_host_that_ends_while_others_are_awaited_is_named():
  """At host 0 and, from there, at all that have come."""
  port, told = free_port(), []

  def wait(host):
    try:
      roll_call.report(('localhost', port), 4, host, 20)
    except roll_call.Absent as error:
      told.append(str(error))

  def come():
    call(port, 'align_jax 4 2 second\n')[0].close()

  others = [
    threading.Thread(target=wait, args=[1]),
    threading.Thread(target=come),
  ]
  for one in others:
    one.start()
  with pytest.raises(roll_call.Absent, match=r'host 2 \(second\): its process'):
    roll_call.gather(port, 4, 20)
  for one in others:
    one.join(20)
  assert len(told) == 1 and told[0].startswith('host 2 (second): its process')


def test_host_0_that_ends_while_others_are_awaited_is_named():
  with socket.create_server(('localhost', 0)) as server:

    def answer():
      line = roll_call.Line(server.accept()[0], '')
      line.hear(5)
      line.say(roll_call.HERE)
      line.connection.close()

    threading.Thread(target=answer, daemon=True).start()
    address = 'localhost', server.getsockname()[1]
    with pytest.raises(roll_call.Absent, match='host 0: its process has ended'):
      roll_call.report(address, 3, 1, 1800)


def test_a_host_names_host_0_where_it_does_not_answer():
  address = 'localhost', free_port()
  with pytest.raises(roll_call.Absent, match='host 0 of 2 did not answer'):
    roll_call.report(address, 2, 1, 0)


@pytest.mark.parametrize(
  'given, wrong',
  [
    (dict(num_hosts=2), 'expected all three'),
    (dict(coordinator='a:1', num_hosts=2, host=2), 'host=2, expected 0 to 1'),
    (dict(coordinator='a', num_hosts=2, host=0), 'expected HOST:PORT'),
    (dict(coordinator=':8', num_hosts=2, host=0), 'expected HOST:PORT'),
    (dict(coordinator='a:0', num_hosts=2, host=0), 'a port of 1 to 65535'),
    (dict(coordinator='a:65536', num_hosts=2, host=1), 'a port of 1 to 65535'),
  ],
)
def test_flags_that_do_not_go_together_are_refused(given, wrong):
  with pytest.raises(ValueError, match=wrong):
    hosts.start(**given)


@pytest.mark.parametrize(
  'own, wrong',
  [
    ({'--only': ['a'], 'config.lr': 0.3}, r'config.lr=0.3 here, 0.03 on host'),
    ({'config.lr': 0.03}, r"--only=None here, \['a'\] on host 0"),
    ({'--only': ['a'], 'config.lr': 0.03, 'x': 1}, 'x=1 here, None on host 0'),
  ],
)
def test_hosts_that_were_started_differently_are_refused(
  own, wrong, monkeypatch
):
  of_first = {'--only': ['a'], 'config.lr': 0.03}
  monkeypatch.setattr(hosts, 'agree', lambda told: of_first)
  with pytest.raises(ValueError, match=wrong):
    hosts.check_alike(own)
  hosts.check_alike(dict(of_first))


def test_a_folder_that_is_not_shared_is_refused(monkeypatch, tmp_path):
  monkeypatch.setattr(lock, 'SEEN', 0)
  with lock.held(tmp_path / 'first'):
    lock.check_shared(tmp_path / 'first')
    token = lock._token(tmp_path / 'first' / 'lock')
    monkeypatch.setattr(hosts, 'agree', lambda own: token)
    lock.check_shared(tmp_path / 'first')
    with pytest.raises(ValueError, match='/second is another folder here'):
      lock.check_shared(tmp_path / 'second')
    with lock.held(tmp_path / 'second'):
      with pytest.raises(ValueError, match='/second is another folder here'):
        lock.check_shared(tmp_path / 'second')


class Slice:
  """What JAX knows of a slice of four hosts."""

  number = 4

  def is_env_present(self):
    return True

  def get_process_count(self):
    return self.number

  def get_coordinator_address(self, timeout_secs, override_coordinator_port):
    return f'10.0.0.1:{override_coordinator_port}'

  def get_process_id(self):
    return 3


def test_a_slice_says_its_hosts(monkeypatch):
  from jax._src import clusters

  monkeypatch.setattr(clusters, 'GkeTpuCluster', Slice())
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  place = lambda **given: hosts._place('', 0, -1, hosts.PORT, 1)
  assert place() == ('10.0.0.1:8476', 4, 3)
  with pytest.raises(ValueError, match='slice has 4 hosts: one is enough'):
    command.refuse_slice('one is enough')
  monkeypatch.setattr(Slice, 'number', 1)
  assert place() == ('', 1, 0) and hosts.of_slice() == 1
  command.refuse_slice('one is enough')


CONFIG = """
from experiments import hosts_proof

def get_config():
  cfg = hosts_proof.small()
  online = dict(learning_rate=1e-3, steps=12, save_every=12)
  cfg['eval'].update(metrics=())
  return {**cfg, 'arms': {'online': online, 'ppo': {}}}
"""


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """The folder of a run that two hosts began, and one was asked to stop."""
  folder = tmp_path_factory.mktemp('hosts')
  job = hosts_proof.Job(folder / 'w', 2, 2, config=CONFIG)
  points = folder / 'w' / 'seed0' / 'online' / 'default' / POINTS
  limit = time.time() + 400
  while not (points.exists() and points.stat().st_size):
    assert time.time() < limit and not any(p.poll() for p in job.processes)
    time.sleep(0.01)
  job.processes[1].terminate()
  return folder, job, job.wait(LIMIT)


def test_hosts_save_the_same_step_where_one_is_asked_to_stop(stopped):
  folder, job, codes = stopped
  run = folder / 'w' / 'seed0' / 'online' / 'default'
  assert codes == [0, 0], job.said(0)
  told = [job.said(host) for host in range(2)]
  assert all('stopped: ' in text for text in told)
  [step] = (int(x.name) for x in (run / 'checkpoints').iterdir())
  assert 0 < step < 12
  assert all(f'saved after {step} updates' in text for text in told)


def test_one_host_goes_on_where_two_have_stopped(stopped, tmp_path):
  """Another number of devices sums in another order, and may draw otherwise."""
  folder, *_ = stopped
  cfg = command.load(folder / 'config.py')
  runs = [x for x in online_vs_offline.runs(cfg) if x.arm == 'online']
  found = []
  for workdir in (folder / 'w', tmp_path):
    common.execute(cfg, runs, workdir)
    run = workdir / 'seed0' / 'online' / 'default'
    points = {x['step']: x['kl_seq_nats'] for x in read_jsonl(run / POINTS)}
    found.append((final_params(run), points))
  (params, points), (wanted, whole) = found
  assert points == pytest.approx(whole, rel=0.05, abs=1e-5) and whole[12] > 1e-3
  start = final_params(tmp_path / 'seed0' / 'sft')
  moved = apart({k: wanted[k] for k in start}, start)
  assert apart(params, wanted) < 0.05 * moved


def apart(first, second):
  gaps = jax.tree.map(lambda x, y: float(abs(x - y).max()), first, second)
  return max(jax.tree.leaves(gaps))
