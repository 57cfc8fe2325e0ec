"""What is recorded of a run beside its numbers, and changes none of them."""

import dataclasses
import struct
import sys
import time
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import run_of, setup_of, train_arm

from align_jax.files import read_jsonl
from align_jax.lab import groups, protocol, setups
from align_jax.learn import speed, trackers
from align_jax.learn.logs import Writer
from align_jax.models import weights
from align_jax.models.config import ModelConfig
from configs import base, toy
from experiments import command, common


@pytest.fixture(scope='module')
def cfg():
  return common.as_dict(base.smoke(toy.get_config()))


ONLINE = dict(source='policy', labels='gold', loss_kwargs={'beta': 0.1})


@pytest.fixture(scope='module')
def recorded(cfg, tmp_path_factory):
  """The folders of an online run without and with trackers and a trace."""
  run, folder = run_of(cfg, **ONLINE), tmp_path_factory.mktemp('speed')
  train_arm(cfg, run, folder / 'bare')
  telemetry = setups.Telemetry(('tensorboard',), (2, 3))
  setup = setup_of(cfg, folder / 'told')
  setup = dataclasses.replace(setup, telemetry=telemetry)
  protocol.run_arm(setup, run)
  return run.directory(folder / 'bare'), run.directory(folder / 'told')


def test_what_is_recorded_changes_no_bit(recorded):
  bare, told = recorded
  for name in ('metrics.jsonl', 'points.jsonl'):
    assert (bare / name).read_bytes() == (told / name).read_bytes()


