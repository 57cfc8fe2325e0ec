"""Files written whole or not at all, and lines of JSON."""

import json
import os
import pathlib


def read_jsonl(path):
  """The rows of a .jsonl file; [] if there is none.

  A last line without its newline is what a killed process left: dropped.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = path.read_text().split('\n')[:-1]
  return [json.loads(line) for line in lines]


def write_atomically(path, text):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial-{os.getpid()}')
  partial.write_text(text)
  os.replace(partial, path)
