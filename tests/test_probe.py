"""Points: what is counted, and how."""

import numpy as np
import pytest

from align_jax import files
from align_jax.learn import probe


def test_ranking_accuracy_leaves_out_what_gold_ties():
  scores, gold = np.array([[1.0, 0, 1, 0]]), np.array([[1.0, 0, 2, 2]])
  assert probe.ranking_accuracy(scores, gold) == 1
  assert probe.ranking_accuracy(-scores, gold) == 0
  assert probe.ranking_accuracy(0 * scores, gold) == 0.5


def test_where_gold_decides_no_pair_there_is_no_accuracy():
  scores = np.array([[1.0, 0.0], [0.0, 1.0]])
  assert probe.ranking_accuracy(scores, np.ones((2, 2))) is None
  assert probe.ranking_accuracy(scores[:, :1], scores[:, :1]) is None
  assert probe.told(a=None, b=0.0) == {'b': 0.0}


@pytest.mark.parametrize('samples', [3, 5, 7])
def test_the_last_of_an_odd_number_of_samples_has_no_neighbour(samples):
  gold = np.random.default_rng(0).normal(size=(40, samples))
  scores = gold + np.random.default_rng(1).normal(size=gold.shape)
  even = probe.ranking_accuracy(scores[:, :-1], gold[:, :-1])
  assert probe.ranking_accuracy(scores, gold) == even < 1


@pytest.mark.parametrize('unit', [1e5, 1.0, 1e-3, 1e-6, 1e-12])
def test_numbers_per_prompt_keep_their_digits_in_any_unit(unit):
  x = unit * np.random.default_rng(0).normal(size=(50, 3))
  kept = files.listed(x)
  np.testing.assert_allclose(kept, x, rtol=5e-5, atol=0)
  assert max(len(repr(y)) for row in kept for y in row) <= 14
  assert files.listed(np.array([0.0, -0.5, 1 / 3, np.inf])) == [
    *(0.0, -0.5, 0.33333),
    np.inf,
  ]


def test_checkpoints_begin_with_the_reference_and_end_with_the_run():
  steps = probe.checkpoint_steps(20, 1500, 14)
  assert steps[0] == 0 and steps[1] == 20 and steps[-1] == 1500
  assert list(steps) == sorted(set(steps))
  assert probe.checkpoint_steps(2, 20, 1) == (0, 20)
  assert probe.checkpoint_steps(5, 5, 3) == (0, 5)
