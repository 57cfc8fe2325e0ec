"""Fused kernels attend as the plain way does.

No kernel runs here: splash is interpreted, cuDNN's call is given JAX's own
implementation. What compiles for a TPU, and what is lowered for a GPU, is
looked at without one.
"""

import dataclasses
import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import flags_for, python

from align_jax.lab import sweep
from align_jax.models import fused, hf, hf_export, initial, transformer
from configs import toy
from experiments import common

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'hf'
CONFIG = transformer.ModelConfig(
  vocab_size=12,
  dim=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=24,
)
ONE = dataclasses.replace(CONFIG, num_layers=1)
INSTEAD = {  # of the kernels
  'splash': functools.partial(fused.splash, interpret=True),
  'cudnn': functools.partial(fused.cudnn, implementation='xla'),
}


@pytest.fixture(params=INSTEAD)
def kernel(request, monkeypatch):
  """The name of one, as if its machine was this one."""
  return use(request.param, monkeypatch)


def use(name, monkeypatch):
  one = fused.KERNELS[name]._replace(
    attend=INSTEAD[name], dtypes=('float32', 'bfloat16')
  )
  monkeypatch.setitem(fused.KERNELS, name, one)
  monkeypatch.setattr(fused, 'machine', lambda: one.machine)
  return name


def rows(G=2, P=3, S=5, T=6):
  """Prompts, valid, completions, valid: lengths from 1 on, garbage beyond."""
  rng = np.random.default_rng(0)
  lengths = rng.permutation(np.linspace(1, S, P).astype(int))
  own = rng.permutation(np.linspace(1, T, P * G).astype(int)).reshape(P, G)
  return (
    rng.integers(0, 12, (P, S)),
    np.arange(S) >= S - lengths[:, None],
    rng.integers(0, 12, (P, G, T)),
    np.arange(T) < own[..., None],
  )


@functools.cache
def weights(c):
  """Far enough from zero for scores that matter, by the size alone."""
  params = transformer.init(jax.random.key(0), c)
  params['embed'] = 30 * params['embed']
  params['layers']['qkv'] = 3 * params['layers']['qkv']
  return params


@functools.cache
def states_and_gradient(c, **sizes):
  """Of `rows`: their hidden states, and a gradient of a sum of those."""
  _, valid, _, own_valid = arrays = rows(**sizes)

  def f(params):
    states = transformer.hidden_states(params, c, *arrays)
    kept = [
      jnp.where(mask[..., None], x.astype(jnp.float32), 0)
      for x, mask in zip(states, (valid, own_valid))
    ]
    noise = [np.random.default_rng(1).normal(size=x.shape) for x in kept]
    return sum((x * y).sum() for x, y in zip(kept, noise)), kept

  plain = dataclasses.replace(c, attention='auto')
  (_, kept), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))(
    weights(plain)
  )
  return kept, gradient


def same(got, want, tolerance=1e-5):
  """Array by array, relative to the largest number of each."""

  def close(x, y):
    x, y = (np.asarray(a, np.float32) for a in (x, y))
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())

  jax.tree.map(close, got, want)


def compare(c, name, **sizes):
  plain, one = (
    states_and_gradient(dataclasses.replace(c, attention=x), **sizes)
    for x in ('plain', name)
  )
  same(one, plain)
  return plain[1]


@pytest.mark.parametrize(('c', 'G'), [(ONE, 1), (CONFIG, 2), (ONE, 4)])
def test_values_and_gradients_are_those_of_plain(kernel, c, G):
  """Float32, within 1e-5 of the largest number."""
  gradient = compare(c, kernel, G=G)
  assert jnp.abs(gradient['layers']['qkv']).max() > 0.1


@pytest.mark.parametrize('heads', [(2, 2), (4, 1)])
def test_other_groups_of_heads(kernel, heads):
  sizes = dict(num_heads=heads[0], num_kv_heads=heads[1])
  compare(dataclasses.replace(ONE, **sizes), kernel)


