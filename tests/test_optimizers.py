"""What optimizers do to each parameter, and what they refuse."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import flags_for, init, python
from runs import setup_of, train_arm
from test_train import final_state, settings

from align_jax.lab import checks, protocol
from align_jax.learn import optimizers, step
from align_jax.learn.optimizers import make_optimizer
from align_jax.losses import LOSSES
from align_jax.models import bow, lora
from align_jax.models.adapter import Adapter

MUON = {'name': 'muon'}


def noise(tree, seed):
  """A gradient for each parameter, none of them zero."""
  rng = np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)
  return jax.tree.map(draw, tree)


def updates_of(tx, tree, seeds=(0, 1, 2)):
  """The updates that an optimizer makes of as many gradients in turn."""
  state, found = tx.init(tree), []
  update = jax.jit(tx.update)
  for seed in seeds:
    updates, state = update(noise(tree, seed), state, tree)
    found.append(updates)
  return found


def by_path(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  name = lambda p: jax.tree_util.keystr(p, simple=True, separator='.')
  return {name(path): np.asarray(x) for path, x in leaves}


# --- AdamW, as it has been ----------------------------------------------------


def test_rmsprop_is_that_of_pytorch():
  """x -= lr g / (sqrt(v) + eps), v the running mean of g^2 from 0."""
  tx = make_optimizer(
    optimizer=dict(name='rmsprop', decay=0.9, eps=0.1), max_grad_norm=np.inf
  )
  tree, v = {'x': jnp.zeros(3)}, 0.0
  for seed, found in enumerate(updates_of(tx, tree)):
    g = np.asarray(noise(tree, seed)['x'], float)
    v = 0.9 * v + 0.1 * g**2
    np.testing.assert_allclose(found['x'], -g / (np.sqrt(v) + 0.1), rtol=1e-5)


def test_adamw_is_optaxs_behind_clipping(params):
  """To the bit, with the state that earlier checkpoints hold."""
  chain = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
    optax.add_decayed_weights(0.1),
    optax.identity(),
    optax.scale(-1.0),
  )
  tx = make_optimizer(max_grad_norm=0.5, weight_decay=0.1)
  one, two = updates_of(tx, params), updates_of(chain, params)
  assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
  assert jax.tree.structure(tx.init(params)) == jax.tree.structure(
    chain.init(params)
  )


def test_an_optimizer_hears_its_arguments(params):
  for name, key in (('adamw', 'b2'), ('lion', 'b1')):
    plain, other = (
      updates_of(make_optimizer(optimizer={'name': name, **kwargs}), params)
      for kwargs in ({}, {key: 0.5})
    )
    assert not np.array_equal(plain[-1]['embed'], other[-1]['embed']), name


# --- From a config ------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch):
  """An optimizer of one line: the gradients themselves, times a gain."""
  entry = {'plain': lambda *, gain=1.0: optax.scale(gain)}
  monkeypatch.setattr(
    optimizers, 'OPTIMIZERS', {**optimizers.OPTIMIZERS, **entry}
  )


def run_of(**changes):
  """The toy's online run, with other fields."""
  return settings('online')[1].but(max_grad_norm=9.0, **changes)


def optimizer_of(run):
  """A run's optimizer, of parameters without a table."""
  stage = types.SimpleNamespace(task=types.SimpleNamespace(model=None))
  return protocol.optimizer_for(stage, run)


def test_an_added_optimizer_is_used_from_a_config(plain, tmp_path):
  cfg, _ = settings('online')
  run = run_of(optimizer={'name': 'plain', 'gain': 2.0}, keep_log=False)
  tx = optimizer_of(run)
  one = {'w': jnp.ones(1)}
  update = tx.update(one, tx.init(one), one)[0]['w']
  np.testing.assert_allclose(update, -2.0)
  train_arm(cfg, run, tmp_path)
  # It has no moments.
  assert not jax.tree.leaves(final_state(run.directory(tmp_path))['opt_state'])


