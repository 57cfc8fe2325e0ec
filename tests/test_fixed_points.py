"""Training ends where theory says,  in total variation.

A policy is a table of logits, so it can get there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.losses import LOSSES
from align_jax.types import Outputs
from experiments.enumerable import (
  Language,
  flat,
  forward,
  optimum,
  systematic,
  total_variation,
  train,
)

LONG = Language(4, 4)  # 256 completions
SHORT = Language(4, 2, eos=True)  # 13 completions of one or two tokens


# --- Pairs --------------------------------------------------------------------


@pytest.fixture(scope='module')
def reference():
  """The policy that SFT finds: the law of its demonstrations."""
  counts = np.random.default_rng(3).integers(1, 9, LONG.size)
  data = LONG.rows(np.repeat(np.arange(LONG.size), counts))
  policy = train('sft', lambda *_: data, LONG.tables(4), 400)
  assert total_variation(LONG.probs(policy), counts / counts.sum()) < 1e-3
  return policy


def pair_batch(language, wins, reference):
  """Groups of two, one for each (winner, loser) of `wins`."""
  ref_logps = language.logps(reference)
  index = np.asarray(wins).reshape(-1)
  rewards = jnp.tile(jnp.float32([1, 0]), len(wins))
  batch = language.rows(index, 2, ref_logps=ref_logps)
  return batch.replace(rewards=rewards)


def reaches(got, want, start):
  assert total_variation(start, want) > 0.1
  assert total_variation(got, want) < 1e-3


def test_dpo_reaches_the_optimum(reference):
  """Bradley-Terry labels of reward r: pi_ref exp(r / beta) / Z.

  With r = log w a pair is won w : w' times out of w + w', so whole numbers of
  rows hold the exact expectation over labels. As every log-ratio can be
  fitted, the pairs need not be uniform, only connected.
  """
  every = np.arange(LONG.size)
  strength = np.random.default_rng(5).integers(1, 5, LONG.size)
  wins = []
  for offset in (1, 4, 16, 64, 27, 101):
    for i, j in zip(every, np.roll(every, offset)):
      wins += [(i, j)] * strength[i] + [(j, i)] * strength[j]
  data, beta = pair_batch(LONG, wins, reference), 0.5
  got = train('dpo', lambda *_: data, reference, 400, beta=beta)
  start = LONG.probs(reference)
  want = optimum(start, np.log(strength) / beta)
  reaches(LONG.probs(got), want, start)


def test_ipo_reaches_the_optimum(reference):
  """A total order, all pairs: pi_ref exp(p / beta) / Z.

  p is the probability that y beats a uniform draw, (losers to y + 1/2) / N
  (Azar et al. 2023, eq. 7). Labels are deterministic: DPO would diverge.
  """
  rank = np.random.default_rng(6).permutation(LONG.size)
  first, second = np.triu_indices(LONG.size, 1)
  better = rank[first] > rank[second]
  wins = np.where(better[:, None], [*zip(first, second)], [*zip(second, first)])
  data, beta = pair_batch(LONG, wins, reference), 0.4
  got = train('ipo', lambda *_: data, reference, 400, beta=beta)
  start = LONG.probs(reference)
  want = optimum(start, (rank + 0.5) / LONG.size / beta)
  reaches(LONG.probs(got), want, start)


# --- Rewards ------------------------------------------------------------------


def test_rloo_reaches_the_optimum(reference):
  """Sampling itself: pi_ref exp(r / beta) / Z.

  There r - beta log(pi / ref) is constant, so that every advantage is zero and
  so is the noise of the gradient.
  """
  rewards, beta = np.random.default_rng(7).normal(size=LONG.size), 1.5
  fields = {'rewards': rewards, 'ref_logps': LONG.logps(reference)}

  @jax.jit
  def draw(policy, i):
    key = jax.random.fold_in(jax.random.key(0), i)
    index = jax.random.categorical(key, LONG.seq_logps(policy), shape=(512,))
    return LONG.rows(index, 4, **fields)

  got = train('rloo', draw, reference, 300, beta=beta)
  start = LONG.probs(reference)
  reaches(LONG.probs(got), optimum(start, rewards / beta), start)


def law_of(language, reference, rewards, size, group_size=1):
  """(params, step) -> one batch whose rows are the policy's law, nearly."""
  fields = {'rewards': rewards, 'ref_logps': language.logps(reference)}

  @jax.jit
  def draw(params, i):
    tables = params['policy'] if isinstance(params, dict) else params
    logps = language.logps(tables)
    index = systematic(language.seq_logps(tables), size)
    return language.rows(index, group_size, sampler_logps=logps, **fields)

  return draw


@pytest.fixture(scope='module')
def task():
  """Reference, rewards and a beta in SHORT."""
  return SHORT.tables(8), np.random.default_rng(9).normal(size=SHORT.size), 1.0


