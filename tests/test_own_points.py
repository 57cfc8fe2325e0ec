"""Points of any program, and the KL of two checkpoints, as users have them."""

import csv
import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tiny_checkpoints

from align_jax.compare import points
from align_jax.tools import measure_kl, point_table, show_frontier
from align_jax.types import Prompts

FLAGS = '--by=method', '--kl=kl', '--score=reward', '--control=dpo'


def rows(seeds=6, prompts=0, gain=0.2):
  """Two methods; grpo gains more at equal KL, and moves half as far."""
  rng = np.random.default_rng(0)
  for seed in range(seeds):
    for method, slope, speed in (('dpo', 1.0, 2), ('grpo', 1.0 + gain, 1)):
      slope += rng.normal() / 50
      for step in range(0, 101, 20):
        kl = speed * step / 50
        row = dict(method=method, seed=seed, step=step, kl=kl)
        row['reward'] = slope * kl**0.5 + rng.normal() / 100
        if prompts:
          noise = rng.normal(size=(2, prompts)) / 20
          row['kl'] = (kl * np.exp(noise[0])).tolist()
          row['reward'] = (row['reward'] + noise[1]).tolist()
        yield row


def write(path, table):
  if path.suffix == '.csv':
    with path.open('w', newline='') as file:
      out = csv.DictWriter(file, table[0])
      out.writeheader()
      out.writerows(table)
  else:
    path.write_text(''.join(json.dumps(row) + '\n' for row in table))
  return path


def flags_of(given, *defaults):
  """The flags given, and the defaults of others."""
  names = {flag.partition('=')[0] for flag in given}
  return [*(x for x in defaults if x.partition('=')[0] not in names), *given]


def shown(capsys, path, *flags):
  show_frontier.main([str(path), *flags_of(flags, '--budgets=0.5,1', *FLAGS)])
  return capsys.readouterr().out


def test_a_table_of_means_says_what_its_intervals_lack(tmp_path, capsys):
  out = shown(capsys, write(tmp_path / 'p.csv', list(rows())))
  assert '| KL (nats) | dpo | grpo | grpo - dpo |' in out
  assert 'grpo is above dpo' in out and 'over 6 seeds' in out
  assert 'say nothing of other prompts' in out
  assert 'with 80% power' in out and 'More prompts' not in out
  few = shown(capsys, write(tmp_path / 'q.csv', list(rows(gain=0.0))))
  assert 'grpo is not shown to differ from dpo' in few
  below = shown(capsys, write(tmp_path / 'r.csv', list(rows(gain=-0.2))))
  assert 'grpo is below dpo' in below


def test_the_order_of_rows_means_nothing(tmp_path, capsys):
  table = list(rows(prompts=8))
  first = shown(capsys, write(tmp_path / 'p.jsonl', table))
  assert 'say nothing of other prompts' not in first
  np.random.default_rng(1).shuffle(table)
  assert shown(capsys, write(tmp_path / 'p.jsonl', table)) == first


def test_one_method_and_one_seed(tmp_path, capsys):
  path = write(tmp_path / 'p.csv', [r for r in rows() if r['method'] == 'dpo'])
  show_frontier.main([str(path), *FLAGS[:3]])
  assert '| KL (nats) | dpo |' in capsys.readouterr().out
  out = shown(capsys, write(tmp_path / 'p.csv', list(rows(seeds=1))))
  assert 'no interval, no verdict' in out


def test_without_a_step_0_scores_are_compared_as_they_are(tmp_path, capsys):
  table = [row for row in rows() if row['step']]
  out = shown(capsys, write(tmp_path / 'p.csv', table))
  assert 'not gains over the reference' in out and 'grpo is above dpo' in out


def test_the_first_by_name_is_the_control(tmp_path, capsys):
  path = write(tmp_path / 'p.csv', list(rows()))
  show_frontier.main([str(path), '--budgets=0.5,1', *FLAGS[:3]])
  assert capsys.readouterr().out == shown(capsys, path)


def test_nothing_is_read_far_from_all_checkpoints(tmp_path, capsys):
  """A run of two checkpoints passed 1 nat nobody knows how."""
  table = [
    row for row in rows() if row['method'] == 'grpo' or row['step'] in (0, 100)
  ]
  path = write(tmp_path / 'p.csv', table)
  with pytest.raises(SystemExit, match='were never at the same KL'):
    shown(capsys, path)
  out = capsys.readouterr().out
  assert '| 1 | – | ' in out and 'within a factor of 3' in out
  show_frontier.main([str(path), '--budgets=1.5,2', *FLAGS])
  assert 'grpo is above dpo' in capsys.readouterr().out


