"""The reference in its host's memory: the same bits, and off the device."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from conftest import interrupted_at, python
from runs import run_of, setup_of

from align_jax import sharding
from align_jax.files import read_jsonl
from align_jax.lab import protocol, starts, sweep
from align_jax.learn import step
from configs import base, toy
from experiments import common


@pytest.fixture(scope='module')
def cfg():
  return common.as_dict(base.smoke(toy.get_config()))


EXACT = dict(
  source='policy',
  labels='gold',
  loss='rloo',
  loss_kwargs=dict(beta=0.1, kl='exact'),
  refresh_every={'ref': 3},
)


def test_the_same_bits_from_host_and_device(cfg, tmp_path):
  """The update, rewards, KLs and an anchor that moves, through a restore."""
  run, found = run_of(cfg, **EXACT), {}
  for memory in ('device', 'host'):
    setup = setup_of(cfg, tmp_path / memory)
    setup = dataclasses.replace(setup, reference_memory=memory)
    if memory == 'host':
      with interrupted_at(5) as report:
        protocol.run_arm(setup, run, report)
    protocol.run_arm(setup, run)
    folder = run.directory(tmp_path / memory)
    names = 'metrics.jsonl', 'points.jsonl'
    found[memory] = [(folder / name).read_bytes() for name in names]
  assert found['host'] == found['device']
  rows = read_jsonl(folder / 'speed.jsonl')
  compiled = [name for row in rows for name, *_ in row.get('compiled', [])]
  assert compiled.count('jit(updated)') == 1


def away_in(cfg, **fields):
  """Names of the anchors of an arm that are in the host's memory."""
  away = sharding.to_host({'w': jnp.ones(2)})
  near = sharding.on_device(away)
  stage = types.SimpleNamespace(reference=away)
  anchors = starts.anchors_of(stage, run_of(cfg, **fields), near, near)
  return {name for name, tree in anchors.items() if sharding.on_host(tree)}


@pytest.mark.parametrize(
  ('fields', 'away'),
  [
    ({}, {'ref'}),
    ({'source': 'sampler', 'refresh_every': {'sampler': 2}}, {'ref'}),
    ({'loss': 'reverse_kl', 'teacher_of': 'reference'}, {'ref', 'teacher'}),
    ({'lora': dict(rank=2)}, set()),  # the adapters' base
    ({'lora': dict(rank=2), 'refresh_every': {'ref': 2}}, {'ref'}),
  ],
)
def test_what_every_update_reads_stays_on_the_device(cfg, fields, away):
  assert away_in(cfg, **fields) == away


def test_an_anchor_is_refreshed_where_it_is():
  params = {'w': jnp.arange(3.0)}
  anchors = {'ref': sharding.to_host(params), 'sampler': params}
  state = types.SimpleNamespace(params={'w': jnp.ones(3)}, anchors=anchors)
  state.replace = lambda **new: types.SimpleNamespace(**new)
  fresh = step.refresh(state, 2, {'ref': 2, 'sampler': 1}).anchors
  for name, away in {'ref': True, 'sampler': False}.items():
    assert sharding.on_host(fresh[name]) == away
    assert fresh[name]['w'].tolist() == [1, 1, 1]


MESH = """
import json
from align_jax import sharding

sharding.use_mesh(fsdp=2)
import jax, numpy as np, optax
from conftest import SIZES
from align_jax.lab import placing
from align_jax.learn import step
from align_jax.models import interface, transformer
from align_jax.policy.programs import policy_programs
from align_jax.types import Batch

config = transformer.ModelConfig(vocab_size=12, num_layers=1, **SIZES)
axes, mesh = transformer.axes(config), sharding.current_mesh()
rng, ones = np.random.default_rng(0), np.ones((4, 3), bool)
drawn = lambda x: rng.normal(size=x.shape).astype(np.float32)
made = lambda: jax.tree.map(drawn, interface.shapes(config))
first, other = (sharding.place(made(), axes, mesh) for _ in range(2))
batch = Batch(
  prompts=rng.integers(0, 12, (2, 2)), prompt_valid=ones[:2, :2],
  completions=rng.integers(0, 12, (4, 3)), valid=ones, mask=ones,
  rewards=rng.normal(size=4).astype(np.float32), group_size=2,
)
batch = sharding.place_batch(batch, mesh)
annotate = policy_programs(config)[2]


def found(put):
  state = placing.start_state(first, optax.sgd(0.1), axes, {'ref': put(other)})
  moved = step.refresh(state, 2, {'ref': 2})
  refs = [x.anchors['ref'] for x in (state, moved)]
  logps = [np.asarray(annotate(x, batch).ref_logps).tolist() for x in refs]
  return [sharding.on_host(x) for x in refs], logps


near, far = found(lambda x: x), found(sharding.to_host)
print(json.dumps({
  'host': near[0] + far[0],
  'same': near[1] == far[1],
  'moved': far[1][0] != far[1][1],
}))
"""


def test_the_same_bits_on_a_mesh():
  """From an anchor there, before and after it moves."""
  found = python(MESH)
  assert found['host'] == [False, False, True, True]
  assert found['same'] and found['moved']


def test_devices_without_it_are_refused(monkeypatch):
  kinds = [types.SimpleNamespace(kind='device')]
  device = types.SimpleNamespace(
    device_kind='abacus', addressable_memories=lambda: kinds
  )
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  with pytest.raises(
    ValueError, match=r"reference_memory='host': a abacus.*pinned_host"
  ):
    sharding.check_host_memory('reference_memory')


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'reference_memory': 'disk'}, "reference_memory='disk', expected one of"),
    ({'reference_memory': 'host', 'together': True}, 'expected reference_mem'),
  ],
)
def test_wrong_fields_are_refused(cfg, fields, message):
  with pytest.raises(ValueError, match=message):
    common.check({**cfg, **fields}, sweep.sweep(cfg))
