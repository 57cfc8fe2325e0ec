"""An object store on this machine: what gs:// means while it is there.

It speaks as much of Google's protocol as gcsfs, TensorStore and Orbax do, which
are those of a real bucket then: objects appear whole, have generations that a
request may ask for, and neither grow nor get another name.
"""

import base64
import contextlib
import email.parser
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from typing import NamedTuple

BUCKET = 'bucket'
OBJECT = re.compile(r'(?:/download)?/storage/v1/b/([^/]+)/o/(.+)')
LIST = re.compile(r'/storage/v1/b/([^/]+)/o')
UPLOAD = re.compile(r'/upload/storage/v1/b/([^/]+)/o')


class Object(NamedTuple):
  content: bytes
  generation: int


class Refused(Exception):
  """An answer other than 200; its argument is the status."""


class Store:
  """What is in the bucket.

  Attributes:
    objects: {name: Object}.
    address: of its server.
    requests: all there were, in order: (method, path).
  """

  def __init__(self):
    self.objects, self.requests = {}, []
    self.address, self.sessions = '', {}
    # As Google's, no generation is ever used twice: copies are known by it.
    self._generation, self._lock = time.time_ns(), threading.Lock()

  def put(self, name, content, wanted=None):
    """Puts an object if its generation is the one that is wanted. 0: none."""
    with self._lock:
      self._check(name, wanted)
      self._generation += 1
      made = self.objects[name] = Object(content, self._generation)
      return self.told(name, made)

  def delete(self, name, wanted=None):
    with self._lock:
      self._check(name, wanted)
      if self.objects.pop(name, None) is None:
        raise Refused(404)

  def get(self, name):
    if name not in self.objects:
      raise Refused(404)
    return self.objects[name]

  def _check(self, name, wanted):
    found = self.objects.get(name)
    if wanted not in (None, found.generation if found else 0):
      raise Refused(412)

  def told(self, name, found):
    """An object's own record."""
    return {
      'kind': 'storage#object',
      'name': name,
      'bucket': BUCKET,
      'size': str(len(found.content)),
      'generation': str(found.generation),
      'metageneration': '1',
      'timeCreated': '2026-01-01T00:00:00.000Z',
      'updated': '2026-01-01T00:00:00.000Z',
      'md5Hash': base64.b64encode(bytes(16)).decode(),
    }

  def listed(self, prefix='', delimiter=''):
    """Records of the objects, and prefixes, that begin with a text."""
    items, prefixes = [], set()
    with self._lock:
      everything = sorted(self.objects.items())
    for name, found in everything:
      if name.startswith(prefix):
        rest = name.removeprefix(prefix)
        if delimiter and delimiter in rest:
          prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
        else:
          items.append(self.told(name, found))
    return {'items': items, 'prefixes': sorted(prefixes)}


