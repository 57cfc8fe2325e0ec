"""Laws of over-optimisation recover what made the points."""

import types

import numpy as np
import pytest

from align_jax.compare import intervals, laws
from experiments import laws_page
from experiments.claims import jackknife

KINDS = list(laws.FALLS)
KLS = np.geomspace(0.2, 12, 10)
ALPHA, BETA, SEEDS = 0.8, 0.2, 6


def simulated(kind, seed, deviation=0.05):
  """KLs, gains and errors of SEEDS runs, whose coefficients vary: [S, C]."""
  rng = np.random.default_rng(seed)
  own = rng.normal([[ALPHA, BETA]] * SEEDS, 0.02)
  exact = np.stack([laws.Law(kind, *x)(KLS) for x in own])
  errors = deviation * np.sqrt(KLS) * np.ones((SEEDS, 1))
  gains = exact + errors * rng.normal(size=exact.shape)
  return np.tile(KLS, (SEEDS, 1)), gains, errors


def pooled(points, name):
  """Seeds -> a coefficient of one fit to all their points."""
  return lambda kind, seeds: getattr(
    laws.fit(kind, *(x[seeds].ravel() for x in points)), name
  )


@pytest.mark.parametrize('kind', KINDS)
def test_a_fit_without_noise_is_exact(kind):
  want = laws.Law(kind, ALPHA, BETA)
  got = laws.fit(kind, KLS, want(KLS))
  np.testing.assert_allclose((got.alpha, got.beta), (ALPHA, BETA))
  assert laws.held_out_error(kind, KLS, want(KLS)) < 1e-9
  other = KINDS[1 - KINDS.index(kind)]
  assert laws.held_out_error(other, KLS, want(KLS)) > 0.02


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name, want', [('alpha', ALPHA), ('beta', BETA)])
def test_intervals_of_a_fit_hold_what_made_the_points(kind, name, want):
  """In as many of 200 simulations as they say."""
  held = 0
  for seed in range(200):
    of = pooled(simulated(kind, seed), name)
    values = jackknife(lambda seeds, of=of: of(kind, seeds), SEEDS)
    estimate = intervals.estimate(values[:, None], shared=False)
    held += estimate.low < want < estimate.high
  assert 180 <= held <= 199


@pytest.mark.parametrize('kind', KINDS)
def test_the_peak_is_the_largest_gain(kind):
  law = laws.Law(kind, ALPHA, BETA)
  kls = np.geomspace(1e-3, 1e4, 20_001)
  np.testing.assert_allclose(law.peak, kls[law(kls).argmax()], rtol=2e-3)
  assert laws.Law(kind, ALPHA, 0.0).peak == np.inf


@pytest.mark.parametrize('alpha', [-1.0, -1e-3, 0.0])
def test_a_law_that_only_falls_has_its_peak_at_the_reference(alpha):
  assert laws.Law('best_of_n', alpha, BETA).peak == 0


def test_precise_points_weigh_more():
  kl, gain = [1.0, 4.0, 9.0], [0.6, 0.8, 5.0]
  want = laws.fit('best_of_n', kl[:2], gain[:2])
  got = laws.fit('best_of_n', kl, gain, [1e-4, 1e-4, 1.0])
  np.testing.assert_allclose(
    (got.alpha, got.beta), (want.alpha, want.beta), rtol=1e-3
  )


def test_one_kl_is_no_law():
  with pytest.raises(ValueError, match='two coefficients'):
    laws.fit('policy', [1.0, 1.0], [0.5, 0.6])


def seen(kind, deviation, prompts=64):
  """Runs by a law whose coefficients vary between seeds."""
  rng, runs = np.random.default_rng(3), {}
  own = rng.normal(size=(SEEDS, 2))
  own = deviation * (own - own.mean(0)) / own.std(0)
  for seed, off in enumerate(own):
    law = laws.Law(kind, ALPHA + off[0], BETA + off[1])
    noise = 0.2 * rng.normal(size=(len(KLS), prompts)) * np.sqrt(KLS)[:, None]
    gains = law(KLS)[:, None] + noise
    runs[seed] = [
      {'kl_by_prompt': [kl] * prompts, 'x': x} for kl, x in zip(KLS, gains)
    ]
  return types.SimpleNamespace(kind=kind, runs=runs, gain=lambda p: p['x'])


@pytest.mark.parametrize('kind', KINDS)
def test_a_bootstrap_knows_what_varies_between_seeds_and_prompts(kind):
  wide, narrow = (laws_page.bootstrap(seen(kind, x), 200) for x in (0.1, 0))
  for found in wide, narrow:
    low, high = np.percentile(found, (2.5, 97.5), 0)
    assert (low < (ALPHA, BETA)).all() and (high > (ALPHA, BETA)).all()
  deviation = wide.std(0) / (0.1 / SEEDS**0.5)
  assert (deviation > 0.5).all() and (deviation < 1.6).all()
  assert (0 < narrow.std(0)).all() and (narrow.std(0) < wide.std(0) / 2).all()
  again = laws_page.bootstrap(seen(kind, 0), 200)
  np.testing.assert_array_equal(again, narrow)