def test_reinforce_pp_reaches_the_optimum(task):
  """pi_ref exp(r / beta) / Z, for completions of any length."""
  reference, rewards, beta = task
  draw = law_of(SHORT, reference, rewards, 4096)
  got = train('reinforce_pp', draw, reference, 300, beta=beta)
  start = SHORT.probs(reference)
  reaches(SHORT.probs(got), optimum(start, rewards / beta), start)


def with_critic(params, batch):
  """A value for every prefix beside the tables."""
  tables, values = params['policy'], params['values']
  prefix = jnp.zeros(len(batch.completions), jnp.int32)
  out = []
  for t, value in enumerate(values):
    out.append(value[prefix])
    prefix = len(tables[t][0]) * prefix + batch.completions[:, t]
  return Outputs(forward(tables, batch), values=jnp.stack(out, 1))


@pytest.mark.parametrize('lam, whiten', [(0.95, 1.0), (0.5, 0.0)])
def test_ppo_reaches_the_optimum(task, lam, whiten):
  """pi_ref exp(r / beta) / Z; its critic the value of a state.

  Three epochs per batch, so that rows are off policy in all but the first.
  """
  reference, rewards, beta = task
  draw = law_of(SHORT, reference, rewards, 1024)
  values = tuple(jnp.zeros(SHORT.vocab**t) for t in range(SHORT.length))
  got = train(
    'ppo',
    draw,
    {'policy': reference, 'values': values},
    400,
    forward=with_critic,
    num_epochs=3,
    beta=beta,
    lam=lam,
    whiten=whiten,
    value_coef=1.0,
  )
  start = SHORT.probs(reference)
  want = optimum(start, rewards / beta)
  reaches(SHORT.probs(got['policy']), want, start)
  # E[r] - beta KL of the optimum is beta log Z.
  worth = beta * np.log((start * np.exp(rewards / beta)).sum())
  assert abs(worth) > 0.1
  np.testing.assert_allclose(got['values'][0][0], worth, atol=0.02)


ARMS = Language(16, 1)


def grpo_point(ref, rewards, beta):
  """ref / (1 - (r - mean) / (beta std)), mean and std under itself: f64 [N]."""
  p = ref
  for _ in range(10_000):
    mean = p @ rewards
    std = np.sqrt(p @ np.square(rewards - mean))
    q = ref / (1 - (rewards - mean) / (beta * std))
    assert (q > 0).all()
    p = 0.9 * p + 0.1 * q / q.sum()
  np.testing.assert_allclose(p, q, atol=1e-9)
  np.testing.assert_allclose(q.sum(), 1, atol=1e-9)
  return p


@pytest.fixture(scope='module')
def arms():
  return ARMS.tables(10), np.random.default_rng(11).uniform(size=ARMS.size)


@pytest.mark.parametrize('name', ['grpo', 'dapo', 'gspo'])
def test_grpo_reaches_its_own_point(arms, name):
  """One token, one large group: not ref exp(r / beta)."""
  reference, rewards = arms
  beta = 1.7
  draw = law_of(ARMS, reference, rewards, 4096, 4096)
  got = train(name, draw, reference, 300, beta=beta)
  start = ARMS.probs(reference)
  want = grpo_point(start, rewards, beta)
  # Nor is it the optimum of rewards in units of the deviation that it has.
  std = np.sqrt(want @ np.square(rewards - want @ rewards))
  for scale in (1, std):
    assert total_variation(want, optimum(start, rewards / beta / scale)) > 0.04
  reaches(ARMS.probs(got), want, start)


def test_dar_reaches_its_own_point(arms):
  """ref exp(A / (alpha beta)) / Z, with A in deviations under itself.

  For a smaller alpha beta there is none: the deviation falls faster.
  """
  reference, rewards = arms
  beta, alpha = 2.0, 0.9
  draw = law_of(ARMS, reference, rewards, 4096, 4096)
  got = train(
    'dar', draw, reference, 400, beta=beta, alpha=alpha, cap=float('inf')
  )
  start = ARMS.probs(reference)
  std, p = rewards.std(), start
  for _ in range(200):
    p = optimum(start, rewards / (alpha * beta * std))
    std = np.sqrt(p @ np.square(rewards - p @ rewards))
  reaches(ARMS.probs(got), p, start)


def test_grpo_with_the_kl_in_the_reward(arms):
  """Then what is standardised vanishes at pi_ref exp(r / beta) / Z."""
  reference, rewards = arms
  beta = 0.4
  draw = law_of(ARMS, reference, rewards, 4096, 4096)
  got = train(
    'grpo', draw, reference, 400, beta=beta, static={'kl': 'reward_k1'}
  )
  start = ARMS.probs(reference)
  reaches(ARMS.probs(got), optimum(start, rewards / beta), start)


