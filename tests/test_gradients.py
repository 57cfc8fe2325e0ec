"""Expected gradients are those of the objectives that the losses state.

Three tokens, completions of one or two, one of them ends a completion: all
seven are enumerated, and all batches of a few rows, with their chances.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.losses import LOSSES
from align_jax.losses.kl import BIASED, KL_TERMS
from experiments.enumerable import Language

BETA = 0.3


class World:
  """A language, its policies and rewards; f64 [N] or [N, T] unless said."""

  def __init__(self, vocab, length, eos):
    self.language = language = Language(vocab, length, eos)
    rng = np.random.default_rng(2)
    # Whole counts, so that a batch can be the policy's law exactly.
    self.counts = rng.integers(1, 6, language.size)
    self.policy = language.fit(self.counts / self.counts.sum())
    self.reference, self.other = language.tables(1), language.tables(3)
    self.rewards = rng.normal(size=language.size)
    critic = rng.normal(size=(length, vocab**length))  # knows the prefix alone
    values = critic[np.arange(length), language.prefixes]
    self.values = jnp.asarray(values, jnp.float32)
    self.p = language.probs(self.policy)
    self.mask = language.mask
    self.lengths = self.mask.sum(1)
    ratio = language.logps(self.policy) - language.logps(self.reference)
    self.ratio = np.where(self.mask, np.asarray(ratio, np.float64), 0)
    self.k3 = np.exp(-self.ratio) - 1 + self.ratio
    np.testing.assert_allclose(self.p, self.counts / self.counts.sum(), 1e-5)

  def score(self, weights, law=None):
    """E_law[sum over tokens of weight * grad log pi]; weights [N] or [N, T]."""
    law = self.p if law is None else law
    x = np.reshape(law, (-1, 1)) * np.reshape(weights, (len(law), -1))
    f = lambda logps: jnp.where(self.mask, x * logps, 0).sum()
    return self.language.gradient(f, self.policy)

  def mean_gradient(self, f):
    """Of E_pi[f(sequence log-probs)]."""

    def mean(logps):
      logps = jnp.where(self.mask, logps, 0).sum(1)
      return (jnp.exp(logps) * f(logps)).sum()

    return self.language.gradient(mean, self.policy)

  def reward_gradient(self, rewards):
    return self.mean_gradient(lambda _: rewards)

  @functools.cached_property
  def reward(self):
    """Gradient of E[r]."""
    return self.reward_gradient(self.rewards)

  @functools.cached_property
  def kl(self):
    """Gradient of the reverse KL of whole completions."""
    ref = np.asarray(self.language.seq_logps(self.reference))
    return self.mean_gradient(lambda logps: logps - ref)

  @property
  def objective(self):
    return self.reward - BETA * self.kl

  @functools.lru_cache
  def step_kl_gradient(self, forward):
    """Of the exact KL of each step, the prefixes being given."""
    law = [
      np.bincount(prefix, self.p * on, len(table))
      for prefix, on, table in zip(
        self.language.prefixes.T, self.mask.T, self.policy
      )
    ]

    def steps(tables):
      total = 0
      for mass, table, ref in zip(law, tables, self.reference):
        p, q = jax.nn.log_softmax(table), jax.nn.log_softmax(ref)
        p, q = (q, p) if forward else (p, q)
        total += (mass * (jnp.exp(p) * (p - q)).sum(1)).sum()
      return total

    grads = jax.jit(jax.grad(steps))(self.policy)
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in grads])

  def ascent(self, name, size, law=None, **kwargs):
    """Over all batches of `size` rows drawn independently."""
    law = self.p if law is None else law
    batches, weights = self.language.all_batches(law, size)
    kwargs = {'rewards': self.rewards, 'weights': weights, **kwargs}
    return self.language.ascent(
      name, self.policy, self.reference, batches, **kwargs
    )

  def whole(self, name, batch, **kwargs):
    """Of one batch that is the policy's law exactly."""
    kwargs = {'rewards': self.rewards, 'values': self.values, **kwargs}
    return self.language.ascent(
      name, self.policy, self.reference, np.asarray(batch)[None], **kwargs
    )


@pytest.fixture(scope='module')
def world():
  return World(3, 2, eos=True)


