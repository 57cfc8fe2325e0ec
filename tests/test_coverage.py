"""What happens to completions that no pair holds, and what best-of-n costs.

No pair, no force on a completion but what comes through parameters that it
shares with others. Offline losses leave it to that, a KL on fresh samples holds
it (Xu et al. 2024, arXiv 2404.10719; Song et al. 2024, arXiv 2406.01462),
unless the learned reward is what goes wrong there.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.compare import reweigh
from align_jax.losses import LOSSES
from experiments.enumerable import (
  Language,
  best_of_n,
  forward,
  kl,
  optimum,
  systematic,
  train,
)
from experiments.tables import K, Tables, init, mlp

# --- Three actions, one pair --------------------------------------------------

ARMS = Language(3, 1)
REF = np.array([0.495, 0.495, 0.01])
REF_LOGPS = jnp.log(jnp.asarray(REF, jnp.float32))[:, None]
PAIR = ARMS.rows(np.arange(2), 2, rewards=[1, 0, 0], ref_logps=REF_LOGPS)


def learned_reward():
  """A table fitted to the pair, which says nothing of the third action."""
  forward = lambda scores, batch: scores[batch.completions[:, 0]]
  scores = train(
    'bradley_terry', lambda *_: PAIR, jnp.zeros(3), 100, forward=forward
  )
  assert scores[0] - scores[1] > 2 and scores[2] == 0
  return scores


def policy_gradient(policy, start, steps=1200, beta=1.0):
  """RLOO on the learned reward; rows are the policy's law."""
  fields = {'rewards': learned_reward(), 'ref_logps': REF_LOGPS}

  @jax.jit
  def draw(params, i):
    every = ARMS.rows(np.arange(3), 3)
    index = systematic(policy(params, every)[:, 0], 1024)
    return ARMS.rows(index, 1024, **fields)

  return train('rloo', draw, start, steps, forward=policy, beta=beta)


def law(policy, params):
  """f64 [3]."""
  logps = policy(params, ARMS.rows(np.arange(3), 3))[:, 0]
  return np.exp(np.asarray(logps, np.float64))


def test_dpo_is_blind_to_what_no_pair_holds():
  """Most of the mass on the third action, and a lower loss than RLOO's.

  The optimum of the learned reward has less of it than the reference.
  """
  start = ARMS.fit(np.array([0.05, 0.05, 0.9]))
  dpo = train('dpo', lambda *_: PAIR, start, 600, beta=1.0)
  rloo = policy_gradient(forward, start)
  loss = lambda x: LOSSES['dpo'](forward(x, PAIR), PAIR, beta=1.0)[0]
  assert loss(dpo) < loss(rloo) < loss(ARMS.fit(REF))
  assert law(forward, dpo)[2] > 0.5
  want = optimum(REF, np.asarray(learned_reward(), np.float64))
  np.testing.assert_allclose(law(forward, rloo), want, atol=5e-3)
  assert law(forward, rloo)[2] < REF[2]


def shared(slope, batch):
  """One parameter: what lifts the first action lifts the third twice."""
  features = jnp.array([1.0, 0.0, 2.0])
  logits = REF_LOGPS[:, 0] + slope * features
  return jax.nn.log_softmax(logits)[batch.completions]


def test_dpo_leaks_through_a_shared_parameter():
  """From the reference itself, a fitted pair moves the mass elsewhere."""
  start = jnp.zeros(())
  np.testing.assert_allclose(law(shared, start), REF, atol=1e-6)
  dpo = train('dpo', lambda *_: PAIR, start, 600, forward=shared, beta=0.1)
  rloo = policy_gradient(shared, start)
  assert law(shared, dpo)[2] > 0.9
  assert law(shared, rloo)[2] < 0.1
  assert law(shared, rloo)[0] > 0.6


# --- Eight prompts, eight responses, an MLP -----------------------------------


@pytest.fixture(scope='module', params=range(3))
def task(request):
  return Tables(request.param, mlp, init(request.param, width=3))


def test_dpo_raises_uncovered_responses(task):
  """Through the MLP's few units; RLOO lowers them, HyPO bounds the leak.

  Both have less of it than DPO where DPO was as far from the reference.
  """
  dpo, rloo, hypo = task.dpo(), task.rloo(), task.hypo()
  assert task.uncovered(dpo) > 1.5
  assert task.uncovered(rloo) < 0.7
  assert task.uncovered(hypo) < 1.1
  for policy in (rloo, hypo):
    assert task.best(policy) > task.best(task.reference) + 0.1
    assert task.kl(policy) > 0.05
    assert task.uncovered(policy) < task.dpo_at(task.kl(policy)) - 0.05