def test_completions_are_padded_once(kernel, monkeypatch):
  """Not in every layer."""
  found, one = [], fused.KERNELS[kernel]

  def attend(q, k, *others, **more):
    found.append((q.shape[1], k.shape[1]))
    return one.attend(q, k, *others, **more)

  monkeypatch.setitem(fused.KERNELS, kernel, one._replace(attend=attend))
  compare(ONE, kernel, S=6, T=7)
  assert (8, 14) in found


def test_rows_of_several_blocks(kernel):
  compare(ONE, kernel, P=2, S=150, T=131)


def test_bfloat16(kernel):
  """No further from float32 than the plain way, which rounds the scores."""
  exact, plain, one = (
    states_and_gradient(dataclasses.replace(ONE, **change))[0]
    for change in (
      dict(attention='plain'),
      dict(attention='plain', dtype='bfloat16'),
      dict(attention=kernel, dtype='bfloat16'),
    )
  )
  error = lambda got: np.hypot(
    *(np.linalg.norm(x - y) for x, y in zip(got, exact))
  )
  assert 0 < error(one) < 1.2 * error(plain)


def test_softcap_of_splash(monkeypatch):
  name = use('splash', monkeypatch)
  capped = dataclasses.replace(ONE, attention_softcap=1.0)
  got = compare(capped, name)
  uncapped = dataclasses.replace(ONE, attention='plain')
  without = states_and_gradient(uncapped)[1]
  gap = got['layers']['qkv'] - without['layers']['qkv']
  assert jnp.abs(gap).max() > 0.01


@pytest.mark.parametrize('size', [5, 128])
def test_padding_stays_finite(kernel, size):
  """States of padding and gradients, where all of a row is padding too."""
  arrays = rows(P=2, S=size, T=size)
  for valid in arrays[1], arrays[3]:
    valid[0] = False
  c = dataclasses.replace(ONE, attention=kernel)

  def f(params):
    states = transformer.hidden_states(params, c, *arrays)
    return sum(x.sum() for x in states), states

  out = jax.jit(jax.value_and_grad(f, has_aux=True))(weights(ONE))
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(out))


def test_a_completion_without_predicting_states(kernel):
  c = dataclasses.replace(CONFIG, attention=kernel)
  arrays = rows(T=1)
  none = *arrays[:2], arrays[2][..., :0], arrays[3][..., :0]
  states = transformer.hidden_states(weights(CONFIG), c, *none)
  want = transformer.hidden_states(weights(CONFIG), CONFIG, *none)
  assert states[1].shape == want[1].shape
  mask = none[1]
  same(states[0][mask], want[0][mask])


def test_prefill(kernel):
  """What decoding starts from: the last state, keys and values."""
  prompts, valid, _, _ = rows()
  c = dataclasses.replace(CONFIG, attention=kernel)
  state, kv = transformer.prefill(weights(CONFIG), c, prompts, valid)
  plain = dataclasses.replace(CONFIG, attention='plain')
  want, want_kv = transformer.prefill(weights(CONFIG), plain, prompts, valid)
  same(state, want)
  keep = lambda x, mask: np.where(mask, x, 0)
  for (k, v), (want_k, want_v) in zip(kv, want_kv):
    mask = valid[:, None, None]
    same(keep(k.numbers, mask), keep(want_k.numbers, mask))
    mask = valid[:, None, :, None]
    same(keep(v.numbers, mask), keep(want_v.numbers, mask))


def test_several_runs_by_vmap(monkeypatch):
  """As `together` trains them; cuDNN's call has no rule for it."""
  name = use('splash', monkeypatch)
  stacked = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), weights(ONE))
  arrays = rows()

  def gradient(c):
    def f(params):
      own = transformer.hidden_states(params, c, *arrays)[1]
      return jnp.where(arrays[3][..., None], own, 0).sum()

    return jax.jit(jax.vmap(jax.grad(f)))(stacked)

  kinds = (dataclasses.replace(ONE, attention=x) for x in (name, 'plain'))
  same(*(gradient(c) for c in kinds))