class Handler(http.server.BaseHTTPRequestHandler):
  """One request; `store` is set on a class of its own for each server."""

  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True
  store: Store

  def log_message(self, *_):
    pass

  def _answer(self, status, content=b'', **headers):
    if isinstance(content, dict):
      content = json.dumps(content).encode()
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _handle(self, serve):
    url = urllib.parse.urlsplit(self.path)
    asked = dict(urllib.parse.parse_qsl(url.query))
    self.store.requests.append((self.command, self.path))
    size = int(self.headers.get('Content-Length') or 0)
    body = self.rfile.read(size)
    try:
      serve(url.path, asked, body)
    except Refused as error:
      code = error.args[0]
      told = {'error': {'code': code, 'message': f'refused: {code}'}}
      self._answer(code, b'' if code == 304 else told)

  def do_GET(self):
    self._handle(self._get)

  def do_POST(self):
    self._handle(self._post)

  def do_PUT(self):
    self._handle(self._part)

  def do_DELETE(self):
    self._handle(self._delete)

  def _get(self, path, asked, body):
    if LIST.fullmatch(path):
      found = self.store.listed(
        asked.get('prefix', ''), asked.get('delimiter', '')
      )
      return self._answer(200, found)
    if not (match := OBJECT.fullmatch(path)):
      return self._answer(200, {'name': BUCKET, 'locationType': 'region'})
    name = urllib.parse.unquote(match[2])
    found = self.store.get(name)
    if asked.get('ifGenerationNotMatch') == str(found.generation):
      raise Refused(304)
    if asked.get('alt') != 'media':
      return self._answer(200, self.store.told(name, found))
    start, end = self._range(len(found.content))
    headers = dict(
      x_goog_generation=found.generation,
      content_range=f'bytes {start}-{end - 1}/{len(found.content)}',
    )
    status = 206 if self.headers.get('Range') else 200
    self._answer(status, found.content[start:end], **headers)

  def _range(self, size):
    match = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or '')
    if match is None:
      return 0, size
    if int(match[1]) >= size:
      raise Refused(416)
    return int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)

  def _post(self, path, asked, body):
    if 'session' in asked:
      return self._part(path, asked, body)
    if UPLOAD.fullmatch(path):
      return self._upload(asked, body)
    if path.startswith('/batch/'):
      return self._batch(body)
    raise Refused(501)  # copies and others: nothing here may need them

  def _upload(self, asked, body):
    kind, name = asked['uploadType'], asked.get('name')
    wanted = asked.get('ifGenerationMatch')
    wanted = None if wanted is None else int(wanted)
    if kind == 'multipart':
      told, body = self._parts(body)
      name = json.loads(told)['name']
    if kind == 'resumable':
      name = name or json.loads(body)['name']
      key = str(len(self.store.sessions))
      self.store.sessions[key] = name, wanted, bytearray()
      where = f'{self.store.address}{UPLOAD_PATH}?session={key}'
      return self._answer(200, {}, Location=where)
    self._answer(200, self.store.put(name, body, wanted))

  def _parts(self, body):
    """The two parts of an upload, as they are between the boundaries."""
    bound = re.search('boundary="?([^";]+)', self.headers['Content-Type'])[1]
    parts = body.split(f'--{bound}'.encode())[1:3]
    return [re.split(rb'\r?\n\r?\n', x, maxsplit=1)[1][:-1] for x in parts]

  def _part(self, path, asked, body):
    name, wanted, so_far = self.store.sessions[asked['session']]
    so_far += body
    if self.headers['Content-Range'].endswith('/*'):
      return self._answer(308, Range=f'bytes=0-{len(so_far) - 1}')
    self._answer(200, self.store.put(name, bytes(so_far), wanted))

  def _delete(self, path, asked, body):
    wanted = asked.get('ifGenerationMatch')
    name = urllib.parse.unquote(OBJECT.fullmatch(path)[2])
    self.store.delete(name, None if wanted is None else int(wanted))
    self._answer(204)

  def _batch(self, body):
    """Several deletions in one request."""
    head = f'Content-Type: {self.headers["Content-Type"]}\r\n\r\n'.encode()
    whole = email.parser.BytesParser().parsebytes(head + body)
    answers = []
    for part in whole.get_payload():
      target = part.get_payload().split()[1]
      target = OBJECT.search(urllib.parse.urlsplit(target).path)[2]
      try:
        self.store.delete(urllib.parse.unquote(target))
        status = 'HTTP/1.1 204 No Content'
      except Refused:
        status = 'HTTP/1.1 404 Not Found'
      name = part['Content-ID'].replace('<', '<response-')
      answers.append(
        f'--x\r\nContent-Type: application/http\r\nContent-ID: {name}\r\n\r\n'
        f'{status}\r\n\r\n'
      )
    told = ''.join([*answers, '--x--']).encode()
    self._answer(200, told, Content_Type='multipart/mixed; boundary=x')


UPLOAD_PATH = f'/upload/storage/v1/b/{BUCKET}/o'


def environment(address):
  """What makes gs:// mean the store at an address."""
  return {
    'STORAGE_EMULATOR_HOST': address,  # of gcsfs, and of Google's own client
    'TENSORSTORE_GCS_HTTP_URL': address,
    'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # asks the real Google
  }


class Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request, client_address):
    if not isinstance(sys.exception(), ConnectionError):  # it has hung up
      super().handle_error(request, client_address)


@contextlib.contextmanager
def running():
  """Gives a Store that is served at its address."""
  store = Store()
  handler = type('Own', (Handler,), {'store': store})
  server = Server(('localhost', 0), handler)
  store.address = f'http://localhost:{server.server_address[1]}'
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield store
  finally:
    server.shutdown()
    server.server_close()


if __name__ == '__main__':  # python tests/store.py COMMAND: while it is there
  with running() as served:
    env = {**os.environ, **environment(served.address)}
    sys.exit(subprocess.run(sys.argv[1:], env=env).returncode)