def test_every_logged_step_has_its_stages(recorded):
  known = jax.devices()[0].device_kind in speed.PEAKS
  for run in recorded:
    rows = read_jsonl(run / 'speed.jsonl')
    logged = read_jsonl(run / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [row['step'] for row in logged]
    for row in rows:
      stages = [x for x in row if x.endswith('_seconds')]
      assert stages == [
        f'{x}_seconds' for x in ('sampling', 'scoring', 'training')
      ]
      timed = row['training_seconds'] > speed.RESOLUTION
      assert row['tokens'] > 0 and ('mfu' in row) == (known and timed)


def test_a_trace_is_written_of_the_steps_asked_for(recorded):
  bare, told = recorded
  assert not (bare / 'profile').exists()
  assert list((told / 'profile').glob('plugins/profile/*/*.xplane.pb'))


def events_of(path):
  """{(tag, step): number} of an event file."""
  from tensorboardX.proto import event_pb2

  content, found = path.read_bytes(), {}
  while content:
    (size,) = struct.unpack('<Q', content[:8])
    event = event_pb2.Event.FromString(content[12 : 12 + size])
    for value in event.summary.value:
      found[value.tag, event.step] = value.simple_value
    content = content[16 + size :]
  return found


def test_tensorboard_shows_metrics_and_points(recorded):
  _, told = recorded
  (path,) = (told / 'tensorboard').glob('events.*')
  found = events_of(path)
  for row in read_jsonl(told / 'metrics.jsonl'):
    for name, value in row.items():
      if name != 'step':
        assert found[name, row['step']] == pytest.approx(value, rel=1e-6)
  for row in read_jsonl(told / 'points.jsonl'):
    assert found['point/gold', row['step']] == pytest.approx(row['gold'])


class Device:
  """One that computes in order, each call so many seconds."""

  def __init__(self):
    self._free = 0.0

  def __call__(self, seconds):
    self._free = max(self._free, time.perf_counter()) + seconds
    return Later(self._free)


class Later:
  """An array that is there from a time on."""

  def __init__(self, there):
    self._there = there

  def is_ready(self):
    return time.perf_counter() >= self._there

  def block_until_ready(self):
    time.sleep(max(0, self._there - time.perf_counter()))


class Sampled(NamedTuple):
  """As much of a Batch as a clock reads."""

  completions: jax.Array
  rewards: jax.Array
  valid: jax.Array
  prompt_valid: jax.Array
  ref_logps: jax.Array | None = None


def test_stages_are_told_apart_and_nobody_waits(tmp_path):
  device, ones = Device(), np.ones((2, 3), bool)
  lasting = {'sampling': 0.4, 'scoring': 0.2, 'training': 0.6}
  with speed.Clock(tmp_path, 2) as clock:
    start = time.perf_counter()
    for step in (1, 2):
      clock.begins(step)
      drawn = device(lasting['sampling'])
      speed.sampled(Sampled(drawn, drawn, ones, ones))
      scored = device(lasting['scoring'])
      clock.scored(Sampled(drawn, scored, ones, ones))
      clock.trained(step, {'loss': device(lasting['training'])})
    assert time.perf_counter() - start < 1  # of 2.4 that the device takes
  (row,) = read_jsonl(tmp_path / 'speed.jsonl')
  assert row['step'] == 2 and row['tokens'] == 6
  for stage, seconds in lasting.items():  # a busy machine is late
    assert row[f'{stage}_seconds'] == pytest.approx(seconds, abs=0.15)
    rate = row[f'{stage}_tokens_per_second'] * row[f'{stage}_seconds']
    assert rate == pytest.approx(6)


def a_step(clock, batch, metrics, step=1):
  clock.begins(step)
  clock.scored(batch)
  clock.trained(step, metrics)


def test_compiling_is_told_with_its_cause(tmp_path, caplog):
  ones = np.ones((1, 2), bool)
  batch = Sampled(ones, ones, ones, ones)

  def odd_name(x, y):
    return x * 3 + y

  program = jax.jit(odd_name)
  with speed.Clock(tmp_path, 1) as clock:
    for step, shapes in enumerate([(3, 3), (3, 3), (4, 4), (4, 1)], 1):
      loss = program(*map(jnp.zeros, shapes))
      a_step(clock, batch, {'loss': loss}, step)
  rows = read_jsonl(tmp_path / 'speed.jsonl')
  causes = [
    [cause for name, cause, _ in row.get('compiled', []) if 'odd_name' in name]
    for row in rows
  ]
  assert causes == [
    ['first'],
    [],
    ['again: float32[4] for float32[3]'],
    ['again: float32[1] for float32[4]'],
  ]
  assert not caplog.records  # and nobody is told of it twice


def test_flops_are_two_per_weight_of_a_matrix():
  sizes = dict(vocab_size=11, dim=4, num_layers=3, num_heads=2, num_kv_heads=1)
  config = ModelConfig(**sizes, head_dim=2, mlp_dim=8)
  layer = 4 * (2 + 2) * 2 + 2 * 2 * 4 + 3 * 4 * 8  # qkv, o, gated MLP
  assert weights.forward_flops(config) == 2 * (3 * layer + 4 * 11)
  experts = dataclasses.replace(config, num_experts=4, experts_per_token=1)
  routed = weights.forward_flops(experts) - weights.forward_flops(config)
  assert routed == 2 * 3 * 4 * 4  # the router; a token meets one expert


def test_mfu_is_work_over_the_peak_of_a_known_device(tmp_path, monkeypatch):
  kind, devices = jax.local_devices()[0].device_kind, jax.local_device_count()
  monkeypatch.setitem(speed.PEAKS, kind, 1e6)
  monkeypatch.setattr(speed, 'RESOLUTION', 0)  # the step is a short one
  ones = np.ones((1, 2), bool)
  batch = Sampled(ones, ones, ones, np.ones((1, 5), bool))
  with speed.Clock(tmp_path, 1, speed.Work(flops=10, passes=3)) as clock:
    a_step(clock, batch, {'loss': jnp.zeros(())})
  (row,) = read_jsonl(tmp_path / 'speed.jsonl')
  done = 10 * 3 * (2 + 5)
  peak = row['training_seconds'] * 1e6 * devices
  assert row['mfu'] == pytest.approx(done / peak)


def test_a_step_that_failed_has_no_row(tmp_path, monkeypatch):
  def fails(result):
    raise RuntimeError('out of memory')

  monkeypatch.setattr(jax, 'block_until_ready', fails)
  ones = np.ones((1, 2), bool)
  batch = Sampled(ones, ones, ones, np.ones((1, 5), bool))
  with speed.Clock(tmp_path, 1) as clock:  # and nothing hides the step's error
    a_step(clock, batch, {'loss': jnp.zeros(())})
  assert read_jsonl(tmp_path / 'speed.jsonl') == []


def test_a_tracker_that_is_not_installed_is_refused_at_start(cfg, monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    ValueError, match=r"'wandb' needs the package wandb.*pip install wandb"
  ):
    common.check({**cfg, 'trackers': ('wandb',)}, [])


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'trackers': ('tensorbord',)}, r'trackers=.*names out of tensorboard'),
    ({'profile': (5, 4)}, r'profile=\(5, 4\).*first, last'),
    ({'profile': (0, 4)}, 'profile=.*at least 1'),
  ],
)
def test_wrong_fields_are_refused(fields, message, cfg):
  with pytest.raises(ValueError, match=message):
    groups.check({**cfg, **fields})