def test_every_update_of_a_step_counts_in_the_schedule(plain):
  run = run_of(
    optimizer={'name': 'plain'},
    schedule={'name': 'linear'},
    steps=4,
    warmup_steps=1,
    num_epochs=2,
    num_minibatches=2,
  )
  tx = optimizer_of(run)
  one, found = {'w': jnp.ones(1)}, []
  state = tx.init(one)
  for _ in range(16):
    update, state = tx.update(one, state, one)
    found.append(-float(update['w'][0]))
  want = [*np.arange(1, 5) / 4, *(1 - np.arange(12) / 12)]
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_runs_share_what_their_schedule_lets_them_share():
  one = optimizer_of(run_of(steps=10))
  assert optimizer_of(run_of(steps=20)) is one
  cosine = [
    optimizer_of(run_of(steps=n, schedule={'name': 'cosine'}))
    for n in (10, 10, 20)
  ]
  assert cosine[0] is cosine[1] is not cosine[2]


@pytest.mark.parametrize(
  'change, message',
  [
    ({'max_grad_norm': 0.0}, 'max_grad_norm=0.0, expected a number > 0'),
    ({'max_grad_norm': -1.0}, 'max_grad_norm=-1.0, expected a number > 0'),
    ({'max_grad_norm': float('nan')}, 'max_grad_norm=nan, expected'),
    ({'weight_decay': -1.0}, 'weight_decay=-1.0, expected a number >= 0'),
    ({'warmup_steps': -1}, 'warmup_steps=-1, expected an integer >= 0'),
    ({'optimizer': {'name': 'sgd'}}, "optimizer.name='sgd' is none of"),
    (
      {'optimizer': {'name': 'adamw', 'beta': 0.9}},
      "optimizer.beta: optimizer 'adamw' takes b1, b2, eps",
    ),
    (
      {'optimizer': {'name': 'muon', 'matrices': None}},
      "optimizer.matrices: optimizer 'muon' takes b1, b2, beta",
    ),
    ({'optimizer': {'name': 'adamw', 'b1': 1.0}}, 'optimizer.b1=1.0, expected'),
    ({'schedule': {'name': 'cosin'}}, "schedule.name='cosin' is none of"),
    (
      {'schedule': {'name': 'constant', 'final': 0.1}},
      "schedule.final: schedule 'constant' takes nothing",
    ),
    (
      {'schedule': {'name': 'cosine', 'steps': 9}},
      "schedule.steps: schedule 'cosine' takes final",
    ),
    (
      {'schedule': {'name': 'cosine', 'final': -0.1}},
      'schedule.final=-0.1, expected a number >= 0',
    ),
  ],
)
def test_wrong_arguments_are_refused(change, message):
  with pytest.raises(ValueError) as error:
    make_optimizer(**change)
  assert message in str(error.value)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'max_grad_norm': 0.0}, 'max_grad_norm=0.0, expected a number above 0'),
    ({'max_grad_norm': -1.0}, 'max_grad_norm=-1.0, expected a number above 0'),
    ({'max_grad_norm': float('nan')}, 'max_grad_norm=nan, expected a number'),
    ({'weight_decay': -1.0}, 'weight_decay=-1.0, expected a finite number at'),
    ({'warmup_steps': -1}, 'warmup_steps=-1, expected a whole number'),
    ({'warmup_steps': 7}, 'warmup_steps=7, expected at most arm.steps=6'),
    ({'optimizer': {'name': 'sgd'}}, "optimizer.name='sgd' is none of"),
    (
      {'schedule': {'name': 'cosine', 'final': -0.1}},
      'schedule.final=-0.1, expected a finite number',
    ),
  ],
)
def test_wrong_settings_are_refused(change, message):
  cfg, run = settings('online')
  with pytest.raises(ValueError) as error:
    checks.check_run(run.but(**change), setup_of(cfg, '').shared)
  assert message in str(error.value)


def test_an_infinite_norm_clips_nothing(plain):
  tx = optimizer_of(
    run_of(optimizer={'name': 'plain'}).but(max_grad_norm=float('inf'))
  )
  large = {'w': jnp.array([1e6])}
  update = tx.update(large, tx.init(large), large)[0]
  np.testing.assert_allclose(update['w'], -1e6)


