"""The benchmark: who takes turns, what is made of it, what is written where."""

import functools
import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from align_jax.models import transformer
from configs import benchmark as workloads
from experiments import benchmark, common
from experiments.peers import contest, growth, ours, page, worker, workload

# Notes its turns in a file; its seconds are given, and it may stop early.
FAKE = """
import json, sys
name, turns, seconds, lasts = sys.argv[1:]
for i, s in enumerate(json.loads(seconds)):
  if i and not sys.stdin.readline():
    sys.exit()
  if i == int(lasts):
    sys.exit('out of ' + name)
  print(name, file=open(turns, 'a'))
  figures = {'cpu': s, 'wall': 2 * s, 'peak_mb': 7, 'platform': 'cpu'}
  print(json.dumps(figures), flush=True)
"""


@pytest.fixture
def fake(tmp_path):
  """(name, its seconds, turns it lives) -> what enters a contest."""

  def enter(name, seconds, lasts=99):
    seconds = json.dumps(seconds)
    words = [name, str(tmp_path / 'turns'), seconds, str(lasts)]
    command = [sys.executable, '-c', FAKE, *words]
    log = tmp_path / f'{name}.log'
    return functools.partial(contest.Contestant, name, command, log)

  return enter


def test_parts_are_no_longer_than_the_whole():
  gate = worker.Gate(io.StringIO(), io.StringIO())
  gate.begin()
  with pytest.raises(AssertionError, match='parts'):
    gate.end(parts={'train': {'wall': 60.0}})


def test_contestants_take_turns(fake, tmp_path):
  answers, failures = contest.compete(
    [fake('a', [9, 5, 1, 2, 4]), fake('b', [9, 5, 4, 4, 4])], rounds=3
  )
  assert (tmp_path / 'turns').read_text().split() == ['a', 'b'] * 5
  assert not failures and list(answers) == ['a', 'b']
  s = contest.summary(answers['a'], 'cpu')
  # The warm-up and the first round do not count.
  assert (s['cpu'], s['wall'], s['least'], s['most']) == (2, 4, 1, 4)
  assert s['compile'] == 9 - 2 and s['peak_mb'] == 7
  # The median of 4/1, 4/2 and 4/4, not the ratio of medians of other rounds.
  assert contest.ratio(answers['b'], answers['a'], 'wall') == 2
  assert contest.ratio(answers['a'], answers['a'], 'cpu') == 1


@pytest.mark.parametrize('lasts', [0, 1, 3])
def test_who_fails_is_named_and_the_others_go_on(fake, lasts):
  answers, failures = contest.compete(
    [fake('a', [1] * 5), fake('b', [1] * 5, lasts), fake('c', [1] * 5)], 3
  )
  assert list(answers) == ['a', 'c']
  assert [len(x) for x in answers.values()] == [5, 5]
  assert failures == ['b ended with status 1: out of b']


def test_parts_are_medians_of_their_own():
  turn = lambda s: {
    **dict(cpu=s, wall=s, peak_mb=1),
    'parts': {'generate': {'cpu': s / 4}, 'train': {'cpu': 3 * s / 4}},
  }
  s = contest.summary([turn(x) for x in (90, 80, 4, 8, 12)], 'cpu')
  assert s['parts'] == {'generate': 2, 'train': 6}


@pytest.fixture(scope='module')
def cfg():
  return common.as_dict(workloads.smoke(workloads.get_config()))


@pytest.fixture(scope='module')
def full():
  return common.as_dict(workloads.get_config())


@pytest.mark.parametrize('size', workloads.MODELS)
def test_limits_count_the_weights_there_are(full, size):
  config = transformer.ModelConfig(**full['models'][size])
  shapes = jax.eval_shape(
    functools.partial(transformer.init, c=config), jax.random.key(0)
  )
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert workload.weights(full['models'][size])[0] == count


def test_limits_are_products_and_memory_whichever_is_slower(full):
  model, tasks = full['models']['S'], full['tasks']
  weights, body = workload.weights(model)

  def limit(name, flops, bandwidth):
    parts = workload.WORK[tasks[name]['kind']][0](model, tasks[name])
    return workload.limit(parts, flops, lambda moved: bandwidth)

  quick = 1e30
  tokens = 32 * (64 + 128)
  assert limit('DPO pre', 1, quick)[0] == pytest.approx(6 * weights * tokens)
  assert limit('DPO +ref', 1, quick)[0] == pytest.approx(8 * weights * tokens)
  drawn = 2 * body * 32 * 64 + 127 * 2 * weights * 32
  assert limit('SAMPLE', 1, quick)[0] == pytest.approx(drawn)
  cache = 2 * 4 * 192 * 4 * 32 * (64 + 64)
  moved = 127 * (4 * weights + cache) + 4 * body
  assert limit('SAMPLE', quick, 1)[0] == pytest.approx(moved)
  both = limit('SAMPLE', 1, quick)[0] + limit('DPO +ref', 1, quick)[0]
  assert limit('GRPO', 1, quick)[0] == pytest.approx(both)
  seconds, compute, memory = limit('SAMPLE', 2e11, 2e10)
  assert max(compute, memory) <= seconds < compute + memory


def test_a_refill_wants_fewer_tokens_than_static_batches_draw(full):
  task = full['tasks']['REFILL']
  wanted = workload.limits(task)
  assert len(wanted) == 128 and wanted.min() >= 1 and wanted.max() == 128
  longest = wanted.reshape(-1, task['slots']).max(1)
  assert wanted.sum() < task['slots'] * longest.sum() / 2


def test_an_exponent_is_that_of_the_power_law():
  x = np.array([1, 2, 8, 16])
  assert growth.exponent(x, 3 * x**1.5) == pytest.approx(1.5)


