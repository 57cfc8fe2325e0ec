"""The train step, the state and the sources: pure and replayable."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.learn import batches, optimizers, rewards, sources, step, train
from align_jax.losses import LOSSES
from align_jax.policy import programs, scoring

NUM_STEPS = 5


@pytest.fixture(scope='module')
def forward(token_logps):
  return lambda params, batch: token_logps(params, batch, 1.0)


@pytest.fixture(scope='module')
def annotate(forward):
  return scoring.make_annotate(forward)


@pytest.fixture(scope='module')
def tx():
  return optimizers.make_optimizer(warmup_steps=2)


@pytest.fixture(scope='module')
def train_step(forward, tx):
  return step.make_train_step(forward, LOSSES['ipo'], tx)


@jax.jit
def count_of_threes(batch):
  """A rule over tokens; some groups tie."""
  threes = (batch.completions == 3) & batch.valid
  return threes.sum(1) - 0.1 * batch.valid.sum(1)


@pytest.fixture(scope='module')
def online(prompts, sample, annotate):
  return sources.online(
    prompts=lambda i: prompts,
    sample=lambda *args: sample(*args, 1.0),
    reward=rewards.stateless(count_of_threes),
    annotate=annotate,
    read=sources.current,
  )


@pytest.fixture
def run(params, tx, train_step):
  """source -> (state, batches and metrics of NUM_STEPS steps)."""

  def f(source, beta=0.1, learning_rate=1e-2):
    state = step.init_state(params, tx, anchors=['ref'])
    hparams = {'beta': beta, 'learning_rate': learning_rate}
    log, metrics = [], []
    for i in range(NUM_STEPS):
      key = jax.random.fold_in(jax.random.key(7), i)
      log.append(source(state, key, i))
      state, measured = train_step(state, log[-1], hparams)
      metrics.append(measured)
    return state, log, metrics

  return f


def same(x, y):
  return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), x, y))


def test_one_compile_whatever_the_hparams(run, online, lowered):
  first = run(online)
  lowered.clear()
  for hparams in ({'beta': 0.5}, {'learning_rate': 3e-2}):
    assert not same(run(online, **hparams)[0].params, first[0].params)
  assert not [name for name in lowered if 'updated' in name], lowered


def test_runs_are_bitwise_equal(run, online):
  one, two = run(online), run(online)
  assert same(one, two)
  assert not same(one[1][0].completions, one[1][1].completions)


def test_training_leaves_the_anchor_alone(run, online, params):
  """And the caller's params, although the state is donated."""
  before = jax.tree.map(np.array, params)
  state, _, metrics = run(online)
  assert state.step == NUM_STEPS
  assert not same(state.params, before)
  assert same(state.anchors['ref'], before) and same(params, before)
  # At the reference the margin is zero, and IPO's loss 1 / (4 beta^2).
  np.testing.assert_allclose(metrics[0]['loss'], 25, rtol=1e-4)
  assert metrics[-1]['loss'] < 25


def test_learning_rate_scales_the_update(batch):
  """Zero moves nothing; the update is linear in it."""
  tx = optimizers.make_optimizer()
  train_step = step.make_train_step(
    lambda params, batch: params['x'][batch.completions], LOSSES['sft'], tx
  )

  def moved(rate):
    state = step.init_state({'x': jnp.zeros(11)}, tx)
    return train_step(state, batch, {'learning_rate': rate})[0].params['x']

  assert (moved(0.0) == 0).all() and jnp.abs(moved(0.1)).max() > 0.01
  np.testing.assert_allclose(moved(0.3), 3 * moved(0.1), rtol=1e-5)


def test_refresh(params, tx):
  state = step.init_state(params, tx, anchors=['ref', 'sampler'])
  other = types.MappingProxyType({'ref': 'another'})
  assert step.init_state(params, tx, anchors=other).anchors == dict(other)
  state = state.replace(params=jax.tree.map(lambda x: x + 1, params))
  every = {'ref': 0, 'sampler': 3}
  for i, due in [(0, False), (1, False), (3, True), (4, False), (6, True)]:
    fresh = step.refresh(state, i, every)
    assert same(fresh.anchors['ref'], params)
    assert same(fresh.anchors['sampler'], state.params if due else params)
  # A copy: the next step donates the params, and the anchor must survive it.
  where = lambda tree: [
    x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)
  ]
  assert not set(where(fresh.params)) & set(where(fresh.anchors['sampler']))


def test_microbatches_must_divide(forward, batch, params):
  with pytest.raises(ValueError, match='4 prompts do not split into 3'):
    step.value_and_grad(forward, LOSSES['sft'], 3)(params, batch, {})


