"""A workdir belongs to one command at a time."""

import contextlib
import fcntl
import json
import os
import socket
import time

from align_jax import hosts, paths
from align_jax.lab import lease

NAME = 'lock'
UNFINISHED = f'*{paths.PARTIAL}*', '*.orbax-checkpoint-tmp*'


@contextlib.contextmanager
def held(workdir, command=''):
  """Holds a workdir's lock. The system frees it when the process ends.

  In a store it is a lease, see `lease`. Host 0 holds it for all hosts.

  Raises:
    ValueError: another process holds it, says which; or nothing can be written
      there.
  """
  if not hosts.first():
    yield
    return
  path = paths.path(workdir) / NAME
  since = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
  told = dict(pid=os.getpid(), host=socket.gethostname(), since=since)
  told['command'] = command
  hold = _flock if paths.is_local(path) else lease.held
  try:
    with contextlib.ExitStack() as stack:
      stack.enter_context(hold(path, told))
      yield
  except lease.InUse as error:
    raise ValueError(
      f'{workdir} is in use by {_holder(error.told)}: wait for it, or choose '
      'another --workdir'
    ) from None


@contextlib.contextmanager
def _flock(path, told):
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a+', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise lease.InUse(file.read()) from None
    file.truncate(0)
    file.write(json.dumps(told))
    file.flush()
    yield


def _holder(text):
  try:
    told = json.loads(text)
    return (
      f'process {told["pid"]} on {told["host"]} since {told["since"]} '
      f'({told["command"]})'
    )
  except (ValueError, KeyError, TypeError):
    return 'another process'


def drop_unfinished(workdir):
  """Removes what killed processes left half written. Needs the lock.

  In a store nothing is half written but checkpoints, which orbax drops.
  """
  workdir = paths.path(workdir)
  for pattern in UNFINISHED if paths.is_local(workdir) else ():
    for path in sorted(workdir.rglob(pattern)):
      paths.remove(path)