def test_the_index_that_pandas_writes_is_no_column(tmp_path, capsys):
  table = list(rows())
  indexed = [{'': i, **row} for i, row in enumerate(table)]
  plain = shown(capsys, write(tmp_path / 'p.csv', table))
  assert shown(capsys, write(tmp_path / 'q.csv', indexed)) == plain


def log_of_trl(name, seed, kls, scores):
  folder = pathlib.Path(f'{name}_{seed}')
  folder.mkdir()
  log = [
    {'step': i, 'objective/kl': kl, 'objective/scores': score}
    for i, (kl, score) in enumerate(zip(kls, scores), 1)
  ]
  state = {'log_history': [*log, {'step': 9, 'train_runtime': 1.0}]}
  (folder / 'trainer_state.json').write_text(json.dumps(state))


LENGTH = 25.0  # mean number of tokens, in logs of means over them


def log_of_verl(name, seed, kls, scores):
  rows = [{'step': 0, 'data': {'val-core/math/acc/mean@1': 0.5}}]
  for i, (kl, score) in enumerate(zip(kls, scores), 1):
    told = {'actor/reward_kl_penalty': kl / LENGTH, 'critic/score/mean': score}
    rows.append({'step': i, 'data': {**told, 'response_length/mean': LENGTH}})
  folder = pathlib.Path('project')
  folder.mkdir(exist_ok=True)
  write(folder / f'{name}_{seed}.jsonl', rows)


def log_of_tunix(name, seed, kls, scores):
  pytest.importorskip('tensorboard')
  writer = pytest.importorskip('tensorboardX').SummaryWriter(f'{name}_{seed}')
  for i, (kl, score) in enumerate(zip(kls, scores), 1):
    writer.add_scalar('actor/train/kl', kl / LENGTH, i)
    writer.add_scalar('completions/train/mean_length', LENGTH, i)
    writer.add_scalar('rewards/train/score/mean', score, i)
  writer.close()


def shown_with(word):
  """The code of docs/points.md that has the word."""
  page = (pathlib.Path(__file__).parents[1] / 'docs' / 'points.md').read_text()
  blocks = re.findall('```python\n(.*?)```', page, re.DOTALL)
  [code] = [block for block in blocks if word in block]
  return code


@pytest.mark.parametrize(
  ('key', 'make', 'methods'),
  [
    ('objective/kl', log_of_trl, ('dpo', 'ipo')),
    ('actor/reward_kl_penalty', log_of_verl, ('grpo', 'rloo')),
    ('actor/train/kl', log_of_tunix, ('grpo', 'gspo')),
  ],
  ids=['TRL', 'verl', 'Tunix'],
)
def test_logs_of_others_become_points(
  key, make, methods, tmp_path, monkeypatch, capsys
):
  """The code of the page, on logs with the keys of each library."""
  pytest.importorskip('pandas')
  code = shown_with(key)
  monkeypatch.chdir(tmp_path)
  for seed in range(3):
    for method, slope in zip(methods, (1.0, 1.5)):
      kls = np.array([0.1 + seed / 100, 0.5, 1.0, 2.5])
      make(method, seed, kls.tolist(), (slope * kls**0.5).tolist())
  exec(code, {})
  flags = '--by=method', '--kl=kl', '--score=reward', '--budgets=0.5,1,2'
  show_frontier.main(['points.csv', *flags, f'--control={methods[0]}'])
  assert f'{methods[1]} is above {methods[0]}' in capsys.readouterr().out


def test_a_plot_is_drawn(tmp_path, capsys):
  path = write(tmp_path / 'p.csv', list(rows()))
  shown(capsys, path, f'--plot={tmp_path / "p.svg"}')
  assert '<svg' in (tmp_path / 'p.svg').read_text()


