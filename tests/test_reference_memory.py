"""The reference in its host's memory: the same bits, and off the device."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from conftest import interrupted_at, python
from runs import run_of, setup_of

from align_jax import sharding
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
import dataclasses, functools, json
from align_jax import sharding

sharding.use_mesh(fsdp=2, tensor=2)
import jax, jax.numpy as jnp, numpy as np, optax
from align_jax.lab import forwards, placing
from align_jax.learn import step
from align_jax.losses import LOSSES
from align_jax.models import transformer
from align_jax.policy.programs import policy_programs
from tests import meshes

meshes.C = dataclasses.replace(meshes.C, num_layers=1, remat=False)
(trees, batch), axes = meshes.made(), transformer.axes(meshes.C)
mesh, tx = sharding.current_mesh(), optax.sgd(0.1)
batch = sharding.place_batch(batch, mesh)
place = lambda name: sharding.place(trees[name], axes, mesh)
forward = forwards.logps_and_kls(meshes.C)
loss = functools.partial(LOSSES['rloo'], kl='exact')


def trained(put):
  ref = put(place('ref'))
  state = placing.start_state(place('policy'), tx, axes, {'ref': ref})
  train_step = step.make_train_step(
    forward, loss, tx, reads_anchors=True, state=state
  )
  for _ in range(2):
    state, _ = train_step(state, batch, dict(beta=0.1))
  annotate = policy_programs(meshes.C)[2]
  told = state.params, annotate(ref, batch)
  where = sharding.on_host(state.anchors)
  return where, train_step.program._cache_size(), jax.device_get(told)


near, far = (trained(f) for f in (lambda x: x, sharding.to_host))
same = jax.tree.map(lambda x, y: bool((x == y).all()), near[2], far[2])
print(json.dumps({
  'host': [near[0], far[0]],
  'compiles': [near[1], far[1]],
  'same': jax.tree.all(same),
}))
"""


def test_the_same_bits_on_a_mesh():
  found = python(MESH, XLA_FLAGS='--xla_backend_optimization_level=0')
  assert found == {'host': [False, True], 'compiles': [1, 1], 'same': True}


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
