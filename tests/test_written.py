"""Golden pairs of two chosen policies."""

import jax
import numpy as np
import pytest

from align_jax.lab import written
from align_jax.lab.arms import make_source
from align_jax.lab.named import is_policy
from align_jax.lab.sweep import sweep
from align_jax.policy.programs import policy_programs
from configs import base, toy
from tests.runs import stage_of, train_arm

KEPT = 'online/default@2'
WRITERS = 'reference', KEPT


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The stage of a seed with a run of which two policies are there."""
  c = base.smoke(toy.get_config())
  c.arms = {'online': dict(learning_rate=0.1, keep=dict(steps=(2,), kls=()))}
  cfg, workdir = c.to_dict(), tmp_path_factory.mktemp('written')
  [run, *_] = sweep(cfg)
  train_arm(cfg, run, workdir)
  return stage_of(cfg, run.seed, workdir), run


def test_each_completion_is_its_writers(trained):
  stage, _ = trained
  batch = written.written_pairs(stage, WRITERS, num=10, size=4)
  assert batch.group_size == 2 and batch.num_prompts == 10
  logps = policy_programs(stage.task.model).logps
  for i, name in enumerate(WRITERS):
    own = np.asarray(logps(written.params_named(stage, name), batch))[i::2]
    np.testing.assert_allclose(own, batch.sampler_logps[i::2], atol=2e-5)
  both = [written.params_named(stage, name) for name in WRITERS]
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), *both)
  assert max(jax.tree.leaves(moved)) > 0.01


def test_labels_are_golds(trained):
  stage, _ = trained
  batch = written.written_pairs(stage, WRITERS, num=10, size=4)
  gold = np.asarray(stage.task.gold(batch)).reshape(-1, 2)
  want = 0.5 + 0.5 * np.sign(gold - gold[:, ::-1])
  np.testing.assert_array_equal(np.reshape(batch.rewards, (-1, 2)), want)


def test_a_run_learns_from_them(trained):
  stage, online = trained
  run = online.but(
    name='written/default', source='written_pairs', writers=WRITERS
  )
  assert run.needed == ['online/default']
  source = make_source(stage, run)
  first, again = (source(None, None, step) for step in (0, 0))
  np.testing.assert_array_equal(first.completions, again.completions)


@pytest.mark.parametrize('name', ['online', 'online/default@', 'a/b@x', 7])
def test_what_is_no_policy(name):
  assert not is_policy(name)
