"""A ring attends as one device does, and no device sees a whole row."""

import dataclasses

import pytest
from conftest import python

from align_jax.lab import sweep
from align_jax.models import ring
from align_jax.tools import fit
from configs import toy
from experiments import common

FOUR = """
import dataclasses, json, math
import jax, jax.numpy as jnp, numpy as np

jax.config.update('jax_num_cpu_devices', 4)
import meshes
from align_jax import sharding
from align_jax.models import transformer
from align_jax.tools import fit_hlo

plain = transformer.ModelConfig(
  vocab_size=12, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
  mlp_dim=24, attention='plain', attention_softcap=2.0, windows=(0, 9),
)
ring = dataclasses.replace(plain, attention='ring')
rng = np.random.default_rng(0)
P, G, S, T = 2, 2, 13, 31  # neither divides by four
valid = np.arange(S) >= np.array([[4], [0]])
own = np.arange(T) < np.array([[20, T], [0, 5]])[..., None]
batch = (
  rng.integers(0, 12, (P, S)), valid, rng.integers(0, 12, (P, G, T)), own,
)
noise = rng.normal(size=(P, G, T, 16)), rng.normal(size=(P, 1, 16))
params = transformer.init(jax.random.key(0), plain)
params['embed'] = 30 * params['embed']  # scores that matter
params['layers']['qkv'] = 3 * params['layers']['qkv']
params = jax.device_get(params)


def loss(params, c):
  x, y = transformer.hidden_states(params, c, *batch, last=1)
  finite = jnp.isfinite(x).all() & jnp.isfinite(y).all()
  kept = jnp.where(own[..., None], y, 0), x
  return sum((a * b).sum() for a, b in zip(kept, noise)), finite


def run(c, mesh=None):
  f = jax.jit(jax.value_and_grad(lambda p: loss(p, c), has_aux=True))
  one = jax.device_put(params, jax.devices()[0])
  placed = sharding.place(one, transformer.axes(c), mesh)
  program = f.lower(placed).compile()
  (value, finite), grads = jax.device_get(program(placed))
  assert finite
  text = program.as_text()
  return (value, grads), dict(
    gathered=[
      x for op in fit_hlo.collectives(text) if op.kind == 'all-gather'
      for x in op.arrays if x.startswith('f32')
    ],
    sent=sum(
      op.times for op in fit_hlo.collectives(text)
      if op.kind == 'collective-permute' and 'f32[2,2,2,8,4]' in op.arrays
    ),
    largest=max(
      math.prod(map(int, dims.split(',')))
      for _, dims in fit_hlo.ARRAY.findall(text) if dims
    ),
    temporaries=program.memory_analysis().temp_size_in_bytes,
  )


want, _ = run(plain)
mesh = sharding.make_mesh(context=4)
with jax.set_mesh(mesh):
  (gather, of_gather), (turns, of_ring) = run(plain, mesh), run(ring, mesh)
others = dict(attention_softcap=None), dict(windows=())
value = lambda c: jax.jit(loss, static_argnums=1)(params, c)[0]
others = [value(dataclasses.replace(plain, **x)) for x in others]
print(json.dumps(dict(
  distance=meshes.distance(want, turns),
  matters=[meshes.distance(want[0], np.asarray(x)) for x in others],
  gather=of_gather,
  ring=of_ring,
)))
"""


@pytest.fixture(scope='module')
def four():
  return python(FOUR)


def test_windows_softcap_and_rows_that_do_not_divide(four):
  """A loss and its gradient; one completion is empty."""
  assert four['distance'] < 1e-5 < 1e-2 < min(four['matters'])


def test_keys_travel_and_are_not_gathered(four):
  assert four['gather']['gathered'] and not four['ring']['gathered']
  assert not four['gather']['sent']
  # A layer's keys and values: three times forward, three times backward. Their
  # gradients: three times with them, before the last turn, and home.
  assert four['ring']['sent'] == 2 * 2 * (3 + 3 + 5)


def test_no_device_holds_the_scores_of_a_row(four):
  """Nor those of several turns, nor their masks."""
  heads = 2 * 2 * 4  # of all rows
  assert four['gather']['largest'] >= heads * 8 * 31
  assert four['ring']['largest'] <= 2 * heads * 8 * 8  # the noise
  assert four['ring']['temporaries'] < four['gather']['temporaries']


def test_without_a_mesh_nothing_travels(config):
  assert not ring.runs(dataclasses.replace(config, attention='ring'))


def test_a_ring_of_one_device_is_refused():
  cfg = toy.get_config()
  cfg.model.attention = 'ring'
  cfg = common.as_dict(cfg)
  with pytest.raises(ValueError, match="'ring'.*mesh.context=1, expected 2"):
    common.check(cfg, sweep.sweep(cfg))
  flags = ['--config=configs/llama3_2_1b_ultrafeedback.py', '--topology=v5e-8']
  flags.append('--config.model.attention=ring')
  for more in [], ['--search']:
    with pytest.raises(ValueError, match='mesh.context=1'):
      list(fit.lines([*flags, *more]))
