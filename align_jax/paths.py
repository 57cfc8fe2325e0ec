"""Paths as people write them: local ones, and gs:// in an object store.

`path` returns either as an object with the methods of `pathlib`. What means
something else in a store is a function here: it has objects instead of files,
which appear whole, and neither grow nor get another name; folders and locks it
has not.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

STORES = {'gs': 'gcsfs'}  # {scheme: the package that reads and writes it}
# Within the name of a file that is being written, and of no other file.
PARTIAL = '.align-partial-'
FRESH = {'use_listings_cache': False}
Path = Any  # pathlib.Path, or epath.Path, which has fewer types


def path(name: str | os.PathLike) -> Path:
  """The path of a name; a path is returned as it is.

  Raises:
    ValueError: nothing can be read or written there; says why.
  """
  text = os.fspath(name)
  if slip := re.match(r'([A-Za-z][A-Za-z0-9+.-]+):/(?!/)', text):
    raise ValueError(
      f'{text}: expected a local path, or {slip[1]}:// with two slashes, '
      'which pathlib.Path makes one of'
    )
  if isinstance(name, pathlib.PurePath):
    return name
  scheme, found, rest = text.partition('://')
  if text.startswith('~'):  # which a shell leaves after '='
    try:
      return pathlib.Path(text).expanduser()
    except RuntimeError:
      raise ValueError(f'{text}: no such user, expected ~/...') from None
  if not found:
    return pathlib.Path(text)
  if scheme not in STORES:
    known = ', '.join(f'{x}://' for x in STORES)
    raise ValueError(f'{text}: expected a local path, or one with {known}')
  if not rest.partition('/')[0]:
    raise ValueError(f'{text}: names no bucket, expected {scheme}://BUCKET/...')
  package = STORES[scheme]
  if importlib.util.find_spec(package) is None:
    raise ValueError(
      f'{text}: {scheme}:// needs the package {package}, which is not '
      f'installed: pip install {package}'
    )
  _store(scheme)  # before epath makes one that remembers listings
  from etils import epath

  return epath.Path(text)


def is_local(path: Path) -> bool:
  """Whether a path is on a disk of this machine."""
  return isinstance(path, pathlib.Path)


def absolute(name: str | os.PathLike) -> Path:
  """The path of a name, wherever the process goes."""
  found = path(name)
  return found.resolve() if is_local(found) else found


def here(name: str | os.PathLike) -> pathlib.Path:
  """The path of a name that has to be local."""
  found = path(name)
  if not is_local(found):
    raise ValueError(f'{found}: expected a local path')
  return found


@functools.cache
def _store(scheme):
  """The store's file system. It remembers no listing: others write, too."""
  import logging

  import fsspec

  name = {'gs': 'gcs'}[scheme]  # what epath calls it
  logging.getLogger(STORES[scheme]).setLevel(logging.CRITICAL)  # it raises, too
  fsspec.config.conf.setdefault(name, {}).update(FRESH)
  # A worker may be given a path, and never call `path`.
  os.environ.setdefault(f'FSSPEC_{name.upper()}', json.dumps(FRESH))
  return fsspec.filesystem(name)


def _of(path):
  return _store(os.fspath(path).partition('://')[0])


# --- Writing -----------------------------------------------------------------


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
  """Names the path in an error of the system that names none: a full disk."""
  try:
    yield
  except OSError as error:
    if error.errno is None or error.filename is not None:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def writing(name: str | os.PathLike, mode: str = 'w') -> Iterator[Any]:
  """A new file, which has its name whole or not at all, and is on the disk."""
  target, encoding = path(name), None if 'b' in mode else 'utf-8'
  if not is_local(target):
    with tempfile.NamedTemporaryFile(mode, encoding=encoding) as file:
      yield file
      file.flush()
      _of(target).put_file(file.name, str(target))
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(f'{target.name}{PARTIAL}{os.getpid()}')
  with named(target), partial.open(mode, encoding=encoding) as file:
    yield file
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, target)
  folder = os.open(target.parent, os.O_RDONLY)
  try:
    os.fsync(folder)  # the new name, too
  finally:
    os.close(folder)


