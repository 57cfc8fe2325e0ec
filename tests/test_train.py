"""Interrupted runs end in the same bits as uninterrupted ones."""

import resource
import signal
import time

import jax
import numpy as np
import pytest
from runs import train_arm, train_until_killed

from align_jax.files import read_jsonl
from align_jax.lab import sweep
from align_jax.learn import checkpoint
from align_jax.learn.logs import Writer
from configs import base, toy
from experiments import common


def settings(arm):
  cfg = common.as_dict(base.smoke(toy.get_config()))
  runs = [r for r in sweep.sweep(cfg) if r.arm == arm]
  return cfg, next((r for r in runs if r.keep_log), runs[0])


def final_state(directory):
  """The raw arrays of the newest checkpoint."""
  with checkpoint.Checkpoints(directory / 'checkpoints') as checkpoints:
    return checkpoints.restore_raw()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  for arm in ('offline', 'online'):
    train_arm(*settings(arm), workdir)
  return workdir


def assert_same_run(first, second):
  for name in ('points.jsonl', 'metrics.jsonl'):
    assert (first / name).read_text() == (second / name).read_text()
  same = jax.tree.map(np.array_equal, final_state(first), final_state(second))
  assert jax.tree.all(same)


@pytest.mark.parametrize('arm', ['offline', 'online'])
def test_killed_and_resumed_equals_uninterrupted(arm, whole, tmp_path):
  cfg, run = settings(arm)
  train_until_killed(cfg, run, tmp_path, 5)
  written = read_jsonl(run.directory(tmp_path) / 'metrics.jsonl')
  steps = [row['step'] for row in written]
  assert steps and max(steps) < run.schedule.steps
  train_arm(cfg, run, tmp_path)
  assert_same_run(run.directory(whole), run.directory(tmp_path))


def test_two_runs_of_one_config_are_bitwise_equal(whole, tmp_path):
  cfg, run = settings('online')
  train_arm(cfg, run, tmp_path)
  assert_same_run(run.directory(whole), run.directory(tmp_path))


def test_the_online_log_in_its_order_is_the_online_run(whole, tmp_path):
  """Bit for bit on a CPU: the comparison with `shuffled` is only of order."""
  cfg, online = settings('online')
  replay = online.but(
    source='log',
    log_of=online.name,
    shuffle=1,
    name='replay/exact',
    keep_log=False,
  )
  train_arm(cfg, replay, whole)
  assert_same_run(online.directory(whole), replay.directory(whole))
  destroyed = replay.but(shuffle=0, name='replay/shuffled')
  train_arm(cfg, destroyed, whole)
  rows = [
    (run.directory(whole) / 'metrics.jsonl').read_text()
    for run in (replay, destroyed)
  ]
  assert rows[0] != rows[1]


def test_a_checkpoint_of_another_shape_is_refused_by_name(tmp_path):
  state = {'params': {'w': jax.numpy.zeros((2, 3))}}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state)
  for other in (jax.numpy.zeros((3, 2)), jax.numpy.zeros((2, 3), 'bfloat16')):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      with pytest.raises(ValueError, match=r'params.w is .*the run needs'):
        checkpoints.restore({'params': {'w': other}})


def test_a_save_that_orbax_declines_is_an_error(tmp_path):
  state = {'w': jax.numpy.zeros(2)}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, state)
    with pytest.raises(RuntimeError, match='checkpoint 1 was not written'):
      checkpoints.save(1, state)


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
  with Writer(tmp_path, 0) as writer:
    for step in (1, 2, 3):
      writer.write(step, {'loss': step})
      writer.point(step, {'kl': step})
  with (tmp_path / 'points.jsonl').open('a') as file:
    file.write('{"step": 4, "k')  # what a killed process leaves
  with Writer(tmp_path, 2) as writer:
    assert writer.points == {1, 2}
  for name in ('metrics', 'points'):
    rows = read_jsonl(tmp_path / f'{name}.jsonl')
    assert [row['step'] for row in rows] == [1, 2]


def test_a_checkpoint_that_cannot_be_written_is_an_error_at_once(
  tmp_path, caplog
):
  """The one before it stays. The system refuses files of such a size."""
  state = {'x': jax.random.normal(jax.random.key(0), (2**18,))}
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  with checkpoint.Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    checkpoints.save(1, state)
    checkpoints._manager.wait_until_finished()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
      with pytest.raises(OSError, match="27. File too large: '.*checkpoints'"):
        checkpoints.save(2, state)
        for _ in range(1000):
          checkpoints.record()
          time.sleep(0.01)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
      signal.signal(signal.SIGXFSZ, handler)
  assert checkpoint.steps_in(tmp_path / 'checkpoints') == [1]
  assert not caplog.text  # no traceback of orbax