@pytest.fixture(scope='module')
def bandit():
  """One token per completion: token and sequence are the same."""
  return World(5, 1, eos=False)


def close(got, want):
  assert np.abs(want).max() > 1e-2
  np.testing.assert_allclose(got, want, atol=1e-5)


def misses(got, want):
  """Relative distance of `got` from the nearest multiple of `want`."""
  share = got @ want / (want @ want)
  return np.linalg.norm(got - share * want) / np.linalg.norm(got)


# --- The KL terms -------------------------------------------------------------


def stated(world):
  """What each term's gradient is; see `BIASED`."""
  kl = world.kl
  steps, forward = (world.step_kl_gradient(x) for x in (False, True))
  zero = np.zeros_like(kl)
  return {
    'none': zero,
    'reward_k2': world.score(0.5 * np.square(world.ratio).sum(1)),
    'reward_k3': kl - forward,
    'reward_exact': kl - steps,
    'loss_k1': zero,
    'loss_k2': steps,
    'loss_k3': forward,
    'loss_k3_weighted': steps,
    'loss_exact': steps,
  }


@pytest.mark.parametrize('kl', KL_TERMS)
def test_kl_terms(world, kl):
  """The reverse KL's gradient, except where the bias is stated."""
  got = -world.ascent('reinforce', 1, rewards=0.0, beta=1.0, kl=kl)
  want, biased = world.kl, stated(world).get(kl)
  assert (kl in BIASED or kl == 'none') == (biased is not None)
  assert np.abs(want).max() > 1e-2
  if biased is not None:
    assert np.abs(biased - want).max() > 1e-3
    want = biased
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('kl', KL_TERMS)
def test_kl_terms_of_one_token(bandit, kl):
  """Where no step follows another, those of each step alone are unbiased."""
  got = -bandit.ascent('reinforce', 1, rewards=0.0, beta=1.0, kl=kl)
  want, forward = bandit.kl, bandit.step_kl_gradient(True)
  assert np.abs(want - forward).max() > 1e-2
  others = {
    'none': 0 * want,
    'loss_k1': 0 * want,
    'reward_exact': 0 * want,
    'loss_k3': forward,
    'reward_k2': bandit.score(0.5 * np.square(bandit.ratio)),
    'reward_k3': bandit.score(bandit.k3),
  }
  assert np.abs(want).max() > 1e-2
  np.testing.assert_allclose(got, others.get(kl, want), atol=1e-5)


def test_rows_of_another_policy_and_the_kl(bandit):
  """Weighted k3 has the current policy's gradient; k2 and k3 have not."""
  law = bandit.language.probs(bandit.other)
  want = bandit.kl
  got = {
    kl: -bandit.ascent(
      'reinforce', 1, law, sampler=bandit.other, rewards=0.0, beta=1.0, kl=kl
    )
    for kl in ('loss_k3_weighted', 'loss_k2', 'loss_k3')
  }
  close(got['loss_k3_weighted'], want)
  for kl in ('loss_k2', 'loss_k3'):
    assert misses(got[kl], want) > 0.1


# --- The unbiased -------------------------------------------------------------


@pytest.mark.parametrize(
  'name, size, scale, hparams',
  [
    ('reinforce', 1, 1, {}),
    ('reinforce', 1, 1, {'kl': 'exact'}),
    ('reinforce', 1, 1, {'kl': 'loss_k2_sequence'}),
    ('reinforce_mean', 2, 1 / 2, {}),
    ('reinforce_mean', 3, 2 / 3, {}),
    ('reinforce_ema', 1, 1, {'baseline': 0.0}),
    ('reinforce_ema', 1, 1, {'baseline': 0.7}),
    ('rloo', 2, 1, {}),
    ('rloo', 3, 1, {}),
    ('rloo', 2, 1, {'kl': 'exact'}),
    ('dr_grpo', 2, 1 / 2, {'kl': 'reward_k1'}),
    ('dr_grpo', 3, 2 / 3, {'kl': 'reward_k1'}),
    ('dr_grpo', 3, 1 / 3, {'kl': 'reward_k1', 'length': 2.0}),
    ('dppo_tv', 2, 1 / 2, {'kl': 'reward_k1'}),
    ('dppo_kl', 3, 1 / 3, {'kl': 'reward_k1', 'length': 2.0}),
  ],
)
def test_gradient_of_the_objective(world, name, size, scale, hparams):
  """Of E[r] - beta KL, times what the loss says."""
  grouped = 'rloo', 'dr_grpo', 'dppo_tv', 'dppo_kl'
  group_size = size if name in grouped else 1
  kwargs = {'group_size': group_size, 'beta': BETA, **hparams}
  got = world.ascent(name, size, **kwargs)
  assert np.abs(BETA * world.kl).max() > 1e-2
  close(got, scale * world.objective)


