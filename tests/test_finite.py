"""A number that is none stops a run, which names it and keeps what was good."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from runs import train_arm

from align_jax.files import read_jsonl
from align_jax.lab import labels, stages, sweep
from align_jax.learn import budget, finite
from align_jax.learn.checkpoint import newest_step
from align_jax.tasks import toy as toy_task
from align_jax.types import TrainState
from configs import base, toy
from experiments import common, online_vs_offline

HUGE = 1e38  # a rate after which parameters are infinite


def config(**arm):
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.arms = {'offline': dict(source='golden_pairs'), 'online': arm}
  cfg = common.as_dict(c)
  cfg['arm']['max_grad_norm'] = math.inf
  return cfg


def run_of(cfg, arm='online'):
  return next(r for r in sweep.sweep(cfg) if r.arm == arm)


@pytest.fixture(autouse=True)
def no_stage():
  yield
  stages._prepared.clear()


@pytest.mark.parametrize(
  'fields',
  [
    dict(learning_rate=HUGE),
    dict(learning_rate=HUGE, source='golden_pairs'),
    dict(learning_rate=HUGE, loss='rloo', loss_kwargs={}),
    dict(learning_rate=HUGE, loss='ppo', loss_kwargs={}),
  ],
  ids=['online', 'offline', 'rloo', 'ppo'],
)
def test_a_run_that_diverges_stops(fields, tmp_path):
  cfg = config(**fields)
  run = run_of(cfg)
  with pytest.raises(
    finite.NotFinite, match='online/default: step 1: .*='
  ) as e:
    train_arm(cfg, run, tmp_path)
  assert 'update is not kept' in str(e.value)
  directory = run.directory(tmp_path)
  assert newest_step(directory) == 0
  assert [p['step'] for p in read_jsonl(directory / 'points.jsonl')] == [0]


@pytest.mark.parametrize('stage', ['sft', 'proxy'])
def test_a_stage_that_diverges_stops(stage, tmp_path):
  cfg = config()
  cfg[stage] = {**cfg[stage], 'learning_rate': HUGE, 'max_grad_norm': math.inf}
  with pytest.raises(finite.NotFinite, match=f'{stage}.*: step 1: '):
    train_arm(cfg, run_of(cfg), tmp_path)


def test_the_last_good_checkpoint_stays(tmp_path):
  cfg = config()
  cfg['arm'] |= dict(save_every=2, schedule={'name': 'constant'})
  train_arm(cfg, run_of({**cfg, 'arm': {**cfg['arm'], 'steps': 4}}), tmp_path)
  cfg['arm']['learning_rate'] = HUGE
  run = run_of(cfg)
  with pytest.raises(finite.NotFinite, match='step 5'):
    train_arm(cfg, run, tmp_path)
  assert newest_step(run.directory(tmp_path)) == 4


def test_a_gold_that_is_no_number_is_named(tmp_path, monkeypatch):
  broken = lambda *args: jnp.full(args[-1].completions.shape[0], jnp.nan)
  monkeypatch.setattr(toy_task, 'gold_reward', broken)
  with pytest.raises(finite.NotFinite, match='gold, of golden pairs: .* NaN'):
    train_arm(config(), run_of(config()), tmp_path)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_named(value, tmp_path, monkeypatch):
  def broken(stage, judge):
    return lambda batch: stage.proxy(batch).at[0].set(value)

  monkeypatch.setitem(labels.LABELS, 'proxy', labels.Label(broken))
  cfg = config(loss='rloo', loss_kwargs={})
  with pytest.raises(finite.NotFinite, match='step 1: .*1 of 8 rewards'):
    train_arm(cfg, run_of(cfg), tmp_path)


def test_a_kl_that_is_no_number_holds_no_budget():
  params = {'w': jnp.zeros(2)}
  state = TrainState(
    step=jnp.int32(1),
    params=params,
    opt_state=(),
    anchors={budget.INSIDE: params, budget.HELD: params},
    stats={},
  )
  for stop in (True, False):
    held = budget.Budget(1.0, stop, 1, lambda params: math.nan)
    with pytest.raises(finite.NotFinite, match='kl_budget=1: .* KL is nan'):
      budget.keep(held, state)


@pytest.mark.parametrize('field', ['gold', 'sets.train.kl_by_prompt'])
def test_a_point_that_is_no_number_is_named(field):
  point = {'gold': 1.0, 'sets': {'train': {'kl_by_prompt': [0.0, 1.0]}}}
  finite.check_points(['a'], 3, point)
  inner = point['sets']['train'] if '.' in field else point
  inner[field.split('.')[-1]] = [np.nan]
  with pytest.raises(
    finite.NotFinite, match=f'a: step 3: {field} of the point'
  ):
    finite.check_points(['a'], 3, point)


def test_the_command_ends_in_one_line_and_not_as_done(tmp_path):
  cfg = config(learning_rate=HUGE)
  with pytest.raises(ValueError, match='online/default: step 1'):
    common.experiment(
      online_vs_offline.runs, online_vs_offline.report, cfg, tmp_path
    )
  assert not list(tmp_path.glob('seed0/online/*/done.json'))
