"""A workdir belongs to one command at a time."""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time

from align_jax import hosts, paths
from align_jax.lab import lease

NAME = 'lock'
SEEN = 10  # seconds in which a shared folder shows what another host wrote
UNFINISHED = paths.PARTIAL, '.orbax-checkpoint-tmp'  # within a name


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
  told |= {'command': command, 'token': secrets.token_hex(8)}
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


def check_shared(workdir):
  """Checks that all hosts see the folder whose lock host 0 holds.

  Raises:
    ValueError: this one does not.
  """
  path = paths.path(workdir) / NAME
  token, end = hosts.agree(_token(path)), time.monotonic() + SEEN
  while _token(path) != token:
    if time.monotonic() > end:
      raise ValueError(
        f'--workdir={workdir} is another folder here than on host 0, expected '
        'one that all hosts share'
      )
    time.sleep(0.2)


def _token(path):
  """What tells a holder of the lock from others. None: nobody holds it."""
  try:
    return json.loads(path.read_text('utf-8'))['token']
  except (OSError, ValueError, KeyError, TypeError):
    return None


@contextlib.contextmanager
def _flock(path, told):
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise ValueError(
      f'{path.parent}: it or a folder above it is a file, expected a folder'
    ) from None
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

  In a store nothing is half written but checkpoints, which orbax drops. A
  folder with a lock of its own is another command's.
  """
  workdir = paths.path(workdir)
  if not paths.is_local(workdir):
    return
  for folder, folders, names in os.walk(workdir):
    here = paths.path(folder)
    if here != workdir and NAME in names:
      folders.clear()
      continue
    for name in (*folders, *names):
      if any(part in name for part in UNFINISHED):
        paths.remove(here / name)
    folders[:] = [x for x in folders if (here / x).is_dir()]
