"""The KL terms that policy gradients choose from, each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from loss_cases import T, all_close, all_equal, close, kl_example, over_tokens

from align_jax.losses import kl as kl_lib
from align_jax.losses import surrogate
from align_jax.losses.kl import BIASED, EXACT, KL_TERMS, penalty_of

every_kl = pytest.mark.parametrize('kl', KL_TERMS)


def kl_parts(term, outputs, batch):
  """-> (reward, loss), gradients of their sums."""
  parts = term(outputs, batch)
  grads = jax.jacrev(lambda x: jnp.stack([p.sum() for p in term(x, batch)]))
  return tuple(parts), grads(outputs)


def check_formula(kl, term):
  outputs, batch = kl_example(kl)
  parts, grads = kl_parts(term, outputs, batch)
  x, b = oracles.double(outputs), oracles.data(batch, outputs, outputs)
  f = lambda x, row, t: np.array(oracles.KL_TERMS[kl](x, b, row, t))
  for row, t in oracles.all_steps(b):
    close([p[row, t] for p in parts], f(x, row, t), rtol=2e-5)
  rng = np.random.default_rng(3)
  towards = jax.tree.map(lambda a: rng.normal(size=a.shape), x)
  at = lambda h: jax.tree.map(lambda a, d: a + h * d, x, towards)
  total = lambda h: sum(f(at(h), *where) for where in oracles.all_steps(b))
  dots = jax.tree.map(
    lambda g, d: (np.asarray(g, np.float64) * d).sum((1, 2)), grads, towards
  )
  got = sum(jax.tree.leaves(dots))
  assert got[0] == 0, f'{kl}: its reward has a gradient, {got[0]}'
  close(got, (total(1e-5) - total(-1e-5)) / 2e-5, rtol=1e-4, atol=1e-5)


def check_mask(kl, term):
  outputs, batch = kl_example(kl)
  want = kl_parts(term, outputs, batch)
  for junk in (jnp.nan, jnp.inf, -jnp.inf):
    fill = lambda x: jnp.where(batch.mask, x, junk)
    got = kl_parts(term, *over_tokens(fill, outputs, batch))
    all_equal(got, want)
  for x in jax.tree.leaves(want):
    assert (jnp.where(batch.mask, 0, x) == 0).all(), f'{kl}: not 0 outside'


def check_padding(kl, term):
  outputs, batch = kl_example(kl)
  rng = np.random.default_rng(5)
  junk = lambda x: jnp.asarray(rng.normal(size=(len(x), 3)), x.dtype)
  wider = lambda x: jnp.concatenate([x, junk(x)], 1)
  wide_outputs, wide = over_tokens(wider, outputs, batch)
  wide = wide.replace(mask=jnp.pad(batch.mask, ((0, 0), (0, 3))))
  got = term(wide_outputs, wide)
  all_close([x[:, :T] for x in got], [*term(outputs, batch)])
  assert all((x[:, T:] == 0).all() for x in got), f'{kl}: not 0 on padding'


@every_kl
def test_equals_the_formula(kl):
  check_formula(kl, KL_TERMS[kl])


@every_kl
def test_nothing_enters_from_outside_the_mask(kl):
  check_mask(kl, KL_TERMS[kl])


@every_kl
def test_padding_columns_change_nothing(kl):
  check_padding(kl, KL_TERMS[kl])


def test_names():
  assert set(oracles.KL_TERMS) == set(KL_TERMS)
  assert set(BIASED) <= set(KL_TERMS) and EXACT <= set(KL_TERMS)


@pytest.mark.parametrize('kl', sorted(EXACT))
def test_an_exact_term_asks_for_kls(kl):
  outputs, batch = kl_example('reward_k1')
  assert outputs.kls is None
  with pytest.raises(ValueError, match='kls'):
    KL_TERMS[kl](outputs, batch)


@pytest.mark.parametrize('far', [-200.0, 200.0, 1e4])
@pytest.mark.parametrize('advantage', [1.5, -1.5, 0.0])
def test_a_clipped_weight_may_be_beyond_float32(far, advantage):
  """Only a negative advantage has a loss that grows with the weight."""
  f = lambda x: surrogate.clipped(x, jnp.float32(advantage), 0.2, 0.3)
  loss, slope = jax.value_and_grad(lambda x: f(x)[0])(jnp.float32(far))
  if far > 0 > advantage:
    assert loss == jnp.inf
    return
  bound = 1.3 if far > 0 else 0.8 if advantage < 0 else 0.0
  np.testing.assert_allclose(loss, -bound * advantage, rtol=1e-6, atol=1e-30)
  assert slope == 0 or advantage > 0 > far and abs(slope) < 1e-30
  assert f(jnp.float32(far))[1] == (far > 0 < advantage or far < 0 > advantage)


@pytest.mark.parametrize('log_weight', [-0.3, 0.0, 0.7])
@pytest.mark.parametrize('x', [-200.0, -1.5, -1e-3, 0.0, 1e-3, 0.99, 1.01, 5.0])
def test_a_weighted_k3_is_the_product(log_weight, x):
  exact = np.exp(log_weight) * (np.expm1(x) - x)
  slopes = exact, np.exp(log_weight) * np.expm1(x)
  f = jax.value_and_grad(kl_lib._weighted_k3, (0, 1))
  value, found = f(jnp.float32(log_weight), jnp.float32(x))
  # As accurate as k3 itself, whose terms cancel near 0.
  np.testing.assert_allclose(value, exact, rtol=1e-3, atol=1e-10)
  np.testing.assert_allclose(found, slopes, rtol=1e-3, atol=1e-6)


def test_a_weighted_k3_is_finite_where_the_product_is():
  """k3 alone is beyond float32, and the weight below it."""
  f = jax.value_and_grad(kl_lib._weighted_k3, (0, 1))
  value, slopes = f(jnp.float32(-200.0), jnp.float32(200.0))
  np.testing.assert_allclose([value, *slopes], 1, rtol=1e-5)


@pytest.mark.parametrize('kl', KL_TERMS)
@pytest.mark.parametrize('far', [200.0, -200.0])
def test_a_term_without_a_price_is_nothing(kl, far):
  """However far the policy has gone: 0 * inf is no 0."""
  outputs, batch = kl_example(kl)
  batch = batch.replace(
    ref_logps=outputs.logps - far, sampler_logps=outputs.logps + 1.0
  )
  if outputs.kls is not None:
    outputs = outputs.replace(kls=jnp.full_like(outputs.kls, jnp.inf))

  def total(outputs, beta):
    return sum(x.sum() for x in penalty_of(kl, outputs, batch, beta))

  value, slopes = jax.jit(jax.value_and_grad(total))(outputs, jnp.float32(0))
  assert value == 0
  assert all((x == 0).all() for x in jax.tree.leaves(slopes))
