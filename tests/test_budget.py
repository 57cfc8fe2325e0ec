"""The KL budget as a control: reached, never exceeded, and resumable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import interrupted_at
from runs import train_arm
from test_train import assert_same_run, settings

from align_jax.files import read_jsonl
from align_jax.learn import budget as budgets
from align_jax.learn import optimizers, step, stopping
from align_jax.learn.budget import Budget, adapted, back_inside, keep

NATS = 2.0


def kl_of(params):
  """A KL that grows along any line away from 0."""
  return float(jnp.square(params['w']).sum())


def fake(stop=False, **fields):
  return Budget(NATS, stop, 1, kl_of, **fields)


def state_at(inside, outside, **stats):
  point = lambda x: {'w': jnp.full(3, x)}
  state = step.init_state(point(inside), optimizers.make_optimizer(), (), stats)
  return state.replace(
    params=point(outside),
    anchors={budgets.INSIDE: point(inside), budgets.HELD: point(0.0)},
  )


@pytest.mark.parametrize('outside', [0.85, 1.0, 3.0, 50.0])
def test_an_overshoot_is_taken_back_along_the_line(outside):
  state = state_at(0.3, outside)
  assert kl_of(state.params) > NATS
  inside = state.anchors[budgets.INSIDE]
  kls = kl_of(inside), kl_of(state.params)
  params, kl = back_inside(fake(), inside, state.params, kls)
  assert kl == kl_of(params)
  assert abs(kl_of(params) / NATS - 1) <= 0.01
  assert jnp.ptp(params['w']) == 0  # on the line, not merely at the budget


def test_a_run_inside_is_left_alone():
  state = state_at(0.1, 0.5, beta=0.1)
  kept, stop = keep(fake(), state, left=20)
  assert not stop and kl_of(kept.params) == kl_of(state.params)
  np.testing.assert_array_equal(
    kept.anchors[budgets.INSIDE]['w'], state.params['w']
  )
  assert kl_of(kept.anchors[budgets.HELD]) == 0
  assert kept.stats['beta'] == state.stats['beta']  # in time as it is


def test_stopping_ends_the_run_at_its_budget():
  kept, stop = keep(fake(stop=True), state_at(0.5, 2.0))
  assert stop and abs(kl_of(kept.params) / NATS - 1) <= 0.01
  assert keep(fake(stop=True), kept)[1]  # as a resumed run finds it
  assert not keep(fake(stop=True), state_at(0.1, 0.2))[1]


def test_a_run_that_ends_short_gives_what_was_last_at_its_budget():
  state = state_at(0.4, 0.6)
  there = {'w': jnp.full(3, (NATS / 3) ** 0.5)}
  state = state.replace(anchors={**state.anchors, budgets.HELD: there})
  kept, _ = keep(fake(), state)
  assert abs(kl_of(kept.params) / NATS - 1) <= 0.01
  kept, _ = keep(fake(), state, left=3)  # not before its end
  assert kl_of(kept.params) == kl_of(state.params)
  kept, _ = keep(fake(), state_at(0.4, 0.6))  # one that never got there
  assert kl_of(kept.params) == kl_of(state.params)


def test_beta_rises_with_an_overshoot():
  beta = [adapted(fake(), 0.1, x * NATS, NATS, 5) for x in (1.02, 1.5, 9, 99)]
  assert 0.1 < beta[0] < beta[1] < beta[2] == beta[3]


def test_beta_falls_where_the_run_would_not_get_there():
  at = lambda kl, last, left: adapted(fake(), 0.1, kl, last, left)
  assert at(0.5, 0.4, 20) == 0.1  # 20 times 0.1 more is enough
  assert at(0.5, 0.4, 10) < 0.1
  assert at(0.5, 0.5, 20) < at(1.5, 1.5, 20) < 0.1  # the further, the faster
  assert at(NATS, NATS, 20) == 0.1


def test_measurements_to_come():
  budget = Budget(NATS, False, 20, kl_of)
  due = [s for s in range(1, 51) if budgets.due(budget, s, 50)]
  assert due == [20, 40, 50]
  assert [budgets.left(budget, s, 50) for s in due] == [2, 1, 0]


def test_only_a_held_run_with_a_beta_adapts_it():
  for stop, stats in ((True, {'beta': 0.1}), (False, {})):
    kept, _ = keep(fake(stop), state_at(0.5, 2.0, **stats))
    assert kept.stats == state_at(0, 0, **stats).stats
  kept, _ = keep(fake(), state_at(0.5, 2.0, beta=0.1))
  assert kept.stats['beta'] > 0.1


BUDGET = 0.06  # nats, which the tiny run leaves behind within its steps


def budgeted(**fields):
  cfg, run = settings('online')
  cfg = {**cfg, 'eval': {**cfg['eval'], 'samples': 16}}
  held = dict(
    steps=12,
    learning_rate=4e-3,
    kl_budget=BUDGET,
    kl_every=2,
    kl_samples=4,
    name=f'budget/{fields["kl_mode"]}',
  )
  return cfg, run.but(**{**held, **fields})


def points(workdir, run):
  return read_jsonl(run.directory(workdir) / 'points.jsonl')


@pytest.fixture(scope='module')
def free(tmp_path_factory):
  """The same run without a budget: beyond it."""
  workdir = tmp_path_factory.mktemp('budget')
  cfg, run = budgeted(kl_mode='hold', name='budget/free', kl_budget=0.0)
  train_arm(cfg, run, workdir)
  assert points(workdir, run)[-1]['kl_seq_nats'] > 2 * BUDGET
  return workdir


@pytest.mark.parametrize('mode', ['hold', 'stop'])
def test_a_run_ends_at_its_budget_and_resumes_to_the_same_bits(
  mode, free, tmp_path
):
  cfg, run = budgeted(kl_mode=mode)
  train_arm(cfg, run, free)
  last = points(free, run)[-1]
  # Of few samples of few prompts: the law of 5% is held at real sizes.
  assert abs(last['kl_seq_nats'] / BUDGET - 1) < 0.25
  assert (last['step'] == run.schedule.steps) == (mode == 'hold')
  with interrupted_at(3) as report:
    train_arm(cfg, run, tmp_path, report)
  train_arm(cfg, run, tmp_path)
  assert_same_run(run.directory(free), run.directory(tmp_path))
  train_arm(cfg, run, tmp_path)  # a finished run is not trained again
  assert_same_run(run.directory(free), run.directory(tmp_path))


def test_an_interrupted_run_stops_where_it_would_have(free, tmp_path):
  """It was beyond its budget when it was saved, and not measured yet."""
  often = dict(kl_mode='stop', kl_budget=BUDGET / 8, save_every=1)
  cfg, run = budgeted(name='budget/late', kl_every=5, **often)
  train_arm(cfg, run, free)
  assert points(free, run)[-1]['step'] == 5
  with interrupted_at(4) as report:
    train_arm(cfg, run, tmp_path, report)
  train_arm(cfg, run, tmp_path)
  assert_same_run(run.directory(free), run.directory(tmp_path))


def test_a_run_on_its_way_back_stops_when_asked(free, tmp_path, monkeypatch):
  """It goes on from its last checkpoint, to the same bits."""
  cfg, run = budgeted(kl_mode='hold')
  train_arm(cfg, run, free)
  between, tried = budgets.between, []

  def asked_meanwhile(*args):
    tried.append(args)
    monkeypatch.setattr(stopping, '_asked', [15] if len(tried) == 2 else [])
    return between(*args)

  monkeypatch.setattr(budgets, 'between', asked_meanwhile)
  with pytest.raises(stopping.Stopped, match='brought back to its KL budget'):
    train_arm(cfg, run, tmp_path)
  assert len(tried) == 2
  monkeypatch.setattr(stopping, '_asked', [])
  train_arm(cfg, run, tmp_path)
  assert_same_run(run.directory(free), run.directory(tmp_path))


def test_metrics_show_beta_as_it_adapts(free):
  _, run = budgeted(kl_mode='hold')
  rows = read_jsonl(run.directory(free) / 'metrics.jsonl')
  assert len({row['beta'] for row in rows}) > 1


def test_the_search_compiles_once(monkeypatch):
  state = state_at(0.3, 50.0)
  traced, between = [], budgets.between.__wrapped__

  def counted(inside, outside, share):
    traced.append(share)
    return between(inside, outside, share)

  monkeypatch.setattr(budgets, 'between', jax.jit(counted))
  inside = state.anchors[budgets.INSIDE]
  kls = kl_of(inside), kl_of(state.params)
  back_inside(fake(), inside, state.params, kls)
  assert len(traced) == 1


def test_nothing_is_measured_twice():
  measured = []

  def measure(params):
    measured.append(float(params['w'][0]))
    return kl_of(params)

  budget, state = Budget(NATS, False, 1, measure), state_at(0.3, 0.5, beta=0.1)
  for outside in (0.6, 0.7, 0.9, 0.95, 2.0):
    state, _ = keep(budget, state, left=20)
    state = state.replace(params={'w': jnp.full(3, outside)})
  assert len(measured) == len(set(measured)) < 10
