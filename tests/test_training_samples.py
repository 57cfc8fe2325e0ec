"""How training samples are drawn: what it changes, and what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import setup_of, stage_of, start_of, train_arm
from test_train import settings

from align_jax.files import read_jsonl
from align_jax.lab import arms, checks, protocol
from align_jax.losses import LOSSES, kl
from align_jax.policy import programs
from align_jax.policy.programs import Sampling

OFF = {'temperature': 0.7, 'top_p': 0.9}
GRPO = dict(loss='grpo', loss_kwargs={'kl': 'none', 'beta': 0.0})


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('samples')


def online(**fields):
  """The toy's config and its online arm, with other fields."""
  cfg, run = settings('online')
  return cfg, run.but(keep_log=False, **fields)


def check(given):
  """Checks the run of (config, run)."""
  cfg, run = given
  checks.check_run(run, setup_of(cfg, '').shared)


@pytest.fixture(scope='module')
def seed(workdir):
  return stage_of(online()[0], 0, workdir)


def drawn(seed, **sampling):
  """A batch that an arm would train on at its start, labelled."""
  _, run = online(sampling=sampling, group_size=8, **GRPO)
  state = start_of(seed, run)
  return arms.make_source(seed, run)(state, jax.random.key(0), 0)


@pytest.mark.parametrize(
  'field, value, expected',
  [
    ('temperature', 0.0, 'a finite number above 0'),
    ('temperature', float('inf'), 'a finite number above 0'),
    ('top_p', 0.0, 'a finite number above 0 and at most 1'),
    ('top_p', 1.1, 'a finite number above 0 and at most 1'),
    ('top_k', -1, 'a whole number, at least 0'),
    ('top_k', 0.5, 'a whole number, at least 0'),
    ('min_p', -0.1, 'a finite number at least 0 and at most 1'),
    ('dtype', 'bf16', "one of '', 'bfloat16', 'float16', 'float32'"),
    ('cache_dtype', 'int4', "one of '', 'bfloat16', 'float16'"),
    ('stop_tokens', (-1,), 'a tuple of token ids'),
  ],
)
def test_a_wrong_field_is_refused_at_the_start(field, value, expected):
  with pytest.raises(ValueError) as error:
    online(sampling={field: value})
  message = str(error.value)
  assert message.startswith(f'arm.sampling={ {field: value}!r}, expected')
  assert f'sampling.{field}={value!r}, expected {expected}' in message


def test_an_unknown_field_is_refused():
  with pytest.raises(ValueError, match="temprature: .* mean 'temperature'"):
    online(sampling={'temprature': 0.7})


def test_defaults_are_the_program_that_evaluation_has(seed):
  _, run = online()
  draw = arms.sampler_of(seed, run.sampling, 2)
  assert draw is programs.sampler(seed.task, 2)


def test_numbers_compile_nothing(seed, lowered):
  args = seed.reference, *seed.task.eval_prompts[:4]
  draw = lambda how: programs.sampler(seed.task, 2, how=how)(
    *args, jax.random.key(0)
  )
  draw(Sampling(temperature=0.7, top_p=0.9))
  lowered.clear()
  draw(Sampling(temperature=0.5, top_k=3))
  assert not [name for name in lowered if 'sample' in name], lowered


def test_each_option_reaches_the_sampler(seed):
  plain = drawn(seed)
  assert plain.policy_logps is None
  for sampling in ({'temperature': 0.3}, {'top_p': 0.5}, {'top_k': 1}):
    batch = drawn(seed, **sampling)
    assert batch.policy_logps is not None
    own, kept = batch.policy_logps.sum(), batch.sampler_logps.sum()
    assert kept > own, sampling  # what is likely has become likelier
  assert (drawn(seed, min_p=1.0).sampler_logps == 0).all()
  for coarse in ({'cache_dtype': 'int8'}, {'dtype': 'bfloat16'}):
    batch = drawn(seed, **coarse)
    gap = jnp.abs(batch.sampler_logps - plain.sampler_logps)
    assert 0 < jnp.median(gap) < 0.1
    assert batch.policy_logps is None  # as far as the sampler knows


def test_a_stop_token_ends_a_completion_and_cuts_none_off(seed):
  """Nothing else is there that ends it, and no penalty is taken."""
  plain = np.asarray(drawn(seed).completions)
  stop = int(np.bincount(plain[:, 0]).argmax())
  _, run = online(
    sampling={'stop_tokens': (stop,)},
    group_size=8,
    truncated='penalise',
    truncation_penalty=100.0,
    **GRPO,
  )
  state = start_of(seed, run)
  batch = arms.make_source(seed, run)(state, jax.random.key(0), 0)
  first = np.asarray(batch.completions[:, 0]) == stop
  assert first.any()
  assert (np.asarray(batch.valid.sum(1))[first] == 1).all()
  assert (np.asarray(batch.rewards)[first] > -50).all()


