"""A new kind of loss is one row: laws, checks, forwards and starts read it."""

import inspect
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from loss_cases import Case, cases_of
from runs import start_of
from test_losses import LAWS

from align_jax import ops
from align_jax.lab import checks, forwards, groups, steps, sweep
from align_jax.lab.stages import Stage
from align_jax.lab.starts import needs_of
from align_jax.losses import LOSSES, Loss, preference
from configs import toy
from experiments import common


def dpop(logps, batch, *, beta=0.1, penalty=5.0):
  """DPO-positive (Pal et al. 2024): the best row may not fall."""
  ratios = preference.log_ratios(logps, batch)
  best, worst, weight = preference.best_and_worst(ratios, batch)
  margin = best - worst - penalty * jax.nn.relu(-best)
  loss = ops.weighted_mean(jax.nn.softplus(-beta * margin), weight)
  return loss, preference.pair_metrics(margin, weight)


def token_dpo(outputs, batch, *, beta=0.1, alpha=0.5):
  """DPO and the sequence KL (after Zeng et al. 2024), here the policy's."""
  ratios = preference.log_ratios(outputs.logps, batch)
  kls = ops.masked_sum(outputs.kls, batch.mask)
  margin, weight = preference.best_minus_worst(ratios + alpha * kls, batch)
  loss = ops.weighted_mean(jax.nn.softplus(-beta * margin), weight)
  return loss, preference.pair_metrics(margin, weight)


def actor_critic(outputs, batch, *, value_coef=0.5):
  """The reward less the critic's value, at every token (Mnih et al. 2016)."""
  values = jnp.where(batch.mask, outputs.values.astype(jnp.float32), 0)
  logps = jnp.where(batch.mask, outputs.logps, 0)
  errors = batch.rewards[:, None] - values
  losses = -jax.lax.stop_gradient(errors) * logps
  losses = losses + value_coef * jnp.square(errors)
  return ops.token_mean(losses, batch.mask), {
    'weight': batch.mask.sum().astype(jnp.float32),
    'reward': batch.rewards.mean(),
  }


ROWS = {
  'dpop': Loss(dpop, 'Pal et al. 2024, arXiv 2402.13228'),
  'token_dpo': Loss(
    token_dpo, 'Zeng et al. 2024, arXiv 2404.11999', needs=('logps', 'kls')
  ),
  'actor_critic': Loss(
    actor_critic,
    'Mnih et al. 2016',
    needs=('logps', 'values'),
    rows='single',
    rewards='absolute',
    reference=False,
  ),
}


def dpop_oracle(x, b, beta=0.1, penalty=5.0):
  def loss(y, z):
    h = lambda row: oracles.log_ratio(x, b, row)
    margin = h(y) - h(z) - penalty * max(0.0, -h(y))
    return -oracles.log_sigmoid(beta * margin)

  return oracles.over_pairs(loss, b)


def token_dpo_oracle(x, b, beta=0.1, alpha=0.5):
  def h(row):
    kl = sum(x.kls[row, t] for t in oracles.steps(b, row))
    return oracles.log_ratio(x, b, row) + alpha * kl

  loss = lambda y, z: -oracles.log_sigmoid(beta * (h(y) - h(z)))
  return oracles.over_pairs(loss, b)


def actor_critic_oracle(x, b, value_coef=0.5):
  losses = []
  for row, t in oracles.all_steps(b):
    gain = (b.rewards[row] - b.at.values[row, t]) * x.logps[row, t]
    error = b.rewards[row] - x.values[row, t]
    losses.append(value_coef * error**2 - gain)
  return np.mean(losses)


ORACLES = {
  'dpop': dpop_oracle,
  'token_dpo': token_dpo_oracle,
  'actor_critic': actor_critic_oracle,
}
every_row = pytest.mark.parametrize('name', ROWS)


@pytest.fixture(autouse=True)
def planted():
  with mock.patch.dict(LOSSES, ROWS), mock.patch.dict(oracles.ORACLES, ORACLES):
    yield


CFG = common.as_dict(toy.get_config())


def run_of(name, **fields):
  arm = dict(loss=name, loss_kwargs={}, group_size=3, kl_budget=0.0)
  return sweep.sweep({**CFG, 'arms': {'new': {**arm, **fields}}})[0]


def check_run(run):
  checks.check_run(run, groups.shared(CFG))


@every_row
def test_it_is_small(name):
  function = inspect.getsource(ROWS[name].function)
  assert function.count('\n') <= 16  # 2 blank lines and a row of 7 make 25


@pytest.mark.parametrize('check', LAWS, ids=lambda f: f.__name__[6:])
@every_row
def test_the_laws_accept_it(check, name):
  for case in filter(check.is_about, cases_of(name)):
    check(case)


