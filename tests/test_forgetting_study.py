"""What is kept, where arms are equal in one number or another."""

import numpy as np

from configs import sentiment, toy
from experiments.claims import NONE, Evidence, rule
from experiments.suite import e18_forgetting as e18
from tests.recent_points import OLD, with_metrics
from tests.suite_points import runs_of

CFG = e18.STUDY.config(toy.get_config().to_dict())
FIRST, SECOND = 'RLOO', 'expert SFT'


def kept(equal, points):
  measure = e18.Kept((FIRST,), (SECOND,), equal)
  return measure(Evidence(points, CFG, None)).matrix


def test_what_the_forward_kl_decides_is_equal_at_equal_forward_kl():
  """The second arm has twice the forward KL at any KL, and forgets by it."""
  points = []
  for point in runs_of({FIRST: np.ones(3), SECOND: np.ones(3)}):
    forward = 1.0 if point['arm'] == FIRST else 2.0
    point = with_metrics(point)
    kls = np.array(point['kl_by_prompt'])
    point['forward_kl_by_prompt'] = list(forward * kls)
    point['sets'][OLD]['gold_by_prompt'] = list(-((forward * kls) ** 0.5))
    points.append(point)
  np.testing.assert_allclose(kept(e18.forward, points), 0, atol=1e-9)
  want = 4**0.5 - 2**0.5  # at two nats, where both are held
  np.testing.assert_allclose(kept(e18.reverse, points), want, rtol=1e-6)


def test_arms_of_equal_gold_are_compared_where_both_have_gained_it():
  """The first arm gains as much at a quarter of the KL, and so forgets less."""
  qualities = {FIRST: np.full(3, 2.0), SECOND: np.ones(3)}
  points = [with_metrics(p) for p in runs_of(qualities)]
  assert (kept(e18.gold, points).mean(1) > 0.1).all()
  np.testing.assert_allclose(kept(e18.reverse, points), 0, atol=1e-9)


def test_a_second_task_that_was_not_measured_is_named():
  points = runs_of({name: np.ones(2) for name in (*e18.ON, *e18.OFF)})
  ruling = rule(e18.STUDY.claims[0], Evidence(points, CFG, None))
  assert (ruling.word, "'old'" in ruling.why) == (NONE, True)


def test_only_a_task_that_can_have_one_is_asked_for_a_second():
  assert CFG['task']['old_prompts'] and OLD in CFG['eval']['sets']
  text = e18.STUDY.config(sentiment.get_config().to_dict())
  assert OLD not in text['eval']['sets']
  assert 'demonstration_logp' in text['eval']['metrics']
