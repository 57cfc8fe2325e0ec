"""Points: what is counted, and how."""

import numpy as np

from align_jax.learn import probe


def test_ranking_accuracy_leaves_out_what_gold_ties():
  scores, gold = np.array([[1.0, 0, 1, 0]]), np.array([[1.0, 0, 2, 2]])
  assert probe.ranking_accuracy(scores, gold) == 1
  assert probe.ranking_accuracy(-scores, gold) == 0
  assert probe.ranking_accuracy(0 * scores, gold) == 0.5


def test_checkpoints_begin_with_the_reference_and_end_with_the_run():
  steps = probe.checkpoint_steps(20, 1500, 14)
  assert steps[0] == 0 and steps[1] == 20 and steps[-1] == 1500
  assert list(steps) == sorted(set(steps))
