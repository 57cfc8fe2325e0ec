"""Files written whole or not at all, lines of JSON, and digests of both."""

import hashlib
import json
import os
from typing import Any

import numpy as np

from align_jax import paths

# Of every number per prompt in points.jsonl: so many decimals, or digits of a
# small one. More would only make the file larger. Chosen, not measured.
DECIMALS = 5
LEAST = 1e-17  # below it digits are fewer: 10**22 is the last exact power
DIGEST = 'digest'  # the field of a record that its other fields are checked by


def listed(x: np.ndarray) -> list:
  """An array as a list of rounded numbers, for a line of JSON."""
  x = np.asarray(x, np.float64)
  leading = -np.floor(np.log10(np.clip(np.abs(x), LEAST, 1)))
  scale = 10.0 ** (DECIMALS + np.maximum(leading - 1, 0))
  return (np.round(x * scale) / scale).tolist()


def looks_like_path(name: str | os.PathLike) -> bool:
  """Whether a name that nothing local has is a path, and not the id of a hub.

  An id is a word, or two with a slash between. A path starts with . / ~, has
  more slashes, or begins in a folder that is there.
  """
  text = os.fspath(name)
  first, *rest = text.split('/')
  odd = text.startswith(('.', '/', '~')) or '\\' in text or len(rest) > 1
  return odd or rest == [''] or (bool(rest) and os.path.exists(first))


def read_jsonl(path: str | os.PathLike) -> list:
  """The rows of a .jsonl file; [] if there is none.

  A last line without its newline is what a killed process left: dropped.

  Raises:
    ValueError: a line is no JSON; names file and row.
  """
  file = paths.path(path)
  if not file.exists():
    return []
  rows = []
  for number, text in enumerate(text_of(file).split('\n')[:-1], 1):
    try:
      rows.append(json.loads(text))
    except ValueError as error:
      raise ValueError(f'{path} row {number}: damaged ({error})') from None
  return rows


def line(value: dict) -> str:
  """A row of a .jsonl file."""
  return json.dumps(value) + '\n'


def read_json(path: str | os.PathLike) -> Any:
  """The value of a .json file.

  Raises:
    ValueError: the file is no JSON; names it.
  """
  text = text_of(path)
  try:
    return json.loads(text)
  except ValueError as error:
    reason = str(error) if text else 'empty'
    raise ValueError(f'{path}: not JSON ({reason})') from None


def text_of(path: str | os.PathLike) -> str:
  """What a file of UTF-8 holds.

  Raises:
    ValueError: it is not UTF-8; names the file.
  """
  try:
    return paths.path(path).read_text('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: not UTF-8 ({error.reason})') from None


def write_record(path: str | os.PathLike, value: dict) -> None:
  """Writes a dict as JSON, with a digest of it."""
  value = json.loads(json.dumps(value))
  told = {**value, DIGEST: _digest(value)}
  text = json.dumps(told, indent=1, sort_keys=True) + '\n'
  file = paths.path(path)
  if not file.exists() or file.read_bytes() != text.encode():
    write_atomically(path, text)


def read_object(path: str | os.PathLike) -> dict:
  """The dict of a .json file.

  Raises:
    ValueError: the file holds no JSON object; names it.
  """
  value = read_json(path)
  if not isinstance(value, dict):
    raise ValueError(
      f'{path}: expected a JSON object, got {type(value).__name__}'
    )
  return value


def read_record(path: str | os.PathLike) -> dict:
  """What `write_record` wrote, or a dict of an earlier version.

  Raises:
    ValueError: the file is damaged; names it.
  """
  value = read_object(path)
  told = value.pop(DIGEST, None)
  if told not in (None, _digest(value)):
    raise ValueError(f'{path}: damaged, it is not what was written')
  return value


def _digest(value):
  text = json.dumps(value, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_atomically(path: str | os.PathLike, text: str) -> None:
  """Writes a file whole or not at all, and waits for the disk."""
  with paths.writing(path) as file:
    file.write(text)


def digest(path: str | os.PathLike, size: int | None = None) -> list:
  """[bytes, digest of them] of a file, or of its first `size` bytes."""
  found, read = hashlib.blake2b(digest_size=16), 0
  with paths.path(path).open('rb') as file:
    left = lambda: 2**20 if size is None else min(2**20, size - read)
    while block := file.read(left()):
      found.update(block)
      read += len(block)
  return [read, found.hexdigest()]


def digests(folder: str | os.PathLike) -> dict:
  """{relative path: [bytes, digest]} of all files under a folder."""
  home = paths.path(folder)
  return {name: digest(home / name) for name in paths.files_in(home)}


def damaged(folder: str | os.PathLike, known: dict) -> str:
  """The first file that is not as its digest says. '': all are.

  Args:
    known: {relative path: [bytes, digest]}. A file may have grown since.
  """
  for name, (size, wanted) in known.items():
    path = paths.below(paths.path(folder), name)
    if not path.is_file():
      return f'{path} is missing'
    if digest(path, size)[1] != wanted:
      return f'{path} is not what was written'
  return ''
