"""The learned gold judge of the generated task."""

import json

import jax
import numpy as np
import pytest

from align_jax import tasks
from align_jax.tasks import toy_judge
from configs import toy_learned_gold
from tests.test_toy import FIELDS, SIZES, make

JUDGE = dict(
  judge_model=dict(mlp_dim=8, **SIZES),
  judge_steps=2,
  judge_batch_size=4,
  judge_learning_rate=1e-2,
)


@pytest.fixture(scope='module')
def pairs():
  shown = 3 * jax.random.normal(jax.random.key(1), (27, 8))
  prompts = np.indices((3, 3, 3), np.int32).reshape(3, -1).T
  draw = lambda num: toy_judge.draw_groups(
    shown, prompts, jax.random.key(0), size=4, num=num, group=2
  )
  return draw(200)


def test_pairs_have_demonstrations_and_repeats(pairs):
  rows = np.asarray(pairs.completions)
  distinct = np.array([len(set(row)) for row in rows])
  assert rows.shape == (400, 4) and pairs.group_size == 2
  # Half are without repeats, and some of the uniform ones: 0.41 of them.
  assert 0.6 < (distinct == 4).mean() < 0.8


def test_the_judge_is_learned_once_and_has_the_scale_of_what_it_learned(
  pairs, tmp_path
):
  task = make(workdir=tmp_path, **JUDGE)
  programmed = make().gold
  assert task.gold_steps is None
  found = json.loads((tmp_path / 'judge0' / 'judge.json').read_text())
  assert found['pairs'] <= toy_judge.HELD_OUT and 0 < found['accuracy'] < 1
  scores, true = (np.asarray(f(pairs)) for f in (task.gold, programmed))
  assert 0.4 < scores.std() / true.std() < 2.5
  written = (tmp_path / 'judge0' / 'judge.npz').stat().st_mtime_ns
  again = make(workdir=tmp_path, **JUDGE).gold(pairs)
  np.testing.assert_array_equal(scores, again)
  assert (tmp_path / 'judge0' / 'judge.npz').stat().st_mtime_ns == written
  other = make(seed=1, workdir=tmp_path, **JUDGE).gold(pairs)
  assert (np.asarray(other) != scores).any()
  with pytest.raises(ValueError, match='was made with judge_steps=2, not 3'):
    make(workdir=tmp_path, **{**JUDGE, 'judge_steps': 3})


def test_a_workdir_of_an_earlier_version_has_the_programmed_reward():
  known = {**vars(toy_judge.Judge()), 'old_prompts': 0, 'uncovered': 0}
  assert tasks.defaults('toy') == known
  json.dumps(tasks.defaults('toy'))


def test_agreement_is_that_of_the_order_of_pairs(pairs):
  reward = lambda batch: batch.completions.sum(1) * 1.0
  alike = lambda sign: toy_judge.tested(
    lambda batch: sign * 2.0 * reward(batch), reward, pairs
  )
  assert alike(1)['accuracy'] == 1.0 and alike(-1)['accuracy'] == 0.0
  np.testing.assert_allclose(alike(1)['scale'], 0.5, rtol=1e-6)
  np.testing.assert_allclose(alike(-1)['correlation'], -1.0, rtol=1e-6)


@pytest.mark.parametrize(
  ('knobs', 'message'),
  [
    (dict(judge_steps=5), 'expected no other field of task.judge_'),
    ({**JUDGE, 'judge_steps': 0}, 'judge_steps'),
    ({**JUDGE, 'judge_learning_rate': 0.0}, 'judge_learning_rate'),
    ({**JUDGE, 'judge_model': dict(dims=8)}, "judge_model.dims.*mean 'dim'"),
  ],
)
def test_a_judge_that_cannot_be_trained_is_refused(knobs, message):
  with pytest.raises(ValueError, match=message) as refused:
    tasks.check_knobs(dict(vocab_size=8), (), name='toy', **FIELDS, **knobs)
  assert len(str(refused.value).splitlines()) == 1


def test_the_judge_of_the_config_is_larger_than_its_policy():
  c = toy_learned_gold.get_config()
  size = lambda fields: fields['num_layers'] * fields['dim'] ** 2
  assert size(c.task.judge_model) > size(c.model)
