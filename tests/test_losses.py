"""The laws that every loss keeps; a name in LOSSES is enough to be held."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import step
from align_jax.losses import LOSSES, policy_gradient
from align_jax.types import Batch

# Take scores [B]; all others take token log-probs [B, T].
SCORES = ('binary_cross_entropy', 'bradley_terry', 'preference_model')
TOKENS = tuple(name for name in LOSSES if name not in SCORES)
# Have no notion of a better row in a group.
UNDIRECTED = ('sft',)
# Judge every row by itself, so a group of one is enough.
ROWWISE = ('sft', 'binary_cross_entropy', 'preference_model')

P, G, T, V = 4, 3, 5, 7
B = P * G

every = pytest.mark.parametrize('name', LOSSES)
token_losses = pytest.mark.parametrize('name', TOKENS)
directed = pytest.mark.parametrize(
  'name', [name for name in LOSSES if name not in UNDIRECTED]
)


@pytest.fixture
def batch():
  """Unequal lengths, a mask below `valid`, fractional rewards, one tie."""
  rng = np.random.default_rng(0)
  # The groups' lengths differ, so that their weights do.
  lengths = np.repeat([1, 2, 4, 5], G) - np.tile([0, 0, 1], P)
  lengths = np.maximum(lengths, 1)
  valid = np.arange(T) < lengths[:, None]
  mask = valid.copy()
  mask[-1, 0] = False
  rewards = rng.permutation(B) / B + 0.03
  rewards[G : 2 * G] = 0.5
  batch = Batch(
    prompts=rng.integers(0, V, (P, 2)),
    prompt_valid=np.ones((P, 2), bool),
    completions=rng.integers(0, V, (B, T)),
    valid=valid,
    mask=mask,
    rewards=rewards.astype(np.float32),
    ref_logps=-rng.exponential(size=(B, T)).astype(np.float32),
    group_size=G,
  )
  return jax.tree.map(jnp.asarray, batch)


def outputs_for(name, seed=1):
  rng = np.random.default_rng(seed)
  if name in SCORES:
    return jnp.asarray(rng.normal(size=B), jnp.float32)
  return jnp.asarray(-rng.exponential(size=(B, T)), jnp.float32)


def gradient(name, outputs, batch, **hparams):
  return jax.grad(lambda x: LOSSES[name](x, batch, **hparams)[0])(outputs)


def groups(batch, index):
  """The groups of the given prompts, in that order."""
  rows = (np.asarray(index)[:, None] * G + np.arange(G)).reshape(-1)
  pick = lambda x: x[jnp.asarray(index)] if len(x) == P else x[rows]
  return jax.tree.map(pick, batch)


def close(x, y, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@every
def test_scalar_and_finite(name, batch):
  loss, metrics = LOSSES[name](outputs_for(name), batch)
  assert metrics['weight'] > 0
  for x in (loss, *metrics.values()):
    assert jnp.shape(x) == () and jnp.isfinite(x)


@every
def test_jit_changes_nothing(name, batch):
  outputs = outputs_for(name)
  plain, jitted = (
    f(outputs, batch) for f in (LOSSES[name], jax.jit(LOSSES[name]))
  )
  jax.tree.map(close, plain, jitted)


@token_losses
def test_no_gradient_outside_mask(name, batch):
  """Even where what lies outside is NaN, in policy and reference."""
  outputs = outputs_for(name)
  want = gradient(name, outputs, batch)
  assert (want[~batch.mask] == 0).all()
  assert (want[batch.mask] != 0).any()
  nan = lambda x: jnp.where(batch.mask, x, jnp.nan)
  got = gradient(
    name, nan(outputs), batch.replace(ref_logps=nan(batch.ref_logps))
  )
  assert (got == want).all()


@token_losses
def test_padding_columns_change_nothing(name, batch):
  wider = lambda x, fill: jnp.pad(x, ((0, 0), (0, 3)), constant_values=fill)
  padded = batch.replace(
    completions=wider(batch.completions, 1),
    valid=wider(batch.valid, False),
    mask=wider(batch.mask, False),
    ref_logps=wider(batch.ref_logps, -9.0),
  )
  outputs = outputs_for(name)
  want = LOSSES[name](outputs, batch)
  got = LOSSES[name](wider(outputs, -3.0), padded)
  jax.tree.map(close, got, want)


@every
def test_order_of_groups_changes_nothing(name, batch):
  outputs, index = outputs_for(name), [2, 0, 3, 1]
  rows = groups(batch, index)
  shuffled = outputs.reshape(P, G, -1)[np.array(index)].reshape(outputs.shape)
  assert (rows.rewards != batch.rewards).any()
  jax.tree.map(
    close, LOSSES[name](shuffled, rows), LOSSES[name](outputs, batch)
  )


def tabular(name):
  """A policy or a scorer with a row of parameters per token."""

  def forward(params, batch):
    logps = jax.nn.log_softmax(params)[batch.completions]
    if name in SCORES:
      return jnp.where(batch.valid, logps, 0).sum(1)
    return logps

  return forward


@every
@pytest.mark.parametrize('num', [2, P])
def test_microbatches_recombine(name, batch, num):
  """Into the same loss, metrics and gradient, whatever their lengths."""
  per_part = batch.mask.reshape(num, -1).sum(1)
  assert len(set(per_part.tolist())) == num
  params = jnp.asarray(np.random.default_rng(2).normal(size=V), jnp.float32)
  args = params, batch, {}
  whole = step.value_and_grad(tabular(name), LOSSES[name])(*args)
  parts = jax.jit(step.value_and_grad(tabular(name), LOSSES[name], num))(*args)
  assert jnp.abs(whole[1]).max() > 1e-3
  jax.tree.map(close, parts, whole)


@directed
def test_descent_raises_the_best_over_the_worst(name, batch):
  """From policy == reference, in every group that is no tie."""
  scores = name in SCORES
  outputs = jnp.zeros(B) if scores else batch.ref_logps
  uphill = -gradient(name, outputs, batch)
  per_row = uphill if scores else jnp.where(batch.mask, uphill, 0).sum(1)
  per_row /= 1 if scores else batch.mask.sum(1)
  per_row, rewards = (x.reshape(P, G) for x in (per_row, batch.rewards))
  for row, reward in zip(per_row, rewards):
    if reward.max() > reward.min():
      assert row[reward.argmax()] > row[reward.argmin()]
    else:
      assert (row == 0).all()


@directed
def test_fractional_rewards_survive(name, batch):
  """Rewards that an integer cast or a threshold would make equal."""
  flat = batch.replace(rewards=jnp.tile(jnp.array([0.6, 0.7, 0.8]), P))
  back = batch.replace(rewards=jnp.tile(jnp.array([0.8, 0.7, 0.6]), P))
  one, two = (gradient(name, outputs_for(name), x) for x in (flat, back))
  assert jnp.abs(one - two).max() > 1e-3


@pytest.mark.parametrize('name', [x for x in LOSSES if x not in ROWWISE])
def test_a_group_of_one_is_refused(name, batch):
  with pytest.raises(ValueError, match='group_size'):
    LOSSES[name](outputs_for(name), batch.replace(group_size=1))


@every
def test_bfloat16_outputs(name, batch):
  """Within 2^-7 of the loss, and 2^-6 of the gradient's largest entry."""
  outputs = outputs_for(name).astype(jnp.bfloat16)
  assert (outputs != outputs_for(name)).any()
  same = outputs.astype(jnp.float32)
  low, high = (LOSSES[name](x, batch)[0] for x in (outputs, same))
  close(np.float32(low), high, rtol=2**-7)
  low, high = (gradient(name, x, batch) for x in (outputs, same))
  assert (high != 0).any()
  close(low.astype(jnp.float32), high, 0, 2**-6 * jnp.abs(high).max())