@pytest.mark.parametrize(
  'change, said',
  [
    (lambda t: t.pop(-1), ''),  # a checkpoint less is no error
    (lambda t: t.append(t[3]), 'row 74: a second row of dpo/default of seed 0'),
    (lambda t: t[1].update(kl='x'), 'row 3: kl=x, expected a finite number'),
    (lambda t: t[1].update(kl='nan'), 'row 3: kl=nan, expected a finite'),
    (lambda t: t[1].update(reward=''), 'row 3: reward=, expected a finite'),
    (lambda t: t[1].update(step=2.5), 'row 3: step=2.5, expected a whole'),
    (
      lambda t: t[0].update(step=7),
      'dpo/default of seed 0 has no point at step',
    ),
    (lambda t: t[1].update(method=' '), 'row 3: method is empty'),
    (
      lambda t: [row.update(kl_budget='much') for row in t],
      'row 2: kl_budget=much, expected nats',
    ),
    (
      lambda t: [row.update(kl_budget=-1) for row in t],
      'row 2: kl_budget=-1, expected nats',
    ),
    (
      lambda t: [row.update(kl_mode='held') for row in t],
      "row 2: kl_mode='held', expected one of hold, stop",
    ),
    (
      lambda t: [row.update(kl_budget=row['step'] // 50) for row in t],
      'dpo/default of seed 0 has kl_budget=1.0 at step 60 and no kl_budget at '
      'another, expected kl_budget and kl_mode alike',
    ),
    (
      lambda t: [row.update(kl_budget=[2.0, 1.0]) for row in t],
      'row 2: kl_budget=[2.0, 1.0], expected nats',
    ),
    (lambda t: t[1].update(step=-1), 'row 3: step=-1, expected 0 or more'),
    (lambda t: t[1].update(seed=10**400), 'expected a whole number'),
    (
      lambda t: t[1].update(kl=-0.6),
      'dpo/default of seed 0, step 20, is at -0.6 nats on average, expected',
    ),
    (
      lambda t: t[0].update(kl=0.6),
      'dpo/default of seed 0 is at 0.6 nats at step 0, expected the reference',
    ),
    (lambda t: [r.pop('kl') for r in t], "row 2: no column 'kl'"),
    (
      lambda t: t[:] and t.__delitem__(slice(-6, None)),
      "arm 'grpo' has seeds [0, 1, 2, 3, 4], others [0, 1, 2, 3, 4, 5]",
    ),
    (
      lambda t: [r.update(kl=r['kl'] * 50) for r in t if r['method'] == 'grpo'],
      'were never at the same KL within (0.5, 1.0) nats',
    ),
  ],
)
def test_what_is_wrong_is_one_line(change, said, tmp_path, capsys):
  table = list(rows())
  change(table)
  path = write(tmp_path / 'p.csv', table)
  if not said:
    assert 'grpo - dpo' in shown(capsys, path)
    return
  with pytest.raises(SystemExit) as stopped:
    shown(capsys, path)
  text = str(stopped.value)
  assert said in text and '\n' not in text


def test_numbers_are_read_as_programs_write_them(tmp_path, capsys):
  """With a leading point or plus, and without one number in all methods."""
  table = list(rows())
  plain = shown(capsys, write(tmp_path / 'p.csv', table))
  for row in table:
    row.update(seed=f'{row["seed"]}.0', kl=f'+{row["kl"]}'.replace('+0.', '+.'))
  assert '+.4' in {row['kl'] for row in table}
  assert shown(capsys, write(tmp_path / 'q.csv', table)) == plain


def test_a_name_is_the_same_in_any_type(tmp_path):
  row = dict(seed=0, kl_by_prompt=1.0, gold_by_prompt=1.0)
  arms = [(1, None), (1.0, 'default'), ('1', ''), ('a\nb', 'x')]
  table = [
    dict(arm=arm, configuration=c, step=step, **row)
    for step, (arm, c) in enumerate(arms, 1)
  ]
  points = point_table.load(write(tmp_path / 'p.jsonl', table))
  found = [(p['arm'], p['configuration']) for p in points]
  assert found == [('1', 'default')] * 3 + [('a b', 'x')]
  table[0]['arm'] = float('nan')
  with pytest.raises(ValueError, match='row 1'):
    point_table.load(write(tmp_path / 'p.jsonl', table))


def test_names_that_say_something_else_in_other_files_are_names(
  tmp_path, capsys
):
  """`label` of a preference file is true or false; here it is a method."""
  table = [{**row, 'label': row['method'], 'margin': ''} for row in rows()]
  path = write(tmp_path / 'p.csv', table)
  assert shown(capsys, path, '--by=label') == shown(capsys, path)


def test_a_window_is_of_what_was_read(tmp_path, capsys):
  """From the least to the largest budget that both arms have, ends included."""
  path = write(tmp_path / 'p.csv', list(rows()))
  show_frontier.main([str(path), *FLAGS])
  text = capsys.readouterr().out
  assert 'At equal KL, 0.50 to 2.00 nats, grpo' in text  # of 0.25 to 16
  show_frontier.main([str(path), *FLAGS, '--budgets=1,3'])
  text = capsys.readouterr().out
  assert 'At equal KL, 1.00 to 2.00 nats, grpo' in text  # dpo has 4
  show_frontier.main([str(path), *FLAGS, '--budgets=2'])
  assert 'At equal KL, 2 nats, grpo' in capsys.readouterr().out  # grpo's end
  far = dict(zip((0, 20, 40, 60, 80), (0.0, 0.3, 0.5, 8.0, 12.0)))
  few = [{**row, 'kl': far[row['step']]} for row in rows() if row['step'] < 99]
  path = write(tmp_path / 'q.csv', few)
  show_frontier.main([str(path), *FLAGS, '--budgets=0.3,12'])
  told = 'but for where one of them has no checkpoints near'
  assert told in capsys.readouterr().out


def test_the_first_checkpoint_is_the_reference_only_at_step_0(tmp_path, capsys):
  for start, ends in ((0, '2.0'), (1, 'SystemExit')):
    table = [
      dict(method=m, seed=s, step=start + i, kl=kl, reward=x + s / 100)
      for m in ('dpo', 'grpo')
      for s in range(3)
      for i, (kl, x) in enumerate(((0.01, 0.0), (2.5, 2.5)))
    ]
    path = write(tmp_path / f'{start}.csv', table)
    if start:
      with pytest.raises(SystemExit, match='no arm reached 1 nats'):
        shown(capsys, path, '--budgets=1')
    else:
      assert '| 1 | 1.' in shown(capsys, path, '--budgets=1')


def test_a_run_of_one_checkpoint_is_read_there(tmp_path, capsys):
  table = [
    dict(method=m, seed=s, step=9, kl=1.0, reward=s + (m == 'grpo'))
    for m in ('dpo', 'grpo')
    for s in range(3)
  ]
  out = shown(capsys, write(tmp_path / 'p.csv', table), '--budgets=1')
  assert '| 1 | 1.00 ' in out and '| 2.00 ' in out


def test_small_scores_have_more_decimals(tmp_path, capsys):
  table = [{**row, 'reward': row['reward'] / 1000} for row in rows()]
  out = shown(capsys, write(tmp_path / 'p.csv', table))
  assert 'grpo is above dpo: +0.000' in out and '0.0000]' not in out


def ends(**golds):
  """Rows of arms that go from the reference to 2 nats, by three seeds."""
  for arm, (start, end) in golds.items():
    for seed in range(3):
      for step, (kl, gold) in enumerate(
        ((0.0, start), (0.1, start), (2.0, end))
      ):
        yield dict(method=arm, seed=seed, step=step, kl=kl, reward=gold)


def test_equal_arms_do_not_differ_by_rounding(tmp_path, capsys):
  table = ends(dpo=(0.1, 0.3), ipo=(0.2, 0.4))
  out = shown(capsys, write(tmp_path / 'p.csv', list(table)), '--budgets=2')
  assert 'ipo is not shown to differ from dpo: 0.00 [0.00, 0.00]' in out


def test_a_small_difference_of_large_scores_is_seen(tmp_path, capsys):
  table = [
    {**row, 'reward': row['reward'] + row['step'] * row['seed'] * 1e-4}
    for row in ends(dpo=(0.0, 0.2), ipo=(0.0, 0.203))
  ]
  for row in table:
    if row['method'] == 'dpo':
      row['reward'] *= 1 - 1e-4
  out = shown(capsys, write(tmp_path / 'p.csv', table), '--budgets=2')
  assert 'ipo is above dpo: +0.0030 [+0.00' in out


def held_rows(**ends):
  """Two methods held at 1 nat, where they end at other nats if these say so."""
  ways = dict(dpo=(0.0, 0.3, 0.5, 0.6), ipo=(0.0, 0.1, 0.3, 1.0))
  return [
    dict(method=arm, seed=seed, step=step, kl=kl, reward=x + seed / 100)
    | dict(kl_budget=1.0, kl_mode='hold')
    for arm, golds in ways.items()
    for seed in range(3)
    for step, (kl, x) in enumerate(
      zip((0.0, 0.3, 0.6, ends.get(arm, 1.01)), golds)
    )
  ]


def test_arms_that_were_held_are_compared_where_they_were_held(
  tmp_path, capsys
):
  """In passing ipo is below dpo, and held at 1 nat it is above."""
  path = write(tmp_path / 'p.jsonl', held_rows())
  out = shown(capsys, path, '--budgets=0.5,1')
  assert 'At equal KL, 1 nats, ipo is above dpo: +0.40' in out


def test_an_arm_that_strayed_from_its_budget_is_said_so(tmp_path, capsys):
  """And is not claimed in passing instead, unless that alone is asked for."""
  path = write(tmp_path / 'p.jsonl', held_rows(ipo=1.2))
  strayed = 'ipo/default of seed 0 was to be held at 1 nats and ended at 1.20'
  with pytest.raises(SystemExit, match=f'within .1.0, 1.0. nats.*{strayed}'):
    shown(capsys, path, '--budgets=0.5,1')
  assert 'ipo is' not in capsys.readouterr().out
  out = shown(capsys, path, '--budgets=0.5')
  assert 'ipo is below dpo: -0.20' in out and strayed in out
  path = write(tmp_path / 'q.jsonl', held_rows(ipo=1.2, dpo=0.8))
  both = f'no arm reached 1 nats .*dpo/.* ended at 0.80.*{strayed}'
  with pytest.raises(SystemExit, match=both):
    shown(capsys, path, '--budgets=1')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (
      lambda r: {'method': f'a {" " * r["seed"]}{r["method"]}'},
      "'a  dpo', and 'a dpo' in",
    ),
    (lambda r: {'method': ['a']}, 'method=..a.., expected a name'),
    (lambda r: {'method': {'a': 1}}, 'method=.*expected a name'),
    (lambda r: {'configuration': 'x\ty' if r['seed'] else 'x y'}, "'x y' in"),
    (lambda r: {'kl_mode': 'stop'}, "kl_mode='stop' and no kl_budget"),
  ],
)
def test_names_and_budgets_are_as_they_are_written(tmp_path, change, words):
  table = [row | change(row) for row in rows()]
  path = write(tmp_path / 'p.jsonl', table)
  with pytest.raises(ValueError, match=words):
    point_table.load(
      path, point_table.Columns('method', kl='kl', score='reward')
    )


