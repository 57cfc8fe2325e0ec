"""Matched-KL comparisons on curves whose answer is known."""

import numpy as np
import pytest

from align_jax import frontier

PROMPTS = 40


def make(arm, f, *, config='a', seed=0, kls=(0, 1, 2, 4), noise=0.0):
  """A run whose score at KL k is f(k), plus noise per prompt."""
  rng = np.random.default_rng([seed, len(arm), len(config)])
  kls = np.array(kls, float)
  points = []
  for step, k in enumerate(kls):
    points.append(
      dict(
        arm=arm,
        config=config,
        seed=seed,
        step=step,
        kl_by_prompt=np.full(PROMPTS, k).tolist(),
        score=(f(k) + noise * rng.normal(size=PROMPTS)).tolist(),
      )
    )
  return points


def compare(points, budgets=(1.0, 2.0, 3.0), resamples=200):
  runs = frontier.curves(points, lambda p: p['score'])
  return frontier.Comparison(runs, budgets, resamples)


def test_interpolation_is_linear_in_sqrt_kl():
  kl, score = np.array([0.0, 1, 4]), np.array([0.0, 10, 20])
  at = frontier.at_budgets(kl, score, [0.25, 1.0, 2.25, 4.0])
  np.testing.assert_allclose(at, [5, 10, 15, 20])


def test_never_beyond_the_range_of_a_run():
  kl, score = np.array([0.0, 1, 4]), np.array([0.0, 10, 20])
  assert np.isnan(frontier.at_budgets(kl, score, [4.01])).all()


def test_a_trajectory_that_turns_back_counts_where_it_first_arrives():
  kl, score = np.array([0.0, 4, 1, 4]), np.array([0.0, 8, 100, 100])
  np.testing.assert_allclose(frontier.at_budgets(kl, score, [1.0]), [4])


def test_a_known_difference_is_found_within_its_interval():
  points = []
  for seed in range(3):
    points += make('online', lambda k: 2 * k**0.5, seed=seed, noise=0.3)
    points += make('offline', lambda k: k**0.5, seed=seed, noise=0.3)
  comparison = compare(points)
  for budget, e in zip((1, 2, 3), comparison.difference('online', 'offline')):
    # Both curves are linear in sqrt(KL): interpolation is exact.
    assert e.low < budget**0.5 < e.high
    assert e.high - e.low < 0.5
  gap, by_seed, window = comparison.gap('online', 'offline', (1, 3))
  assert gap.low > 0 and (by_seed > 0).all()
  assert window == pytest.approx((1, 3))


def test_selection_gains_nothing_from_noise():
  """The best of many equal configurations is no better than any of them."""
  points = []
  for seed in range(3):
    points += make('one', lambda k: 0, seed=seed, noise=1.0)
    for i in range(30):
      points += make('many', lambda k: 0, config='x' * i, seed=seed, noise=1.0)
  comparison = compare(points)
  means = {}
  for run in frontier.curves(points, lambda p: p['score']):
    means.setdefault(run.config, []).append(run.score[1].mean())
  naive = max(np.mean(by_seed) for by_seed in means.values())
  guarded = comparison.table['many'][0].value
  assert naive > 0.1  # what picking the maximum would have claimed
  assert abs(guarded) < naive / 2


def test_the_better_configuration_is_chosen():
  points = []
  for seed in range(3):
    points += make('arm', lambda k: k, config='good', seed=seed, noise=0.1)
    points += make('arm', lambda k: 0, config='bad', seed=seed, noise=0.1)
  comparison = compare(points)
  assert set(comparison.chosen['arm']) == {('good', 'good')}


def test_missing_is_missing():
  points = make('far', lambda k: k) + make('near', lambda k: k, kls=(0, 1, 1.5))
  comparison = compare(points)
  assert [bool(e) for e in comparison.table['near']] == [True, False, False]
  assert not comparison.difference('far', 'near')[2]


def test_an_arm_reaches_a_budget_only_if_all_its_seeds_do():
  points = make('arm', lambda k: k, seed=0) + make(
    'arm', lambda k: k, seed=1, kls=(0, 0.5, 1.5)
  )
  assert [bool(e) for e in compare(points).table['arm']] == [True, False, False]