# The formulas of the papers, in float64, a row at a time.


def double(tree):
  return jax.tree.map(
    lambda x: np.asarray(x, bool if x.dtype == bool else np.float64), tree
  )


def log_sigmoid(x):
  return -np.log1p(np.exp(-x))


def seq(x, b, row):
  return sum(x[row, t] for t in range(T) if b.mask[row, t])


def log_ratio(x, b, row):
  return seq(x, b, row) - seq(b.ref_logps, b, row)


def pairs(b):
  """(best row, worst row) of every group that is no tie."""
  for p in range(P):
    rows = list(range(p * G, (p + 1) * G))
    best = max(rows, key=lambda row: b.rewards[row])
    worst = min(rows, key=lambda row: b.rewards[row])
    if b.rewards[best] > b.rewards[worst]:
      yield best, worst


def dpo(x, b, beta=0.1):
  margin = lambda y, z: log_ratio(x, b, y) - log_ratio(x, b, z)
  return np.mean([-log_sigmoid(beta * margin(y, z)) for y, z in pairs(b)])


def ipo(x, b, beta=0.1, logp_reduction='sum'):
  def h(row):
    count = b.mask[row].sum() if logp_reduction == 'mean' else 1
    return log_ratio(x, b, row) / max(count, 1)

  return np.mean([(h(y) - h(z) - 1 / (2 * beta)) ** 2 for y, z in pairs(b)])


def best_of_2(x, b):
  return -np.mean([seq(x, b, best) for best, _ in pairs(b)])


