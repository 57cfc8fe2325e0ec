"""Runs trained as one program end where they end alone."""

import copy

import jax
import numpy as np
import pytest
from conftest import interrupted_at
from test_train import final_state

from align_jax.files import read_jsonl
from align_jax.lab import protocol
from align_jax.learn import together
from configs import base, toy
from experiments import common
from experiments.common import directory

ADAPTED = {'lora': {'rank': 2}}


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
  runs = common.sweep(cfg)
  runs = [r for r in runs if r['arm'] == arm and r['seed'] == 0]
  return cfg, [{**r, 'keep_log': False, **fields} for r in runs]


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
  'arm, fields', [('offline', {}), ('online', {}), ('online', ADAPTED)]
)
def test_together_as_alone(tmp_path, arm, fields):
  cfg, runs = settings(arm, **fields)
  workdir, alone = tmp_path, tmp_path / 'alone'
  protocol.run_together(cfg, runs, workdir)
  points = []
  for run in runs:
    protocol.run_arm(cfg, run, alone)
    assert_same(directory(workdir, run), directory(alone, run))
    points.append((directory(alone, run) / 'points.jsonl').read_text())
    state = final_state(directory(workdir, run))
    same = final_state(directory(alone, run))
    for x, y in zip(*(jax.tree.leaves(s['params']) for s in (state, same))):
      np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
  assert len(set(points)) == len(runs) == 3  # they do differ


def test_goes_on_where_it_was_interrupted(workdir, tmp_path):
  cfg, runs = settings('online')
  protocol.run_together(cfg, runs, workdir)
  with interrupted_at(3) as report:
    protocol.run_together(cfg, runs, tmp_path, report)
  protocol.run_together(cfg, runs, tmp_path)
  for run in runs:
    for name in ('points.jsonl', 'metrics.jsonl'):
      first, second = (directory(d, run) / name for d in (workdir, tmp_path))
      assert first.read_text() == second.read_text()


def test_only_numbers_may_differ():
  _, runs = settings('online')
  run = runs[0]
  other = copy.deepcopy(run)
  other.update(learning_rate=1.0, name='other')
  kinds = [
    run,
    other,
    {**run, 'loss_kwargs': {**run['loss_kwargs'], 'beta': 9.0}},
    {**run, 'seed': 1},
    {**run, 'loss': 'dpo'},
    {**run, 'loss_kwargs': {**run['loss_kwargs'], 'word': 'a'}},
    {**run, 'loss_kwargs': {**run['loss_kwargs'], 'word': 'b'}},
    {**run, 'keep_log': True},
    {**run, 'keep_log': True},
    {**run, 'labels': 'brevity'},
    {**run, 'labels': 'judge'},
    {**run, 'labels': 'judge'},
    {**run, 'kl_budget': 2.0},
    {**run, 'reweigh': 'optimum'},
  ]
  sizes = [len(group) for group in together.groups(kinds)]
  assert sizes == [3] + [1] * 11


def test_a_job_for_each_group_awaits_what_it_reads(tmp_path):
  cfg = several()
  cfg.update(together=True, seeds=1)
  jobs = {
    job.name: job for job in common.make_jobs(cfg, common.sweep(cfg), tmp_path)
  }
  assert jobs['seed0/offline/lr0.0003-beta0.1+2'].steps == cfg['arm']['steps']
  shuffled = jobs['seed0/shuffled/lr0.0003-beta0.1+2']
  assert shuffled.needs == ('seed0', 'seed0/online/lr0.0003-beta0.1')


def test_rewards_of_the_host_are_refused():
  draw = together.source(lambda state, key, step: np.asarray(state))
  with pytest.raises(ValueError, match='computed on the device'):
    draw(np.ones(2), None, 0)


def test_a_mesh_is_refused():
  cfg = common.as_dict(base.smoke(toy.get_config()))
  cfg.update(together=True, mesh=dict(data=2, fsdp=1, tensor=1))
  with pytest.raises(ValueError, match='one device'):
    common.check(cfg, common.sweep(cfg))