def test_own_baseline_spares_a_loss(world):
  """What enters as a loss is not scaled by (B - 1) / B, nor (G - 1) / G."""
  want = 0.5 * world.reward - BETA * world.kl
  hparams = {'beta': BETA, 'kl': 'loss_k2_sequence'}
  close(world.ascent('reinforce_mean', 2, **hparams), want)
  close(world.ascent('dr_grpo', 2, group_size=2, **hparams), want)


@pytest.mark.parametrize('size', [2, 3])
def test_max_rl_of_successes(world, size):
  """(1 - (1 - p)^(G - 1)) / p times the gradient of p, the chance of one."""
  successes = (world.rewards > 0.3).astype(float)
  p = world.p @ successes
  assert 0.1 < p < 0.9
  got = world.ascent('max_rl', size, group_size=size, rewards=successes)
  scale = (1 - (1 - p) ** (size - 1)) / p
  close(got, scale * world.reward_gradient(successes))


# --- Standardised within the group --------------------------------------------


def of_first(world, f, size):
  """E[f(rewards, lengths) of a group's first row], by which one it is: [N].

  Args:
    f: of [M, G] twice -> [M, G].
  """
  index = np.indices((len(world.p),) * size).reshape(size, -1).T
  value = f(world.rewards[index], world.lengths[index])[:, 0]
  chance = world.p[index[:, 1:]].prod(1)
  return np.bincount(index[:, 0], value * chance)


def standardised(rewards, lengths):
  """In units of the group's deviation, over G - 1; 0 where all are equal."""
  centred = rewards - rewards.mean(1, keepdims=True)
  deviation = rewards.std(1, ddof=1, keepdims=True)
  equal = np.ptp(rewards, 1, keepdims=True) == 0
  return np.where(equal, 0, centred / np.where(equal, 1, deviation))


def per_group_token(f):
  """f per token of the group, times the group's size."""
  share = lambda lengths: len(lengths[0]) / lengths.sum(1, keepdims=True)
  return lambda rewards, lengths: f(rewards, lengths) * share(lengths)


def one(rewards, lengths):
  return np.ones(rewards.shape)


@pytest.mark.parametrize('size', [2, 3])
@pytest.mark.parametrize('name', ['grpo', 'gspo', 'dapo', 'cispo'])
def test_group_deviation(world, name, size):
  """The stated formula, which is not the direction of E[r] - beta KL."""
  got = world.ascent(name, size, group_size=size, beta=BETA, kl='loss_k3')
  if name in ('dapo', 'cispo'):
    advantages = of_first(world, per_group_token(standardised), size)
    share = of_first(world, per_group_token(one), size)
  else:
    advantages = of_first(world, standardised, size) / world.lengths
    share = 1 / world.lengths
  slope = 1 - np.exp(-world.ratio)  # d k3 / d log pi
  penalty = world.score(share[:, None] * slope)
  assert np.abs(BETA * penalty).max() > 1e-2
  close(got, world.score(advantages) - BETA * penalty)
  assert misses(got, world.objective) > 0.05


def test_reductions_weigh_lengths_differently(world):
  """GRPO's and DAPO's directions differ, and both from a sum over tokens."""
  kwargs = {'size': 3, 'group_size': 3, 'beta': 0.0}
  grpo, dapo = (world.ascent(name, **kwargs) for name in ('grpo', 'dapo'))
  summed = world.score(of_first(world, standardised, 3))
  assert misses(grpo, dapo) > 0.02
  assert misses(grpo, summed) > 0.02 and misses(dapo, summed) > 0.02


