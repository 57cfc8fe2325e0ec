"""Low-rank adapters: what they change, what they may reach, where they fit."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_train
from conftest import init, interrupted_at
from runs import run_of, setup_of, stage_of, train_arm

from align_jax.files import read_jsonl
from align_jax.lab import checks, forwards, starts, sweep, written
from align_jax.learn.checkpoint import Checkpoints
from align_jax.models import hf, hf_export, interface, lora
from align_jax.models.adapter import Adapter
from align_jax.policy import scoring
from configs import base, toy
from experiments import common

SETTINGS = lora.Lora(rank=2, alpha=6.0)


@pytest.fixture(scope='module')
def adapters(config, params):
  """Away from the start: neither A nor B is zero."""
  fresh = lora.init(jax.random.key(5), params, config, SETTINGS)
  noise = np.random.default_rng(0).normal
  return jax.tree.map(lambda x: x + 0.3 * noise(size=x.shape), fresh)


def same_bits(x, y):
  equal = lambda a, b: a.dtype == b.dtype and bool((a == b).all())
  return jax.tree.all(jax.tree.map(equal, x, y))


def test_the_start_is_the_base(config, params):
  """To the bit, in any dtype; and the adapters are not zero."""
  for dtype in ('float32', 'bfloat16'):
    own = jax.tree.map(lambda x: x.astype(dtype), params)
    fresh = lora.init(jax.random.key(0), own, config, SETTINGS)
    assert same_bits(lora.merge(own, fresh), own)
    assert any((x != 0).any() for x in jax.tree.leaves(fresh))


def test_a_merged_matrix_is_w_plus_alpha_over_rank_a_b(params, adapters):
  """In numpy, one layer and one matrix at a time."""
  merged = lora.merge(params, adapters)
  assert same_bits(merged['embed'], params['embed'])
  inputs = {'qkv': 1, 'o': 3, 'gate_up': 1, 'down': 1}
  pairs = adapters.pairs['layers']
  assert pairs.keys() == inputs.keys()
  for name, n in inputs.items():
    for layer in range(2):
      w = np.asarray(params['layers'][name][layer], np.float64)
      a, b = (np.asarray(x[layer], np.float64) for x in pairs[name])
      assert a.shape == (*w.shape[:n], 2) and b.shape == (2, *w.shape[n:])
      want = w + 3.0 * np.tensordot(a, b, 1)
      got = merged['layers'][name][layer]
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
      assert np.abs(want - w).max() > 0.1


def adapted(**fields):
  cfg = common.as_dict(base.get_config())
  return run_of(cfg, **{'lora': dict(rank=2, alpha=6.0), **fields})


def forward_of(config, run):
  needs = starts.needs_of(run.loss)
  return forwards.forward_of(config, needs, run.teacher, run.lora)


def test_the_adapters_forward_is_the_merged_policys(
  config, params, ref_params, adapters, batch
):
  """Log-probs and exact KLs, of a reference that has moved or not."""
  tree = {lora.KEY: adapters}
  merged = lora.merge(params, adapters)
  forward, reads = forward_of(config, adapted())
  assert reads
  out = jax.jit(forward)(tree, batch, {'ref': params})
  want = jax.jit(functools.partial(scoring.token_logps, config=config))
  np.testing.assert_allclose(out, want(merged, batch), atol=1e-5)
  assert np.abs(out - want(params, batch)).max() > 0.1
  exact = adapted(loss='rloo', loss_kwargs=dict(beta=0.1, kl='exact'))
  forward, _ = forward_of(config, exact)
  anchors = {'ref': ref_params, 'base': params}
  out = jax.jit(forward)(tree, batch, anchors)
  compare = jax.jit(functools.partial(scoring.compare, config=config))
  kls, logps, _ = compare(merged, ref_params, batch)
  np.testing.assert_allclose(out.kls, kls, atol=1e-5)
  np.testing.assert_allclose(out.logps, logps, atol=1e-5)


def test_gradients_are_the_full_gradient_projected(
  config, params, adapters, batch
):
  """dA = s dW B', dB = s A' dW, from the gradient of the merged weights."""
  logps = functools.partial(scoring.token_logps, batch=batch, config=config)
  loss = lambda p: -logps(p).sum()
  full = jax.jit(jax.grad(loss))(lora.merge(params, adapters))
  own = jax.jit(jax.grad(lambda x: loss(lora.merge(params, x))))(adapters)
  assert own.scale == 3.0
  for name, (da, db) in own.pairs['layers'].items():
    a, b = (np.asarray(x) for x in adapters.pairs['layers'][name])
    for layer in range(2):
      rank, dw = 2, np.asarray(full['layers'][name][layer])
      dw = dw.reshape(a[layer].size // rank, -1)
      a2, b2 = a[layer].reshape(-1, rank), b[layer].reshape(rank, -1)
      close = functools.partial(np.testing.assert_allclose, rtol=1e-3)
      scale = np.abs(dw).max()
      assert scale > 1e-3
      close(np.reshape(da[layer], a2.shape), 3 * dw @ b2.T, atol=1e-4 * scale)
      close(np.reshape(db[layer], b2.shape), 3 * a2.T @ dw, atol=1e-4 * scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Adapter):
  """Least squares: one matrix."""

  def init(self, key):
    return {'w': jax.random.normal(key, (4, self.vocab_size))}


def test_full_rank_reaches_what_full_fine_tuning_does():
  """The least-squares solution; rank 1 reaches its best, and no further."""
  c, rng = Linear(vocab_size=3), np.random.default_rng(0)
  x, y = (rng.normal(size=(64, n)).astype(np.float32) for n in (4, 3))
  x = (
    8 * np.linalg.qr(x)[0]
  )  # white, so that the best of rank 1 is a singular vector's
  params = interface.of(c).init(jax.random.key(0), c)
  best = np.linalg.lstsq(x, y, rcond=None)[0]
  error = lambda w: float(np.square(y - x @ np.asarray(w)).mean())

  def fit(rank):
    settings = lora.Lora(rank=rank, alpha=float(rank), targets=('w',))
    adapters = lora.init(jax.random.key(1), params, c, settings)

    def loss(adapters):
      w = lora.merge(params, adapters)['module']['w']
      return jnp.square(y - x @ w).mean()

    def step(adapters, _):
      grads = jax.grad(loss)(adapters)
      return jax.tree.map(lambda p, g: p - 0.03 * g, adapters, grads), None

    out = jax.jit(lambda a: jax.lax.scan(step, a, length=4000)[0])(adapters)
    return np.asarray(lora.merge(params, out)['module']['w'])

  start = np.asarray(params['module']['w'])
  gap = np.linalg.svd(best - start)
  assert gap[1][1] > 0.3 * gap[1][0]
  one = start + gap[1][0] * np.outer(gap[0][:, 0], gap[2][0])
  np.testing.assert_allclose(fit(3), best, atol=1e-3)
  np.testing.assert_allclose(fit(1), one, atol=1e-3)
  assert error(one) > error(best) + 0.1


def test_axes_are_those_of_the_matrices(config, params):
  axes = lora.axes(config, SETTINGS)
  fresh = lora.init(jax.random.key(0), params, config, SETTINGS)
  is_axes = lambda x: type(x) is tuple
  names = jax.tree.leaves(axes, is_leaf=is_axes)
  sizes = [x.ndim for x in jax.tree.leaves(fresh)]
  assert [len(x) for x in names] == sizes
  layers = axes.pairs['layers']
  assert layers['o'].a == (None, 'heads', None, None, None)
  assert layers['o'].b == (None, None, 'embed')
  assert layers['gate_up'].a == (None, 'embed', None)
  assert layers['gate_up'].b == (None, None, None, 'mlp')


def test_experts_and_an_untied_head(config):
  c = dataclasses.replace(
    config, num_experts=3, experts_per_token=2, tie_embeddings=False
  )
  params = init(0, c)
  targets = ('layers.gate_up', 'down', 'router', 'head')
  fresh = lora.init(
    jax.random.key(0), params, c, lora.Lora(rank=2, targets=targets)
  )
  pairs = fresh.pairs
  assert pairs['layers']['gate_up'].a.shape == (2, 3, 16, 2)
  assert pairs['layers']['down'].b.shape == (2, 3, 2, 16)
  assert pairs['layers']['router'].a.shape == (2, 16, 2)
  assert pairs['head'].b.shape == (2, 11)


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(rank=-1), 'lora.rank=-1, expected a whole number, at least 0'),
    (dict(rank=1.5), 'lora.rank=1.5, expected'),
    (dict(rank=1, alpha=0.0), 'lora.alpha=0.0, expected a finite number above'),
    (dict(rank=1, alpha=math.inf), 'lora.alpha=inf, expected a finite number'),
    (dict(rank=1, targets=()), r'lora.targets=.., expected a tuple of names'),
    (dict(rank=1, targets='qkv'), "lora.targets='qkv', expected a tuple"),
    (dict(ranks=1), 'ranks'),
    (dict(rank=1, targets=('kv',)), "'kv' ends no path .* layers.qkv"),
    (dict(rank=1, targets=('norm',)), 'norm is none of the matrices'),
  ],
)
def test_wrong_settings_are_named_at_start(settings, message):
  shared = setup_of(common.as_dict(toy.get_config()), '').shared
  checks.check_run(adapted(), shared)
  with pytest.raises(ValueError, match=f'^arm.*lora.*{message}'):
    checks.check_run(adapted(lora=settings), shared)


def test_what_is_no_matrix_is_named():
  c = Linear(vocab_size=3)
  base = {'module': {'kernel': jnp.zeros((2, 3, 4))}}
  settings = lora.Lora(rank=1, targets=('kernel',))
  with pytest.raises(ValueError, match=r'module.kernel of shape \(2, 3, 4\)'):
    lora.init(jax.random.key(0), base, c, settings)


def test_the_export_of_the_merged_policy_loads_back(
  config, params, adapters, tmp_path
):
  merged = lora.merge(params, adapters)
  hf_export.export(tmp_path, merged, config)
  assert same_bits(hf.load(tmp_path).params, merged)
  assert not same_bits(merged, params)


# --- Through the protocol -----------------------------------------------------

LORA = dict(rank=2, alpha=8.0)
ARMS = {
  'online': {},
  'budget': dict(kl_budget=0.5, kl_every=2, kl_samples=2, learning_rate=0.03),
  'moving': dict(source='sampler', refresh_every=dict(sampler=2, ref=3)),
  'ppo': dict(loss='ppo', loss_kwargs={}),
  'shared': dict(loss='ppo', loss_kwargs={}, critic='shared'),
}


def settings(name):
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.model.update(
    num_layers=1, dim=16, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=16
  )
  arm = {'learning_rate': 1e-2, **ARMS[name], 'lora': LORA}
  cfg = common.as_dict(c)
  cfg['arms'] = {name: arm}
  run = sweep.sweep(cfg)[0]
  common.check(cfg, [run])
  return cfg, run


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('lora')


@pytest.fixture(scope='module', params=list(ARMS))
def trained(request, workdir):
  cfg, run = settings(request.param)
  train_arm(cfg, run, workdir)
  return run, workdir / 'seed0' / run.name


def test_a_run_of_adapters_keeps_adapters(trained):
  """And points of the policies that they make of the reference."""
  run, directory = trained
  with Checkpoints(directory / 'checkpoints') as checkpoints:
    state = checkpoints.restore_raw()
  critics = {'ppo': {'critic'}, 'shared': {'value_head'}}.get(run.arm, set())
  assert state['params'].keys() == {'lora'} | critics
  sizes = [x.shape for x in jax.tree.leaves(state['params']['lora'])]
  assert len(sizes) == 8 and all(2 in shape for shape in sizes)
  assert ('base' in state['anchors']) == ('ref' in run.schedule.refresh_every)
  assert state['anchors']['ref'].keys() >= {'embed', 'layers'}
  rows = read_jsonl(directory / 'points.jsonl')
  assert rows[0]['kl_seq_nats'] == 0
  assert rows[-1]['kl_seq_nats'] > 1e-6
  if run.kl.nats:
    assert max(r['kl_seq_nats'] for r in rows) < 2 * run.kl.nats


def test_anchors_that_move_are_merged(workdir):
  cfg, run = settings('moving')
  train_arm(cfg, run, workdir)
  seed = stage_of(cfg, 0, workdir)
  with Checkpoints(workdir / 'seed0' / run.name / 'checkpoints') as saved:
    anchors = saved.restore_raw()['anchors']
  assert same_bits(anchors['base'], seed.reference)
  for name in ('ref', 'sampler'):
    moved = jax.tree.map(
      lambda x, y: (x != y).any(), anchors[name], seed.reference
    )
    assert set(moved) == set(seed.reference) and not moved['embed']
    assert moved['layers']['qkv']


def test_it_resumes_to_the_same_bits(workdir, tmp_path):
  cfg, run = settings('online')
  train_arm(cfg, run, workdir)
  with interrupted_at(5) as report:
    train_arm(cfg, run, tmp_path, report)
  train_arm(cfg, run, tmp_path)
  first, second = (p / 'seed0' / run.name for p in (workdir, tmp_path))
  test_train.assert_same_run(first, second)


def test_another_runs_adapters_are_no_teacher(workdir):
  cfg, run = settings('online')
  train_arm(cfg, run, workdir)
  seed = stage_of(cfg, 0, workdir)
  with pytest.raises(ValueError, match='trained adapters .lora.rank > 0'):
    written.params_named(seed, run.name)
  student = run.but(name='student/default', teacher_of=run.name)
  with pytest.raises(ValueError, match="teacher_of='.*trains adapters"):
    common.check(cfg, [run, student])