def rloo(x, b, beta=0.05):
  total = 0.0
  for row in range(B):
    group = range(row // G * G, row // G * G + G)
    value = lambda i: b.rewards[i] - beta * log_ratio(x, b, i)
    others = [value(i) for i in group if i != row]
    total += (value(row) - np.mean(others)) * seq(x, b, row)
  return -total / B


def sft(x, b):
  return -np.mean([x[i, t] for i in range(B) for t in range(T) if b.mask[i, t]])


def cross_entropy(x, label):
  return -label * log_sigmoid(x) - (1 - label) * log_sigmoid(-x)


def binary_cross_entropy(x, b):
  return np.mean([cross_entropy(x[i], b.rewards[i]) for i in range(B)])


def preference_model(x, b):
  rows = [i for i in range(B) if b.rewards[i] != 0.5]
  return np.mean([cross_entropy(x[i], b.rewards[i]) for i in rows])


def bradley_terry(x, b):
  return -np.mean([log_sigmoid(x[y] - x[z]) for y, z in pairs(b)])


@pytest.mark.parametrize(
  'oracle, hparams',
  [
    (dpo, {}),
    (dpo, {'beta': 0.7}),
    (ipo, {}),
    (ipo, {'beta': 0.7}),
    (ipo, {'logp_reduction': 'mean'}),
    (best_of_2, {}),
    (rloo, {}),
    (rloo, {'beta': 0.7}),
    (sft, {}),
    (binary_cross_entropy, {}),
    (preference_model, {}),
    (bradley_terry, {}),
  ],
)
def test_equals_the_formula(oracle, hparams, batch):
  name = oracle.__name__
  outputs = outputs_for(name)
  got, _ = LOSSES[name](outputs, batch, **hparams)
  close(got, oracle(*double((outputs, batch)), **hparams))


def test_pair_metrics(batch):
  outputs = outputs_for('dpo')
  x, b = double((outputs, batch))
  margins = [log_ratio(x, b, y) - log_ratio(x, b, z) for y, z in pairs(b)]
  assert min(margins) < 0 < max(margins)
  for name in ('dpo', 'ipo'):
    _, metrics = LOSSES[name](outputs, batch)
    close(metrics['margin'], np.mean(margins))
    close(metrics['accuracy'], np.mean(np.array(margins) > 0))


def test_ipo_reductions_differ(batch):
  loss = lambda how: LOSSES['ipo'](
    outputs_for('ipo'), batch, logp_reduction=how
  )[0]
  assert abs(loss('sum') - loss('mean')) > 1


@pytest.mark.parametrize('beta', [0.1, 0.5, 2.0])
def test_pair_losses_at_the_reference(beta, batch):
  dpo, metrics = LOSSES['dpo'](batch.ref_logps, batch, beta=beta)
  assert dpo == jnp.log(2.0) and metrics['margin'] == 0
  assert metrics['weight'] == P - 1  # the tied group weighs nothing
  loss, _ = LOSSES['ipo'](batch.ref_logps, batch, beta=beta)
  close(loss, 1 / (4 * beta**2), rtol=1e-6)


def test_ties_alone_give_zero(batch):
  """No pair is left: zero loss and gradient, and no NaN."""
  tied = batch.replace(rewards=jnp.full(B, 0.3))
  for name in ('dpo', 'ipo', 'best_of_2', 'bradley_terry'):
    loss, metrics = LOSSES[name](outputs_for(name), tied)
    assert loss == 0 and metrics['weight'] == 0
    assert (gradient(name, outputs_for(name), tied) == 0).all()


@pytest.mark.parametrize('size', [2, 3, 4])
def test_leave_one_out(size):
  rewards = np.random.default_rng(0).normal(size=(3, size))
  want = [
    [x - np.delete(row, i).mean() for i, x in enumerate(row)] for row in rewards
  ]
  rewards = jnp.asarray(rewards.reshape(-1), jnp.float32)
  got = policy_gradient.leave_one_out(rewards, size)
  close(got, np.ravel(want))
  # Exactly: what rounding left would pull on every token.
  equal = policy_gradient.leave_one_out(jnp.full(3 * size, 0.1), size)
  assert (equal == 0).all()


def test_rloo_gradient_is_minus_advantage(batch):
  """The baseline and the KL enter as numbers: no gradient flows through."""
  ratios = jnp.where(batch.mask, outputs_for('rloo') - batch.ref_logps, 0)
  rewards = batch.rewards - 0.7 * ratios.sum(1)
  advantages = policy_gradient.leave_one_out(rewards, G)
  got = gradient('rloo', outputs_for('rloo'), batch, beta=0.7)
  close(got, -jnp.where(batch.mask, advantages[:, None], 0) / B)


def test_unknown_hparams_are_refused(batch):
  for name, loss in LOSSES.items():
    kinds = [p.kind for p in inspect.signature(loss).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError):
      loss(outputs_for(name), batch, no_such_hparam=1)