def two_towers(params):
  """Scores of an MLP on both one-hots: f32 [K, K]."""
  hidden = params['prompts'][:, None] + params['responses']
  return jnp.tanh(hidden) @ params['outer']


def test_reward_model_can_leak_as_well(task):
  """One that generalises wrongly: then no KL on fresh samples prevents it."""
  rng = np.random.default_rng(100)
  draw = lambda: jnp.asarray(rng.normal(size=(K, 16)), jnp.float32)
  start = {'prompts': draw(), 'responses': draw(), 'outer': jnp.zeros(16)}
  scores = task.reward_model(two_towers, start)
  best, other = scores[task.prompts[:, None], task.pairs].T
  assert (best > other).all()
  assert task.uncovered(task.rloo(scores)) > 1.5


def test_dpo_does_not_leak_where_nothing_is_shared():
  """In a table what no pair holds can only lose."""
  task = Tables(0, jax.nn.log_softmax, jnp.zeros((K, K)))
  dpo = task.dpo()
  assert task.best(dpo) > task.best(task.reference) + 0.1
  assert task.uncovered(dpo) < 0.7


# --- Best-of-n ----------------------------------------------------------------


def pool_of(counts):
  """Every arm as often as its law says: index [M], and the law [N]."""
  return np.repeat(np.arange(len(counts)), counts), counts / counts.sum()


def random_arms(seed):
  """Whole counts [8] and scores with ties [8]."""
  rng = np.random.default_rng(seed)
  counts = rng.integers(1, 4 ** rng.integers(1, 5), 8)
  return counts, rng.integers(0, rng.integers(2, 12), 8)


def test_best_of_n_by_enumeration():
  """All triples of five arms; ties are broken by a fair die."""
  law, scores = np.array([0.1, 0.2, 0.3, 0.15, 0.25]), np.array([2, 0, 1, 2, 1])
  want = np.zeros(5)
  for draw in itertools.product(range(5), repeat=3):
    best = [y for y in draw if scores[y] == max(scores[list(draw)])]
    for y in best:
      want[y] += law[list(draw)].prod() / len(best)
  np.testing.assert_allclose(best_of_n(law, scores, 3), want, atol=1e-12)
  assert np.abs(want - law).max() > 0.1


@pytest.mark.parametrize('seed', range(50))
def test_best_of_n_kl(seed):
  """Never above log n - (n - 1) / n, and what a large pool estimates."""
  counts, scores = random_arms(seed)
  index, law = pool_of(counts)
  for n in (1, 2, 5, 30, 1000):
    p = best_of_n(law, scores, n)
    np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
    assert kl(p, law) <= reweigh.best_of_n_bound(n) + 1e-12
  index = np.repeat(index, 100)
  for n in (2, 5, 30):
    got = reweigh.best_of_n_kl(scores[index] * 1.0, np.log(law)[index], n)
    want = kl(best_of_n(law, scores, n), law)
    np.testing.assert_allclose(got, want, atol=5e-3)


def test_best_of_n_saturates():
  """At -log of the best level's mass, while the bound goes on to grow."""
  counts, scores = np.array([5, 1, 2, 8, 3, 6, 4, 7]), np.arange(8) // 2
  law = counts / counts.sum()
  got = [kl(best_of_n(law, scores, n), law) for n in (1, 2, 10, 1e3, 1e6)]
  ceiling = -np.log(law[-2:].sum())
  # A rounding error of the law is raised to the power of n with it.
  assert (np.diff(got) >= -1e-8).all() and got[1] < 0.5 * ceiling
  np.testing.assert_allclose(got[-1], ceiling, atol=1e-8)
  assert reweigh.best_of_n_bound(1e6) > ceiling + 10


def test_best_of_n_bound_is_nearly_met_by_many_rare_arms():
  """Ten thousand arms, no ties: within 1e-2 nats at n = 64."""
  law = np.random.default_rng(0).dirichlet(np.ones(10_000))
  scores = np.random.default_rng(1).normal(size=10_000)
  order = np.cumsum(law[np.argsort(scores)])
  p = np.diff(order**64, prepend=0)
  bound = reweigh.best_of_n_bound(64)
  assert bound - 1e-2 < kl(p, law[np.argsort(scores)]) < bound