# --- Standardised over the batch ----------------------------------------------


def to_go(world):
  """r - beta * log-ratios from the token on: [N, T]."""
  later = np.cumsum(world.ratio[:, ::-1], 1)[:, ::-1]
  return world.rewards[:, None] - BETA * later


def deviation(x, mask, law):
  """Over tokens, of a batch that is the law of rows."""
  weights = np.where(mask, np.reshape(law, (-1, 1)), 0)
  weights = weights / weights.sum()
  mean = (weights * x).sum()
  return np.sqrt((weights * np.square(x - mean)).sum())


def every_row(world):
  return np.repeat(np.arange(len(world.counts)), world.counts)


def test_reinforce_pp_on_the_whole_law(world):
  """Then it is E[r] - beta KL's over a number, however long completions are."""
  got = world.whole('reinforce_pp', every_row(world), beta=BETA)
  scale = deviation(to_go(world), world.mask, world.p) * (
    world.p @ world.lengths
  )
  assert abs(scale - 1) > 0.1 and np.ptp(world.lengths) > 0
  close(got, world.objective / scale)


def test_reinforce_pp_on_small_batches(world):
  """The number depends on the batch, so that the mean over batches is off."""
  got = world.ascent('reinforce_pp', 2, beta=BETA)
  assert misses(got, world.objective) > 0.05


def test_reinforce_pp_baseline_on_the_whole_law(world):
  """E[r]'s over the deviation, times (G - 1) / G, and the KL of each step."""
  rows = every_row(world)
  pairs = np.stack(np.meshgrid(rows, rows), -1).reshape(-1)
  got = world.whole('reinforce_pp_baseline', pairs, group_size=2, beta=BETA)
  first, second = (x.reshape(-1) for x in np.indices((len(world.p),) * 2))
  centred = 0.5 * (world.rewards[first] - world.rewards[second])
  std = deviation(
    centred[:, None], world.mask[first], world.p[first] * world.p[second]
  )
  assert abs(std - 1) > 0.1
  want = world.reward / 2 / std - BETA * world.step_kl_gradient(False)
  close(got, want / (world.p @ world.lengths))


# --- With a critic ------------------------------------------------------------


def worth(world):
  """The right critic: E[r - beta * log-ratios to come | prefix], [N, T]."""
  values, value = np.zeros(world.mask.shape), to_go(world)
  for t, prefix in enumerate(world.language.prefixes.T):
    mass = world.p * world.mask[:, t]
    total = np.bincount(prefix, mass * value[:, t])
    norm = np.bincount(prefix, mass)
    values[:, t] = (total / np.where(norm > 0, norm, 1))[prefix]
  return jnp.asarray(values, jnp.float32)


def ppo(world, **kwargs):
  kwargs = {'beta': BETA, 'whiten': 0.0, 'gamma': 1.0, **kwargs}
  return world.whole('ppo', every_row(world), **kwargs)


def test_ppo_with_any_critic(world):
  """lam = gamma = 1, not whitened: E[r] - beta KL's, per token of the mean."""
  want = world.objective / (world.p @ world.lengths)
  assert np.abs(world.values - worth(world)).max() > 0.5
  close(ppo(world, lam=1.0), want)
  assert misses(ppo(world, lam=0.3), want) > 0.05
  assert misses(ppo(world, lam=1.0, gamma=0.5), want) > 0.05


def test_ppo_with_the_right_critic(world):
  """Then any lam will do."""
  want = world.objective / (world.p @ world.lengths)
  for lam in (0.0, 0.3, 1.0):
    close(ppo(world, lam=lam, values=worth(world)), want)


def test_ppo_whitened(world):
  """Whitening divides by the deviation of the advantages, no more."""
  values = 3 * world.values
  plain, white = (
    ppo(world, lam=1.0, whiten=x, values=values) for x in (0.0, 1.0)
  )
  advantages = to_go(world) - np.asarray(values, np.float64)
  std = deviation(advantages, world.mask, world.p)
  assert abs(std - 1) > 0.1
  close(white, plain / std)


# --- Games --------------------------------------------------------------------


