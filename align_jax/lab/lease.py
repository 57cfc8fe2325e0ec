"""A lock in a store, which knows no locks: an object that its holder renews.

It is created only where there is none, and renewed every BEAT seconds. Who
finds it waits for PATIENCE seconds: one that is renewed meanwhile is held, and
one that is not was left by a process that is gone, and is taken over. Clocks
are not compared.

A holder that is alive and stands still for so long (a suspended machine, a
network that is down) loses it. It ends itself at its next beat, but what it
writes within one BEAT after it wakes is written beside the new holder.
"""

import contextlib
import json
import os
import secrets
import sys
import threading
import time

from align_jax import paths

BEAT, PATIENCE = 10, 60  # seconds


class InUse(Exception):
  """Another process holds a lock.

  Attributes:
    told: what it wrote into it.
  """

  def __init__(self, told):
    super().__init__(told)
    self.told = told


@contextlib.contextmanager
def held(path, told):
  """Holds the object at `path`.

  Raises:
    InUse: another process does.
    ValueError: the store cannot be written to; says why.
  """
  own = _Own(path, told)
  own.claim()
  ended = threading.Event()
  beating = threading.Thread(target=own.beat, args=[ended], daemon=True)
  beating.start()
  try:
    yield
  finally:
    ended.set()
    beating.join()
    own.give_back()


class _Own:
  """An object of this process's."""

  def __init__(self, path, told):
    self._path, self._told = path, {'token': secrets.token_hex(8), **told}
    self._beats = 0

  def _text(self):
    return json.dumps({**self._told, 'beats': self._beats})

  def claim(self):
    try:
      paths.create(self._path, self._text())
    except FileExistsError:
      found = _await_silence(self._path)
      if found and _read(self._path) == found:  # and not another waiter's
        with contextlib.suppress(FileNotFoundError):
          paths.remove(self._path)
      self._create_again()
    except Exception as error:  # of the store, its client or its credentials
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())
      raise ValueError(
        f'{self._path.parent}: cannot be written ({reason:.300})'
      ) from None

  def _create_again(self):
    try:
      paths.create(self._path, self._text())
    except FileExistsError:  # another one that waited was faster
      raise InUse(_read(self._path)) from None

  def mine(self):
    try:
      return json.loads(_read(self._path))['token'] == self._told['token']
    except (ValueError, KeyError, TypeError):
      return False

  def give_back(self):
    try:
      if self.mine():
        paths.remove(self._path)
    except Exception as error:  # none to hide the one that ends the command
      print(f'note: {self._path} stays: {error}', file=sys.stderr)

  def beat(self, ended):
    """Renews it until `ended`; ends the process if it is another's."""
    while not ended.wait(BEAT):
      try:
        if not self.mine():
          note = 'is no longer held by this process, which was silent too long'
          print(f'error: {self._path} {note}', file=sys.stderr, flush=True)
          os._exit(1)
        self._beats += 1
        with paths.writing(self._path) as file:
          file.write(self._text())
      except Exception as error:  # it may be there again at the next beat
        print(f'note: {self._path}: {error}', file=sys.stderr)


def _read(path):
  try:
    return path.read_text('utf-8')
  except FileNotFoundError:
    return ''


def _await_silence(path):
  """Waits for the holder of an object, or for its end.

  Returns:
    the text of the object, which nobody renews; '' where it is gone.
  Raises:
    InUse: another process renews it.
  """
  found, start = _read(path), time.monotonic()
  note = f'note: {path} is there: waiting {PATIENCE} s for a sign of its holder'
  print(note, file=sys.stderr)
  while time.monotonic() < start + PATIENCE:
    time.sleep(BEAT / 4)
    if not (now := _read(path)):
      return ''
    if now != found:
      raise InUse(found)
  return found
