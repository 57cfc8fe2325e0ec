"""PPO's critic learns before the policy moves, on the scale of its rewards."""

import jax
import numpy as np
import pytest
from runs import setup_of, stage_of, start_of, train_arm

from align_jax.lab import checks, starts, sweep
from align_jax.learn.checkpoint import params_of
from align_jax.policy.programs import CRITICS
from configs import base, toy
from experiments import common


def config(**arm):
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.arms = {'ppo': dict(loss='ppo', loss_kwargs={}, **arm)}
  return common.as_dict(c)


def run_of(cfg):
  return sweep.sweep(cfg)[0]


def policy(params):
  return {k: v for k, v in params.items() if k not in CRITICS}


def same(first, second):
  return jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.parametrize(
  'fields',
  [
    {},
    dict(critic='shared'),
    dict(optimizer={'name': 'muon'}, weight_decay=0.1),
    dict(num_epochs=2, num_minibatches=2),
  ],
  ids=['own', 'shared', 'muon', 'epochs'],
)
def test_the_critic_alone_learns_at_first(fields, tmp_path):
  cfg = config(critic_warmup=3, keep=dict(steps=(3, 4)), **fields)
  run = run_of(cfg)
  reference = stage_of(cfg, 0, tmp_path).reference
  train_arm(cfg, run, tmp_path)
  before, after = (params_of(run.directory(tmp_path), n) for n in (3, 4))
  assert same(policy(before), reference)
  assert not same(policy(after), reference)
  start = start_of(stage_of(cfg, 0, tmp_path), run).params
  critic = lambda params: {k: v for k, v in params.items() if k in CRITICS}
  assert not same(critic(before), critic(start))


def test_without_a_warm_up_the_policy_moves_at_once(tmp_path):
  cfg = config(keep=dict(steps=(1,)))
  run = run_of(cfg)
  train_arm(cfg, run, tmp_path)
  first = params_of(run.directory(tmp_path), 1)
  assert not same(policy(first), stage_of(cfg, 0, tmp_path).reference)


@pytest.mark.parametrize('scale', ['none', 'reference', 'preference'])
def test_a_reward_model_starts_on_the_scale_of_the_rewards(scale, tmp_path):
  cfg = config(critic_init='reward_model', reward_scale=scale)
  cfg['proxy'] = {**cfg['proxy'], 'verifier': 'transformer'}
  run, stage = run_of(cfg), stage_of(cfg, 0, tmp_path)
  head = starts.critic_of(stage, run)[0]['critic']['head']
  factor = np.asarray(head / stage.proxy_params['head'])
  rewards = starts.reward_of(stage, run.labels)(stage.pairs)
  wanted = np.std(rewards) / np.std(stage.proxy(stage.pairs))
  np.testing.assert_allclose(factor, wanted, rtol=1e-4)
  assert (scale == 'none') == (abs(wanted - 1) < 1e-3)


@pytest.mark.parametrize('steps', [6, 7])
def test_a_warm_up_that_never_ends_is_refused(steps):
  cfg = config(critic_warmup=steps)
  run = run_of(cfg)
  with pytest.raises(ValueError, match=f'critic_warmup={steps}, .* below'):
    checks.check_run(run, setup_of(cfg, '').shared)


def test_only_a_critic_warms_up():
  cfg = config()
  cfg['arms'] = {'rloo': dict(loss='rloo', loss_kwargs={}, critic_warmup=2)}
  run = run_of(cfg)
  with pytest.raises(ValueError, match='critic_warmup=2, expected it unset'):
    checks.check_run(run, setup_of(cfg, '').shared)
