"""Errors that others have made, planted in copies: the laws see every one.

A law first holds for the code as it is, so that it is the error it sees.
"""

import dataclasses
import inspect
import types
from unittest import mock

import batch_laws
import jax
import jax.numpy as jnp
import loss_laws
import numpy as np
import pytest
import test_kl_terms
from conftest import EOS_ID
from loss_cases import Case, close, make_batch

from align_jax import ops
from align_jax.losses import LOSSES, advantages, policy_gradient, surrogate
from align_jax.losses.kl import KL_TERMS, Penalty, log_weights
from align_jax.types import Outputs


def copy(f, **names):
  """A copy of the function to which these globals are something else."""
  twin = types.FunctionType(
    f.__code__,
    {**f.__globals__, **names},
    f.__name__,
    f.__defaults__,
    f.__closure__,
  )
  twin.__kwdefaults__ = f.__kwdefaults__
  return twin


def but(module, **names):
  """A copy of the module with these names meaning something else."""
  return types.SimpleNamespace(**{**vars(module), **names})


def planted(name, **fields):
  """LOSSES with other fields in the row of that name."""
  row = dataclasses.replace(LOSSES[name], **fields)
  return mock.patch.dict(LOSSES, {name: row})


def seen_by(check, case, **error):
  """The law holds for the loss, and not for the one with the error."""
  check(case)
  with planted(case.name, **error), pytest.raises(AssertionError):
    check(case)


def missed_by(check, case, **error):
  """This law alone would not do."""
  with planted(case.name, **error):
    check(case)


# --- Rewards ------------------------------------------------------------------


def last_slot(mask):
  return jnp.where(mask, jnp.arange(mask.shape[1]), -1).max(1)


def into_tokens_dtype(rewards, mask):
  """Scattered into zeros like the completions: 0.7 becomes 0."""
  zeros = jnp.zeros(mask.shape, jnp.int32)
  where = jnp.arange(len(mask)), last_slot(mask)
  return zeros.at[where].add(rewards.astype(zeros.dtype))


def into_last_column(rewards, mask):
  return jnp.zeros(mask.shape).at[:, -1].set(rewards)


def before_the_last(rewards, mask):
  where = jnp.arange(len(mask)), jnp.maximum(last_slot(mask) - 1, 0)
  return jnp.zeros(mask.shape).at[where].set(rewards)


@pytest.mark.parametrize('name', ['ppo', 'reinforce_pp'])
def test_rewards_as_integers(name):
  prepare = copy(
    LOSSES[name].prepare, adv=but(advantages, at_last_token=into_tokens_dtype)
  )
  for check in (batch_laws.check_fractional_rewards, loss_laws.check_formula):
    seen_by(check, Case(name), prepare=prepare)


