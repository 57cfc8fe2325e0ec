"""One program on several hosts: every host runs it, and host 0 decides.

Each host has its own devices, and together they are one mesh. What goes to the
devices is given by all hosts alike, and what leaves them is gathered. What is
decided outside of the devices, or by what files there are, host 0 decides. With
one host all of this does nothing.
"""

import itertools
import os
import pickle
import signal
import sys
import threading
import time

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from align_jax import roll_call

# Google's firewall rule for slices opens 8476, unlike 8482, which is JAX's own
# port since 0.8.1 (jax-ml/jax issue 35905).
PORT = 8476
LAST_PORT = 65535
WAIT = 1800  # seconds that hosts may take to start: cold slices take over 300
JOIN = 120  # seconds for JAX to connect hosts that are all there
HEAR = 3  # seconds in which the end of another host is heard of
SIGNALS = signal.SIGTERM, signal.SIGINT  # that ask a process to stop
FOREVER = 10**9  # ms. Whoever waits is ended when another host ends


class _Group:
  """The hosts as this process sees them; alone until `start`."""

  number, host = 1, 0
  lines: dict = {}  # {host: roll_call.Line}
  names = itertools.count()  # of what the hosts agree on
  asked = None  # what `largest` has computed, to be told by its next call


_group = _Group()


def start(coordinator='', num_hosts=0, host=-1, port=PORT, wait=WAIT):
  """Joins the other hosts, if there are any. To be called before JAX starts.

  A TPU slice of several hosts is found by JAX's own detection of clusters; on
  other machines the first three arguments say which hosts there are.

  Args:
    coordinator: 'NAME:PORT' of host 0. '': a TPU slice says.
    num_hosts: 1: this one alone. 0: a TPU slice says, or it is alone.
    host: which one this is, from 0. -1: a TPU slice says.
    port: of the coordinator, where a TPU slice says its name.
    wait: seconds until all hosts must be there.
  Raises:
    ValueError: arguments that do not go together.
    Absent: a host that did not come; names it.
  """
  name, number, host = _place(coordinator, num_hosts, host, port, wait)
  if number == 1:
    return
  address = name.rpartition(':')[0], int(name.rpartition(':')[2])
  if host == 0:
    lines = roll_call.gather(address[1], number, wait)
  else:
    lines = roll_call.report(address, number, host, wait)
  # Before JAX connects, which waits in C++ and ends the process where it fails.
  _group.number, _group.host, _group.lines = number, host, lines
  watcher = threading.Thread(
    target=roll_call.watch, args=(lines, _ended), daemon=True
  )
  watcher.start()
  jax.distributed.initialize(
    name,
    number,
    host,
    cluster_detection_method='deactivate',
    initialization_timeout=JOIN,
  )
  # JAX has taken SIGTERM, and would swallow it.
  signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _place(coordinator, num_hosts, host, port, wait):
  """-> 'NAME:PORT' of host 0, number of hosts, this one."""
  given = bool(coordinator), num_hosts > 1, host >= 0
  if any(given) and not all(given):
    raise ValueError(
      f'--coordinator={coordinator!r} --num_hosts={num_hosts} --host={host}: '
      'expected all three, or none'
    )
  if not any(given):
    if num_hosts == 1:
      return '', 1, 0
    return _slice(port, wait) or ('', 1, 0)
  where, _, number = coordinator.rpartition(':')
  if not (where and number.isdecimal() and 1 <= int(number) <= LAST_PORT):
    raise ValueError(
      f'--coordinator={coordinator!r}, expected HOST:PORT, a port of 1 to '
      f'{LAST_PORT}'
    )
  if host >= num_hosts:
    raise ValueError(f'--host={host}, expected 0 to {num_hosts - 1}')
  return coordinator, num_hosts, host


def of_slice():
  """How many hosts the TPU slice of this machine has; 1: none, or unknown."""
  return _ask_slice(lambda env: env.get_process_count()) or 1


def _slice(port, wait):
  """`_place` of a TPU slice of several hosts, or None."""
  return _ask_slice(
    lambda env: (
      env.get_coordinator_address(wait, str(port)),
      env.get_process_count(),
      env.get_process_id(),
    )
  )


def _ask_slice(ask):
  """ask(what JAX knows of a slice); None: no several hosts, or no answer."""
  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    return None
  from jax._src import clusters  # it has no public name

  for env in (clusters.GkeTpuCluster, clusters.GceTpuCluster):
    try:
      if not env.is_env_present():
        continue
      return ask(env) if env.get_process_count() > 1 else None
    except OSError as error:  # of requests
      note = f'note: no answer on the slice ({error:.100}): --num_hosts says it'
      print(note, file=sys.stderr)
  return None


