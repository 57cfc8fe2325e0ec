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
from align_jax.types import Batch
from experiments.enumerable import (
  Language,
  best_of_n,
  forward,
  kl,
  optimum,
  systematic,
  train,
)

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

K = 8  # response x is the best one to prompt x


def mlp(params):
  """log pi of every response to every prompt: f32 [K, K]."""
  hidden = jax.nn.tanh(params['inner'] + params['inner_bias'])
  return jax.nn.log_softmax(hidden @ params['outer'] + params['outer_bias'])


def init(seed, width):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    'inner': draw(K, width),
    'inner_bias': jnp.zeros(width),
    'outer': draw(width, K) / width**0.5,
    'outer_bias': jnp.zeros(K),
  }


def rows(prompts, responses, rewards=None, logps=None):
  """Groups of one-token rows: int [P], int [P, G], [P, G]; logps [K, K]."""
  mask = jnp.ones((responses.size, 1), bool)
  rewards = jnp.zeros(responses.shape) if rewards is None else rewards
  if logps is not None:
    logps = logps[prompts[:, None], responses].reshape(-1, 1)
  return Batch(
    prompts=jnp.asarray(prompts, jnp.int32)[:, None],
    prompt_valid=jnp.ones((len(prompts), 1), bool),
    completions=jnp.asarray(responses, jnp.int32).reshape(-1, 1),
    valid=mask,
    mask=mask,
    rewards=jnp.asarray(rewards, jnp.float32).reshape(-1),
    ref_logps=logps,
    group_size=responses.shape[1],
  )


def looked_up(table):
  """A forward: (params, batch) -> the rows' entries of table(params) [K, K]."""

  def forward(params, batch):
    prompts = jnp.repeat(batch.prompts[:, 0], batch.group_size)
    return table(params)[prompts, batch.completions[:, 0]]

  return forward


class Synthetic:
  """Two of eight responses are covered per prompt, the best one of them.

  Args:
    logps: params -> log pi of every response to every prompt, f32 [K, K].
    start: params.
  """

  def __init__(self, seed, logps, start):
    shift = np.random.default_rng(seed).integers(1, K, K)
    self.prompts = np.arange(K)
    self.pairs = np.stack([self.prompts, (self.prompts + shift) % K], 1)
    self.covered = np.zeros((K, K), bool)
    self.covered[self.prompts[:, None], self.pairs] = True
    self.logps, self.trace = logps, []
    # Covered nine times out of ten: the reference is where the pairs are.
    index = np.repeat(np.arange(K * K), np.where(self.covered, 27, 1).ravel())
    data = rows(index // K, index[:, None] % K)
    self.reference = self.train('sft', lambda *_: data, start, 0.05)
    self.ref_logps = logps(self.reference)
    win = np.tile([1, 0], (K, 1))
    self.data = rows(self.prompts, self.pairs, win, self.ref_logps)
    # A table, which says nothing of what no pair holds.
    self.scores = self.reward_model(lambda table: table, jnp.zeros((K, K)))

  def reward_model(self, scores, start):
    """Scores f32 [K, K] fitted to the pairs."""
    fit = lambda *_: self.data
    forward = looked_up(scores)
    return scores(train('bradley_terry', fit, start, 200, forward=forward))

  def train(self, loss, batches, start=None, learning_rate=0.02, **hparams):
    return train(
      loss,
      batches,
      self.reference if start is None else start,
      300,
      forward=lambda params, b: looked_up(self.logps)(params, b)[:, None],
      learning_rate=learning_rate,
      final=0.1,
      **hparams,
    )

  def fresh(self, params, num=64):
    """The policy's law as rows: int [K, num]."""
    return jax.vmap(lambda x: systematic(x, num))(self.logps(params))

  def dpo(self):
    """Also keeps what it passed on its way."""

    def watched(params, i):
      if i % 5 == 0:
        self.trace.append((self.kl(params), self.uncovered(params)))
      return self.data

    return self.train('dpo', watched, beta=0.1)

  def dpo_at(self, kl):
    """Uncovered mass of DPO where it first is that far from the reference."""
    kls, mass = np.array(self.trace).T
    last = (kls > kl).argmax()
    assert last > 0
    return np.interp(kl, kls[: last + 1], mass[: last + 1])

  def rloo(self, scores=None):
    scores = self.scores if scores is None else scores

    def draw(params, i):
      responses = self.fresh(params)
      rewards = scores[self.prompts[:, None], responses]
      return rows(self.prompts, responses, rewards, self.ref_logps)

    return self.train('rloo', jax.jit(draw), beta=0.5)

  def hypo(self):
    def draw(params, i):
      responses = jnp.concatenate([self.pairs, self.fresh(params)], 1)
      rewards = jnp.zeros(responses.shape).at[:, 0].set(1)
      return rows(self.prompts, responses, rewards, self.ref_logps)

    return self.train('hypo', jax.jit(draw), beta=0.1, kl_coef=0.3)

  def uncovered(self, params):
    """Mass of responses in no pair, over what the reference gives them."""
    p, ref = np.exp(self.logps(params)), np.exp(self.ref_logps)
    return (p * ~self.covered).sum() / (ref * ~self.covered).sum()

  def best(self, params):
    return np.exp(np.diag(self.logps(params))).mean()

  def kl(self, params):
    logps = np.asarray(self.logps(params), np.float64)
    return (np.exp(logps) * (logps - self.ref_logps)).sum() / K


@pytest.fixture(scope='module', params=range(3))
def task(request):
  return Synthetic(request.param, mlp, init(request.param, width=3))


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
  task = Synthetic(0, jax.nn.log_softmax, jnp.zeros((K, K)))
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