def test_ratios_are_those_of_the_policy_itself(seed):
  """1 for the policy that has drawn the rows, however it drew them."""
  batch = drawn(seed, **OFF)
  logps, _, _ = programs.policy_programs(seed.task.model)
  now = logps(seed.reference, batch)
  np.testing.assert_allclose(kl.log_weights(now, batch), 0, atol=1e-4)
  assert jnp.abs(batch.sampler_logps - now).max() > 0.1
  _, metrics = LOSSES['grpo'](now, batch, kl='none')
  assert metrics['clipped'] == 0


@pytest.mark.parametrize('term', sorted(set(kl.KL_TERMS) - kl.EXACT - {'none'}))
def test_no_kl_term_of_samples_that_are_not_the_policys(seed, term):
  batch = drawn(seed, **OFF)
  with pytest.raises(ValueError, match='temperature 1 and untruncated'):
    LOSSES['rloo'](batch.policy_logps, batch, kl=term)


@pytest.mark.parametrize(
  'fields, expected',
  [
    (dict(loss='grpo', loss_kwargs={}), "loss_kwargs.kl='none'"),
    (dict(loss='ppo', loss_kwargs={'kl': 'exact'}), "loss_kwargs.kl='none'"),
    (
      dict(
        loss='nash_md',
        source='policy_and_mixture',
        loss_kwargs={},
        reward_scale='preference',
      ),
      "loss 'nash_md', which needs samples of the policy itself",
    ),
    (
      dict(
        loss='hypo', source='hybrid', parts=('golden_pairs',), loss_kwargs={}
      ),
      "loss 'hypo', which needs samples of the policy itself",
    ),
  ],
)
def test_it_is_said_at_the_start(fields, expected):
  with pytest.raises(ValueError) as error:
    check(online(**fields, sampling=OFF))
  assert expected in str(error.value)
  # What estimates none may sample as it likes, and so may what samples none.
  check(online(**GRPO, sampling=OFF))
  check(online(sampling=OFF))
  cfg, run = settings('offline')
  check((cfg, run.but(sampling=OFF)))


def test_a_sampler_that_differs_is_corrected(workdir):
  """By weights near 1 that are not 1, with a KL term or without."""
  cfg, run = online(
    loss='rloo',
    loss_kwargs={'beta': 0.05},
    name='online/corrected',
    sampling={'dtype': 'bfloat16'},
    correction='token_truncate',
    num_minibatches=2,
  )
  check((cfg, run))
  train_arm(cfg, run, workdir)
  metrics = read_jsonl(run.directory(workdir) / 'metrics.jsonl')
  weights = np.array([row['importance'] for row in metrics])
  assert (np.abs(weights - 1) > 1e-6).all() and (
    np.abs(weights - 1) < 0.1
  ).all()


def test_a_run_is_measured_at_temperature_1(workdir, seed):
  """Through whole runs: other samples train it, the same measure it."""
  points, rewards = {}, {}
  for name, sampling in (('plain', {}), ('off', OFF)):
    cfg, run = online(**GRPO, name=f'online/{name}', sampling=sampling)
    train_arm(cfg, run, workdir)
    folder = run.directory(workdir)
    points[name] = read_jsonl(folder / 'points.jsonl')
    metrics = read_jsonl(folder / 'metrics.jsonl')
    rewards[name] = [row['reward'] for row in metrics]
    assert metrics[0]['clipped'] == 0
  assert points['plain'][0] == points['off'][0]
  assert points['plain'][-1]['gold'] != points['off'][-1]['gold']
  assert rewards['plain'] != rewards['off']


def test_the_budget_is_measured_at_temperature_1(seed):
  moved = jax.tree.map(lambda x: 1.1 * x, seed.reference)
  found = []
  for sampling in ({}, OFF):
    _, run = online(kl_budget=1.0, kl_samples=2, sampling=sampling)
    found.append(protocol.budget_of(seed, run).measure(moved))
  assert found[0] == found[1] > 0


def test_the_reference_may_be_tempered(seed):
  """Its log-probs are then computed, the sampler does not know them."""
  _, run = online(source='reference', sampling=OFF)
  state = start_of(seed, run)
  batch = arms.make_source(seed, run)(state, jax.random.key(0), 0)
  np.testing.assert_allclose(batch.ref_logps, batch.policy_logps, atol=1e-4)
  assert jnp.abs(batch.ref_logps - batch.sampler_logps).max() > 0.1
