"""The examples run, and do what they say."""

import pathlib
import re
import subprocess
import sys

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
