"""What schedules multiply the learning rate by."""

import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.learn import schedules
from align_jax.learn.schedules import make_schedule


def factors(schedule, steps, warmup_steps):
  f = make_schedule(schedule, steps, warmup_steps)
  return np.array([float(f(jnp.int32(i))) for i in range(steps)])


@pytest.mark.parametrize('name', sorted(schedules.SCHEDULES))
def test_no_update_is_lost_to_a_schedule(name):
  """The warm-up starts above 0 and ends at 1; what follows is above 0 too."""
  found = factors({'name': name}, 20, 5)
  np.testing.assert_allclose(found[:5], np.arange(1, 6) / 5, rtol=1e-6)
  assert found[5] == 1 and (found[5:] > 0).all() and (found <= 1).all()
  assert (np.diff(found[5:]) <= 0).all()
  assert (found[-1] < 1) == (name != 'constant')


def test_schedules_follow_their_formulas():
  i = np.arange(16)
  for schedule, want in (
    ({'name': 'linear'}, 1 - i / 16),
    ({'name': 'linear', 'final': 0.5}, 1 - i / 32),
    ({'name': 'cosine'}, np.cos(np.pi * i / 32) ** 2),
    (
      {'name': 'cosine', 'final': 0.2},
      0.2 + 0.8 * np.cos(np.pi * i / 32) ** 2,
    ),
    ({'name': 'inverse_sqrt', 'timescale': 3.0}, np.sqrt(3 / (3 + i))),
  ):
    found = factors(schedule, 20, 4)[4:]
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_the_timescale_of_the_warm_up_gives_vaswanis_schedule():
  found = factors({'name': 'inverse_sqrt', 'timescale': 4.0}, 20, 4)
  update = np.arange(1, 21)  # which they count from 1
  want = np.minimum(update / 4, np.sqrt(4 / np.maximum(update - 1, 4)))
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_a_run_may_end_within_its_warm_up():
  np.testing.assert_allclose(factors({'name': 'cosine'}, 2, 8), [1 / 8, 2 / 8])
