"""Eight devices do what one does, and really share the work.

The devices are forced in a subprocess: a process has one set of them.
"""

import math

import jax
import numpy as np
import pytest
from conftest import flags_for, python

from align_jax import hosts, sharding

EIGHT = """
import functools, json, tempfile
import jax, jax.numpy as jnp, numpy as np
from conftest import init
from align_jax.policy import scoring
from align_jax import sharding
from align_jax.learn import optimizers, step
from align_jax.losses import LOSSES
from align_jax.models import hf, hf_export, transformer
from align_jax.types import Batch

config = transformer.ModelConfig(
  vocab_size=12, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
  mlp_dim=24,
)
rng = np.random.default_rng(0)
P, G, S, T = 4, 2, 3, 4
valid = np.arange(T) < rng.integers(1, T + 1, (P * G, 1))
batch = Batch(
  prompts=rng.integers(0, 12, (P, S)),
  prompt_valid=np.arange(S) >= rng.integers(0, S, (P, 1)),
  completions=rng.integers(0, 12, (P * G, T)),
  valid=valid,
  mask=valid,
  rewards=rng.normal(size=P * G).astype(np.float32),
  ref_logps=-rng.exponential(size=(P * G, T)).astype(np.float32),
  group_size=G,
)
forward = functools.partial(scoring.token_logps, config=config)
tx = optimizers.make_optimizer()
hparams = {'beta': 0.1, 'learning_rate': 1e-2}
params = jax.tree.map(np.asarray, init(0, config))  # on no device


def train(params, place_state, place_batch):
  state = place_state(step.init_state(params, tx, anchors=['ref']))
  # A state that is on no mesh has no shardings to keep.
  meshed = not jax.sharding.get_abstract_mesh().empty
  train_step = step.make_train_step(
    forward, LOSSES['ipo'], tx, state=state if meshed else None
  )
  for beta in (0.1, 0.2):
    state, metrics = train_step(
      state, place_batch(batch), {**hparams, 'beta': beta}
    )
  return state, metrics, train_step.program._cache_size()


def distance(x, y):
  gap = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())
  return max(jax.tree.leaves(jax.tree.map(gap, x, y)))


def parts(tree):
  return {
    jax.tree_util.keystr(path): x.size / x.addressable_shards[0].data.size
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def message(f, *args):
  try:
    f(*args)
  except ValueError as error:
    return str(error)


one = train(jax.tree.map(jnp.asarray, params), lambda x: x, lambda x: x)
mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
with jax.set_mesh(mesh):
  many = train(
    sharding.place(params, transformer.axes(config), mesh),
    lambda state: sharding.on_mesh(state, mesh),
    lambda batch: sharding.place_batch(batch, mesh),
  )
folder = tempfile.mkdtemp()
hf_export.export(folder, many[0].params, config)
loaded = hf.load(folder, mesh=mesh).params
odd = {**params, 'embed': params['embed'][:11]}
print(json.dumps({
  'distance': distance(one[0], many[0]),
  'moved': distance(one[0].params, params),
  'loss': [float(x[1]['loss']) for x in (one, many)],
  'compiles': [one[2], many[2]],
  'params': parts(many[0].params),
  'mu': parts(many[0].opt_state[1].mu),
  'nu': parts(many[0].opt_state[1].nu),
  'anchor': parts(many[0].anchors['ref']),
  'lost': distance(loaded, many[0].params),
  'loaded': parts(loaded),
  'batch': parts(sharding.place_batch(batch, mesh)),
  'odd': message(sharding.place, odd, transformer.axes(config), mesh),
  'three': message(
    sharding.place_batch,
    jax.tree.map(lambda x: x[: len(x) * 3 // 4], batch),
    mesh,
  ),
}))
"""


SAMPLES = """
import json
from align_jax import sharding

sharding.use_mesh(data={data})
import jax, numpy as np
from conftest import SIZES, init
from align_jax.policy import sampling
from align_jax.models import transformer

config = transformer.ModelConfig(vocab_size=12, num_layers=2, **SIZES)
params, axes = init(0, config), transformer.axes(config)
params = sharding.place(params, axes, sharding.current_mesh())
prompts = np.random.default_rng(0).integers(0, 12, (4, 3))
request = dict(config=config, group_size=2, max_new_tokens=6, eos_id=1)
given = params, prompts, np.ones_like(prompts, bool), jax.random.key(0)
draw = jax.jit(lambda *args: sampling.sample(*args, **request))
many = jax.jit(lambda *args: sampling.sample_many(*args, slots=4, **request))
batch = draw(*given)
print(json.dumps({{
  'devices': jax.device_count(),
  'parts': batch.completions.size
  // batch.completions.addressable_shards[0].data.size,
  'rows': [np.asarray(f(*given).completions).tolist() for f in (draw, many)],
  'logps': np.asarray(batch.sampler_logps).tolist(),
}}))
"""


@pytest.fixture(scope='module')
def eight():
  return python(EIGHT, XLA_FLAGS=flags_for(8))


def test_same_result_as_on_one_device(eight):
  assert eight['moved'] > 1e-2
  assert eight['distance'] < 1e-5
  assert eight['loss'][0] == pytest.approx(eight['loss'][1], rel=1e-5)


def test_cores_that_are_devices_sample_the_same():
  """A CPU is as many devices as its mesh wants, and each has its rows."""
  one, two = (python(SAMPLES.format(data=n)) for n in (1, 2))
  assert (one['devices'], two['devices']) == (1, 2)
  assert (one['parts'], two['parts']) == (1, 2)
  assert one['rows'] == two['rows'] and one['rows'][0] == one['rows'][1]
  np.testing.assert_allclose(one['logps'], two['logps'], atol=1e-6)


def test_one_compile(eight):
  assert eight['compiles'] == [1, 1]


def test_state_is_sharded(eight):
  """Matrices over fsdp and tensor, after the step too; and so the moments."""
  for name, parts in eight['params'].items():
    assert parts == (1 if 'norm' in name else 4), name
  assert eight['params'] == eight['mu'] == eight['nu'] == eight['anchor']


def test_export_and_load_keep_the_shards(eight):
  assert eight['lost'] == 0 and eight['loaded'] == eight['params']


def test_batch_is_split(eight):
  """Over data and fsdp; the tensor axis sees the whole of its share."""
  assert set(eight['batch'].values()) == {4}


def test_what_does_not_divide_is_named(eight):
  for word in ('embed', "'vocab'", '11', '2 devices', 'tensor'):
    assert word in eight['odd']
  assert '3 prompts' in eight['three'] and '4 devices' in eight['three']


def test_wrong_number_of_devices_is_named():
  many = 2 * jax.device_count()
  with pytest.raises(
    ValueError, match=f'data={many}.*found {jax.device_count()}'
  ):
    sharding.make_mesh(data=many)


def test_shard_does_nothing_without_a_mesh():
  x = jax.numpy.ones((3, 5))
  assert sharding.shard(x, 'batch', 'vocab') is x


def test_a_host_alone_has_a_mesh_of_its_own_devices(monkeypatch):
  """A slice's mesh may have no part that is local to a host."""
  monkeypatch.setattr(hosts, 'count', lambda: 2)
  monkeypatch.setattr(sharding, 'current_mesh', object)
  with sharding.alone():
    sizes = jax.sharding.get_abstract_mesh().shape
  assert sizes['fsdp'] == math.prod(sizes.values()) == jax.local_device_count()
