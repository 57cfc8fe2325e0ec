"""Runs trained as one program end where they end alone."""

import jax
import numpy as np
import pytest
from conftest import interrupted_at
from runs import train_arm, train_together
from test_train import final_state

from align_jax.files import read_jsonl
from align_jax.lab import grouping, sweep
from align_jax.learn import together
from configs import base, toy
from experiments import common

ADAPTED = {'lora': {'rank': 2}}
MUON = {
  'optimizer': {'name': 'muon'},
  'schedule': {'name': 'cosine'},
  'sampling': {'temperature': 0.7, 'stop_tokens': (1,)},
}


def several():
  """The toy with three strengths of every arm."""
  cfg = common.as_dict(base.smoke(toy.get_config()))
  strengths = base.sweep((3e-4, 0.1), (3e-4, 0.05), (1e-4, 0.03))
  arms = {
    name: {**arm, 'sweep': strengths} for name, arm in cfg['arms'].items()
  }
  arms['shuffled']['log_of'] = 'online/lr0.0003-beta0.1'
  arms['offline'].update(steps=cfg['arm']['steps'], points=0)
  return {**cfg, 'arms': arms}


def settings(arm, **fields):
  cfg = several()
  runs = sweep.sweep(cfg)
  runs = [r for r in runs if r.arm == arm and r.seed == 0]
  return cfg, [r.but(keep_log=False, **fields) for r in runs]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('together')


def assert_same(first, second):
  for name in ('points', 'metrics'):
    ours, theirs = (read_jsonl(d / f'{name}.jsonl') for d in (first, second))
    assert [row['step'] for row in ours] == [row['step'] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
      for key, value in other.items():
        # Who is ahead by a rounding error is left out.
        if isinstance(value, float) and 'accuracy' not in key:
          np.testing.assert_allclose(row[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  'arm, fields',
  [('offline', {}), ('online', {}), ('online', ADAPTED), ('online', MUON)],
)
def test_together_as_alone(tmp_path, arm, fields):
  cfg, runs = settings(arm, **fields)
  workdir, alone = tmp_path, tmp_path / 'alone'
  train_together(cfg, runs, workdir)
  points = []
  for run in runs:
    train_arm(cfg, run, alone)
    assert_same(run.directory(workdir), run.directory(alone))
    points.append((run.directory(alone) / 'points.jsonl').read_text())
    state = final_state(run.directory(workdir))
    same = final_state(run.directory(alone))
    for x, y in zip(*(jax.tree.leaves(s['params']) for s in (state, same))):
      np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
  assert len(set(points)) == len(runs) == 3  # they do differ


def test_goes_on_where_it_was_interrupted(workdir, tmp_path):
  cfg, runs = settings('online')
  train_together(cfg, runs, workdir)
  with interrupted_at(3) as report:
    train_together(cfg, runs, tmp_path, report)
  train_together(cfg, runs, tmp_path)
  for run in runs:
    for name in ('points.jsonl', 'metrics.jsonl'):
      first, second = (run.directory(d) / name for d in (workdir, tmp_path))
      assert first.read_text() == second.read_text()


def test_only_numbers_may_differ():
  _, runs = settings('online')
  run = runs[0]
  given = lambda **hparams: run.but(loss_kwargs={**run.loss.kwargs, **hparams})
  kinds = [
    run,
    run.but(learning_rate=1.0, name='online/other'),
    given(beta=9.0),
    run.but(seed=1),
    run.but(loss='dpo'),
    given(word='a'),
    given(word='b'),
    run.but(keep_log=True),
    run.but(keep_log=True),
    run.but(labels='brevity'),
    run.but(labels='judge'),
    run.but(labels='judge'),
    run.but(kl_budget=2.0),
    run.but(reweigh='optimum'),
  ]
  sizes = [len(group) for group in grouping.groups(kinds)]
  assert sizes == [3] + [1] * 11


def test_a_job_for_each_group_awaits_what_it_reads(tmp_path):
  cfg = several()
  cfg.update(together=True, seeds=1)
  todo = common.jobs_of(cfg, sweep.sweep(cfg), tmp_path)
  jobs = {job.name: job for job in todo}
  assert jobs['seed0/offline/lr0.0003-beta0.1+2'].steps == cfg['arm']['steps']
  shuffled = jobs['seed0/shuffled/lr0.0003-beta0.1+2']
  assert shuffled.needs == ('seed0', 'seed0/online/lr0.0003-beta0.1')


def test_rewards_of_the_host_are_refused():
  draw = together.source(lambda state, key, step: np.asarray(state))
  with pytest.raises(ValueError, match='computed on the device'):
    draw(np.ones(2), None, 0)


def test_a_mesh_is_refused():
  cfg = common.as_dict(base.smoke(toy.get_config()))
  cfg.update(together=True, mesh={**cfg['mesh'], 'data': 2})
  with pytest.raises(ValueError, match='one device'):
    common.check(cfg, sweep.sweep(cfg))
