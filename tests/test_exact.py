"""An enumerable language: every KL, gradient and optimum is known exactly.

Four tokens, completions of four, no EOS: 256 completions. The policy is the
tiny transformer, or a table of logits per prefix, which can be anything.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init
from scipy import stats

from align_jax import ops, sampling, scoring, step
from align_jax.losses import LOSSES
from align_jax.models import transformer
from align_jax.types import Batch

V = T = 4
N = V**T
ALL = np.stack(np.unravel_index(np.arange(N), (V,) * T), 1).astype(np.int32)
PROMPTS = np.array([[1, 2], [3, 0]], np.int32)


def rows(completions, group_size, prompts=None, **fields):
  """A Batch of full-length completions: int [B, T] or their indices [B]."""
  full = np.ones((len(completions), T), bool)
  if prompts is None:
    prompts = np.zeros((len(completions) // group_size, 1), np.int32)
  fields = {'rewards': np.zeros(len(completions)), **fields}
  return Batch(
    prompts=jnp.asarray(prompts),
    prompt_valid=jnp.ones(prompts.shape, bool),
    completions=jnp.asarray(completions),
    valid=jnp.asarray(full),
    mask=jnp.asarray(full),
    group_size=group_size,
    **jax.tree.map(jnp.float32, fields),
  )


# Exact and sampled KL of a transformer.


@pytest.fixture(scope='module')
def config():
  return transformer.ModelConfig(
    vocab_size=V,
    dim=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=8,
  )


@pytest.fixture(scope='module')
def policies(config):
  return init(0, config), init(1, config)


@pytest.fixture(scope='module')
def enumerated(config, policies):
  """log pi, log ref, sum of exact-step KLs and of log-ratios: [P, N] each."""
  batch = rows(np.tile(ALL, (2, 1)), N, PROMPTS)

  @jax.jit
  def f(policy, reference):
    out = [
      scoring.token_logps(p, batch, config=config) for p in (policy, reference)
    ]
    out += scoring.token_kls(policy, reference, batch, config=config)
    return [x.sum(1).reshape(2, N) for x in out]

  out = [np.asarray(x, np.float64) for x in f(*policies)]
  np.testing.assert_allclose(np.exp(out[0]).sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(np.exp(out[1]).sum(1), 1, rtol=1e-5)
  return out


@pytest.fixture(scope='module')
def exact_kl(enumerated):
  logp, ref_logp = enumerated[:2]
  kl = (np.exp(logp) * (logp - ref_logp)).sum(1)
  assert (kl > 0.1).all() and abs(kl[0] - kl[1]) > 0.01
  return kl


@pytest.fixture(scope='module')
def samples(config, policies):
  """4096 completions of each prompt, and their two KL estimates [P, 4096]."""

  @jax.jit
  def f(policy, reference, key):
    batch = sampling.sample(
      policy,
      PROMPTS,
      np.ones(PROMPTS.shape, bool),
      key,
      config=config,
      group_size=4096,
      max_new_tokens=T,
    )
    kls = scoring.token_kls(policy, reference, batch, config=config)
    return batch, [ops.by_group(x.sum(1), 4096) for x in kls]

  return f(*policies, jax.random.key(0))


def test_step_kls_add_up_to_the_sequence_kl(enumerated, exact_kl):
  """In expectation, taken exactly; so do the log-ratios."""
  logp, _, step_kls, log_ratios = enumerated
  for estimate in (step_kls, log_ratios):
    mean = (np.exp(logp) * estimate).sum(1)
    np.testing.assert_allclose(mean, exact_kl, rtol=1e-5)


def test_sampled_kls_agree_with_the_exact_one(samples, exact_kl):
  """Both within four standard errors; exact steps have the smaller ones."""
  deviations = []
  for estimate in samples[1]:
    mean, deviation = np.mean(estimate, 1), np.std(estimate, 1, ddof=1)
    assert (abs(mean - exact_kl) < 4 * deviation / 4096**0.5).all()
    deviations.append(deviation)
  assert (deviations[0] < deviations[1]).all()


def test_samples_follow_the_policy(samples, enumerated):
  """Chi-square over the completions, the rarest ones pooled; per prompt."""
  index = np.ravel_multi_index(np.asarray(samples[0].completions).T, (V,) * T)
  for drawn, logp in zip(index.reshape(2, -1), enumerated[0]):
    expected = 4096 * np.exp(logp) / np.exp(logp).sum()
    counts = np.bincount(drawn, minlength=N)
    rare = expected < 5
    pool = lambda x: np.append(x[~rare], x[rare].sum())
    # Far from uniform, so that a wrong policy is told from the right one.
    assert expected.max() > 4 * 4096 / N
    assert stats.chisquare(pool(counts), pool(expected)).pvalue > 1e-3


# A table of logits per prefix.


def forward(tables, batch):
  """f32 [B, T]; tables: one [V^t, V] for each t."""
  tokens = batch.completions
  prefix = jnp.zeros(len(tokens), jnp.int32)
  logps = []
  for t, table in enumerate(tables):
    logps.append(jax.nn.log_softmax(table)[prefix, tokens[:, t]])
    prefix = V * prefix + tokens[:, t]
  return jnp.stack(logps, 1)


def tables(seed):
  rng = np.random.default_rng(seed)
  return tuple(
    jnp.asarray(rng.normal(size=(V**t, V)), jnp.float32) for t in range(T)
  )


EVERY = rows(ALL, N)  # one prompt, all completions


@jax.jit
def seq_logps(tables):
  """log pi of all completions: f32 [N]."""
  return forward(tables, EVERY).sum(1)


def expectation(weights, x):
  return (jax.lax.stop_gradient(weights) * x).sum()


def test_kl_estimators():
  """E[k1] = E[k3] = KL in value; E of k2's gradient is the KL's gradient."""
  policy, reference = tables(0), seq_logps(tables(1))

  def exact(tables):
    logp = seq_logps(tables)
    return (jnp.exp(logp) * (logp - reference)).sum()

  def mean(estimator):
    """Over samples: no gradient flows through how they were drawn."""

    def f(tables):
      logp = seq_logps(tables)
      return expectation(jnp.exp(logp), estimator(logp, reference))

    return jax.jit(jax.value_and_grad(f))(policy)

  value, grad = jax.jit(jax.value_and_grad(exact))(policy)
  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  assert value > 0.5
  k1, k2, k3 = (mean(f) for f in (ops.k1, ops.k2, ops.k3))
  close(k1[0], value)
  close(k3[0], value)
  assert abs(k2[0] - value) > 0.05
  jax.tree.map(close, k2[1], grad)
  assert max(jnp.abs(g).max() for g in jax.tree.leaves(grad)) > 1e-2
  jax.tree.map(lambda g: close(g, 0), k1[1])
  assert (ops.k3(seq_logps(policy), reference) >= 0).all()


def test_rloo_gradient_is_that_of_the_objective():
  """E over all pairs drawn from pi: grad of E[r] - beta KL, exactly."""
  policy, ref_logps = tables(0), forward(tables(1), EVERY)
  rewards, beta = np.random.default_rng(2).normal(size=N), 0.3
  rewards = jnp.asarray(rewards, jnp.float32)
  first, second = (x.reshape(-1) for x in np.indices((N, N)))

  def sampled(tables):
    logps = forward(tables, EVERY)

    def loss(index):
      pair = rows(ALL[:2], 2).replace(
        rewards=rewards[index], ref_logps=ref_logps[index]
      )
      return LOSSES['rloo'](logps[index], pair, beta=beta)[0]

    losses = jax.vmap(loss)(jnp.stack([first, second], 1))
    probs = jnp.exp(logps.sum(1))
    return -expectation(probs[first] * probs[second], losses)

  def objective(tables):
    logp = seq_logps(tables)
    value = rewards - beta * (logp - ref_logps.sum(1))
    return (jnp.exp(logp) * value).sum()

  got, want = (jax.jit(jax.grad(f))(policy) for f in (sampled, objective))
  assert max(jnp.abs(g).max() for g in jax.tree.leaves(want)) > 1e-2
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, want
  )


# Training to the optimum.


def train(loss, batches, policy, num_steps, **hparams):
  """Adam, the learning rate falling from 0.1 to 1e-4; -> tables."""
  tx = step.make_optimizer()
  train_step = step.make_train_step(forward, LOSSES[loss], tx)
  state = step.init_state(policy, tx)
  for i in range(num_steps):
    hparams['learning_rate'] = 0.1 * 1e-3 ** (i / num_steps)
    state, _ = train_step(state, batches(state.params, i), hparams)
  return state.params


def probs(policy):
  """pi of all completions: f64 [N]."""
  return np.exp(np.asarray(seq_logps(policy), np.float64))


def total_variation(p, q):
  return 0.5 * np.abs(p - q).sum()


def optimum(reference, exponent):
  """pi_ref exp(exponent) / Z."""
  p = probs(reference) * np.exp(exponent)
  return p / p.sum()


def pair_batch(wins, reference):
  """Groups of two, one for each (winner, loser) of `wins`."""
  index = np.asarray(wins).reshape(-1)
  return rows(
    ALL[index],
    2,
    rewards=np.tile([1.0, 0.0], len(wins)),
    ref_logps=forward(reference, rows(ALL[index], 2)),
  )


@pytest.fixture(scope='module')
def reference():
  """The policy that SFT finds: the law of its demonstrations."""
  counts = np.random.default_rng(3).integers(1, 9, N)
  data = rows(ALL[np.repeat(np.arange(N), counts)], 1)
  policy = train('sft', lambda *_: data, tables(4), 400)
  assert total_variation(probs(policy), counts / counts.sum()) < 1e-3
  return policy


def test_dpo_reaches_the_optimum(reference):
  """Bradley-Terry labels of reward r: pi_ref exp(r / beta) / Z, within 1e-3.

  With r = log w a pair is won w : w' times out of w + w', so whole numbers of
  rows hold the exact expectation over labels. As every log-ratio can be
  fitted, the pairs need not be uniform, only connected.
  """
  strength = np.random.default_rng(5).integers(1, 5, N)
  wins = []
  for offset in (1, 4, 16, 64, 27, 101):
    for i, j in zip(np.arange(N), np.roll(np.arange(N), offset)):
      wins += [(i, j)] * strength[i] + [(j, i)] * strength[j]
  data, beta = pair_batch(wins, reference), 0.5
  got = train('dpo', lambda *_: data, reference, 400, beta=beta)
  want = optimum(reference, np.log(strength) / beta)
  assert total_variation(probs(reference), want) > 0.2
  assert total_variation(probs(got), want) < 1e-3


def test_ipo_reaches_the_optimum(reference):
  """A total order, all pairs: pi_ref exp(p / beta) / Z, within 1e-3.

  p is the probability that y beats a uniform draw, (losers to y + 1/2) / N
  (Azar et al. 2023, eq. 7). Labels are deterministic: DPO would diverge.
  """
  rank = np.random.default_rng(6).permutation(N)
  first, second = np.triu_indices(N, 1)
  better = rank[first] > rank[second]
  wins = np.where(better[:, None], [*zip(first, second)], [*zip(second, first)])
  data, beta = pair_batch(wins, reference), 0.4
  got = train('ipo', lambda *_: data, reference, 400, beta=beta)
  want = optimum(reference, (rank + 0.5) / N / beta)
  assert total_variation(probs(reference), want) > 0.2
  assert total_variation(probs(got), want) < 1e-3


def test_rloo_reaches_the_optimum(reference):
  """Sampling itself: pi_ref exp(r / beta) / Z, within 1e-3.

  There r - beta log(pi / ref) is constant, so that every advantage is zero and
  so is the noise of the gradient.
  """
  rewards = jnp.asarray(np.random.default_rng(7).normal(size=N), jnp.float32)
  ref_logps, beta = forward(reference, EVERY), 1.5

  @jax.jit
  def draw(policy, i):
    key = jax.random.fold_in(jax.random.key(0), i)
    index = jax.random.categorical(key, seq_logps(policy), shape=(512,))
    batch = rows(ALL[:1].repeat(512, 0), 4)
    return batch.replace(
      completions=jnp.asarray(ALL)[index],
      rewards=rewards[index],
      ref_logps=ref_logps[index],
    )

  got = train('rloo', draw, reference, 300, beta=beta)
  want = optimum(reference, np.asarray(rewards, np.float64) / beta)
  assert total_variation(probs(reference), want) > 0.2
  assert total_variation(probs(got), want) < 1e-3