class Growing:
  """A text file that grows. A kill leaves at least what `sync` was called for.

  An object cannot grow: a local copy of it does, which `sync` puts whole.

  Attributes:
    path: where it is.
    file: the local file with all that was written.
  """

  def __init__(self, path: Path):
    self.path, self._shown = path, True
    if is_local(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      self.file = path.open('a', encoding='utf-8')
    else:
      self.file = tempfile.NamedTemporaryFile('w', encoding='utf-8')
      if path.exists():
        self.file.write(path.read_text('utf-8'))

  def write(self, text: str) -> None:
    """Appends text."""
    with named(self.path):
      self.file.write(text)
      self.file.flush()
    self._shown = False

  def put(self) -> None:
    """Shows in a store what was written; a file shows it anyway."""
    if not is_local(self.path) and not self._shown:
      _of(self.path).put_file(self.file.name, str(self.path))
    self._shown = True

  def sync(self) -> None:
    """Waits until all that was written is where a kill leaves it."""
    self.put()
    if is_local(self.path):
      with named(self.path):
        os.fsync(self.file.fileno())

  def close(self) -> None:
    """Shows all that was written, and closes the file."""
    self.put()
    with named(self.path):
      self.file.close()


@contextlib.contextmanager
def filling(folder: Path, last: str = '') -> Iterator[pathlib.Path]:
  """A local folder to write files into, which are in `folder` afterwards.

  Those of a store are put there in the order of their age.

  Args:
    last: name of the file that is put after all others.
  """
  if is_local(folder):
    yield folder
    return
  with tempfile.TemporaryDirectory() as scratch:
    yield (local := pathlib.Path(scratch))
    files = [x for x in local.rglob('*') if x.is_file()]
    order = lambda x: (x.name == last, x.stat().st_mtime_ns)
    for file in sorted(files, key=order):
      target = folder / file.relative_to(local).as_posix()
      _of(folder).put_file(str(file), str(target))


def create(path: Path, text: str) -> None:
  """Puts an object that is not there yet.

  Raises:
    FileExistsError: it is there.
  """
  _of(path).pipe_file(str(path), text.encode(), mode='create')


def remove(path: Path) -> None:
  """Removes a file, or a folder with all that is in it."""
  if not is_local(path):
    _of(path).rm(str(path), recursive=True)
  elif path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
  """Waits until no other process of this machine is within it for a path.

  The system ends it for a process that has died.
  """
  lock = path.with_name(f'{path.name}.lock')
  if not is_local(lock):
    name = hashlib.blake2b(str(lock).encode(), digest_size=16).hexdigest()
    lock = _copies() / name
  lock.parent.mkdir(parents=True, exist_ok=True)
  with lock.open('wb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


# --- Reading -----------------------------------------------------------------


def files_in(folder: Path) -> list[str]:
  """The files under a folder at any depth, relative to it, sorted."""
  if is_local(folder):
    found = (x for x in folder.rglob('*') if x.is_file())
    return sorted(x.relative_to(folder).as_posix() for x in found)
  first = f'{_of(folder)._strip_protocol(str(folder))}/'
  return sorted(x.removeprefix(first) for x in _of(folder).find(str(folder)))


def tree(folder: Path) -> list[Path]:
  """All that is under a folder; of a store the objects only. Sorted."""
  if is_local(folder):
    return sorted(folder.rglob('*'))
  return [folder / name for name in files_in(folder)]


def matching(pattern: Path) -> list[Path]:
  """The files of a path with *, ? or [], sorted."""
  if is_local(pattern):
    import glob

    return sorted(map(path, glob.glob(str(pattern), recursive=True)))
  found = _of(pattern).glob(str(pattern))
  return sorted(path(_of(pattern).unstrip_protocol(x)) for x in found)


def below(folder: Path, name: str) -> Path:
  """folder / name, whose name may begin with ../, which a store has not."""
  while not is_local(folder) and name.startswith('../'):
    folder, name = folder.parent, name.removeprefix('../')
  return folder / name


def seekable(path: Path) -> Any:
  """A file's content, to be read from anywhere in it."""
  return path.open('rb') if is_local(path) else io.BytesIO(path.read_bytes())


def local(path: Path) -> pathlib.Path:
  """A file or folder on this machine: itself, or a copy of what is in a store.

  Copies are under the folder for temporary files, one for each content.

  Raises:
    FileNotFoundError: nothing is there.
  """
  if is_local(path):
    return path
  store = _of(path)
  found = store.find(str(path), detail=True)
  if not found:
    raise FileNotFoundError(f'{path}: no such file or folder')
  told = sorted((k, x['size'], x.get('generation')) for k, x in found.items())
  version = hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()
  kept = _copies() / version
  if not kept.exists():
    partial = pathlib.Path(tempfile.mkdtemp(dir=_copies(), prefix=PARTIAL))
    for name in found:
      (partial / name).parent.mkdir(parents=True, exist_ok=True)
      store.get_file(name, str(partial / name))
    with contextlib.suppress(OSError):  # another process was faster
      partial.rename(kept)
    shutil.rmtree(partial, ignore_errors=True)
  return kept / store._strip_protocol(str(path))


def _copies():
  """A folder of this user's alone."""
  folder = pathlib.Path(tempfile.gettempdir()) / f'align_jax-{os.getuid()}'
  folder.mkdir(mode=0o700, exist_ok=True)
  if folder.stat().st_uid != os.getuid():
    raise ValueError(f'{folder}: belongs to another user, set TMPDIR')
  return folder