def test_nash_md(world):
  """Of E[P(y > y')] - beta KL for a fixed opponent."""
  n = len(world.p)
  rng = np.random.default_rng(4)
  wins = np.triu(rng.uniform(size=(n, n)), 1)
  wins = wins + np.tril(1 - wins.T, -1) + 0.5 * np.eye(n)
  opponent = world.language.probs(world.other)
  assert np.abs(opponent - world.p).max() > 0.05
  first, second = (x.reshape(-1) for x in np.indices((n, n)))
  got = sum_over_duels(world, first, second, wins, world.p, opponent)
  rewards = world.reward_gradient(wins @ opponent)
  assert np.abs(BETA * world.kl).max() > 1e-2
  close(got, rewards - BETA * world.kl)


def sum_over_duels(world, first, second, wins, policy, opponent):
  ref_logps = world.language.logps(world.reference)

  def loss(logps):
    def one(pair):
      rewards = jnp.asarray(wins, jnp.float32)[pair, pair[::-1]]
      batch = world.language.rows(pair, 2, ref_logps=ref_logps)
      batch = batch.replace(rewards=rewards)
      return LOSSES['nash_md'](logps[pair], batch, beta=BETA)[0]

    losses = jax.vmap(one)(jnp.stack([first, second], 1))
    return -(policy[first] * opponent[second] * losses).sum()

  return world.language.gradient(loss, world.policy)


# --- Rows of another policy ---------------------------------------------------


@pytest.mark.parametrize(
  'name, clips',
  [
    ('dr_grpo', ['clip']),
    ('grpo', ['clip']),
    ('dapo', ['clip_low', 'clip_high']),
    ('gspo', ['clip_low', 'clip_high']),
    ('cispo', ['clip_high']),
    ('dppo_tv', ['threshold']),
    ('dppo_kl', ['threshold']),
    ('reinforce_pp', ['clip']),
    ('reinforce_pp_baseline', ['clip']),
    ('ppo', ['clip']),
  ],
)
def test_unclipped_weights(bandit, name, clips):
  """Rows of another policy, unclipped: the current policy's gradient.

  Of the advantage that the sampler's rows have.
  """
  centred = 'dr_grpo', 'dppo_tv', 'dppo_kl'
  normalised = 'grpo', 'dapo', 'gspo', 'cispo'
  grouped = name in (*centred, *normalised, 'reinforce_pp_baseline')
  kwargs = {
    'sampler': bandit.other,
    'group_size': 2 if grouped else 1,
    'values': bandit.values,
    'beta': 0.0,
    **dict.fromkeys(clips, 1e9),
  }
  law = bandit.language.probs(bandit.other)
  got = bandit.ascent(name, 2, law, **kwargs)
  gap = bandit.rewards[:, None] - bandit.rewards
  if name in centred:
    advantages = gap @ law / 2
  elif name in normalised:
    advantages = np.sign(gap) @ law / np.sqrt(2)
  elif name == 'ppo':
    values = np.asarray(bandit.values[:, 0], np.float64)
    left = bandit.rewards - values
    advantages = np.sign(left[:, None] - left) @ law
  else:  # a batch of two, standardised over it
    advantages = np.sign(gap) @ law
  close(got, bandit.reward_gradient(advantages))
  assert misses(got, bandit.score(advantages, law)) > 0.05


@pytest.mark.parametrize(
  'name, size, scale, kl',
  [
    ('reinforce', 1, 1, 'exact'),
    ('rloo', 2, 1, 'reward_k1'),
    ('dr_grpo', 2, 1 / 2, 'reward_k1'),
  ],
)
def test_corrected_rows_of_another_policy(world, name, size, scale, kl):
  """Weights of completions give what the policy's own rows would give.

  Those of tokens do not, nor does what ignores the difference. A baseline of
  the other policy's rows is as good as one of its own.
  """
  law = world.language.probs(world.other)
  kwargs = {'group_size': size, 'beta': BETA, 'kl': kl, 'sampler': world.other}
  got = lambda how: world.ascent(name, size, law, correction=how, **kwargs)
  want = scale * world.objective
  close(got('sequence_truncate'), want)
  if name == 'reinforce':
    assert misses(got('token_truncate'), want) > 0.05
    assert misses(got('ignore'), want) > 0.05