def test_runs_that_cannot_be_stacked_are_named(monkeypatch):
  fused.check_vmap(CONFIG)
  use('cudnn', monkeypatch)
  fused.check_vmap(dataclasses.replace(CONFIG, attention='plain'))
  with pytest.raises(ValueError, match="attention='plain', got 'auto'"):
    fused.check_vmap(CONFIG)
  cfg = common.as_dict(toy.get_config())
  common.check(cfg, sweep.sweep(cfg))
  with pytest.raises(ValueError, match="model.attention='plain', got 'auto'"):
    common.check({**cfg, 'together': True}, sweep.sweep(cfg))


def test_auto_on_a_cpu_is_plain():
  """The same program, operation by operation."""
  arrays = rows()

  def program(attention):
    c = dataclasses.replace(CONFIG, attention=attention)
    f = lambda p: transformer.hidden_states(p, c, *arrays)[1].sum()
    return str(jax.make_jaxpr(jax.grad(f))(weights(CONFIG)))

  assert fused.machine() == 'cpu'
  assert program('auto') == program('plain')


@pytest.mark.parametrize(
  'name, change, message',
  [
    (
      'flash',
      {},
      "attention='flash', expected one of 'auto', 'cudnn'",
    ),
    ('cudnn', {}, "'cudnn' needs dtype in .*bfloat16.* got dtype='float32'"),
    ('splash', {'dtype': 'float16'}, "'splash' needs dtype in .*'float16'"),
    (
      'cudnn',
      {'dtype': 'bfloat16', 'head_dim': 12},
      'a multiple of 8 and at most 128, got head_dim=12',
    ),
    ('cudnn', {'dtype': 'bfloat16', 'head_dim': 136}, 'got head_dim=136'),
    (
      'cudnn',
      {'dtype': 'bfloat16', 'attention_softcap': 5.0},
      'needs attention_softcap=None, got attention_softcap=5.0',
    ),
  ],
)
def test_a_model_that_a_kernel_cannot_run_is_named(name, change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, attention=name, **change)


def test_a_machine_without_the_kernel_is_named():
  c = dataclasses.replace(CONFIG, attention='splash')
  with pytest.raises(ValueError, match="needs a machine 'tpu', found 'cpu'"):
    transformer.hidden_states(weights(CONFIG), c, *rows())


def test_windows_within_a_row_are_plain(kernel):
  """Those that reach over all of it are none."""
  plain = functools.partial(dataclasses.replace, CONFIG, windows=(12, 11))
  compare(plain(), kernel)
  assert fused.choose(plain(), 3, 11) and not fused.choose(plain(), 3, 12)
  with pytest.raises(ValueError, match='at least the 12 slots .* got 11'):
    fused.choose(plain(attention=kernel), 3, 12)


def test_auto_takes_what_runs(kernel):
  assert fused.choose(CONFIG, 3, 11)
  strange = dataclasses.replace(CONFIG, dtype='float16')
  assert not fused.choose(strange, 3, 11)


def test_attention_beside_a_checkpoint(tmp_path):
  """It is no part of one: import, export and a config keep it."""
  folder = GOLDEN / 'qwen3'
  model = hf.load(folder, attention='splash')
  assert model.config.attention == 'splash'
  hf_export.export(tmp_path, *model)
  assert hf.load(tmp_path).config.attention == 'auto'
  fields = initial.model_fields(dict(checkpoint=str(folder), attention='plain'))
  assert fields['attention'] == 'plain'


MESH = """
import dataclasses, json
import jax, pytest
import test_fused
from align_jax import sharding
from align_jax.models import fused, transformer

name = test_fused.use('cudnn', pytest.MonkeyPatch())
c = dataclasses.replace(test_fused.CONFIG, attention=name)
plain = dataclasses.replace(c, attention='plain')
want = test_fused.states_and_gradient(plain, P=4)
mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
with jax.set_mesh(mesh):
  got = test_fused.states_and_gradient(c, P=4)
  auto = dataclasses.replace(c, attention='auto')
  chosen = [bool(fused.choose(auto, num, 11)) for num in (3, 4)]
  try:
    fused.choose(c, 3, 11)
  except ValueError as error:
    message = str(error)
test_fused.same(jax.device_get(got), want)
print(json.dumps([chosen, message]))
"""