@pytest.mark.parametrize('size, batch_size', [(7, 3), (4, 4), (3, 8)])
def test_epochs_cover_everything_once(size, batch_size):
  """Each epoch a permutation, also where batches straddle it."""
  indices = sources.epochs(size, batch_size, seed=0)
  stream = np.concatenate([indices(i) for i in range(4 * size)])
  epochs = stream[: len(stream) // size * size].reshape(-1, size)
  assert (np.sort(epochs, 1) == np.arange(size)).all()
  assert (epochs != epochs[0]).any()
  # A function of the step alone: neither the order nor the object matters.
  again = sources.epochs(size, batch_size, seed=0)
  for i in (5, 1, 5):
    part = stream[i * batch_size : (i + 1) * batch_size]
    assert (indices(i) == part).all() and (again(i) == part).all()
  other = sources.epochs(size, batch_size, seed=1)
  assert any((other(i) != indices(i)).any() for i in range(4))


def test_an_empty_data_set_is_refused():
  with pytest.raises(ValueError, match='empty'):
    sources.epochs(0, 4, seed=0)


@pytest.mark.parametrize('shuffle', [1, 2, 3, 5, 6])
def test_replay_order_stays_within_its_windows(shuffle):
  size, num_steps = 4, 6
  order = sources.replay_order(num_steps, size, shuffle=shuffle)
  stream = np.concatenate([order(i) for i in range(num_steps)])
  log = np.arange(num_steps * size)
  assert (np.sort(stream) == log).all()
  window = shuffle * size
  assert (stream // window == log // window).all()
  assert (stream != log).any() == (shuffle > 1)


def test_take_keeps_groups_together(batch):
  """Any number of prompts, in any order, repeats included."""
  for count, index in ((4, [2, 0, 2]), (3, [1, 2])):
    rows = jnp.arange(count * 3)
    data = jax.tree.map(lambda x: x[rows] if len(x) == 12 else x[:count], batch)
    got = batches.take(data, np.array(index))
    want = (3 * np.array(index)[:, None] + np.arange(3)).reshape(-1)
    assert (got.prompts == batch.prompts[np.array(index)]).all()
    assert (got.prompt_valid == batch.prompt_valid[np.array(index)]).all()
    for name in ('completions', 'valid', 'mask', 'sampler_logps', 'rewards'):
      assert (getattr(got, name) == getattr(batch, name)[want]).all()


def test_saved_batches_come_back(batch, tmp_path):
  batches.save(tmp_path / 'batch.npz', batch)
  loaded = batches.load(tmp_path / 'batch.npz')
  assert jax.tree.structure(loaded) == jax.tree.structure(batch)
  assert same(loaded, batch)
  assert [x.dtype for x in jax.tree.leaves(loaded)] == [
    x.dtype for x in jax.tree.leaves(batch)
  ]


def test_exact_replay_is_the_online_run(run, online):
  """The log of an online run, read in its order: bit for bit the same run."""
  state, log, metrics = run(online)
  size = log[0].num_prompts
  order = functools.partial(sources.replay_order, NUM_STEPS, size)
  data = batches.concatenate(log)
  replay = run(sources.offline(data, order(shuffle=1)))
  assert same((state, log, metrics), replay)
  # And only in its order.
  shuffled = run(sources.offline(data, order(shuffle=NUM_STEPS)))
  assert not same(state.params, shuffled[0].params)


def test_logs_of_any_length_compile_nothing(run, online, lowered, tmp_path):
  log = run(online)[1]
  lowered.clear()
  for size in (2, 3):
    train.write_log(tmp_path / str(size), 0, size, log[:size])
  assert not lowered


def test_what_models_do_not_read_compiles_nothing(
  config, params, batch, lowered
):
  logps, _, annotate = programs.policy_programs(config)
  want, known = logps(params, batch), annotate(params, batch)
  lowered.clear()
  for other in (known, known.replace(mask=None, policy_logps=want)):
    assert same(logps(params, other), want)
  assert not [name for name in lowered if 'token_logps' in name], lowered


def test_only_an_online_source_reads_the_params(
  online, prompts, sample, annotate, params, ref_params, tx, batch
):
  state = step.init_state(params, tx, anchors=['ref', 'sampler'])
  moved = state.replace(params=ref_params)
  key = jax.random.key(0)
  assert not same(*(online(s, key, 0).completions for s in (state, moved)))
  stale = sources.online(
    lambda i: prompts,
    lambda *args: sample(*args, 1.0),
    rewards.stateless(count_of_threes),
    annotate,
    sources.anchor('sampler'),
  )
  assert same(stale(state, key, 0), stale(moved, key, 0))
  assert not same(stale(state, key, 0), online(moved, key, 0))
  fixed = sources.offline(batch, sources.epochs(4, 2, seed=0))
  assert same(fixed(state, key, 0), fixed(moved, None, 0))


def test_online_batches_are_annotated(online, params, tx, token_logps):
  """Rewards by the rule, reference log-probs under the anchor 'ref'."""
  state = step.init_state(params, tx, anchors=['ref'])
  batch = online(state, jax.random.key(0), 0)
  assert same(batch.rewards, count_of_threes(batch))
  assert same(batch.ref_logps, token_logps(params, batch, 1.0))
  np.testing.assert_allclose(batch.ref_logps, batch.sampler_logps, atol=1e-5)
