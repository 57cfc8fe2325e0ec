"""A request to stop, by SIGTERM or Ctrl-C: runs save first."""

import contextlib
import signal
import threading

from align_jax import hosts

EVALUATION = 'in an evaluation'  # when a request came, see `check`
_asked: list[int] = []  # signals so far
_answered: list[int] = []  # those of the last `listening` that has ended


class Stopped(Exception):
  """A run has saved its state and ended early, as it was asked to."""


def asked():
  """The first signal that asked this process to stop. 0: none did.

  Several hosts learn together of what asked any of them, so all of them have to
  ask equally often.
  """
  return hosts.largest(_asked[0] if _asked else 0)


def answered():
  """The signal that the last `listening` ended by. 0: by none."""
  return _answered[0] if _answered else 0


def check(when):
  """Raises Stopped if this process was asked to stop, see `asked`.

  Args:
    when: this is, for the message.
  """
  if asked():
    raise Stopped(when)


def _ask(number, frame):
  _asked.append(number)


def _ask_or_end(number, frame):
  _ask(number, frame)
  if len(_asked) > 1:  # a second request does not wait
    raise KeyboardInterrupt


def listen(answer=_ask):
  """Answers the signals by a request instead of an end, in this process."""
  for number in hosts.SIGNALS:
    signal.signal(number, answer)


@contextlib.contextmanager
def listening():
  """`listen` within a `with` block of the main thread.

  One of several hosts goes on to listen: the others count on it until the end.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.getsignal(number) for number in hosts.SIGNALS}
  _asked.clear()
  listen(_ask_or_end)
  try:
    yield
  finally:
    if hosts.count() == 1:
      for number, handler in before.items():
        signal.signal(number, handler)
    _answered[:] = _asked
    _asked.clear()
