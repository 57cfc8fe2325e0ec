"""Intervals, on matrices whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from align_jax.compare import intervals, verdict
from experiments import coverage


def matrix(seeds=5, prompts=40, *, seed=0, of_seeds=0.0, of_prompts=0.0):
  rng = np.random.default_rng(seed)
  rows = of_seeds * rng.normal(size=(seeds, 1))
  columns = of_prompts * rng.normal(size=(1, prompts))
  return rows + columns + rng.normal(size=(seeds, prompts))


def test_where_prompts_are_redrawn_it_is_the_paired_t_interval():
  x = matrix(of_seeds=0.3)
  e = intervals.estimate(x, shared=False)
  low, high = stats.ttest_1samp(x.mean(1), 0).confidence_interval(0.95)
  np.testing.assert_allclose((e.low, e.high), (low, high))
  np.testing.assert_allclose(e.by_seed, x.mean(1))


def test_prompts_that_are_shared_widen_it_by_their_own_variance():
  x = matrix(seeds=10, prompts=100, of_prompts=2.0)
  of = intervals.spread(x, shared=True)
  assert of.prompts == pytest.approx(4 / 100, rel=0.3)
  assert intervals.spread(x, shared=False).prompts == 0
  # Seeds alone know little of it: their means have the same prompts in them.
  alone = intervals.spread(x, shared=False)
  assert of.half_width() > 3 * alone.half_width()


def test_the_spread_is_that_of_the_analysis_of_variance():
  """Mean squares by hand: v = (MS_seed + max(MS_prompt - MS_rest, 0)) / SE."""
  x = matrix(4, 30, of_seeds=0.5, of_prompts=0.8)
  (s, e), m = x.shape, x.mean()
  rows, columns = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
  of_rows = e * np.square(rows - m).sum() / (s - 1)
  of_columns = s * np.square(columns - m).sum() / (e - 1)
  rest = np.square(x - rows - columns + m).sum() / ((s - 1) * (e - 1))
  of = intervals.spread(x, shared=True)
  np.testing.assert_allclose(of.seeds, of_rows / (s * e))
  np.testing.assert_allclose(of.prompts, (of_columns - rest) / (s * e))
  assert of_columns > rest


def test_one_seed_has_no_interval():
  e = intervals.estimate(matrix(seeds=1), shared=True)
  assert e and np.isnan(e.low) and np.isnan(e.high) and e.sign == 0


def test_a_missing_seed_is_a_missing_value():
  x = matrix()
  x[2] = np.nan
  e = intervals.estimate(x, shared=True)
  assert not e and np.isnan(e.low) and len(e.by_seed) == 5


def test_no_variance_is_a_sure_value():
  e = intervals.estimate(np.ones((3, 4)), shared=True)
  assert (e.low, e.value, e.high) == (1, 1, 1) and e.sign == 1


def test_intervals_that_hold_together_are_wider():
  x = matrix()
  width = lambda number: np.subtract(
    *(
      getattr(intervals.estimate(x, False, intervals.each_of(number)), end)
      for end in ('high', 'low')
    )
  )
  assert width(1) < width(2) < width(8)
  assert intervals.each_of(5) == pytest.approx(0.99)


@pytest.mark.parametrize('effects', coverage.EFFECTS)
def test_intervals_hold_as_often_as_they_say(effects):
  """A small, seeded version of `python -m experiments.coverage`."""
  world = coverage.World(4, 36, 0.5, effects, configs=2)
  means = coverage.cell(world, trials=200)
  assert 0.91 <= means['held'] <= 0.985
  assert means['all held'] >= 0.91
  assert means['claimed'] <= 0.09
  assert means['turned'] <= 0.03
  assert abs(means['selection']) < 0.03  # six standard errors


def test_two_seeds_cover_where_prompts_are_shared():
  rng, held = np.random.default_rng(0), 0
  for _ in range(1000):
    x = rng.normal(size=(2, 1)) + 2 * rng.normal(size=(1, 64))
    x = x + rng.normal(size=(2, 64))
    e = intervals.estimate(x, shared=True)
    held += e.low < 0 < e.high
  assert 0.925 < held / 1000 < 0.99


def test_power_rises_with_seeds():
  found = [
    coverage.cell(coverage.World(seeds, 36, 0.5, 'redrawn', 1), 60)['found']
    for seeds in (3, 6, 20)
  ]
  assert found[0] < found[1] < found[2]


def test_a_difference_that_is_detectable_is_found_in_four_of_five():
  rng = np.random.default_rng(0)
  d = intervals.detectable(intervals.between(0.5, seeds=6))
  x = d + 0.5 * rng.normal(size=(4000, 6))
  p = stats.ttest_1samp(x, 0, axis=1)
  found = (p.pvalue < 0.05) & (p.statistic > 0)
  assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_seeds_for_a_half_width():
  of = lambda seeds: intervals.between(0.12, seeds)
  seeds = intervals.seeds_for(0.05, of(7))
  assert of(seeds).half_width() <= 0.05 < of(seeds - 1).half_width()
  assert intervals.seeds_for(0.001, of(7)) is None


def test_no_number_of_seeds_takes_the_prompts_away():
  """The line on power is of the interval that the verdict has."""
  x = matrix(seeds=10, prompts=128, of_prompts=2.0)
  power = verdict.power_of(x, 0.05, shared=True)
  interval = intervals.estimate(x, shared=True)
  assert power.half_width == pytest.approx((interval.high - interval.low) / 2)
  assert power.detectable > power.half_width > 0.2
  assert power.seeds_needed is None
  assert verdict.power_of(x, 0.05, shared=False).seeds_needed < 100


def test_no_sign_test_reaches_five_percent_below_six_seeds():
  p = [intervals.sign_test([1.0] * n) for n in range(1, 8)]
  first = 1 + next(i for i, x in enumerate(p) if x < 0.05)
  assert first == verdict.EXACT_FROM
  assert intervals.sign_test([1, -1, 0]) == 1
  assert intervals.sign_test([0, 0]) == 1


# --- The verdict ------------------------------------------------------------


def word(mean, deviation, seeds=8, margin=0.1):
  x = np.linspace(-1, 1, seeds)
  x = mean + deviation * x / x.std(ddof=1)
  return verdict.decide(intervals.estimate(x[:, None], False), margin)


def test_the_word_follows_from_the_interval_and_the_margin():
  assert word(0.5, 0.2) == 'above'
  assert word(-0.5, 0.2) == 'below'
  assert word(0.01, 0.05) == 'equivalent'
  assert word(0.01, 0.05, margin=0.0) == 'undecided'
  assert word(0.1, 0.5) == 'undecided'
  assert word(0.02, 0.02) == 'above'  # sure, however small


def test_one_seed_gets_no_verdict():
  one = intervals.estimate(matrix(seeds=1), shared=True)
  assert verdict.decide(one, 0.1) == 'no verdict'
  assert verdict.decide(intervals.MISSING, 0.1) == 'no verdict'


def test_equivalence_is_claimed_falsely_in_at_most_5_percent():
  """At a true difference of the margin; two one-sided tests at 5%."""
  rng = np.random.default_rng(1)
  words = []
  for _ in range(600):
    x = 0.1 + 0.05 * rng.normal(size=(8, 1))
    e = intervals.estimate(x, False)
    words.append(verdict.decide(e, 0.1))
  assert words.count('equivalent') <= 0.05 * 600
  assert words.count('above') > 300


def test_seeds_that_disagree_do_not_spoil_a_sure_mean():
  """Requiring that all seeds agree would be met less often with more seeds."""
  x = np.r_[np.full(19, 0.3), -0.2]
  x += 0.05 * np.random.default_rng(0).normal(size=20)
  e = intervals.estimate(x[:, None], False)
  assert min(e.by_seed) < 0 and verdict.decide(e, 0.05) == 'above'


def test_power_says_what_prompts_would_take_away():
  noisy = verdict.power_of(matrix(20, 10, seed=3), 0.05, shared=False)
  assert noisy.from_prompts > 0.5
  apart = matrix(20, 10, of_seeds=5.0, of_prompts=3.0, seed=3)
  for shared in (False, True):
    by_seed = verdict.power_of(apart, 0.05, shared)
    assert by_seed.from_prompts < 0.1 and by_seed.seeds == 20
  planned = verdict.power_of(matrix(20, 10, seed=3), 0.05, False, seeds=5)
  assert planned.seeds == 5 and planned.half_width > noisy.half_width
  assert planned.deviation == pytest.approx(noisy.deviation)
  with pytest.raises(ValueError, match='seeds=1'):
    verdict.planned_power(intervals.between(0.1, 1), 0.05)