def test_arms_that_do_not_overlap_are_refused():
  points = make('far', lambda k: k) + make('near', lambda k: k, kls=(0, 0.1))
  with pytest.raises(ValueError, match='nothing to compare'):
    compare(points).gap('far', 'near', (1, 3))


def test_pairing_by_prompt_narrows_the_interval():
  """A large effect of the prompt, common to both arms, cancels."""
  rng = np.random.default_rng(0)
  by_prompt = 10 * rng.normal(size=PROMPTS)
  points = []
  for seed in range(3):
    for arm, gain in (('a', 1.0), ('b', 0.0)):
      for p in make(arm, lambda k: 0, seed=seed):
        p['score'] = (
          by_prompt + gain + 0.1 * rng.normal(size=PROMPTS)
        ).tolist()
        points.append(p)
  comparison = compare(points)
  alone = comparison.table['a'][0]
  paired = comparison.difference('a', 'b')[0]
  assert paired.high - paired.low < 0.1 * (alone.high - alone.low)
  assert paired.low < 1 < paired.high


def test_peak_and_fall():
  points = make('arm', lambda k: k * (4 - k), kls=(0, 1, 2, 3, 4))
  top, kl, fall = compare(points).peaks()['arm']
  assert (top.value, kl.value, fall.value) == (4, 2, 4)


def test_kl_needed_for_a_score():
  points = make('arm', lambda k: k**0.5, kls=(0, 1, 4))
  grid = np.linspace(0.1, 2, 200) ** 2
  needed = compare(points).kl_needed('arm', 1.5, grid)
  assert needed.value == pytest.approx(2.25, abs=0.05)
  assert not compare(points).kl_needed('arm', 2.5, grid)


def test_unfilled_cells_are_named():
  points = make('arm', lambda k: k, config='a', seed=0)
  points += make('arm', lambda k: k, config='b', seed=1)
  with pytest.raises(ValueError, match="arm 'arm' has no points of"):
    compare(points)


def test_interval_covers_about_as_often_as_it_says():
  """Prompts are the only noise here; seeds add none."""
  inside = 0
  for trial in range(60):
    rng = np.random.default_rng(trial)
    points = []
    for seed in range(3):
      for p in make('arm', lambda k: 0, seed=seed):
        points.append({**p, 'score': rng.normal(size=PROMPTS).tolist()})
    e = compare(points, budgets=(1.0,), resamples=200).table['arm'][0]
    inside += e.low < 0 < e.high
  assert 48 <= inside <= 60


def test_win_rate_counts_ties_as_half():
  rate = frontier.win_rate([[1, 3]], [[1, 2]])
  np.testing.assert_allclose(rate, [(0.5 + 0 + 1 + 1) / 4])


def test_a_sign_turns_only_where_both_signs_are_sure():
  make = frontier.Estimate
  down, unsure, up = make(-1, -2, -0.5), make(0.1, -1, 1), make(1, 0.5, 2)
  nothing = make(np.nan, np.nan, np.nan)
  turns = frontier.crossings([down, unsure, nothing, up, up], (1, 2, 3, 4, 5))
  assert turns == [(1, 4)]
  assert frontier.crossings([unsure, up], (1, 2)) == []


def test_seeds_may_end_at_different_checkpoints():
  """As reweighed samples do; the peak is among those that all have."""
  points = make('a', lambda k: k) + make(
    'a', lambda k: k, seed=1, kls=(0, 1, 2)
  )
  comparison = compare(points)
  score, kl, fall = comparison.peaks()['a']
  assert (score.value, kl.value, fall.value) == (2.0, 2.0, 0.0)
  assert comparison.table['a'][1].value == 2.0
  assert not comparison.table['a'][2]  # one seed never got there


def test_ranks_order_the_arms_and_ties_share_their_places():
  points = make('low', lambda k: 0.0) + make('high', lambda k: k)
  points += make('same', lambda k: k)
  points += make('short', lambda k: 9 * k, kls=(0, 1))
  comparison = compare(points)
  ranks = comparison.ranks(['low', 'high', 'same', 'short'])
  assert [ranks[n][0].value for n in ranks] == [4.0, 2.5, 2.5, 1.0]
  assert [ranks[n][1].value for n in ('low', 'high', 'same')] == [3.0, 1.5, 1.5]
  assert not ranks['short'][1]
