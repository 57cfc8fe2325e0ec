"""Judges as labels: what they say of groups, and arms that they label."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from runs import setup_of, stage_of, train_arm

from align_jax import judges
from align_jax.lab import checks, sweep
from align_jax.lab.labels import reward_of
from align_jax.learn import rewards, train
from align_jax.types import Batch
from configs import arithmetic, base
from experiments import common


def groups(size):
  zeros = jnp.zeros((2 * size, 1))
  return Batch(*[zeros[:2]] * 2, *[zeros] * 3, zeros[:, 0], group_size=size)


def decode(batch):
  size = batch.group_size
  prompts = [p for p in 'xy' for _ in range(size)]
  return prompts, [f'{p}{i}' for p in 'xy' for i in range(size)]


def by_number(prompts, firsts, seconds):
  """Its chances are linear in the numbers that completions end with."""
  assert [(f[0], s[0]) for f, s in zip(firsts, seconds)] == list(
    zip(prompts, prompts)
  )
  return [0.5 + 0.1 * (int(f[1]) - int(s[1])) for f, s in zip(firsts, seconds)]


@pytest.mark.parametrize(
  'size, want', [(2, [0.4, 0.6]), (3, [0.35, 0.5, 0.65])]
)
def test_a_groups_mean_win_rate(size, want):
  got = rewards.from_pairwise(by_number, decode)(groups(size))
  np.testing.assert_allclose(got, want * 2, atol=1e-6)
  with pytest.raises(ValueError, match='group_size >= 2'):
    rewards.from_pairwise(by_number, decode)(groups(1))


@pytest.mark.parametrize('bad', [[0.5], [0.5, 1.5], [0.5, float('nan')]])
def test_what_is_no_probability_is_named(bad):
  def broken(prompts, firsts, seconds):
    return bad

  with pytest.raises(ValueError, match="'broken' must return 2 probabilities"):
    rewards.from_pairwise(broken, decode)(groups(2))


def small():
  c = base.smoke(arithmetic.get_config())
  c.task.update(prompts=16, eval_prompts=4)
  c.model.update(dim=8, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=8)
  c.arm.update(batch_size=2, group_size=2, loss='ipo', loss_kwargs={})
  c.arm.update(steps=2, save_every=2)
  c.seeds = 1
  cfg = common.as_dict(c)
  cfg['methods'] = {}
  return cfg


def judged(kind, folder, **arm):
  settings = dict(kind=kind, checkpoint=str(folder), max_length=256)
  return dict(labels='judge', judge=settings, **arm)


def test_arms_that_judges_label(causal, scalar, tmp_path):
  cfg = small()
  cfg['arms'] = {
    'feedback': judged('llm_judge', causal),
    'scored': judged('reward_model', scalar),
  }
  runs = sweep.sweep(cfg)
  common.check(cfg, runs)
  labels = {}
  for run in runs:
    train_arm(cfg, run.but(keep_log=True), tmp_path)
    log = train.read_log(tmp_path / 'seed0' / run.name)
    size = run.sampling.group_size
    labels[run.arm] = np.asarray(log.rewards).reshape(-1, size)
  assert np.ptp(labels['feedback']) > 1e-4
  np.testing.assert_allclose(labels['feedback'].mean(1), 0.5, atol=1e-5)
  assert np.abs(labels['scored'].mean(1) - 0.5).max() > 1e-3
  stage = stage_of(cfg, 0, tmp_path)
  score = judges.reward_model(scalar)
  want = score(*stage.task.decode(stage.pairs))
  got = reward_of(stage, runs[1].labels)(stage.pairs)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_arms_of_the_page_are_sound(causal, scalar):
  """docs/judges.md, with folders that exist."""
  page = (pathlib.Path(__file__).parents[1] / 'docs' / 'judges.md').read_text()
  (block,) = re.findall(r'```python\n(c\.arms.*?)```', page, re.DOTALL)
  block = block.replace('models/judge', str(causal))
  block = block.replace('models/reward', str(scalar))
  c = base.smoke(arithmetic.get_config())
  exec(block, {'c': c})
  cfg = common.as_dict(c)
  runs = sweep.sweep(cfg)
  assert {run.labels.judge['kind'] for run in runs} == set(judges.JUDGES)
  for run in runs:
    checks.check_run(run, setup_of(cfg, '').shared)


@pytest.mark.parametrize(
  'judge, arm, said',
  [
    (dict(kind='oracle'), {}, "judge.kind='oracle', expected one of"),
    (dict(checkpoint=''), {}, "judge.checkpoint='', expected a folder"),
    (dict(checkpoint='/no/such'), {}, "checkpoint='/no/such': no such folder"),
    (dict(temperature=1), {}, 'judge.temperature=.*: no such field'),
    (dict(template='{prompt}'), {}, 'template has the fields'),
    (
      {},
      dict(group_size=1, loss='reinforce'),
      'group_size of at least 2, got 1',
    ),
    ({}, dict(reward_scale='preference'), 'gives chances to win already'),
  ],
)
def test_wrong_settings_are_told_before_anything_runs(causal, judge, arm, said):
  cfg = small()
  cfg['arms'] = {'feedback': {**judged('llm_judge', causal), **arm}}
  cfg['arms']['feedback']['judge'].update(judge)
  (run,) = sweep.sweep(cfg)
  with pytest.raises(ValueError, match=f'^(arms.)?feedback.*{said}'):
    checks.check_run(run, setup_of(cfg, '').shared)