# --- Muon ---------------------------------------------------------------------


def assert_orthogonal(update, stacked, inputs, rms=0.2):
  """Newton's and Schulz's singular values come near 1, not to it."""
  rows = int(np.prod(update.shape[stacked : stacked + inputs]))
  lead = int(np.prod(update.shape[:stacked]))
  matrices = np.float64(update).reshape(lead, rows, -1)
  values = np.linalg.svd(matrices, compute_uv=False)
  values /= rms * max(matrices.shape[1:]) ** 0.5
  assert values.min() > 0.4 and values.max() < 1.4, values


def muon_updates(tree, model, **kwargs):
  kwargs = {'ns_steps': 10, **kwargs}  # enough for all singular values
  tx = make_optimizer(optimizer={**MUON, **kwargs}, model=model)
  return [by_path(u) for u in updates_of(tx, tree)]


def adamw_updates(tree):
  """As it is alone with what is not orthogonalised: Adam sees no other leaf."""
  return [by_path(u) for u in updates_of(make_optimizer(), tree)]


MATRICES = {'qkv': (1, 1), 'o': (1, 3), 'gate_up': (1, 1), 'down': (1, 1)}


def assert_split(tree, model, matrices):
  """{path: (stacked, inputs)} is orthogonalised, all else is AdamW's."""
  found, plain = muon_updates(tree, model), adamw_updates(tree)
  assert set(matrices) <= set(found[0])
  for update, other in zip(found, plain, strict=True):
    for path in update:
      if path in matrices:
        assert_orthogonal(update[path], *matrices[path])
      else:
        np.testing.assert_allclose(update[path], other[path], rtol=1e-4)


def test_the_matrices_of_layers_are_orthogonalised_and_nothing_else(config):
  untied = dataclasses.replace(config, tie_embeddings=False, qkv_bias=True)
  wanted = {f'layers.{k}': dims for k, dims in MATRICES.items()}
  assert_split(init(0, untied), untied, wanted)


def test_experts_are_orthogonalised_each_by_itself(config):
  c = dataclasses.replace(config, num_experts=3, experts_per_token=2)
  dims = {**MATRICES, 'gate_up': (2, 1), 'down': (2, 1), 'router': (1, 1)}
  assert_split(init(0, c), c, {f'layers.{k}': d for k, d in dims.items()})


def test_both_factors_of_lora_are_matrices(config, params):
  adapters = lora.init(jax.random.key(0), params, config, lora.Lora(rank=2))
  wanted = {}
  for name, (stacked, inputs) in MATRICES.items():
    wanted[f'lora.pairs.layers.{name}.a'] = stacked, inputs
    wanted[f'lora.pairs.layers.{name}.b'] = stacked, 1
  assert set(by_path({lora.KEY: adapters})) == set(wanted)
  assert_split({lora.KEY: adapters}, config, wanted)


def test_a_critic_of_its_own_is_trained_like_the_policy(config, params):
  trunk = {'layers': params['layers'], 'head': jnp.ones(16)}
  tree = {**trunk, 'critic': trunk, 'value_head': jnp.ones(16)}
  wanted = {f'layers.{k}': dims for k, dims in MATRICES.items()}
  wanted |= {f'critic.{k}': dims for k, dims in wanted.items()}
  assert_split(tree, config, wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Adapter):
  def init(self, key):
    return {'table': jax.random.normal(key, (self.vocab_size, 6))}


def test_where_no_table_names_matrices_all_is_adamw():
  words = bow.init(jax.random.key(0), vocab_size=7, prompt_len=3, dim=4)
  assert_split(words, None, {})
  model = Own(vocab_size=7)
  own = {'module': model.init(jax.random.key(0))}
  assert_split(own, model, {})
  # Unless LoRA names them.
  settings = lora.Lora(rank=2, targets=('table',))
  adapters = lora.init(jax.random.key(0), own, model, settings)
  pair = 'lora.pairs.module.table'
  wanted = {f'{pair}.a': (0, 1), f'{pair}.b': (0, 1)}
  assert_split({lora.KEY: adapters}, model, wanted)