def test_a_run_that_nothing_held_may_say_0_in_some_rows(tmp_path, capsys):
  table = [row | ({'kl_budget': 0} if row['step'] else {}) for row in rows()]
  table[1].pop('kl_budget')
  assert 'grpo is above' in shown(capsys, write(tmp_path / 'p.jsonl', table))


def test_all_of_several_files_are_those_that_were_written(tmp_path, capsys):
  """Their names together may be longer than a name can be."""
  table, names = list(rows()), []
  for seed in range(6):
    path = tmp_path / f'points_of_a_run_of_a_long_name_with_seed_{seed}.jsonl'
    points.save(path, [row for row in table if row['seed'] == seed])
    names.append(str(path))
  assert len(str(tuple(names))) > 255
  assert 'grpo is above' in shown(capsys, tuple(names))
  path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
  for several in (tuple(names), tmp_path, tmp_path / '*.jsonl'):
    with pytest.raises(SystemExit, match='seed_5.jsonl is not .*: damaged'):
      shown(capsys, several)


def test_an_arm_that_is_called_as_a_difference_is_refused(tmp_path, capsys):
  table = [*ends(dpo=(0, 1), ipo=(0, 2))]
  table += [{**row, 'method': 'ipo - dpo'} for row in table[:9]]
  with pytest.raises(SystemExit, match="arm 'ipo - dpo': a difference has"):
    shown(capsys, write(tmp_path / 'p.csv', table))


