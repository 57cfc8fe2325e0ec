"""Several updates per batch, and numbers that a run carries along."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from align_jax import losses
from align_jax.learn import step
from align_jax.losses import LOSSES

V = 11


def forward(params, batch):
  return jax.nn.log_softmax(params['x'])[batch.completions]


@pytest.fixture
def rows(batch):
  """Rewards of a rule, log-probs of a flat reference and of the policy."""
  flat = jnp.full(batch.completions.shape, -jnp.log(float(V)))
  return batch.replace(
    rewards=(batch.completions == 3).mean(1) + 0.1 * batch.valid.sum(1),
    ref_logps=flat,
    sampler_logps=flat,
  )


def start(tx, **stats):
  return step.init_state({'x': jnp.zeros(V)}, tx, ['ref'], stats)


def test_epochs_of_minibatches_are_updates_one_after_another(rows):
  """The same as a loop over the same shuffled parts."""
  tx = optax.sgd(1.0)
  train_step = step.make_train_step(
    forward, LOSSES['ipo'], tx, num_epochs=2, num_minibatches=2
  )
  state, metrics = train_step(start(tx), rows, {'learning_rate': 0.1})
  key = jax.random.fold_in(jax.random.key(0), 0)
  parts = step._shuffled(rows, key, 2, 2)
  params, values = {'x': jnp.zeros(V)}, []
  for i in range(4):
    part = jax.tree.map(lambda x: x[i], parts)
    (value, _), grads = step.value_and_grad(forward, LOSSES['ipo'])(
      params, part, {}
    )
    params = jax.tree.map(lambda x, g: x - 0.1 * g, params, grads)
    values.append(value)
  np.testing.assert_allclose(state.params['x'], params['x'], atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], np.mean(values), rtol=1e-5)
  assert state.step == 1


def test_an_epoch_sees_every_group_once_and_whole(rows):
  parts = step._shuffled(rows, jax.random.key(1), 3, 2)
  epochs = np.asarray(parts.rewards).reshape(3, -1)
  groups = lambda x: sorted(map(tuple, np.asarray(x).reshape(-1, 3)))
  for epoch in epochs:
    assert groups(epoch) == groups(rows.rewards)
  assert (epochs[0] != epochs[1]).any()


def test_orders_differ_from_step_to_step(rows):
  tx = optax.sgd(1.0)
  train_step = step.make_train_step(
    forward, LOSSES['ipo'], tx, num_minibatches=4
  )
  first, _ = train_step(start(tx), rows, {})
  later, _ = train_step(start(tx).replace(step=jnp.int32(1)), rows, {})
  assert (first.params['x'] != later.params['x']).any()


def test_what_is_prepared_sees_the_whole_batch(rows):
  """Split into parts or not, the update is the same."""
  tx = optax.sgd(1.0)

  def after(num):
    train_step = step.make_train_step(
      forward,
      LOSSES['reinforce_pp'],
      tx,
      prepare=lambda *args: losses.prepared('reinforce_pp', *args),
      num_microbatches=num,
    )
    return train_step(start(tx), rows, {'learning_rate': 1.0})[0].params['x']

  whole = after(1)
  assert jnp.abs(whole).max() > 1e-3
  np.testing.assert_allclose(after(4), whole, atol=1e-6)


def test_stats_override_hparams_and_follow_the_metrics(rows):
  tx = optax.sgd(0.0)
  train_step = step.make_train_step(forward, LOSSES['reinforce_ema'], tx)
  hparams = {'beta': 0.5, 'decay': 0.9}
  state = start(tx, baseline=2.0, beta=0.0)
  state, metrics = train_step(state, rows, hparams)
  mean = rows.rewards.mean()
  np.testing.assert_allclose(state.stats['baseline'], 0.9 * 2 + 0.1 * mean)
  assert state.stats['beta'] == 0 and metrics['baseline'] != 2.0
  plain, _ = LOSSES['reinforce_ema'](
    forward(state.params, rows), rows, beta=0.0, baseline=2.0
  )
  np.testing.assert_allclose(metrics['loss'], plain, rtol=1e-6)


def test_a_forward_may_read_the_anchors(rows):
  def exact(params, batch, anchors):
    logps, ref = (jax.nn.log_softmax(p['x']) for p in (params, anchors['ref']))
    kl = (jnp.exp(logps) * (logps - ref)).sum()
    return jnp.broadcast_to(kl, batch.completions.shape)

  tx = optax.sgd(1.0)
  train_step = step.make_train_step(
    exact, LOSSES['reverse_kl'], tx, reads_anchors=True
  )
  state = start(tx)
  state = state.replace(params={'x': jnp.arange(V, dtype=jnp.float32)})
  state, metrics = train_step(state, rows, {'learning_rate': 0.1})
  assert metrics['loss'] > 0.1
  assert (state.anchors['ref']['x'] == 0).all()
  assert (state.params['x'] != jnp.arange(V)).any()
