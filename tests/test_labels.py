"""Labels that move with the policy: its own implicit reward."""

import pathlib
import re

import jax
import numpy as np
import pytest
from runs import stage_of, start_of, train_arm, train_together
from test_train import final_state

from align_jax.lab import arms, checks, grouping, sweep
from align_jax.lab.labels import LABELS
from align_jax.learn import optimizers, rewards, sources, step, together, train
from align_jax.policy import scoring
from configs import base, toy
from experiments import common

PAGE = (pathlib.Path(__file__).parents[1] / 'docs' / 'judges.md').read_text()
(BLOCK,) = re.findall(r'```python\nself_labelled = (.*?)```', PAGE, re.DOTALL)
STRENGTHS = base.sweep((3e-3, 0.1), (1e-3, 0.05))


@pytest.fixture(scope='module')
def logps(token_logps):
  return lambda params, batch: token_logps(params, batch, 1.0)


@pytest.fixture(scope='module')
def reward(logps):
  return rewards.implicit(logps, sources.current, beta=0.5)


@pytest.fixture(scope='module')
def states(params, ref_params):
  """At the reference, and away from it."""
  start = step.init_state(ref_params, optimizers.make_optimizer(), ['ref'])
  return start, start.replace(params=params)


def settings(**fields):
  """The toy with the arm of docs/judges.md that labels its own samples."""
  c = base.smoke(toy.get_config())
  c.seeds = 1
  cfg = common.as_dict(c)
  cfg['arms'] = {'self': {**eval(BLOCK), 'sweep': STRENGTHS, **fields}}
  runs = sweep.sweep(cfg)
  common.check(cfg, runs)
  return cfg, runs


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('implicit')


def test_it_is_the_log_ratio_of_the_policy_of_the_moment(
  reward, states, batch, params, ref_params, token_logps
):
  start, moved = states
  np.testing.assert_array_equal(reward(batch, start), 0)
  ratios = token_logps(params, batch, 1.0) - token_logps(ref_params, batch, 1.0)
  want = 0.5 * np.where(batch.valid, ratios, 0).sum(1)
  assert np.ptp(want) > 1
  np.testing.assert_allclose(reward(batch, moved), want, rtol=1e-5)
  np.testing.assert_allclose(jax.jit(reward)(batch, moved), want, rtol=1e-4)


def test_an_online_source_labels_by_its_own_state(
  reward, states, prompts, sample, logps
):
  annotate = scoring.make_annotate(logps)
  make = lambda reward: sources.online(
    lambda i: prompts, sample, reward, annotate, sources.anchor('ref')
  )
  key = jax.random.key(0)
  source = make(reward)
  alone = [source(state, key, 0) for state in states]
  # The same samples of the reference under the labels of two policies.
  np.testing.assert_array_equal(*(x.completions for x in alone))
  assert np.abs(alone[0].rewards - alone[1].rewards).max() > 1
  fixed = make(rewards.stateless(lambda batch: batch.valid.sum(1) * 1.0))
  np.testing.assert_array_equal(*(fixed(s, key, 0).rewards for s in states))
  both = together.source(source)(together.stack(states), key, 0)
  for i, want in enumerate(alone):
    got = together.unstack(both, i)
    np.testing.assert_allclose(got.rewards, want.rewards, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'fields',
  [{}, {'lora': dict(rank=2)}, {'reward_scale': 'preference'}],
  ids=['plain', 'adapters', 'preference'],
)
def test_a_config_labels_by_it(fields, workdir, request):
  cfg, (run, _) = settings(**fields)
  name = f'self/{request.node.callspec.id}'
  train_arm(cfg, run.but(name=name, keep_log=True), workdir)
  log = train.read_log(workdir / 'seed0' / name)
  # Half of each batch is the policy's own: log-probs are the sampler's.
  own = lambda x: np.asarray(x).reshape(run.schedule.steps, 2, -1)[:, 1]
  labels = own(log.rewards)
  want = own((log.sampler_logps - log.ref_logps).sum(1))
  if fields.get('reward_scale'):
    pairs = want.reshape(-1, 2)
    margins = (pairs - pairs[:, ::-1]).reshape(want.shape)
    want = 1 / (1 + np.exp(-margins))
  np.testing.assert_allclose(labels, want, rtol=1e-3, atol=1e-4)
  assert np.ptp(labels[0]) == 0 and np.ptp(labels[-1]) > 1e-2


def test_runs_together_label_each_by_its_own_policy(workdir, tmp_path):
  cfg, runs = settings()
  assert grouping.groups(runs) == [runs]
  train_together(cfg, runs, tmp_path)
  for run in runs:
    train_arm(cfg, run, workdir)
    both = [final_state(d / 'seed0' / run.name) for d in (tmp_path, workdir)]
    for x, y in zip(*(jax.tree.leaves(s['params']) for s in both)):
      np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_fixed_data_keep_their_labels(workdir):
  cfg, (run, _) = settings()
  seed = stage_of(cfg, 0, workdir)
  source = arms.make_source(seed, run.but(source='golden_pairs'))
  start = start_of(seed, run)
  moved = start.replace(params=jax.tree.map(lambda x: 2 * x, start.params))
  batches = [source(s, jax.random.key(0), 0) for s in (start, moved)]
  np.testing.assert_array_equal(*(x.rewards for x in batches))
  assert set(np.asarray(batches[0].rewards).tolist()) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize(
  'fields', [dict(reweigh='optimum'), dict(reward_scale='reference')]
)
def test_what_has_no_state_is_refused(fields):
  with pytest.raises(ValueError, match="'implicit' reads the state") as raised:
    settings(**fields)
  assert '\n' not in str(raised.value)


def test_alone_it_is_said_to_move_nothing():
  _, (run, _) = settings()
  assert not checks.notes(run)
  (note,) = checks.notes(run.but(source='policy'))
  assert "labels='implicit' is 0 where training starts" in note


def test_only_those_that_say_so_read_the_state():
  reading = [name for name, row in LABELS.items() if row.reads_state]
  assert reading == ['implicit']
  assert {'proxy', 'gold', 'judge', *rewards.REWARDS} < set(LABELS)
