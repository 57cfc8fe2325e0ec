"""The examples run, and do what they say."""

import gzip
import json
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import SHARED, needs_shared

from align_jax import data
from examples import film_reviews

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = ROOT / 'examples' / 'online_rloo.py'


def test_online_rloo_learns_its_reward():
  done = subprocess.run(
    [sys.executable, '-m', 'examples.online_rloo'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  found = re.findall(r'step (\d+): reward ([\d.]+)', done.stdout)
  steps, rewards = zip(*((int(a), float(b)) for a, b in found))
  assert steps == (0, 20, 40, 60)
  assert rewards[0] < 2 and rewards[-1] > 6


def test_the_readme_shows_the_example_as_it_is():
  code = EXAMPLE.read_text().split('"""', 2)[2].strip()
  assert f'```python\n{code}\n```' in (ROOT / 'README.md').read_text()


def test_film_reviews_are_chosen_by_their_names(tmp_path):
  """The same reviews in the same order, wherever and however they lie."""
  names = {'pos': ('1_7', '22_10', '3_9'), 'neg': ('5_2', '4_1', '70_4')}
  files = []
  for folder in (tmp_path / 'aclImdb', tmp_path / 'other'):
    for label, stems in names.items():
      (folder / 'train' / label).mkdir(parents=True)
      for stem in stems:
        text = f'{label} {stem}:\u2028"né"\n'
        (folder / 'train' / label / f'{stem}.txt').write_text(text, 'utf-8')
    files.append(tmp_path / f'{folder.name}.jsonl.gz')
    film_reviews.write(folder, files[-1], each=2)
  assert files[0].read_bytes() == files[1].read_bytes()
  [row, *more] = data.task_rows(files[1], 'text_label', ('text', 'label'))
  label = ('neg', 'pos')[row['label']]
  assert row['text'].startswith(label) and row['text'].endswith(':\u2028"né"\n')
  assert sorted(x['label'] for x in (row, *more)) == [0, 0, 1, 1]
  with pytest.raises(SystemExit, match='neg: 3 reviews, expected 4000'):
    film_reviews.write(folder, files[1])


@needs_shared
def test_film_reviews_of_the_published_results(tmp_path):
  """Their hashes are the smallest, in the order of the file."""
  want = gzip.open(SHARED / 'sentiment' / 'imdb-train-8k.jsonl.gz').read()
  for line in want.split(b'\n')[:-1]:
    row = json.loads(line)
    file = tmp_path / f'{row["id"]}.txt'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(row['text'], 'utf-8', newline='')
  film_reviews.write(tmp_path, tmp_path / 'reviews.jsonl.gz')
  assert gzip.open(tmp_path / 'reviews.jsonl.gz').read() == want
