"""Files written whole or not at all, and lines of JSON."""

import json
import os
import pathlib

import numpy as np

# Of every number per prompt in points.jsonl. Pages show two decimals. More than
# five would only make the file larger. Chosen, not measured.
DECIMALS = 5


def listed(x: np.ndarray) -> list:
  """An array as a list of rounded numbers, for a line of JSON."""
  return np.round(x, DECIMALS).tolist()


def looks_like_path(name: str | os.PathLike) -> bool:
  """Whether a name that nothing local has is a path, and not the id of a hub.

  An id is a word, or two with a slash between. A path starts with . / ~, has
  more slashes, or begins in a folder that is there.
  """
  text = os.fspath(name)
  first, *rest = text.split('/')
  odd = text.startswith(('.', '/', '~')) or '\\' in text or len(rest) > 1
  return odd or rest == [''] or (bool(rest) and pathlib.Path(first).exists())


def read_jsonl(path: str | os.PathLike) -> list:
  """The rows of a .jsonl file; [] if there is none.

  A last line without its newline is what a killed process left: dropped.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_text().split('\n')[:-1]
  return [json.loads(line) for line in lines]


def write_atomically(path: str | os.PathLike, text: str) -> None:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial-{os.getpid()}')
  partial.write_text(text)
  os.replace(partial, path)
