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


def read_jsonl(path: str | os.PathLike) -> list:
  """The rows of a .jsonl file; [] if there is none.

  A last line without its newline is what a killed process left: dropped.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_text('utf-8').split('\n')[:-1]
  return [json.loads(line) for line in lines]


def write_atomically(path: str | os.PathLike, text: str) -> None:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial-{os.getpid()}')
  partial.write_text(text, encoding='utf-8')
  os.replace(partial, path)
