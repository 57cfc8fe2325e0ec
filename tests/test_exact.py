"""Exact and sampled KL of the tiny transformer, and the KL estimators.

Four tokens, completions of four, no EOS: all 256 are enumerated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import init
from scipy import stats

from align_jax import ops
from align_jax.policy import sampling, scoring
from experiments.enumerable import Language

V = T = 4
LANGUAGE = Language(V, T)
N = LANGUAGE.size
PROMPTS = np.array([[1, 2], [3, 0]], np.int32)


@pytest.fixture(scope='module')
def policies(tiny):
  return init(0, tiny), init(1, tiny)


@pytest.fixture(scope='module')
def enumerated(tiny, policies):
  """log pi, log ref, sum of exact-step KLs and of log-ratios: [P, N] each."""
  batch = LANGUAGE.after(PROMPTS)

  @jax.jit
  def f(policy, reference):
    out = [
      scoring.token_logps(p, batch, config=tiny) for p in (policy, reference)
    ]
    out += scoring.token_kls(policy, reference, batch, config=tiny)
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
def samples(tiny, policies):
  """4096 completions of each prompt, and their two KL estimates [P, 4096]."""

  @jax.jit
  def f(policy, reference, key):
    batch = sampling.sample(
      policy,
      PROMPTS,
      np.ones(PROMPTS.shape, bool),
      key,
      config=tiny,
      group_size=4096,
      max_new_tokens=T,
    )
    kls = scoring.token_kls(policy, reference, batch, config=tiny)
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


def test_kl_estimators():
  """E[k1] = E[k3] = KL in value; E of k2's gradient is the KL's gradient."""
  seq_logps = LANGUAGE.seq_logps
  policy, reference = LANGUAGE.tables(0), seq_logps(LANGUAGE.tables(1))

  def exact(tables):
    logp = seq_logps(tables)
    return (jnp.exp(logp) * (logp - reference)).sum()

  def mean(estimator):
    """Over samples: no gradient flows through how they were drawn."""

    def f(tables):
      logp = seq_logps(tables)
      chance = jax.lax.stop_gradient(jnp.exp(logp))
      return (chance * estimator(logp, reference)).sum()

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
