"""Pages as headless Chromium sees them."""

import functools
import html.parser
import re
import shutil
import subprocess
import tempfile

import pytest

FLAGS = (
  '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run '
  '--disable-background-networking --disable-component-update --disable-sync '
  '--enable-logging=stderr'
).split()


def program():
  """The path of Chromium; skips the test where there is none."""
  names = 'chromium', 'chromium-browser', 'google-chrome'
  found = next(filter(None, map(shutil.which, names)), None)
  if not found:
    pytest.skip('no Chromium')
  return found


@functools.cache
def opened(path):
  """(The page's elements after its scripts ran, its console errors)."""
  with tempfile.TemporaryDirectory() as profile:
    done = subprocess.run(
      [
        program(),
        *FLAGS,
        f'--user-data-dir={profile}',
        '--dump-dom',
        path.as_uri(),
      ],
      capture_output=True,
      text=True,
      timeout=120,
    )
  assert done.returncode == 0, done.stderr
  return done.stdout, re.findall(r'CONSOLE.*', done.stderr)


class _Links(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.found = []

  def handle_starttag(self, tag, attrs):
    if tag == 'a':
      self.found.append(dict(attrs).get('href'))


def links(text):
  """What the links of a page lead to."""
  parser = _Links()
  parser.feed(text)
  return parser.found