def test_a_plot_without_a_reference_starts_nowhere(tmp_path, monkeypatch):
  from align_jax.compare import lines

  drawn, lines_of = [], lines.lines_of
  spied = lambda *args, **how: drawn.append(lines_of(*args, **how)) or drawn[-1]
  monkeypatch.setattr(lines, 'lines_of', spied)
  for kept in (0, 1):
    path = write(tmp_path / 'p.csv', [r for r in rows() if r['step'] >= kept])
    flags = '--budgets=2,0.5,1,1', f'--plot={tmp_path / "p.png"}'
    show_frontier.main([str(path), *FLAGS, *flags])
  assert [line.x.tolist() for line, _ in drawn] == [[0, 0.5, 1, 2], [0.5, 1, 2]]


@pytest.mark.parametrize(
  'flag, said',
  [
    ('--configuration=nosuch', "no column 'nosuch'"),
    ('--half-width=nan', 'invalid width value'),
    ('--half-width=0', 'invalid width value'),
    ('--budgets=1,-2', 'invalid nats value'),
    ('--plot=x.txt', 'x.txt: expected one of .png, .svg, .pdf'),
  ],
)
def test_a_wrong_flag_is_named(flag, said, tmp_path, capsys):
  path = write(tmp_path / 'p.csv', list(rows()))
  with pytest.raises(SystemExit) as stop:
    shown(capsys, path, flag)
  assert said in f'{stop.value}{capsys.readouterr().err}'


