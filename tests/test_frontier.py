"""Matched-KL comparisons on curves whose answer is known."""

import numpy as np
import pytest

from align_jax.compare import frontier, intervals, readings

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
        configuration=config,
        seed=seed,
        step=step,
        kl_by_prompt=np.full(PROMPTS, k).tolist(),
        score=(f(k) + noise * rng.normal(size=PROMPTS)).tolist(),
      )
    )
  return points


def compare(points, budgets=(1.0, 2.0, 3.0), shared_prompts=True):
  runs = readings.curves(points, lambda p: p['score'])
  return frontier.Comparison(runs, budgets, shared_prompts)


def at_budgets(kl, score, budgets):
  return readings.weights_at(np.array(kl, float), budgets) @ np.array(score)


def values(estimates):
  return [e.value for e in estimates]


def test_interpolation_is_linear_in_sqrt_kl():
  at = at_budgets([0, 1, 4], [0, 10, 20], [0.25, 1.0, 2.25, 4.0])
  np.testing.assert_allclose(at, [5, 10, 15, 20])


def test_never_beyond_the_range_of_a_run():
  assert np.isnan(at_budgets([0, 1, 4], [0, 10, 20], [4.01])).all()


@pytest.mark.parametrize('end', [0.5, 2.0, 5.0, 8.0, 10.0])
def test_a_window_ends_where_runs_end(end):
  """The root of these, squared, is another number."""
  points = [
    p
    for arm in ('a', 'b')
    for seed in (0, 1)
    for p in make(arm, lambda k: k, seed=seed, kls=(0, end / 2, end))
  ]
  comparison = compare(points, (end,))
  for window in ((end, end), (end / 4, end)):
    assert comparison.gap('a', 'b', window).window == window


def test_two_runs_of_one_configuration_and_seed_are_refused():
  twice = make('a', lambda k: k) + make('b', lambda k: 2 * k)
  runs = readings.curves(twice, lambda p: p['score'])
  with pytest.raises(ValueError, match="'a' has two runs of one configuration"):
    readings.Arm('a', runs)


def test_a_trajectory_that_turns_back_counts_where_it_first_arrives():
  at = at_budgets([0, 4, 1, 4], [0, 8, 100, 100], [1.0])
  np.testing.assert_allclose(at, [4])


def held_at(budget, end, **fields):
  """A run held at a budget whose last checkpoint is at `end` nats."""
  points = make('arm', lambda k: k, kls=(0, 1, 3, end), **fields)
  return [{**p, 'kl_budget': budget} for p in points]


def test_a_held_run_is_read_at_its_last_checkpoint():
  comparison = compare(held_at(2.0, 2.04))
  assert values(comparison.table['arm'])[1] == pytest.approx(2.04)
  kinds = [comparison.readings['arm'].reached(k) for k in range(3)]
  assert kinds == ['passage', 'held', 'plateau']


def test_a_run_that_was_stopped_is_not_called_held():
  points = [{**p, 'kl_mode': 'stop'} for p in held_at(2.0, 2.0)]
  comparison = compare(points)
  assert values(comparison.table['arm'])[1] == pytest.approx(2)
  assert comparison.readings['arm'].reached(1) == 'stopped'
  held = [{**p, 'kl_mode': 'hold'} for p in held_at(2.0, 2.0)]
  assert compare(held).readings['arm'].reached(1) == 'held'


def test_a_run_that_missed_its_budget_is_missing_there():
  assert not compare(held_at(2.0, 2.2)).table['arm'][1]
  assert compare(held_at(2.0, 2.2)).table['arm'][0]  # it passed through that


def test_what_a_budget_is_not_read_from_may_be_no_number():
  points = make('arm', lambda k: k if k < 4 else np.nan, kls=(0, 1, 2, 4))
  assert values(compare(points).table['arm'])[:2] == pytest.approx([1, 2])
  assert not compare(points).table['arm'][2]


def test_one_number_for_all_prompts_is_too_few_to_choose_by():
  def means(**how):
    for p in make('arm', lambda k: k, **how):
      yield {
        k: v[:1] if isinstance(v, np.ndarray | list) else v
        for k, v in p.items()
      }

  compare([*means()])
  with pytest.raises(ValueError, match='too few to choose'):
    compare([*means(), *means(config='b')])


def test_nothing_is_read_below_the_first_checkpoint():
  points = make('arm', lambda k: k, kls=(0.5, 1, 2))
  low, at, high = compare(points, (0.25, 0.5, 1)).table['arm']
  assert not low and at.value == pytest.approx(0.5) and high


def test_a_value_says_how_much_of_the_run_was_to_come():
  comparison = compare(make('arm', lambda k: k, kls=(0, 1, 2, 4)))
  to_come = comparison.readings['arm'].to_come
  np.testing.assert_allclose(to_come, [[0.75, 0.5, 0.25]])
  beyond = compare(make('arm', lambda k: k, kls=(0, 1)))
  assert beyond.readings['arm'].reached(2) == ''