def test_on_a_mesh():
  """Every device its own rows and heads; where they divide."""
  chosen, message = python(MESH, XLA_FLAGS=flags_for(8))
  assert chosen == [False, True]
  assert "attention='cudnn' needs" in message and 'size 3 does not' in message


# A gradient as DPO has it: of a difference of log-probs beside a reference's.
DPO = """
import dataclasses, json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from align_jax.policy import scoring
from align_jax import sharding
from align_jax.models import fused, transformer
from align_jax.types import Batch

c = transformer.ModelConfig(
  vocab_size=256, dim=128, num_layers=5, num_heads=4, num_kv_heads=2,
  head_dim=64, mlp_dim=256, dtype='bfloat16',
)

def loss(params, reference, batch):
  logps = scoring.token_logps(params, batch, config=c)
  gap = logps - scoring.token_logps(reference, batch, config=c)
  gap = gap.sum(1).reshape(-1, 2)
  return -jax.nn.log_sigmoid(0.1 * (gap[:, 0] - gap[:, 1])).mean()

def arguments(place_params, place_batch, P=8, S=100, T=80):
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), c))
  place = lambda shape, dtype: place_batch(jax.ShapeDtypeStruct(shape, dtype))
  own = place((2 * P, T), bool)
  batch = Batch(
    prompts=place((P, S), jnp.int32), prompt_valid=place((P, S), bool),
    completions=place((2 * P, T), jnp.int32), valid=own, mask=own,
    rewards=place((2 * P,), jnp.float32), group_size=2,
  )
  params = place_params(params)
  return params, params, batch

gradient = jax.jit(jax.grad(loss))
"""

TPU = (
  DPO
  + """
from jax.experimental import topologies
fused.machine = lambda: 'tpu'
devices = topologies.get_topology_desc('v5e:2x4', 'tpu').devices

def compiled(devices, shape):
  sizes = dict(zip(('data', 'fsdp', 'tensor'), shape))
  mesh = sharding.make_mesh(devices, **sizes)
  on = lambda x, spec: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
  )
  axes = transformer.axes(c)
  place = lambda tree: jax.tree.map(
    lambda x, names: on(x, sharding.spec(names)), tree, axes
  )
  rows = lambda x: on(x, sharding.spec(('batch',)))
  with jax.set_mesh(mesh):
    return gradient.lower(*arguments(place, rows)).compile().as_text()

texts = [compiled(devices, (2, 2, 2)), compiled(devices[:1], (1, 1, 1))]
print(json.dumps([text.count('tpu_custom_call') for text in texts]))
"""
)


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu'
)
def test_dpo_compiles_for_a_tpu():
  """For eight chips and for one, with the kernel and its two backwards in."""
  found = python(
    TPU,
    TPU_SKIP_MDS_QUERY='1',
    TPU_ACCELERATOR_TYPE='v5litepod-8',
    TPU_WORKER_HOSTNAMES='localhost',
    TPU_MIN_LOG_LEVEL='3',
    ALLOW_MULTIPLE_LIBTPU_LOAD='1',
    XLA_FLAGS='',
    JAX_ENABLE_COMPILATION_CACHE='0',
  )
  assert min(found) >= 6  # prompts and completions, forward and backward


CUDA = (
  DPO
  + """
from jax._src.cudnn import fused_attention_stablehlo
fused_attention_stablehlo.check_cudnn_version = lambda: 91000
fused.machine = lambda: fused.NVIDIA
same = lambda x: x
lowered = gradient.trace(*arguments(same, same)).lower(
  lowering_platforms=('cuda',)
)
print(json.dumps(lowered.as_text().count('cudnn$fmha')))
"""
)


def test_dpo_is_lowered_to_cudnn():
  """With the version of cuDNN made up: none is installed."""
  assert python(CUDA) >= 4
