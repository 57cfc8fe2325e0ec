"""A workdir belongs to one command at a time."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
import time

from align_jax import hosts
from align_jax.files import PARTIAL

NAME = 'lock'
UNFINISHED = f'*{PARTIAL}*', '*.orbax-checkpoint-tmp*'


@contextlib.contextmanager
def held(workdir, command=''):
  """Holds a workdir's lock. The system frees it when the process ends.

  Host 0 holds it for all hosts.

  Raises:
    ValueError: another process holds it; says which.
  """
  if not hosts.first():
    yield
    return
  path = pathlib.Path(workdir) / NAME
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a+', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise ValueError(
        f'{workdir} is in use by {_holder(file.read())}: wait for it, or '
        'choose another --workdir'
      ) from None
    file.truncate(0)
    since = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
    told = dict(pid=os.getpid(), host=socket.gethostname(), since=since)
    file.write(json.dumps({**told, 'command': command}))
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
  """Removes what killed processes left half written. Needs the lock."""
  for pattern in UNFINISHED:
    for path in sorted(pathlib.Path(workdir).rglob(pattern)):
      if path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)
