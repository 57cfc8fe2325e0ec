"""Tempered particles are samples of the optimum, of any model."""

import types

import jax
import numpy as np
from conftest import init

from align_jax import tasks
from align_jax.compare import tempering
from align_jax.lab import tempered
from align_jax.policy import scoring
from experiments import limit_proof
from experiments.enumerable import Language, kl, optimum
from experiments.suite.e17_limits import world

V, T, PARTICLES = 4, 3, 256
PROMPTS = np.array([[1, 2], [3, 0]] * 4, np.int32)


def rewards_of(tokens, valid):
  """Of completions [..., T]: the more of token 3 the better, and short."""
  return 2.0 * ((tokens == 3) & valid).sum(-1) - 0.2 * valid.sum(-1)


def test_particles_of_a_transformer(tiny, monkeypatch):
  """Reward and KL at every beta, of completions that may end early."""
  monkeypatch.setattr(tempered, 'TILTS', tempering.TILTS[1::3])
  language, params = Language(V, T, eos=True), init(0, tiny)
  reward = lambda batch: rewards_of(batch.completions, batch.valid)
  task = tasks.Task(
    model=tiny,
    max_new_tokens=T,
    eos_id=0,
    train_prompts=None,
    eval_prompts=tasks.Prompts(PROMPTS, np.ones(PROMPTS.shape, bool)),
    demonstrations=None,
    gold=lambda batch: -reward(batch),
    decode=None,
  )
  stage = types.SimpleNamespace(
    task=task, seed=0, reference=params, proxy=reward
  )
  points = list(tempered.tempered_points(stage, reward, PARTICLES, 4))
  assert points[0]['kl_seq_nats'] == 0 and points[0]['beta'] == np.inf
  assert len(points) == 1 + len(tempered.TILTS)

  rows = language.rows(np.tile(np.arange(language.size), 2), language.size)
  rows = rows.replace(prompts=PROMPTS[:2], prompt_valid=np.ones((2, 2), bool))
  logps = jax.jit(lambda p: scoring.token_logps(p, rows, config=tiny))(params)
  laws = np.exp(np.float64(logps).sum(1)).reshape(2, -1)
  np.testing.assert_allclose(laws.sum(1), 1, rtol=1e-5)
  worth = rewards_of(language.tokens, language.mask)
  for point in points[1:]:
    best = [optimum(law, worth / point['beta']) for law in laws]
    want = np.mean([kl(p, law) for p, law in zip(best, laws)])
    assert abs(point['kl_seq_nats'] - want) < 0.03 + 0.03 * want
    assert abs(point['proxy'] - np.mean([p @ worth for p in best])) < 0.15
    np.testing.assert_allclose(point['gold'], -point['proxy'], rtol=1e-6)
  assert want > 2


def test_weights_are_met_by_numbers_of_particles():
  """To within one, in order, whatever their rounding."""
  rng = np.random.default_rng(0)
  weights = rng.dirichlet(np.ones(50), size=3)
  particles = {'rewards': np.tile(np.arange(50.0), (3, 1))}
  got = tempering.resampled(particles, weights, rng)['rewards'].astype(int)
  counts = np.stack([np.bincount(row, minlength=50) for row in got])
  assert (np.abs(counts - 50 * weights) < 1).all()


def test_the_proof_tells_the_largest_distance():
  found = np.array([limit_proof.population(n, 4096) for n in (0, 1)])
  exact = np.array([[(b, *world().optimum(b)) for b, _, _ in found[0]]] * 2)
  assert abs(found - exact).max() < 0.3
  rows, most = limit_proof.table(exact)
  assert most == 0 and rows.shape == (len(exact[0]), 9)
  exact[:, 3, 2] += 0.002
  np.testing.assert_allclose(limit_proof.table(exact)[1], 0.002)


def test_the_proof_reads_the_reward_at_the_estimated_kl():
  """Of a smaller beta, both numbers are larger, and the limit is the same."""
  tilts = np.array([1.0, 2.0])
  found = np.array([[(b, *world().optimum(b + 1e-4)) for b in tilts]] * 2)
  (_, _, kl, _, _, reward, *_), _ = limit_proof.table(found)[0]
  assert kl > 1e-5 and reward > 1e-5
  assert limit_proof.table(found)[1] < 1e-7
