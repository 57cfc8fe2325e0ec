"""Files are UTF-8 whatever the locale is, and any terminal is written to."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
POSIX = {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


@pytest.mark.parametrize('name', ['x.jsonl', 'x.json', 'x.csv', 'x.txt'])
def test_a_file_is_read_alike_in_all_locales(tmp_path, name):
  row = dict(text='„Katze“ – 猫')
  text = json.dumps([row] if name == 'x.json' else row, ensure_ascii=False)
  if name in ('x.csv', 'x.txt'):
    text = f'text\n{row["text"]}\n'
  (tmp_path / name).write_text(text, encoding='utf-8')
  said = []
  for changes in ({'PYTHONUTF8': '1'}, POSIX):
    done = subprocess.run(
      [sys.executable, '-m', 'align_jax.tools.show_data', name],
      capture_output=True,
      cwd=tmp_path,
      env={**os.environ, 'PYTHONPATH': str(ROOT), **changes},
    )
    assert done.returncode == 0, done.stderr
    said.append(done.stdout)
  assert row['text'].encode() in said[0]
  ascii_only = row['text'].encode('ascii', 'backslashreplace')
  assert ascii_only in said[1].replace(b'\\\\', b'\\')