def test_profile_is_a_flag():
  assert command.split(['x', '--profile=10:15']) == (
    ['x'],
    [('profile', '(10, 15)')],
  )
  for wrong in ('10', '10:', 'a:b', '10-15'):
    with pytest.raises(ValueError, match='expected --profile=FIRST:LAST'):
      command.split([f'--profile={wrong}'])


@pytest.fixture
def own_trackio(tmp_path, monkeypatch):
  """The package, with a folder of its own."""
  monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
  return pytest.importorskip('trackio')


def test_trackio_goes_on_in_the_same_runs(tmp_path, own_trackio, capfd):
  from trackio.sqlite_storage import SQLiteStorage

  runs = [tmp_path / 'seed0' / arm / 'c' for arm in ('online', 'offline')]
  for step in (0, 2):
    # Runs that train together are there at the same time.
    shown = [trackers.opened(('trackio',), run, step)[0] for run in runs]
    for number, one in enumerate(shown):
      one.show(step + 1, {'loss': 2.0 + number})
      one.show(step + 2, {'point/gold': 1.0})
    for one in shown:
      one.close()
  kept = SQLiteStorage.get_runs(trackers.PROJECT)
  assert len(kept) == 2
  for name in kept:
    logged = SQLiteStorage.get_logs(trackers.PROJECT, name)
    assert [row['step'] for row in logged] == [1, 2, 3, 4]
    assert [row.get('loss') for row in logged[::2]] == [2 + ('off' in name)] * 2
  assert capfd.readouterr().out == ''


def test_trackio_stays_on_this_machine(tmp_path, monkeypatch):
  begun = []
  fake = types.SimpleNamespace(init=lambda **how: begun.append(how))
  monkeypatch.setitem(sys.modules, 'trackio', fake)
  for step in (0, 2):
    trackers.opened(('trackio',), tmp_path / 'seed0', step)
  assert begun[0] == begun[1] and begun[0]['resume'] == 'allow'
  assert not begun[0]['embed']


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
  told = []
  own = types.SimpleNamespace(
    log=lambda values, step: told.append((step, values)),
    finish=lambda: told.append('finished'),
  )
  begun = []
  fake = types.SimpleNamespace(init=lambda **how: begun.append(how) or own)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  for step in (0, 2):
    shown = trackers.opened(('wandb',), tmp_path / 'seed0', step)
    with Writer(tmp_path / 'seed0', step, shown) as writer:
      writer.write(step + 1, {'loss': 2})
      writer.point(step + 2, {'gold': 1.0, 'gold_by_prompt': [1.0]})
  assert told[:2] == [(1, {'loss': 2.0}), (2, {'point/gold': 1.0})]
  assert begun[0]['id'] == begun[1]['id'] and begun[0]['resume'] == 'allow'
  assert told.count('finished') == 2
