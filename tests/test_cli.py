"""The command `align`: finds its commands, and imports only the one wanted."""

import json
import pathlib
import subprocess
import sys

import made_points
import pytest

from align_jax.tools import cli, show_frontier

ROOT = pathlib.Path(__file__).parents[1]
TOOLS = ROOT / 'align_jax' / 'tools'


def align(*args, cwd=ROOT):
  return subprocess.run(
    [sys.executable, '-m', 'align_jax', *args],
    capture_output=True,
    text=True,
    cwd=cwd,
    env={'PYTHONPATH': str(ROOT), 'PATH': ''},
  )


@pytest.fixture
def points(tmp_path):
  rows = [
    row
    for seed in range(3)
    for arm, quality in (('offline', 1.0), ('online', 1.5))
    for row in made_points.run(arm, seed, quality)
  ]
  path = tmp_path / 'points.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def test_help_lists_every_command_in_few_lines(capsys):
  cli.main(['--help'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) <= 2 + len(cli.COMMANDS)
  for words in cli.COMMANDS:
    assert any(line.strip().startswith(words) for line in lines)


def test_every_tool_is_a_command():
  named = {module for module, _ in cli.COMMANDS.values() if module}
  files = {p.stem for p in TOOLS.glob('*.py') if 'def main(' in p.read_text()}
  assert named == files - {'cli'}


@pytest.mark.parametrize('args', [['--help'], ['data', 'show', 'rows.jsonl']])
def test_what_needs_no_jax_imports_none(args, tmp_path):
  (tmp_path / 'rows.jsonl').write_text('{"text": "a"}\n')
  code = (
    f'import sys; from align_jax.tools import cli\n'
    f'try: cli.main({args})\n'
    f'except SystemExit as stop: assert not stop.code, stop.code\n'
    f'assert not {{"jax", "flax"}} & set(sys.modules)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_the_package_is_the_command(tmp_path):
  (tmp_path / 'rows.jsonl').write_text('{"text": "a"}\n')
  done = align('data', 'show', 'rows.jsonl', cwd=tmp_path)
  assert 'kept: 1' in done.stdout and done.returncode == 0


@pytest.mark.parametrize(
  'args, said',
  [
    (
      ['shwo'],
      'error: align shwo: no such command, expected one of run, reproduce',
    ),
    (['data'], 'error: align data: no such command'),
    (['run'], 'error: align run : expected one of benchmark, '),
    (
      ['run', 'plan', '--config=configs/x.py'],
      'error: --config=configs/x.py: no such file, expected configs/NAME.py',
    ),
    (['run', 'pages'], 'error: align run pages: expected one of benchmark, '),
  ],
)
def test_mistakes_are_one_line(args, said):
  with pytest.raises(SystemExit) as stopped:
    cli.main(args)
  assert str(stopped.value).startswith(said)
  assert '\n' not in str(stopped.value)


@pytest.mark.parametrize(
  'args, said',
  [
    (['fit', '--only=a', '--only', 'b'], '--only is given 2 times'),
    (['frontier', 'x.csv', '--kl=a', '--kl=a'], '--kl is given 2 times'),
    (['data', 'show', 'x', '--split=a', '--split=b'], '--split is given 2'),
    (['agreement', 'a', 'b', '--ties', '--ties'], '--ties is given 2 times'),
    (['check', 'a', '--token=3'], 'unrecognized arguments: --token=3'),
    (['kl', 'a', 'b', 'c', '--prompt=9'], 'unrecognized arguments: --prompt'),
  ],
)
def test_a_flag_is_written_out_and_given_once(args, said, capsys):
  with pytest.raises(SystemExit) as stopped:
    cli.main(args)
  assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_run_takes_the_arguments_of_the_experiment():
  done = align('run', 'online_vs_offline', '--config=configs/toy.py')
  assert done.stderr == 'error: --workdir is required\n'
  assert done.returncode == 1


def test_run_takes_no_flag_twice():
  done = align('run', 'online_vs_offline', '--workdir=a', '--workdir=b')
  assert done.stderr == 'error: flag --workdir=b: already defined as a\n'
  assert done.returncode == 1


@pytest.mark.parametrize('form', ['--config={}', '--config {}', '-config={}:x'])
def test_a_config_is_found_where_configs_are_installed(
  form, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  here = form.format('configs/toy.py').split()
  there = form.format(ROOT / 'configs' / 'toy.py').split()
  assert cli.with_config(here) == there
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'toy.py').touch()
  assert cli.with_config(here) == here  # one's own comes first
  assert cli.with_config(['--config']) == ['--config']
  [_, base] = cli.with_config(['--help'])
  assert base == f'--config={cli.folder_of("configs") / "base.py"}'
  assert cli.with_config([*here, '--help']) == [*here, '--help']


def test_frontier_prints_arms_and_differences_at_equal_kl(points, capsys):
  show_frontier.main([str(points), '--budgets=0.5,1,9', '--control=offline'])
  header, _, *rows = capsys.readouterr().out.split('\n\n')[0].splitlines()
  assert header == '| KL (nats) | offline | online | online - offline |'
  assert [row.split(' | ')[0] for row in rows] == ['| 0.5', '| 1']
  assert all('passage' in row for row in rows)
  assert float(rows[1].split(' | ')[3].split()[0]) > 0.2


@pytest.mark.parametrize(
  'change, said',
  [
    (lambda row: row.pop('seed'), "row 2: no column 'seed'"),
    (lambda row: row.update(step='x'), "row 2: step='x', expected a whole"),
    (
      lambda row: row.update(kl_by_prompt=[]),
      '2: kl_by_prompt=[], expected a finite',
    ),
    (
      lambda row: row['gold_by_prompt'].pop(),
      '12 values of kl_by_prompt',
    ),
    (
      lambda row: row.update(arm='x'),
      'x/default of seed 0 has no point',
    ),
  ],
)
def test_a_bad_point_is_named(points, change, said):
  rows = [json.loads(line) for line in points.read_text().splitlines()]
  change(rows[1])
  points.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  with pytest.raises(SystemExit) as stopped:
    show_frontier.main([str(points)])
  assert said in str(stopped.value) and '\n' not in str(stopped.value)


@pytest.mark.parametrize(
  'args, said',
  [
    (['--control=dpo'], '--control=dpo: no such arm; arms are offline, online'),
    (['--budgets=50'], 'no arm reached 50 nats'),
  ],
)
def test_a_wrong_question_is_one_line(points, args, said):
  with pytest.raises(SystemExit, match=said):
    show_frontier.main([str(points), *args])


def test_no_file_is_one_line(tmp_path):
  with pytest.raises(SystemExit, match='no such file'):
    show_frontier.main([str(tmp_path / 'points.jsonl')])