def test_a_column_of_any_name_tells_configurations_apart(tmp_path, capsys):
  table = [{**row, 'beta': b} for b in (0.1, 0.2) for row in rows(3, 8)]
  path = write(tmp_path / 'p.jsonl', table)
  assert shown(capsys, path, '--configuration=beta')
  with pytest.raises(SystemExit, match='a second row'):
    shown(capsys, path)


def test_lists_of_other_lengths_are_named(tmp_path):
  table = list(rows(prompts=8))
  table[1]['kl'] = table[1]['kl'][:-1]
  path = write(tmp_path / 'p.jsonl', table)
  columns = point_table.Columns(arm='method', kl='kl', score='reward')
  with pytest.raises(ValueError, match='row 2: 7 values of kl and 8 of reward'):
    point_table.load(path, columns)


TOLD = '--arm=x', '--step=3'


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
  """Two of one tokenizer and other architectures, and prompts."""
  folder = tmp_path_factory.mktemp('kl')
  for name, changes in (('a', {}), ('b', {'hidden_act': 'gelu'})):
    tiny_checkpoints.make(folder / name, 'qwen2', **changes)
  say = lambda text: [{'role': 'user', 'content': text}]
  prompts = [{'prompt': say(f'Say {i}.')} for i in range(6)]
  write(folder / 'prompts.jsonl', prompts)
  return folder


def measured(capsys, folder, reference, policy, *flags):
  paths = (str(folder / x) for x in (reference, policy, 'prompts.jsonl'))
  defaults = '--prompt-len=40', '--completion-len=3'
  measure_kl.main([*paths, *flags_of(flags, *defaults)])
  return capsys.readouterr().out


def test_a_checkpoint_is_0_nats_from_itself(checkpoints, capsys):
  out = measured(capsys, checkpoints, 'a', 'a')
  assert 'exact per token: 0.0000 ± 0.0000 nats' in out
  assert 'Monte Carlo: 0.0000 ± 0.0000 nats' in out


@pytest.mark.parametrize('padded', ['reference', 'policy'])
def test_rows_that_pad_an_embedding_change_nothing(padded, checkpoints, capsys):
  """Families pad by size; no text has such a token."""
  numpy = pytest.importorskip('safetensors.numpy')
  folder = checkpoints / f'a padded {padded}'
  shutil.copytree(checkpoints / 'a', folder)
  weights = numpy.load_file(folder / 'model.safetensors')
  rng, size = np.random.default_rng(0), 0
  for name, x in weights.items():
    if 'embed_tokens' in name or 'lm_head' in name:
      more = rng.normal(size=(16, x.shape[1])).astype(x.dtype)
      weights[name], size = np.concatenate([x, more]), len(x) + 16
  numpy.save_file(weights, folder / 'model.safetensors', {'format': 'pt'})
  fields = json.loads((folder / 'config.json').read_text())
  told = json.dumps(fields | {'vocab_size': size})
  (folder / 'config.json').write_text(told)
  want = measured(capsys, checkpoints, 'a', 'b')
  names = (folder.name, 'b') if padded == 'reference' else ('b', folder.name)
  back = measured(capsys, checkpoints, 'b', 'a')
  got = measured(capsys, checkpoints, *names)
  assert got == (want if padded == 'reference' else back)


