"""Who is there: hosts call in at host 0 before work, and stay on the line.

The system closes the connection of a process that ends, however it ends, and
TCP's keepalive that of a machine that is lost. So the others learn at once of a
host that is missing, and of which. JAX itself says so only by its heartbeats,
and ends the process in C++.
"""

import contextlib
import selectors
import socket
import sys
import time

# Seconds between calls, between notes, and for one message.
RETRY, NOTE, REPLY = 0.5, 60, 30
# A machine is lost after 30 seconds of silence.
KEEPALIVE = ('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 4)
HELLO, HERE, GO, OVER = 'align_jax', 'here', 'go', 'over'
GONE = 'its process has ended, or the machine'
LONGEST = 4096  # bytes of a message


class Absent(ValueError):
  """Hosts that were to be there and are not, or others than were expected."""


class Line:
  """A connection that carries lines of text."""

  def __init__(self, connection, name):
    self.connection, self.name = connection, name
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
      if hasattr(socket, option):  # macOS lacks the first
        number = getattr(socket, option)
        connection.setsockopt(socket.IPPROTO_TCP, number, value)

  def say(self, text):
    """Sends a line; a peer that is gone does not hear it."""
    with contextlib.suppress(OSError):
      self.connection.sendall(f'{" ".join(text.split())}\n'.encode())

  def hear(self, seconds=None):
    """The next line. '': the peer is gone, or says nothing for so long."""
    heard = b''
    self.connection.settimeout(seconds)
    with contextlib.suppress(OSError):
      while not heard.endswith(b'\n') and len(heard) < LONGEST:
        part = self.connection.recv(1)
        if not part:
          break
        heard += part
    self.connection.settimeout(None)
    return heard.decode(errors='replace').strip()


def gather(port, number, seconds):
  """Waits at host 0 for the others.

  Args:
    port: that they call.
    number: of hosts, with this one.
    seconds: to wait.
  Returns:
    {host: Line} of the others, all of which have been told that all are there.
  Raises:
    Absent: a host has not come, came twice, counts the hosts differently, or
      has ended.
  """
  lines, began, noted = {}, time.time(), 0
  with _listening(port) as server:
    server.settimeout(RETRY)
    while len(lines) < number - 1:
      waited = time.time() - began
      missing = sorted({*range(1, number)} - lines.keys())
      if waited > seconds:
        raise _refused(
          lines,
          f'host {_listed(missing)} of {number} did not come within {seconds} '
          'seconds. The same command has to run on every host',
        )
      if waited // NOTE > noted:
        noted = waited // NOTE
        note = f'note: waiting for host {_listed(missing)} of {number}'
        print(note, file=sys.stderr, flush=True)
      try:
        connection, _ = server.accept()
      except TimeoutError:
        _check_there(lines)
        continue
      _admit(Line(connection, ''), number, lines)
  for line in lines.values():
    line.say(GO)
  return lines


def _check_there(lines):
  """Raises Absent if a host that came has ended; a host says nothing yet."""
  with selectors.DefaultSelector() as selector:
    for line in lines.values():
      selector.register(line.connection, selectors.EVENT_READ, line)
    for key, _ in selector.select(0) if lines else ():
      gone = key.data
      left = {k: x for k, x in lines.items() if x is not gone}
      raise _refused(left, f'{gone.name}: {GONE}')


def _listening(port):
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    return socket.create_server(
      ('', port), family=family, dualstack_ipv6=both, backlog=1024
    )
  except OSError as error:
    raise OSError(f'--coordinator: port {port}: {error.strerror}') from None


def _admit(line, number, lines):
  """Adds a caller to `lines`; whoever is no host is not answered."""
  words = line.hear(REPLY).split(maxsplit=3)
  known = len(words) == 4 and words[0] == HELLO
  if not known or not words[1].isdigit() or not words[2].isdigit():
    line.connection.close()
    return
  told, host = int(words[1]), int(words[2])
  line.name = f'host {host} ({words[3]})'
  wrong = ''
  if told != number:
    wrong = f'{line.name} has num_hosts={told}, host 0 has {number}'
  elif host in lines or host == 0:
    wrong = f'{line.name} is there twice: expected one process for each host'
  lines[-1 if wrong else host] = line
  if wrong:
    raise _refused(lines, wrong)
  line.say(HERE)


def _refused(lines, text):
  """The error, of which all that have come are told."""
  for line in lines.values():
    line.say(f'error: {text}')
    line.connection.close()
  return Absent(text)


def _listed(hosts):
  return ', '.join(map(str, hosts))


def report(address, number, host, seconds):
  """Calls host 0 and waits until all hosts are there.

  Args:
    address: (name, port) of host 0.
    number: of hosts.
    host: this one, from 1.
    seconds: to wait for host 0, and for it to answer.
  Returns:
    {0: Line}.
  Raises:
    Absent: no host 0; or what it found wrong.
  """
  limit = time.time() + seconds
  where = '{}:{}'.format(*address)
  while True:
    try:
      line = Line(socket.create_connection(address, REPLY), 'host 0')
    except OSError:
      if time.time() > limit:
        raise Absent(
          f'host 0 of {number} did not answer at {where} within {seconds} '
          'seconds. The same command has to run on every host'
        ) from None
      time.sleep(RETRY)
      continue
    line.say(f'{HELLO} {number} {host} {socket.gethostname()}')
    wait = lambda: max(limit - time.time(), 0) + REPLY
    answer = line.hear(wait())
    if answer == HERE:  # it is host 0, and waits for the others
      answer = line.hear(wait()) or f'host 0: {GONE}'
    if answer == GO:
      return {0: line}
    if answer:
      raise Absent(answer.removeprefix('error: '))
    line.connection.close()  # whoever it was is gone: call again
    if time.time() > limit:
      raise Absent(f'host 0 of {number} at {where} has gone')
    time.sleep(RETRY)


def watch(lines, ended):
  """Waits until a host ends before it is over, and passes the news on.

  Args:
    lines: {host: Line}.
    ended: called with what happened, one line of text.
  """
  with selectors.DefaultSelector() as selector:
    for line in lines.values():
      selector.register(line.connection, selectors.EVENT_READ, line)
    text = OVER
    while text == OVER and selector.get_map():
      [key, _], *_ = selector.select()
      line, text = key.data, key.data.hear(REPLY)
      selector.unregister(line.connection)
  if text == OVER:
    return
  if not text.startswith('host '):  # host 0 passes on what others said
    text = f'{line.name}: {text or GONE}'
  tell({k: x for k, x in lines.items() if x is not line}, text)
  ended(text)


def tell(lines, text):
  """Tells the hosts on the line why this one ends."""
  for line in lines.values():
    line.say(text)