@pytest.mark.parametrize('axis', ['prompts', 'dim', 'vocab_size'])
def test_scaling_changes_one_axis(full, axis):
  sizes = {name: x[0] for name, x in full['scaling']['axes'].items()}
  model, task = growth.scaled(full, 'prompts', sizes['prompts'])
  assert model == full['models']['S']
  more_model, more_task = growth.scaled(full, axis, 2 * sizes[axis])
  changed = {k for k in model if model[k] != more_model[k]}
  changed |= {k for k in task if task[k] != more_task[k]}
  width = {'dim', 'num_heads', 'num_kv_heads', 'mlp_dim'}
  assert changed == (width if axis == 'dim' else {axis})


def test_a_block_of_the_page_takes_the_place_of_its_own_only(tmp_path):
  path = tmp_path / 'page.md'
  path.write_text('# Title\n\nby hand\n')
  for name, text in (('a', 'old'), ('b', 'kept'), ('a', r'new \1')):
    page.replace(path, name, text)
  words = path.read_text()
  assert words.startswith('# Title\n\nby hand\n')
  assert 'old' not in words and words.count('<!-- end -->') == 2
  assert words.index(r'new \1') < words.index('kept')


@pytest.mark.parametrize(
  'field, value, words',
  [
    ('only', 'SAMPLE,NONE', 'only=NONE: no such name; tasks are DPO'),
    ('sizes', 'XXL', 'sizes=XXL: no such name; models are'),
    ('rounds', 0, 'rounds=0'),
    ('peers', {'trl': '/nowhere/python'}, "peers.trl='/nowhere/python'"),
  ],
)
def test_what_is_asked_wrongly_is_named(cfg, tmp_path, field, value, words):
  with pytest.raises(ValueError, match=words):
    benchmark.compare({**cfg, field: value}, tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_mistake_ends_in_one_line():
  config = '--config=configs/benchmark.py'
  command = ['-m', 'experiments.benchmark', config, '--config.only=NONE']
  done = subprocess.run(
    [sys.executable, *command], capture_output=True, text=True
  )
  assert done.returncode and len(done.stderr.splitlines()) == 1
  assert done.stderr.startswith('error: only=NONE')


def test_every_task_has_a_contestant_for_its_kind(full):
  module, kinds = benchmark.ENTRANTS['align_jax']
  assert {task['kind'] for task in full['tasks'].values()} <= set(kinds)
  for module, kinds in benchmark.ENTRANTS.values():
    assert set(kinds) <= set(workload.WORK)
    if module == 'ours':
      assert set(kinds.values()) <= set(ours.KINDS)


@pytest.mark.parametrize('cores, more', [(0, 0), (1, 0), (2, 1)])
def test_cores_are_devices_where_there_are_several(
  cfg, fake, tmp_path, monkeypatch, cores, more
):
  kinds = {}

  def worker(name, python, module, spec, log):
    kinds[name] = spec['kind']
    return fake(name, [9, 5, 1, 1])()

  monkeypatch.setattr(contest, 'worker', worker)
  cfg = {**cfg, 'cores': cores}
  benchmark.play(cfg, {'ours': sys.executable}, 'XS', 'SAMPLE', tmp_path)
  assert kinds.pop('align_jax') == 'sample'
  assert kinds == dict([(benchmark.ON_CORES, 'sample_on_cores')] * more)


@pytest.mark.parametrize(
  'cores, platform', [(1, 'cpu'), (2, 'cpu'), (1, 'gpu')]
)
def test_cpu_seconds_count_on_one_core_only(cores, platform):
  counted = contest.clock_of({'cores': cores}, platform)
  assert counted == ('cpu' if (cores, platform) == (1, 'cpu') else 'wall')


def test_ours_runs_and_is_written_down(cfg, tmp_path, capsys):
  """Both ways to sample, and a whole loop of GRPO, as on the real page."""
  cfg = {**cfg, 'only': 'REFILL,GRPO', 'page': str(tmp_path / 'page.md')}
  cfg['peers'] = {}
  benchmark.compare(cfg, tmp_path / 'work')
  text = (tmp_path / 'page.md').read_text()
  rows = [line for line in text.splitlines() if line.startswith('| ')]
  assert [row.split(' | ')[:2] for row in rows[2:]] == [
    ['| REFILL XS', 'align_jax'],
    ['| REFILL XS', 'align_jax, static batches'],
    ['| GRPO XS', 'align_jax'],
  ]
  for row in rows[2:]:
    cells = dict(zip(benchmark.HEADER, row.strip('| ').split(' | ')))
    for name, least in ('CPU s', 0), ('times the limit', 0), ('peak MB', 50):
      assert float(cells[name].replace(',', '')) > least
  assert '## REFILL, GRPO: XS on 1 core' in text
  assert f'jax {jax.__version__}' in text and 'ended with' not in text


def test_scaling_fits_an_exponent_per_axis(cfg, fake, monkeypatch):
  def worker(name, python, module, spec, log):
    return fake(name, [spec['task']['prompts'] ** 2] * 4)()

  monkeypatch.setattr(contest, 'worker', worker)
  row, failures, _ = growth.scaling_rows(cfg, 'prompts', 'update', 'logs')
  assert not failures
  assert row == ['prompts', 'update', '2: 4, 4: 16', '2.00']


def test_scaling_runs(cfg, tmp_path):
  small = {
    **cfg['scaling'],
    'axes': {**cfg['scaling']['axes'], 'prompts': (2,)},
  }
  cfg = {**cfg, 'scaling': small}
  row, failures, _ = growth.scaling_rows(cfg, 'prompts', 'update', tmp_path)
  assert not failures and row[2].startswith('2: ') and row[3] == ''