def test_rows_that_are_tokens_of_one_alone_are_refused(checkpoints):
  """As where a tokenizer was extended and one model was not resized."""
  long, short = (measure_kl.hf.load(str(checkpoints / 'a')) for _ in 'ab')
  short = short._replace(
    config=dataclasses.replace(short.config, vocab_size=100, no_tokens=())
  )
  with pytest.raises(ValueError, match='of which the first .* in use'):
    measure_kl._alike([long, short], 'a and b')


def test_a_judge_scores_the_texts_of_points(
  checkpoints, tmp_path, monkeypatch, capsys
):
  """The code of the page."""
  code = shown_with('judge(')
  monkeypatch.chdir(tmp_path)
  for policy, step in ('a', 0), ('b', 9):
    flags = '--point=points.jsonl', '--arm=x', f'--texts=x_0_{step}.jsonl'
    measured(capsys, checkpoints, 'a', policy, *flags, f'--step={step}')
  judge = lambda prompt, completion: len(completion) / 10
  exec(code, {'judge': judge})
  scored = [json.loads(x) for x in open('scored.jsonl')]
  texts = [json.loads(x) for x in open('x_0_9.jsonl')]
  first = [len(x['completion']) / 10 for x in texts[:4]]
  assert all(x['prompt'] == texts[0]['prompt'] for x in texts[:4])
  np.testing.assert_allclose(scored[1]['gold_by_prompt'][0], np.mean(first))
  budget = np.mean(scored[1]['kl_by_prompt']) * 0.9
  show_frontier.main(['scored.jsonl', f'--budgets={budget}'])
  assert 'x' in capsys.readouterr().out


def test_points_of_kl_become_points_of_a_frontier(
  checkpoints, tmp_path, capsys
):
  path, texts = tmp_path / 'points.jsonl', tmp_path / 'texts.jsonl'
  flags = f'--point={path}', '--arm=x', f'--texts={texts}'
  measured(capsys, checkpoints, 'a', 'a', *flags, '--step=0')
  measured(capsys, checkpoints, 'a', 'b', *flags, '--step=9')
  start, end = map(json.loads, path.read_text().splitlines())
  assert start['kl_by_prompt'] == [0] * 6 and min(end['kl_by_prompt']) > 0
  told = [json.loads(x) for x in texts.read_text().splitlines()]
  assert len(told) == 24 and 'Say 0.' in told[0]['prompt']
  for row in (start, end):
    row['gold_by_prompt'] = [row['step'] / 10 + i for i in range(6)]
  budget = np.mean(end['kl_by_prompt']) * 0.9
  write(path, [start, end])
  show_frontier.main([str(path), f'--budgets={budget}'])
  assert '0.85' in capsys.readouterr().out  # of 0.9, at sqrt(0.9) of the way


@pytest.mark.parametrize(
  'flags, said',
  [
    (('--point=p.jsonl',), 'expected --arm and --step'),
    (('--texts=p.csv',), 'expected a .jsonl'),
    (('--prompt-len=2',), 'no prompt of at most 2 tokens'),
    (('--texts=p.jsonl', '--point=p.jsonl', *TOLD), 'got one twice'),
    (('--texts=prompts.jsonl',), 'got one twice'),
    (('--point=there.jsonl', *TOLD), 'there.jsonl row 2: a point of x, seed 0'),
    (('--point=twice.jsonl', *TOLD), 'twice.jsonl row 1'),
  ],
)
def test_a_wrong_request_is_one_line(
  flags, said, checkpoints, capsys, monkeypatch
):
  """Before anything is sampled, where it is of the files."""
  monkeypatch.chdir(checkpoints)
  rows = '\n{"arm": "x", "seed": 0, "step": 3}\n'
  (checkpoints / 'there.jsonl').write_text(rows)
  (checkpoints / 'twice.jsonl').write_text('{"arm": "x", "arm": "y"}\n')
  with pytest.raises(SystemExit, match=said):
    measured(capsys, checkpoints, 'a', 'b', *flags)
  assert (checkpoints / 'there.jsonl').read_text() == rows


