"""`align_jax.tools.show_data`: what is in a file, as the model sees it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from align_jax import data
from align_jax.tools import show_data

ROOT = pathlib.Path(__file__).parents[1]
ROWS = [
  dict(prompt='ab', chosen=' c', rejected=' de', note=1),
  dict(prompt='ab', chosen='', rejected='d'),
  dict(prompt='ab' * 9, chosen=' c', rejected=' d'),
  dict(prompt='ab', chosen=' c', rejected=' de', note=1),
]
OUT = """\
x.jsonl: columns ['chosen', 'note', 'prompt', 'rejected']
read as standard, which makes preference rows: ['chosen', 'prompt', 'rejected']
ignored columns: ['note']
rows: 4
kept: 2
bad: 1
  1  field 'chosen' is empty
dropped: 1
  1  prompt over 9 tokens
of the kept: 1
  1  a duplicate
tokens of a prompt: 0% 3, 50% 3, 90% 3, 99% 3, 100% 3
tokens of a completion: 0% 3, 50% 4, 90% 4, 99% 4, 100% 4
rows as the model sees them; [in brackets]: in the loss
x.jsonl row 1 (preference)
  prompt, 3 tokens: <s>|a|b
  completion, reward 1, 3 tokens, 3 in the loss: [\u0120]|[c]|[</s>]
  completion, reward 0, 4 tokens, 4 in the loss: [\u0120]|[d]|[e]|[</s>]
x.jsonl row 4 (preference)
  prompt, 3 tokens: <s>|a|b
  completion, reward 1, 3 tokens, 3 in the loss: [\u0120]|[c]|[</s>]
  completion, reward 0, 4 tokens, 4 in the loss: [\u0120]|[d]|[e]|[</s>]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = ''.join(json.dumps(row) + '\n' for row in ROWS)
  (tmp_path / 'x.jsonl').write_text(text)
  data.train_tokenizer((), 259).save(str(tmp_path / 'tokenizer.json'))
  return tmp_path


LENIENT = ['--on-bad-row=skip', '--max-bad-share=0.5']


def test_rows_are_shown_as_the_model_sees_them(folder, capsys):
  show_data.main(['x.jsonl', '--tokenizer=.', '--prompt-len=9', *LENIENT])
  assert capsys.readouterr().out == OUT


def test_without_a_tokenizer_characters_are_counted(folder, capsys):
  show_data.main(['x.jsonl', *LENIENT])
  out = capsys.readouterr().out
  assert 'kept: 3' in out and 'characters of a prompt: 0% 2' in out
  assert "completion, reward 1: ' c'" in out


def test_what_an_assistant_says_is_in_the_loss(folder, capsys):
  turns = [('user', 'a'), ('assistant', 'b')]
  row = dict(messages=[dict(role=r, content=c) for r, c in turns])
  (folder / 'y.jsonl').write_text(json.dumps(row))
  show_data.main(['y.jsonl', '--tokenizer=tokenizer.json', '--template=hh'])
  out = capsys.readouterr().out
  assert out.endswith('3 tokens, 3 in the loss: [\u0120]|[b]|[</s>]\n')


@pytest.mark.parametrize(
  'args, said',
  [
    (['x.jsonl'], "error: x.jsonl row 2: field 'chosen' is empty"),
    (['x.jsonl', '--on-bad-row=skip'], '1 of 4 rows are bad, more than max_b'),
    (['no.jsonl'], 'error: no.jsonl: no such file'),
    (['x.jsonl', '--tokenizer=no'], 'error: no: no such file'),
    (
      ['x.jsonl', *LENIENT, '--tokenizer=.', '--template=no'],
      'error: no: no s',
    ),
    (['x.jsonl', '--dataset=hh'], "row 1: field 'chosen' is ' c', expected"),
  ],
)
def test_mistakes_are_one_line(folder, args, said):
  with pytest.raises(SystemExit) as stopped:
    show_data.main([*args])
  assert said in str(stopped.value) and '\n' not in str(stopped.value)


def test_the_command_runs(folder):
  done = subprocess.run(
    [sys.executable, '-m', 'align_jax.tools.show_data', 'x.jsonl', *LENIENT],
    capture_output=True,
    text=True,
    env={'PYTHONPATH': str(ROOT), 'PATH': ''},
  )
  assert done.returncode == 0, done.stderr
  assert 'kept: 3' in done.stdout


@pytest.mark.parametrize(
  'flags, said',
  [
    (['--prompt-len=2'], '--prompt-len=2: expected --tokenizer with it'),
    (['--long-prompt=error'], '--long-prompt=error: expected --tokenizer'),
    (['--template=chatml'], '--template=chatml: expected --tokenizer'),
    (['--split=test'], '--split=test: x.jsonl is a file, which has none'),
    (['--revision=a'], '--revision=a: x.jsonl is a file'),
  ],
)
def test_a_flag_without_effect_is_refused(folder, flags, said):
  with pytest.raises(SystemExit, match=said):
    show_data.main(['x.jsonl', *LENIENT, *flags])


def test_whoever_reads_may_have_enough(folder):
  """As `head` has; more lines than a pipe holds."""
  rows = [dict(prompt='a', chosen='b' * 30000, rejected='c')] * 3
  (folder / 'y.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in rows))
  command = [sys.executable, '-m', 'align_jax.tools.show_data', 'y.jsonl']
  with subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  ) as shown:
    assert shown.stdout.readline().startswith(b'y.jsonl')
    shown.stdout.close()
    told = shown.stderr.read()
    assert shown.wait() == 1 and not told
