"""The KL terms that policy gradients choose from, each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from loss_cases import T, all_close, all_equal, close, kl_example, over_tokens

from align_jax.losses.kl import BIASED, EXACT, KL_TERMS

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