@every_row
def test_a_run_trains_with_it(name, config, params, ref_params, batch):
  """With the state and the outputs that its row asks for."""
  run = run_of(name)
  check_run(run)
  task = types.SimpleNamespace(model=config)
  stage = Stage(None, 0, task, params, *[None] * 5)
  state = start_of(stage, run)
  assert ('critic' in state.params) == (name == 'actor_critic')
  state = state.replace(anchors={'ref': ref_params})
  forward, reads = forwards.forward_of(
    config, needs_of(run.loss), run.teacher, run.lora
  )
  tx = steps.optimizer(run.optimizer, run.schedule.steps, config)
  train_step = steps.train_step_of(
    forward, run.loss, tx, state, run.updates, reads
  )
  hparams = steps.numbers(run.loss, run.optimizer)
  batch = batch.replace(
    rewards=jnp.arange(12.0) / 12, ref_logps=batch.sampler_logps - 0.1
  )
  before = jax.tree.map(np.asarray, state.params)
  state, metrics = train_step(state, batch, hparams)
  assert np.isfinite(metrics['loss'])
  moved = lambda x, y: bool((np.asarray(x) != np.asarray(y)).any())
  assert moved(state.params['embed'], before['embed'])
  if 'critic' in before:  # its head is zero, so that nothing else moves yet
    assert moved(state.params['critic']['head'], before['critic']['head'])


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('dpop', dict(group_size=1), 'compares completions of one prompt'),
    ('token_dpo', dict(source='hybrid'), "no rows of source 'hybrid'"),
    ('dpop', dict(loss_kwargs=dict(gamma=1.0)), "parameters of 'dpop'"),
  ],
)
def test_a_wrong_run_of_it_is_refused(name, fields, message):
  with pytest.raises(ValueError, match=message):
    check_run(run_of(name, **fields))


@pytest.mark.parametrize(
  ('needs', 'message'),
  [
    (('kls_to_teacher',), 'teacher_of must name'),
    (('scores',), 'trains reward models'),
    (('kls', 'values'), r"needs \['kls', 'values'\], expected one of"),
  ],
)
def test_needs_that_a_run_does_not_meet_are_refused(needs, message):
  with mock.patch.dict(LOSSES, dpop=Loss(dpop, '', needs=needs)):
    with pytest.raises(ValueError, match=message):
      check_run(run_of('dpop'))


# --- What the laws say of a wrong one -----------------------------------------


def idle(logps, batch, *, beta=0.1, alpha=0.0):
  return preference.dpo(logps, batch, beta=beta)


def idle_oracle(x, b, beta=0.1, alpha=0.0):
  return oracles.dpo(x, b, beta)


def scaled(logps, batch, *, beta=0.1):
  return preference.dpo(logps, batch, beta=1.01 * beta)


def no_kls(outputs, batch, *, beta=0.1):
  return preference.dpo(outputs.logps, batch, beta=beta)


LAW = {check.__name__: check for check in LAWS}


def told(law, function, oracle=None, **row):
  """What a law says of a loss named 'new'."""
  known = {'new': oracle} if oracle else {}
  with (
    mock.patch.dict(LOSSES, new=Loss(function, '', **row)),
    mock.patch.dict(oracles.ORACLES, known),
    pytest.raises(AssertionError) as error,
  ):
    LAW[law](Case('new'))
  return str(error.value)


def test_a_missing_oracle_is_asked_for():
  said = told('check_formula', idle)
  assert "'new' has no oracle: tests/oracles.py must hold" in said


def test_a_failure_names_loss_hyper_parameter_and_law():
  said = told('check_hparams', idle, idle_oracle)
  assert said.startswith('new breaks the law that hyper-parameters have')
  assert "'alpha': new and new-alpha=0.05 are the same" in said
  said = told('check_formula', scaled, oracles.dpo)
  assert said.startswith('new breaks the law that its value is that of its')


def test_a_row_that_says_too_much_or_too_little_is_seen():
  said = told('check_reference', idle, idle_oracle, reference=False)
  assert 'meets the reference if and only if its row says so' in said
  said = told('check_needs', no_kls, needs=('logps', 'kls'))
  assert 'kls has no effect' in said


def test_one_batch_alone_would_refuse_dpop():
  """Its penalty acts where the best row lies below the reference."""
  laws = inspect.getmodule(LAW['check_hparams'])
  with mock.patch.object(laws, 'BATCHES', (0,)):
    with pytest.raises(AssertionError, match="'penalty': dpop and"):
      LAW['check_hparams'](Case('dpop'))
