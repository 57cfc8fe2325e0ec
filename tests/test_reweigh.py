"""Best-of-n and the optimum, from a pool of samples, against exact values."""

import itertools

import numpy as np
import pytest

from align_jax.compare import reweigh
from experiments.enumerable import best_of_n, kl

SIZE = 4096


def language(kind):
  """Probabilities and rewards of a handful, of tied, or of many completions."""
  rng = np.random.default_rng(0)
  size = dict(few=8, ties=300, many=20_000)[kind]
  rewards = rng.normal(size=size)
  rewards = np.round(rewards, 1) if kind == 'ties' else rewards
  return rng.dirichlet(np.full(size, 0.5)), rewards


def drawn(p, rewards):
  index = np.random.default_rng(1).choice(len(p), SIZE, p=p)
  return rewards[index], np.log(p[index]), index


@pytest.mark.parametrize('kind', ['few', 'ties', 'many'])
@pytest.mark.parametrize('n', [1, 2, 8, 64])
def test_the_kl_of_best_of_n(kind, n):
  p, rewards = language(kind)
  want = kl(best_of_n(p, rewards, n), p)
  got = reweigh.best_of_n_kl(*drawn(p, rewards)[:2], n)
  bound = reweigh.best_of_n_bound(n)
  assert abs(got - want) < 0.03 + 0.01 * want
  assert got <= bound + 1e-9 and want <= bound + 1e-9


def test_the_bound_is_loose_where_completions_have_mass():
  rewards, p = np.arange(8.0), np.full(8, 1 / 8)
  got = reweigh.best_of_n_kl(*drawn(p, rewards)[:2], 256)
  assert got < reweigh.best_of_n_bound(256) - 2
  assert abs(got + np.log(p[rewards.argmax()])) < 0.05  # saturated


@pytest.mark.parametrize('n', [1, 2, 3, 5])
def test_weights_are_those_of_all_subsets(n):
  rewards = np.array([0.3, 0.1, 0.3, 0.7, 0.2])
  want = np.zeros(5)
  for subset in itertools.combinations(range(5), n):
    top = max(rewards[i] for i in subset)
    best = [i for i in subset if rewards[i] == top]
    for i in best:
      want[i] += 1 / len(best)
  want /= want.sum()
  np.testing.assert_allclose(reweigh.best_of_n_weights(rewards, n), want)


def pool(rewards, logps):
  wide = lambda x: np.tile(x, (3, 1))
  gold = -np.square(rewards - 1)
  return reweigh.Pool(*map(wide, (rewards, gold, rewards, logps)))


def test_points_of_best_of_n():
  p, rewards = language('many')
  points = list(reweigh.best_of_n(pool(*drawn(p, rewards)[:2])))
  assert [x['n'] for x in points] == [2**k for k in range(11)]
  kls = [x['kl_seq_nats'] for x in points]
  assert kls[0] == 0 and (np.diff(kls) > 0).all()
  assert (np.diff([x['proxy'] for x in points]) > 0).all()
  for point in points:
    want = best_of_n(p, rewards, point['n'])
    assert abs(point['proxy'] - (want * rewards).sum()) < 0.2
    assert len(point['gold_by_prompt']) == 3


def test_points_of_the_optimum():
  p, rewards = language('many')
  sample, logps, _ = drawn(p, rewards)
  points = list(reweigh.optimum(pool(sample, logps)))
  assert points[0]['kl_seq_nats'] == 0 and len(points) > 5
  for point in points[1:]:
    tilted = p * np.exp(rewards / point['beta'])
    tilted /= tilted.sum()
    if kl(tilted, p) < 1.2:
      assert abs(point['kl_seq_nats'] - kl(tilted, p)) < 0.1
      assert abs(point['proxy'] - (tilted * rewards).sum()) < 0.12


def test_rewards_that_are_all_alike_have_no_optimum():
  same = reweigh.Pool(*np.ones((4, 3, 64)))
  with pytest.raises(ValueError, match='all rewards of a pool are 1'):
    list(reweigh.optimum(same))


def test_the_optimum_stops_where_its_samples_do():
  p, rewards = language('many')
  few = pool(*(x[:50] for x in drawn(p, rewards)[:2]))
  assert len(list(reweigh.optimum(few))) < len(
    list(reweigh.optimum(pool(*drawn(p, rewards)[:2])))
  )


def test_the_optimum_is_above_best_of_n_in_proxy_at_equal_kl():
  """No policy has more reward at its KL than ref * exp(r / beta)."""
  p, rewards = language('many')
  data = pool(*drawn(p, rewards)[:2])
  best, top = list(reweigh.best_of_n(data)), list(reweigh.optimum(data))
  at = lambda points, field: [x[field] for x in points]
  for point in best[1:6]:
    limit = np.interp(
      point['kl_seq_nats'], at(top, 'kl_seq_nats'), at(top, 'proxy')
    )
    assert point['proxy'] <= limit + 0.02