def test_a_point_is_added_to_what_is_there(tmp_path):
  """Also to a last row without its end, and a mark that Windows writes."""
  path = tmp_path / 'p.jsonl'
  path.write_text('\ufeff{"arm": "a",  "x": 1}\n{"arm": "b"}', 'utf-8')
  measure_kl.append(str(path), {'arm': 'c'})
  kept = '\ufeff{"arm": "a",  "x": 1}\n{"arm": "b"}\n{"arm": "c"}\n'
  assert path.read_text('utf-8') == kept


@pytest.mark.parametrize(
  'name, text',
  [('a.txt', 'Say 1.\nSay 2.\n'), ('a.jsonl', '{"text": "Say 1."}\n')],
)
def test_whole_texts_are_no_prompts(name, text, checkpoints, tmp_path):
  (tmp_path / name).write_text(text)
  args = measure_kl.make_parser().parse_args(
    [str(checkpoints / 'a')] * 2 + [str(tmp_path / name)]
  )
  with pytest.raises(ValueError, match=f'{name} row 1: a whole text, expected'):
    measure_kl.read_prompts(args, None)


def test_a_prompt_that_comes_twice_is_told(checkpoints, tmp_path, capsys):
  say = [{'prompt': [{'role': 'user', 'content': f'Say {i}.'}]} for i in (1, 1)]
  path = write(tmp_path / 'twice.jsonl', say)
  args = [str(checkpoints / 'a')] * 2 + [str(path), '--prompt-len=40']
  args = measure_kl.make_parser().parse_args(args)
  assert len(measure_kl.read_prompts(args, measure_kl.load(args)[2])) == 1
  told = 'note: 1 rows left out: the prompt of an earlier row'
  assert told in capsys.readouterr().err


def test_other_tokenizers_are_refused(checkpoints, capsys):
  tiny_checkpoints.make(checkpoints / 'c', 'llama')
  with pytest.raises(SystemExit, match='expected one tokenizer'):
    measured(capsys, checkpoints, 'a', 'c')


def enumerated(folder, ids, ends):
  """By torch, of completions of two tokens of policy b and reference a.

  Returns:
    probs of the first token, KL there, and of the second after each first.
  """
  torch = pytest.importorskip('torch')
  import transformers

  load = transformers.AutoModelForCausalLM.from_pretrained
  models = [load(folder / x, dtype='float32').eval() for x in 'ba']

  def step(rows):
    rows = torch.tensor(np.array(rows, np.int64))
    with torch.no_grad():
      p, q = (
        m(input_ids=rows).logits[:, -1].double().log_softmax(-1) for m in models
      )
    return p.exp().numpy(), (p.exp() * (p - q)).sum(-1).numpy()

  [probs], [first] = step([ids])
  second = step([[*ids, token] for token in range(len(probs))])[1]
  second[list(ends)] = 0
  return probs, first, second


def test_the_kl_is_the_enumeration_by_transformers(checkpoints):
  """Of one prompt. Torch tells how likely each of the first tokens is."""
  paths = [str(checkpoints / x) for x in ('a', 'b', 'prompts.jsonl')]
  flags = '--prompt-len=40', '--completion-len=2', '--samples=8192'
  args = measure_kl.make_parser().parse_args([*paths, *flags])
  policy, reference, words = measure_kl.load(args)
  prompts = measure_kl.read_prompts(args, words)
  prompts = Prompts(*prompts[:1])
  [(batch, kls, _)] = measure_kl.measure(
    policy, reference, prompts, words.ends, args
  )
  ids = np.asarray(prompts.tokens)[prompts.valid]
  probs, first, second = enumerated(checkpoints, ids, words.ends)
  drawn = np.asarray(batch.completions)[:, 0]
  np.testing.assert_allclose(kls, first + second[drawn], atol=1e-5)
  assert {*drawn} == {*range(len(probs))}  # the EOS as well
  found = np.zeros(len(probs))
  found[drawn] = kls
  assert abs(probs @ found - (first + probs @ second)) < 1e-5


def test_a_held_run_is_read_at_its_end_also_from_a_csv(tmp_path, capsys):
  table = [
    {**row, 'kl_budget': 2.0} for row in rows() if row['method'] != 'dpo'
  ]
  path = write(tmp_path / 'p.csv', table)
  show_frontier.main([str(path), *FLAGS[:3], '--budgets=2'])
  assert ' held |' in capsys.readouterr().out