@pytest.mark.parametrize('name', ['rloo', 'grpo'])
def test_integer_rewards_of_a_row(name):
  rewards = surrogate.paid

  def truncated(out, batch, *args):
    return rewards(out, batch.replace(rewards=batch.rewards // 1), *args)

  loss = copy(LOSSES[name].function, paid=truncated)
  seen_by(batch_laws.check_fractional_rewards, Case(name), function=loss)


@pytest.mark.parametrize('name', ['ppo', 'reinforce_pp'])
@pytest.mark.parametrize('place', [into_last_column, before_the_last])
def test_reward_at_another_token(name, place):
  prepare = copy(LOSSES[name].prepare, adv=but(advantages, at_last_token=place))
  seen_by(loss_laws.check_formula, Case(name), prepare=prepare)


# --- KL -----------------------------------------------------------------------


def categorical_gradients(term):
  """What a KL term expects on policy, and the KL's own, by four logits.

  All four completions of one token are there, each with its probability.
  """
  logits = jnp.array([0.3, -1.2, 0.9, 0.1])
  ref_logps = jax.nn.log_softmax(jnp.array([1.0, 0.2, -0.7, 0.4]))
  probs, batch = jax.nn.softmax(logits), make_batch(1)
  batch = batch.replace(
    mask=jnp.ones((4, 1), bool),
    ref_logps=ref_logps[:, None],
    sampler_logps=jnp.log(probs)[:, None],
  )

  def expected(logits):
    logps = jax.nn.log_softmax(logits)
    kls = ops.token_kl(logits, ref_logps) * jnp.ones((4, 1))
    penalty = term(Outputs(logps[:, None], kls), batch)
    losses = penalty.reward[:, 0] * logps + penalty.loss[:, 0]
    return probs @ losses

  exact = lambda logits: ops.token_kl(logits, ref_logps)
  return jax.grad(expected)(logits), jax.grad(exact)(logits)


def check_reverse_kl(term):
  got, want = categorical_gradients(term)
  assert jnp.abs(want).max() > 0.1
  close(got, want, atol=1e-6)


@pytest.mark.parametrize('kl', ['reward_k1', 'loss_k2', 'loss_exact', 'exact'])
def test_gradient_of_the_reverse_kl(kl):
  check_reverse_kl(KL_TERMS[kl])


def test_log_ratio_as_a_loss():
  """Its expected gradient is nothing at all."""
  with pytest.raises(AssertionError):
    check_reverse_kl(KL_TERMS['loss_k1'])
  close(categorical_gradients(KL_TERMS['loss_k1'])[0], 0, atol=1e-7)


def test_k3_as_a_loss_for_the_reverse_kl():
  """Its expected gradient is that of the forward KL."""
  with pytest.raises(AssertionError):
    check_reverse_kl(KL_TERMS['loss_k3'])
  probs = jax.nn.softmax(jnp.array([0.3, -1.2, 0.9, 0.1]))
  ref_probs = jax.nn.softmax(jnp.array([1.0, 0.2, -0.7, 0.4]))
  got, _ = categorical_gradients(KL_TERMS['loss_k3'])
  close(got, probs - ref_probs, atol=1e-6)


@pytest.mark.parametrize('kl', ['loss_k2', 'loss_k3'])
def test_mask_behind_the_estimate(kl):
  """The value is right, but 0 * nan flows back from outside the mask."""
  estimator = {'loss_k2': ops.k2, 'loss_k3': ops.k3}[kl]

  def term(outputs, batch):
    values = estimator(outputs.logps, batch.ref_logps)
    values = jnp.where(batch.mask, values, 0)
    return Penalty(jnp.zeros_like(values), values)

  test_kl_terms.check_formula(kl, term)
  test_kl_terms.check_mask(kl, KL_TERMS[kl])
  with pytest.raises(AssertionError):
    test_kl_terms.check_mask(kl, term)


def test_kl_over_padding():
  """The log-ratio summed over all columns."""

  def rewards(out, batch, beta, kl):
    ratios = (out.logps - batch.ref_logps).sum(1)
    return batch.rewards - beta * ratios, jnp.zeros(batch.mask.shape)

  loss = copy(LOSSES['rloo'].function, paid=rewards)
  for check in (
    batch_laws.check_mask,
    batch_laws.check_padding,
    loss_laws.check_formula,
  ):
    seen_by(check, Case('rloo'), function=loss)


def test_gradient_through_the_advantages():
  """The value is the same: only the gradient tells."""
  identity = but(jax.lax, stop_gradient=lambda x: x)
  reinforce = copy(policy_gradient._reinforce, jax=but(jax, lax=identity))

  def rewards(out, batch, beta, kl):
    ratios = jnp.where(batch.mask, out.logps - batch.ref_logps, 0)
    price = beta * ratios.sum(1)
    return batch.rewards - price, jnp.zeros_like(ratios)

  loss = copy(LOSSES['rloo'].function, _reinforce=reinforce, paid=rewards)
  missed_by(loss_laws.check_formula, Case('rloo'), function=loss)
  seen_by(loss_laws.check_gradient, Case('rloo'), function=loss)


# --- Reductions ---------------------------------------------------------------


@pytest.mark.parametrize('how', ['sum', 'mean'])
def test_ipo_with_the_other_reduction(how):
  swapped = {'sum': ops.masked_mean, 'mean': ops.masked_sum}
  loss = copy(LOSSES['ipo'].function, LOGP_REDUCTIONS=swapped)
  case = Case('ipo', {'logp_reduction': how})
  seen_by(loss_laws.check_formula, case, function=loss)


@pytest.mark.parametrize('name', ['dapo', 'reinforce_pp'])
def test_token_mean_weighed_by_rows(name):
  """Right on a whole batch, wrong as soon as gradients are accumulated."""

  def per_token(x, batch):
    loss, _ = surrogate.per_token(x, batch)
    return loss, jnp.float32(len(x))

  loss = copy(LOSSES[name].function, per_token=per_token)
  missed_by(loss_laws.check_formula, Case(name), function=loss)
  missed_by(loss_laws.check_gradient, Case(name), function=loss)
  seen_by(batch_laws.check_microbatches, Case(name), function=loss)


def test_row_mean_for_token_mean():
  per_row = surrogate.per_sequence_mean
  loss = copy(LOSSES['dapo'].function, per_token=per_row)
  seen_by(loss_laws.check_formula, Case('dapo'), function=loss)


@pytest.mark.parametrize('name', ['reinforce_mean', 'reinforce_pp', 'kto'])
def test_statistics_of_a_part_of_the_batch(name):
  """Prepared for every microbatch alone."""
  plain, prepare = LOSSES[name].function, LOSSES[name].prepare

  def loss(outputs, batch, **hparams):
    batch = batch.replace(prepared=prepare(outputs, batch))
    return plain(outputs, batch, **hparams)

  loss.__signature__ = inspect.signature(plain)
  seen_by(batch_laws.check_microbatches, Case(name), function=loss)


# --- Group statistics ---------------------------------------------------------


def unguarded(rewards, group_size, ddof=1):
  """Of equal rewards it makes 0 / 0."""
  grouped = ops.by_group(rewards, group_size)
  centred = grouped - grouped[:, :1]
  centred = centred - centred.mean(1, keepdims=True)
  deviation = jnp.sqrt(jnp.square(centred).sum(1) / (group_size - ddof))
  return (centred / deviation[:, None]).reshape(-1)


def with_epsilon(rewards, group_size, ddof=1):
  """It divides what rounding left of equal rewards by very little."""
  grouped = ops.by_group(rewards, group_size)
  centred = grouped - grouped.mean(1, keepdims=True)
  deviation = grouped.std(1, ddof=ddof, keepdims=True)
  return (centred / (deviation + 1e-6)).reshape(-1)


def of_one(rewards, group_size, ddof=1):
  """A group of one passes, with no advantage to learn from."""
  if group_size == 1:
    return jnp.zeros_like(rewards)
  return advantages.group_normalised(rewards, group_size, ddof)


def population(rewards, group_size, ddof=1):
  return advantages.group_normalised(rewards, group_size, 0)


@pytest.mark.parametrize('name', ['grpo', 'dapo', 'gspo'])
@pytest.mark.parametrize(
  'error, check',
  [
    (unguarded, batch_laws.check_equal_rewards),
    (unguarded, batch_laws.check_scalar_and_finite),
    (with_epsilon, batch_laws.check_equal_rewards),
    (of_one, batch_laws.check_group_size),
    (population, loss_laws.check_formula),
  ],
)
def test_group_deviation(name, error, check):
  loss = copy(
    LOSSES[name].function, adv=but(advantages, group_normalised=error)
  )
  seen_by(check, Case(name), function=loss)


# --- Between sampler and trainer ----------------------------------------------


def check_the_end_is_learned(batch):
  """SFT reaches the EOS of every row that ended, and nothing behind it."""
  grads = jax.grad(lambda x: LOSSES['sft'](x, batch)[0])(batch.sampler_logps)
  grads, tokens = np.asarray(grads), np.asarray(batch.completions)
  ended = (tokens == EOS_ID).any(1)
  assert 0 < ended.sum() < len(ended)
  for row, first in enumerate((tokens == EOS_ID).argmax(1)):
    length = first + 1 if ended[row] else tokens.shape[1]
    assert (grads[row, :length] != 0).all()
    assert (grads[row, length:] == 0).all()


def test_mask_from_token_ids(batch):
  """Padding has the id of the EOS: with it the EOS is gone."""
  check_the_end_is_learned(batch)
  with pytest.raises(AssertionError):
    check_the_end_is_learned(batch.replace(mask=batch.completions != EOS_ID))


def check_fresh_rows_are_on_policy(logps, batch):
  """No step lies between sampler and trainer: every weight is one."""
  weights = jnp.exp(log_weights(logps, batch))
  close(weights, 1, rtol=1e-4)
  batch = batch.replace(
    ref_logps=logps, rewards=jnp.arange(len(logps)).astype(jnp.float32)
  )
  _, metrics = LOSSES['grpo'](logps, batch, clip=0.01, kl='none')
  assert metrics['clipped'] == 0


def test_trainer_at_another_temperature(params, prompts, sample, token_logps):
  """However rows were drawn, the trainer scores at temperature 1."""
  batch = sample(params, *prompts, jax.random.key(5), 0.7)
  check = check_fresh_rows_are_on_policy
  check(token_logps(params, batch, 1.0), batch)
  with pytest.raises(AssertionError):
    check(token_logps(params, batch, 0.7), batch)
  unaware = batch.replace(policy_logps=None)  # takes the sampler's for them
  with pytest.raises(AssertionError):
    check(token_logps(params, batch, 1.0), unaware)
