"""What holds of one loss or one kind of advantage alone."""

import functools

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from loss_cases import NAMES, Case, P, close, example, gradient, value

from align_jax.losses import LOSSES, advantages

# --- Advantages ---------------------------------------------------------------


@pytest.mark.parametrize('size', [2, 3, 4])
def test_leave_one_out(size):
  rewards = np.random.default_rng(0).normal(size=(3, size))
  want = [
    [x - np.delete(row, i).mean() for i, x in enumerate(row)] for row in rewards
  ]
  rewards = jnp.asarray(rewards.reshape(-1), jnp.float32)
  close(advantages.leave_one_out(rewards, size), np.ravel(want))


@pytest.mark.parametrize('ddof', [0, 1])
def test_group_normalised(ddof):
  rewards = np.random.default_rng(0).normal(size=(3, 4))
  deviation = rewards.std(1, ddof=ddof, keepdims=True)
  want = (rewards - rewards.mean(1, keepdims=True)) / deviation
  rewards = jnp.asarray(rewards.reshape(-1), jnp.float32)
  close(advantages.group_normalised(rewards, 4, ddof), np.ravel(want))


def test_whiten():
  mask = example(Case('grpo')).batch.mask
  x = 3 + 2 * np.random.default_rng(0).normal(size=mask.shape)
  inside = x[np.asarray(mask)]
  got = advantages.whiten(jnp.asarray(x, jnp.float32), mask)
  close(got[mask], (inside - inside.mean()) / inside.std(), rtol=1e-4)
  assert (got[~mask] == 0).all()


def test_reward_stands_at_the_last_token_of_the_mask():
  """All of it, so that what the tokens get sums to what the row got."""
  mask = jnp.array([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]]) > 0
  got = advantages.at_last_token(jnp.array([0.7, -1.9, 0.2, 5.0]), mask)
  want = np.zeros((4, 4))
  want[0, 1], want[1, 3], want[2, 2] = 0.7, -1.9, 0.2
  close(got, want)


def test_gae_without_decay_is_reward_to_go_minus_value():
  outputs, _, batch = example(Case('ppo'))
  rewards = outputs.logps
  got, returns = advantages.gae(rewards, outputs.values, batch.mask, lam=1.0)
  to_go = advantages.reward_to_go(rewards, batch.mask)
  close(got, jnp.where(batch.mask, to_go - outputs.values, 0), atol=1e-5)
  close(returns, jnp.where(batch.mask, to_go, 0), atol=1e-5)


# --- Single losses ------------------------------------------------------------


def test_pair_metrics():
  outputs, old, batch = example(Case('dpo'))
  x, b = oracles.double(outputs), oracles.data(batch, outputs, old)
  h = functools.partial(oracles.log_ratio, x, b)
  margins = [h(y) - h(z) for y, z in oracles.pairs(b)]
  assert min(margins) < 0 < max(margins)
  for name in ('dpo', 'cdpo', 'rdpo', 'ipo', 'slic_norm', 'rpo'):
    _, metrics = LOSSES[name](outputs, batch)
    close(metrics['margin'], np.mean(margins))
    close(metrics['accuracy'], np.mean(np.array(margins) > 0))


@pytest.mark.parametrize(
  'name', [name for name in NAMES if 'kl' in Case(name).settings]
)
def test_policy_metrics(name):
  """`kl` is of the sequence in nats, and `reward` without it."""
  outputs, old, batch = example(Case(name))
  b = oracles.data(batch, outputs, old)
  _, metrics = value(Case(name), outputs, old, batch)
  ratios = [oracles.log_ratio(b.at, b, row) for row in oracles.rows(b)]
  close(metrics['kl'], np.mean(ratios))
  close(metrics['reward'], b.rewards.mean())


def test_kto_reference_point():
  """Not at its bound, else its gradient and its mean would not be tested."""
  outputs, old, batch = example(Case('kto'))
  _, metrics = value(Case('kto'), outputs, old, batch)
  assert metrics['z0'] > 0.1
  b = oracles.data(batch, outputs, old)
  last = [oracles.log_ratio(b.old, b, group[-1]) for group in oracles.groups(b)]
  close(metrics['z0'], np.mean(last))
  far = batch.replace(ref_logps=jnp.zeros_like(batch.ref_logps))
  assert value(Case('kto'), outputs, old, far)[1]['z0'] == 0


def test_moving_average():
  case = Case('reinforce_ema', {'baseline': 0.4, 'decay': 0.9})
  outputs, old, batch = example(case)
  _, metrics = value(case, outputs, old, batch)
  b = oracles.data(batch, outputs, old)
  rewards = oracles.paid(b, b.at, 0.05, 'reward_k1')
  close(metrics['baseline'], 0.9 * 0.4 + 0.1 * np.mean(rewards))


@pytest.mark.parametrize('beta', [0.1, 0.5, 2.0])
def test_pair_losses_at_the_reference(beta):
  batch = example(Case('dpo')).batch
  loss, metrics = LOSSES['dpo'](batch.ref_logps, batch, beta=beta)
  close(loss, np.log(2.0), rtol=1e-6)
  assert metrics['margin'] == 0
  assert metrics['weight'] == P - 1  # the tied group weighs nothing
  loss, _ = LOSSES['ipo'](batch.ref_logps, batch, beta=beta)
  close(loss, 1 / (4 * beta**2), rtol=1e-6)


def test_robust_dpo_is_unbiased_under_flipped_labels():
  """In expectation over the flips it is DPO on the right labels."""
  outputs, _, batch = example(Case('rdpo'))
  flipped = batch.replace(rewards=-batch.rewards)
  right, wrong = (
    LOSSES['rdpo'](outputs, x, label_smoothing=0.3)[0] for x in (batch, flipped)
  )
  close(0.7 * right + 0.3 * wrong, LOSSES['dpo'](outputs, batch)[0])


def test_rloo_gradient_is_minus_advantage():
  """The baseline and the KL enter as numbers: no gradient flows through."""
  case = Case('rloo', {'beta': 0.7})
  outputs, old, batch = example(case)
  ratios = jnp.where(batch.mask, outputs - batch.ref_logps, 0)
  rewards = batch.rewards - 0.7 * ratios.sum(1)
  want = advantages.leave_one_out(rewards, batch.group_size)[:, None]
  got = gradient(case, outputs, old, batch)
  close(got, -jnp.where(batch.mask, want, 0) / len(rewards))