# --- Games --------------------------------------------------------------------

GAME = Language(3, 1)
UNIFORM = GAME.fit(np.ones(3))
# Each beats the next, so that no order agrees with all of them.
WINS = np.array([[0.5, 0.9, 0.4], [0.1, 0.5, 0.6], [0.6, 0.4, 0.5]])
FIRST, SECOND = (x.reshape(-1) for x in np.indices((3, 3)))
TAU = 0.1


def over_duels(name, opponent, labelled):
  """A loss of the whole game: the mean of `name` over all duels.

  Args:
    opponent: log-probs f32 [3] of the policy -> of both sides of a duel.
    labelled: a duel is won or lost; otherwise its rewards are the chances.
  """
  wins = jnp.asarray(WINS, jnp.float32)

  def loss(logps, batch, **hparams):
    one, two = opponent(jax.lax.stop_gradient(logps[:, 0]))
    chance = jnp.exp(one[FIRST] + two[SECOND])

    def duel(pair):
      rewards = wins[pair, pair[::-1]]
      rows = GAME.rows(pair, 2, ref_logps=batch.ref_logps)
      value = lambda x: LOSSES[name](
        logps[pair], rows.replace(rewards=x), **hparams
      )[0]
      if not labelled:
        return value(rewards)
      return rewards @ jax.vmap(value)(jnp.eye(2))

    losses = jax.vmap(duel)(jnp.stack([FIRST, SECOND], 1))
    return (chance * losses).sum(), {'weight': jnp.float32(1)}

  return loss


def itself(logps):
  return logps, logps


def reference_pairs(logps):
  return jnp.log(jnp.full((2, 3), 1 / 3))


def mixture(share):
  """The policy against its geometric mixture with the reference."""

  def sides(logps):
    return logps, jax.nn.log_softmax((1 - share) * logps)  # ref is uniform

  return sides


def equilibrium(opponent):
  """pi = ref exp(P(y > its opponent) / tau) / Z: f64 [3]."""
  p = np.full(3, 1 / 3)
  for _ in range(20_000):
    other = np.exp(np.asarray(opponent(p), np.float64))
    q = optimum(np.full(3, 1 / 3), WINS @ other / TAU)
    p = 0.98 * p + 0.02 * q
  np.testing.assert_allclose(p, q, atol=1e-9)
  return p


def play(name, opponent, labelled, policy=UNIFORM):
  batch = GAME.rows(np.arange(3), 3, ref_logps=GAME.logps(UNIFORM))
  loss = over_duels(name, opponent, labelled)
  got = train(loss, lambda *_: batch, policy, 1000, beta=TAU)
  return GAME.probs(got)


def test_online_ipo_reaches_the_nash_equilibrium():
  """Where offline IPO reaches the winner over the reference, not of the game.

  pi = ref exp(P(y > pi) / tau) / Z, and ref exp(P(y > ref) / tau) / Z
  (Calandriello et al. 2024, sec. 4).
  """
  start = np.full(3, 1 / 3)
  nash, borda = equilibrium(np.log), optimum(start, WINS @ start / TAU)
  assert total_variation(nash, borda) > 0.1
  assert nash.argmax() != borda.argmax()
  reaches(play('ipo', itself, True), nash, start)
  reaches(play('ipo', reference_pairs, True), borda, start)


@pytest.mark.parametrize('share', [0.0, 0.125, 0.5])
def test_nash_md_answers_its_opponent(share):
  """pi = ref exp(P(y > opponent) / tau) / Z, Nash's where that is itself."""

  def log_mixture(p):
    logps = (1 - share) * np.log(p)
    return logps - np.log(np.exp(logps).sum())

  want, nash = equilibrium(log_mixture), equilibrium(np.log)
  assert (total_variation(want, nash) > 0.01) == (share > 0)
  start = GAME.probs(GAME.tables(12))
  got = play('nash_md', mixture(share), False, GAME.tables(12))
  reaches(got, want, start)


def test_xpo_without_optimism_is_dpo():
  """On the same rows, to the last digit of the gradient."""
  reference, policy = SHORT.tables(8), SHORT.tables(13)
  wins = np.random.default_rng(14).permutation(12).reshape(6, 2)
  batch = pair_batch(SHORT, wins, reference)

  def gradient(name, **hparams):
    loss = lambda x: LOSSES[name](forward(x, batch), batch, **hparams)[0]
    return flat(jax.jit(jax.grad(loss))(policy))

  xpo = functools.partial(gradient, 'xpo', beta=0.3)
  dpo = gradient('dpo', beta=0.3)
  assert np.abs(dpo).max() > 1e-2
  assert np.abs(xpo(alpha=0.1) - dpo).max() > 1e-3
  np.testing.assert_allclose(xpo(alpha=0.0), dpo, atol=1e-7)