def test_a_known_difference_is_found_within_its_interval():
  points = []
  for seed in range(3):
    points += make('online', lambda k: 2 * k**0.5, seed=seed, noise=0.3)
    points += make('offline', lambda k: k**0.5, seed=seed, noise=0.3)
  comparison = compare(points)
  for budget, e in zip((1, 2, 3), comparison.difference('online', 'offline')):
    # Both curves are linear in sqrt(KL): interpolation is exact.
    assert e.low < budget**0.5 < e.high
    assert e.high - e.low < 1.5  # three intervals that hold together, 3 seeds
  gap = comparison.gap('online', 'offline', (1, 3))
  assert gap.estimate.low > 0 and min(gap.estimate.by_seed) > 0
  assert gap.window == pytest.approx((1, 3))
  at_one = comparison.gap('online', 'offline', (2.0, 2.0))
  assert at_one.window == pytest.approx((2, 2))
  assert at_one.estimate.low < 2**0.5 < at_one.estimate.high


def test_selection_gains_nothing_from_noise():
  """The best of many equal configurations is no better than any of them."""
  points = []
  for seed in range(3):
    points += make('one', lambda k: 0, seed=seed, noise=1.0)
    for i in range(30):
      points += make('many', lambda k: 0, config='x' * i, seed=seed, noise=1.0)
  comparison = compare(points)
  means = {}
  for run in readings.curves(points, lambda p: p['score']):
    means.setdefault(run.seed, []).append(run.score[1].mean())
  naive = np.mean([max(by_config) for by_config in means.values()])
  guarded = comparison.table['many'][0].value
  assert naive > 0.2  # what picking the maximum would have claimed
  assert abs(guarded) < naive / 2


def test_unequal_numbers_of_configurations_are_not_compared():
  points = make('one', lambda k: k)
  for config in 'abc':
    points += make('three', lambda k: k, config=config)
  comparison = compare(points)
  with pytest.raises(ValueError, match="'one' and 'three'.*1 and 3"):
    comparison.difference('one', 'three')
  with pytest.raises(ValueError, match='equally many'):
    comparison.gap('three', 'one', (1, 3))
  frontier.check_equal({'a': 2, 'b': 2, 'c': 1}, [('a', 'b'), ('a', 'd')])


def test_the_better_configuration_is_chosen():
  points = []
  for seed in range(3):
    points += make('arm', lambda k: k, config='good', seed=seed, noise=0.1)
    points += make('arm', lambda k: 0, config='bad', seed=seed, noise=0.1)
  comparison = compare(points)
  chosen = comparison.readings['arm'].chosen
  assert {pair for seed in chosen for pair in seed} == {('good', 'good')}


def test_every_seed_has_the_configuration_that_is_best_for_it():
  points = []
  for seed, good in enumerate('ab'):
    for config in 'ab':
      better = lambda k, same=config == good: k * same
      points += make('arm', better, config=config, seed=seed, noise=0.1)
  chosen = compare(points).readings['arm'].chosen
  assert [{pair for pair in seed} for seed in chosen] == [
    {('a', 'a')},
    {('b', 'b')},
  ]


def test_a_seed_reaches_a_budget_with_whatever_configuration_does():
  points = make('arm', lambda k: 2 * k, config='near', kls=(0, 1, 1.5))
  points += make('arm', lambda k: k, config='far')
  got = values(compare(points).table['arm'])
  np.testing.assert_allclose(got, [2, 2, 3], rtol=0.05)


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
  peak = compare(points).peaks()['arm']
  np.testing.assert_allclose(values(peak), [4, 2, 4])


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


def test_win_rate_counts_ties_as_half():
  rate = frontier.win_rate([[1, 3]], [[1, 2]])
  np.testing.assert_allclose(rate, [(0.5 + 0 + 1 + 1) / 4])


def test_a_sign_turns_only_where_both_signs_are_sure():
  make = intervals.Estimate
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
  by_seed = [e.by_seed for e in comparison.peaks()['a']]
  np.testing.assert_allclose(by_seed, [[4, 2], [4, 2], [0, 0]])
  assert comparison.table['a'][1].value == pytest.approx(2)
  assert not comparison.table['a'][2]  # one seed never got there


def test_what_is_surely_apart_is_ranked_and_what_is_near_a_tie_is_not():
  points, gains = [], {'low': 0.0, 'high': 3.0, 'equal': 3.001}
  for seed in range(4):
    for name, gain in gains.items():
      worth = lambda k, gain=gain: gain + k
      points += make(name, worth, seed=seed, noise=0.3)
    points += make('short', lambda k: 9 * k, seed=seed, kls=(0, 1))
  sets = compare(points).rank_sets([*gains, 'short'])
  assert [sets[n][0] for n in sets] == [(4, 4), (2, 3), (2, 3), (1, 1)]
  assert [sets[n][1] for n in gains] == [(3, 3), (1, 2), (1, 2)]
  assert sets['short'][1] is None


def test_equal_steps_compare_whatever_the_kl_is():
  """The naive comparison: the arm that moved further looks better."""
  points = []
  for seed in range(2):
    points += make('fast', lambda k: k, seed=seed, kls=(0, 2, 4))
    points += make('slow', lambda k: k, seed=seed, kls=(0, 1, 2, 4))
  rows = compare(points).at_equal_steps('fast', 'slow')
  assert [step for step, *_ in rows] == [1, 2]
  np.testing.assert_allclose(
    [values(row[1:]) for row in rows], [[1, 2, 2, 1, 1], [2, 4, 4, 2, 2]]
  )
  at_equal_kl = compare(points, (1.0, 2.0)).difference('fast', 'slow')
  np.testing.assert_allclose(values(at_equal_kl)[1], 0, atol=1e-9)
