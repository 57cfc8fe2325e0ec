"""Samples of older policies: which policy writes, resuming, the studies."""

import jax
import jax.numpy as jnp
from conftest import interrupted_at
from runs import train_arm
from test_train import assert_same_run, settings

from align_jax.learn import optimizers, step
from align_jax.learn.train import Schedule, train
from configs import base, toy
from experiments import common
from experiments.suite import e02_order, e14_semi_online


def test_the_sampler_is_one_update_behind(tmp_path):
  """Known params: every update adds one."""
  seen = []

  def source(state, key, number):
    previous = float(state.anchors[step.PREVIOUS]['w'])
    seen.append((float(state.params['w']), previous))

  def train_step(state, batch, hparams):
    params = {'w': state.params['w'] + 1}
    return state.replace(step=state.step + 1, params=params), {}

  start = {'w': jnp.float32(0)}
  tx = optimizers.make_optimizer()
  train(
    tmp_path,
    state=step.init_state(start, tx, anchors=[step.PREVIOUS]),
    source=source,
    train_step=train_step,
    hparams={},
    key=jax.random.key(0),
    schedule=Schedule(num_steps=4, save_every=4),
  )
  assert seen == [(0, 0), (1, 0), (2, 1), (3, 2)]


def test_goes_on_in_the_same_bits(tmp_path):
  cfg, run = settings('online')
  run = run.but(source='one_step_stale', keep_log=False)
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train_arm(cfg, run, whole)
  with interrupted_at(3) as report:
    train_arm(cfg, run, parts, report)
  train_arm(cfg, run, parts)
  assert_same_run(run.directory(whole), run.directory(parts))
  fresh = run.but(source='policy', name='online/fresh')
  train_arm(cfg, fresh, whole)
  points = [
    (r.directory(whole) / 'points.jsonl').read_text() for r in (run, fresh)
  ]
  assert points[0] != points[1]  # or nothing was stale


def test_the_study_compares_ages_of_the_sampler(tmp_path, capsys):
  cfg = common.as_dict(base.smoke(toy.get_config()))
  arms = [f'ipo, {age}' for age in ('every 1', 'one update behind', 'never')]
  study = e14_semi_online.STUDY
  common.experiment(study.runs, study.report, cfg, tmp_path, only=arms)
  out = capsys.readouterr().out
  assert 'NO VERDICT DPO' in out and "no points of 'dpo, every 10'" in out
  page = (tmp_path / 'report.html').read_text()
  assert all(arm in page for arm in arms)
  assert 'What the age of the sampler costs' in page


def test_a_replay_in_its_own_order_is_the_run(tmp_path, capsys):
  cfg = common.as_dict(base.smoke(toy.get_config()))
  cfg['seeds'] = 1
  study, arms = e02_order.STUDY, ('online', e02_order.IN_ORDER)
  runs = lambda cfg: [run for run in study.runs(cfg) if run.arm in arms]
  common.experiment(runs, study.report, cfg, tmp_path)
  assert 'REPRODUCED A replay' in capsys.readouterr().out