def count():
  """Number of hosts, which each run one process."""
  return _group.number


def first():
  """Whether this is host 0, which alone writes files."""
  return _group.host == 0


def say(*lines):
  """Tells the user, once and not from every host."""
  if first():
    print(*lines, sep='\n', file=sys.stderr)


def index():
  """The place of this host's rows in `gather`; a TPU may count by itself."""
  return jax.process_index() if _group.number > 1 else 0


def fetch(tree):
  """The arrays of a tree as numpy's, those of all hosts where they span them.

  All hosts have to call it.
  """
  if _group.number > 1:
    tree = jax.tree.map(_whole, tree)
  return jax.device_get(tree)


def _whole(x):
  if not isinstance(x, jax.Array) or x.is_fully_addressable:
    return x
  if x.is_fully_replicated:
    return x
  return jax.device_put(x, NamedSharding(x.sharding.mesh, PartitionSpec()))


def spread(x, place):
  """Puts an array on the devices of a sharding.

  Args:
    x: the same on all hosts, or an array that spans them.
    place: a sharding.
  """
  spans = isinstance(x, jax.Array) and not x.is_fully_addressable
  if _group.number == 1 or spans:
    return jax.device_put(x, place)
  x = np.asarray(x)  # `device_put` would compare it between the hosts
  x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
  return jax.make_array_from_callback(x.shape, place, lambda part: x[part])


def gather(x):
  """The rows of all hosts, in their order.

  Args:
    x: [n, ...], numpy, of one shape on all hosts.
  """
  if _group.number == 1:
    return x
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(x, tiled=True)


def largest(number):
  """The largest number that a host gave at the call before this one.

  It is one call late, so that no device is waited for. All hosts have to call
  it equally often, and get the same.

  Args:
    number: int.
  Returns:
    int. With one host: `number`, at once.
  """
  if _group.number == 1:
    return number
  mesh = Mesh(jax.devices(), ('all',), axis_types=(AxisType.Auto,))
  place = NamedSharding(mesh, PartitionSpec('all'))
  shape = (jax.device_count(),)
  own = np.full(shape, number, np.int32)
  with jax.set_mesh(mesh):
    given = jax.make_array_from_callback(shape, place, lambda part: own[part])
    found, _group.asked = _group.asked, _largest(given)
  return 0 if found is None else int(found)


_largest = jax.jit(lambda x: x.max())


def agree(value):
  """Host 0's value, on all hosts. All of them have to call it.

  Args:
    value: what pickle takes.
  """
  if _group.number == 1:
    return value
  name = f'align_jax/{next(_group.names)}'
  if first():
    _client().key_value_set_bytes(name, pickle.dumps(value))
    return value
  return pickle.loads(_client().blocking_key_value_get_bytes(name, FOREVER))


def check_alike(told):
  """Checks that all hosts were started alike. All of them have to call it.

  Args:
    told: {name: value}, of what has to be the same on all.
  Raises:
    ValueError: names what differs first, and both values.
  """
  wanted = agree(told)
  for name in sorted(wanted.keys() | told.keys()):
    own, other = told.get(name), wanted.get(name)
    if own != other:
      raise ValueError(
        f'{name}={own!r:.60} here, {other!r:.60} on host 0: expected the same '
        'command and code on all hosts'
      )


def barrier():
  """Waits until all hosts are here."""
  if _group.number > 1:
    name = f'align_jax/{next(_group.names)}'
    _client().wait_at_barrier(name, FOREVER)


def _client():
  from jax._src import distributed  # orbax takes it from there, too

  return distributed.global_state.client


def leave(text):
  """Ends this process at once for an error, and so all hosts.

  Whoever ended as usual would wait for the others, which wait for this one.

  Args:
    text: one line, which all hosts print.
  """
  time.sleep(HEAR)  # the error may be that another host has ended
  print(f'error: {text}', file=sys.stderr, flush=True)
  roll_call.tell(_group.lines, f'host {_group.host}: {text}')
  _exit()


def _ended(text):
  print(f'error: {text}', file=sys.stderr, flush=True)
  _exit()


def _exit():
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)


def finish():
  """Waits for all hosts to come to their end; none is missed from then on.

  JAX disconnects before that: it waits for all hosts, and would for minutes if
  the end of one were not heard of. A later request to stop is ignored: it could
  end Python as it closes, and nothing is left to stop.
  """
  if _group.number == 1:
    return
  barrier()
  jax.distributed.shutdown()
  for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)
  roll_call.tell(_group.lines, roll_call.OVER)