def test_muon_hears_its_arguments(config, params):
  plain = muon_updates(params, config)[-1]['layers.o']
  for key, value in (('beta', 0.5), ('nesterov', False), ('ns_steps', 2)):
    other = muon_updates(params, config, **{key: value})[-1]['layers.o']
    assert np.abs(other - plain).max() > 1e-3, key
  double = muon_updates(params, config, rms=0.4)[-1]['layers.o']
  np.testing.assert_allclose(double, 2 * plain, rtol=1e-5)


def test_microbatches_add_up_under_muon(config, params, token_logps, batch):
  """Orthogonalised once, after they have been added up."""
  tx = make_optimizer(optimizer=MUON, model=config)
  forward = lambda params, batch: token_logps(params, batch, 1.0)
  ends = []
  for number in (1, 2):
    train = step.make_train_step(
      forward, LOSSES['sft'], tx, num_microbatches=number
    )
    state = step.init_state(params, tx)
    for _ in range(2):
      state, _ = train(state, batch, {'learning_rate': 0.1})
    ends.append(by_path(state.params))
  for path, x in ends[0].items():
    np.testing.assert_allclose(ends[1][path], x, rtol=1e-3, atol=1e-3)
    assert np.abs(x - by_path(params)[path]).max() > 1e-2


FOUR = """
import json
import jax, numpy as np
from conftest import init
from align_jax import sharding
from align_jax.learn import step
from align_jax.learn.optimizers import make_optimizer
from align_jax.models import transformer

config = transformer.ModelConfig(
  vocab_size=12, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
  mlp_dim=24,
)
params = jax.tree.map(np.asarray, init(0, config))
rng = np.random.default_rng(0)
grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype('f'), params)
tx = make_optimizer(optimizer={'name': 'muon'}, model=config)
start = jax.tree.map(jax.numpy.asarray, params)
one, _ = jax.jit(tx.update)(grads, tx.init(start), start)
mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2)
with jax.set_mesh(mesh):
  place = lambda x: sharding.place(x, transformer.axes(config), mesh)
  state = sharding.on_mesh(step.init_state(place(params), tx), mesh)
  many, _ = jax.jit(tx.update)(place(grads), state.opt_state, state.params)
moments = state.opt_state[1].inner_states
spread = lambda x: x.size // x.addressable_shards[0].data.size
gap = lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max())
print(json.dumps(dict(
  params=spread(state.params['layers']['qkv']),
  momentum=spread(moments['muon'].inner_state[0].mu['layers']['qkv']),
  embed=spread(moments['adamw'].inner_state.mu['embed']),
  gap=max(jax.tree.leaves(jax.tree.map(gap, one, many))),
)))
"""


def test_moments_keep_the_shardings_of_their_parameters():
  found = python(FOUR, XLA_FLAGS=flags_for(4))
  assert found['params'] == found['momentum'] == found['embed'] == 4
  assert found['gap'] < 1e-3


def test_muon_trains_a_run_from_a_config(tmp_path):
  """The reference, the proxy and the arm, each by its own field."""
  cfg, run = settings('online')
  cfg['sft'].update(optimizer=MUON, schedule={'name': 'cosine'})
  cfg['proxy'].update(optimizer={'name': 'lion'})
  run = run.but(optimizer=MUON, schedule={'name': 'linear'}, keep_log=False)
  train_arm(cfg, run, tmp_path)
  sft = final_state(tmp_path / 'seed0' / 'sft')
  arm = final_state(run.directory(tmp_path))
  assert 'ns_coeffs' in str(jax.tree.structure(sft['opt_state']))
  assert 'ns_coeffs' in str(jax.tree.structure(arm['opt_state']))
  moved = by_path(arm['params'])['layers.qkv']
  assert np.abs(moved - by_path(sft['params'])['layers.qkv']).max() > 1e-5
