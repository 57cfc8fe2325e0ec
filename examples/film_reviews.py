"""Film reviews for configs/sentiment.py, from the Large Movie Review Dataset.

  curl -O https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz
  tar xzf aclImdb_v1.tar.gz
  python -m examples.film_reviews aclImdb reviews.jsonl.gz

writes 4000 positive and 4000 negative reviews of its training half (Maas et
al. 2011): those whose file names have the smallest hashes, in an order of the
hashes as well. The published results of film reviews are of this file.
"""

import gzip
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterator

EACH = 4000
LABELS = {'neg': 0, 'pos': 1}


def hashed(path: pathlib.Path) -> str:
  """SHA-256 of aclImdb/train/LABEL/FILE.txt, in hexadecimal digits."""
  name = '/'.join(('aclImdb', *path.parts[-3:]))
  return hashlib.sha256(name.encode()).hexdigest()


def row(path: pathlib.Path) -> dict[str, str | int]:
  """A review; its file is named after its number and rating."""
  return {
    'id': '/'.join((*path.parts[-3:-1], path.stem)),
    'text': path.read_bytes().decode(),
    'label': LABELS[path.parts[-2]],
    'rating': int(path.stem.split('_')[1]),
  }


def chosen(
  folder: pathlib.Path, each: int = EACH
) -> Iterator[dict[str, str | int]]:
  """Yields the rows of the data set's folder, so many of each label."""
  found = list[pathlib.Path]()
  for label in LABELS:
    where = folder / 'train' / label
    paths = sorted(where.glob('*_*.txt'), key=hashed)
    if len(paths) < each:
      raise SystemExit(
        f'error: {where}: {len(paths)} reviews, expected {each} or more'
      )
    found += paths[:each]
  yield from map(row, sorted(found, key=lambda path: hashed(path)[::-1]))


def write(folder: pathlib.Path, file: pathlib.Path, each: int = EACH) -> None:
  """Writes the rows as lines of JSON, the same bytes each time."""
  lines = [
    json.dumps(x, ensure_ascii=False) + '\n' for x in chosen(folder, each)
  ]
  file.write_bytes(gzip.compress(''.join(lines).encode(), mtime=0))


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit('usage: python -m examples.film_reviews FOLDER FILE.jsonl.gz')
  write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
