"""Laws of a loss: its formula, its row, its numbers and signatures.

A law is a function `check_*(case)` that raises AssertionError.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from loss_cases import (
  BATCHES,
  Case,
  all_close,
  cases_of,
  close,
  everything,
  example,
  gradient,
  largest,
  prepare,
  same,
  value,
  variants,
)

from align_jax import losses


def law(says, of=lambda row: True, once=False):
  """Makes a law, whose failures name the loss and its hyper-parameters.

  Args:
    says: the end of the sentence 'the law that ...'.
    of: row -> whether the law is about it.
    once: about a name, whatever its hyper-parameters.
  """

  def make(check):
    @functools.wraps(check)
    def named(case):
      try:
        check(case)
      except AssertionError as error:
        told = ' '.join(str(error).split())
        raise AssertionError(
          f'{case} breaks the law that {says}: {told}'
        ) from error

    plain = lambda case: case == Case(case.name)
    named.is_about = lambda case: of(case.row) and (plain(case) or not once)
    return named

  return make


def laws_in(module):
  return [x for x in vars(module).values() if hasattr(x, 'is_about')]


def prepares(row):
  return row.prepare is not None


# --- The formulas -------------------------------------------------------------


def oracle(case):
  if case.name not in oracles.ORACLES:
    raise AssertionError(
      f'{case.name!r} has no oracle: tests/oracles.py must hold its formula, '
      f'(x, b, **hparams) -> loss, with hparams {list(case.settings)}'
    )
  return functools.partial(oracles.ORACLES[case.name], **case.hparams)


def in_float64(outputs, old, batch):
  return oracles.double(outputs), oracles.data(batch, outputs, old)


@law('an oracle has the same hyper-parameters', once=True)
def check_oracle(case):
  parameters = inspect.signature(oracle(case)).parameters.values()
  defaults = {p.name: p.default for p in parameters if p.name not in 'xb'}
  assert defaults == case.settings, f'{defaults}, expected {case.settings}'


@law('its value is that of its oracle')
def check_formula(case):
  """The loss in float64, loop by loop."""
  for which in BATCHES:
    args = example(case, which)
    want = oracle(case)(*in_float64(*args))
    what = f'{case}, batch {which}'
    close(value(case, *args)[0], want, rtol=2e-5, what=what)


@law('its gradient is the derivative of its oracle')
def check_gradient(case):
  """In random directions."""
  for which in BATCHES:
    args = example(case, which)
    got = oracles.double(gradient(case, *args))
    x, b = in_float64(*args)
    rng = np.random.default_rng(3)
    for _ in range(4):
      towards = jax.tree.map(lambda a: rng.normal(size=a.shape), x)
      at = lambda h: jax.tree.map(lambda a, d: a + h * d, x, towards)
      f = lambda h: oracle(case)(at(h), b)
      want = (f(1e-5) - f(-1e-5)) / 2e-5
      dot = jax.tree.map(lambda g, d: (g * d).sum(), got, towards)
      dot = sum(jax.tree.leaves(dot))
      close(dot, want, rtol=1e-4, atol=1e-5, what=f'batch {which}')


def tells_apart(one, two, which):
  """Whether a batch shows that two cases differ."""
  # A score function may have one value and two gradients.
  return any(
    not same(*(f(case, *example(case, which)) for case in (one, two)))
    for f in (value, gradient)
  )


@law('hyper-parameters have the effect that they have on its oracle', once=True)
def check_hparams(case):
  for hparam, (plain, changed) in variants(case.name):
    check_formula.__wrapped__(changed)
    seen = any(tells_apart(plain, changed, which) for which in BATCHES)
    assert seen, f'{hparam!r}: {plain} and {changed} are the same'


@law('some ratios are clipped, else the formula is compared where it is simple')
def check_clipping(case):
  if not {'clip', 'clip_high', 'threshold'} & case.settings.keys():
    return
  _, metrics = value(case, *example(case))
  assert 0 < metrics['clipped'] < 1, f'clipped: {metrics["clipped"]}'


# --- What the row says --------------------------------------------------------


@law('it reads all that its row says it needs')
def check_needs(case):
  outputs, old, batch = example(case)
  want = everything(case, outputs, old, batch)
  several = len(case.needs) > 1
  for need in case.needs:
    more = lambda x: 1.1 * x
    if several:
      other = outputs.replace(**{need: more(getattr(outputs, need))})
    else:
      other = more(outputs)
    got = everything(case, other, old, batch)
    assert not same(got, want), f'{need} has no effect'


@law('it meets the reference if and only if its row says so', once=True)
def check_reference(case):
  def meets(case):
    outputs, old, batch = example(case)
    elsewhere = batch.replace(ref_logps=0.5 * batch.ref_logps)
    one, two = (everything(case, outputs, old, b) for b in (batch, elsewhere))
    return 'kls' in case.needs or not same(one, two)

  got = any(meets(case) for case in cases_of(case.name))
  assert got == case.row.reference, f'it meets it: {got}'


def reads_weights(row):
  return row.weighted


@law('weights count, and those of 1 change nothing', reads_weights, once=True)
def check_weights(case):
  """That no other loss reads them is seen by its formula."""
  outputs, old, batch = example(case, 1)
  want = everything(case, outputs, old, batch.replace(weights=None))
  got = everything(case, outputs, old, batch)
  assert not same(got[1], want[1]), 'they do not count'
  ones = batch.replace(weights=jnp.ones(batch.mask.shape))
  got = everything(case, outputs, old, ones)
  assert got[0][1].pop('importance') == 1
  assert same(got, want), 'weights of 1 have an effect'


@law('the metrics are what a run carries to its next step', once=True)
def check_carried(case):
  _, metrics = value(case, *example(case))
  missing = set(case.row.carries) - set(metrics)
  assert not missing, f'{missing} are no metrics'


# --- Numbers and signatures ---------------------------------------------------


def traced(hparams):
  return {k: v for k, v in hparams.items() if not isinstance(v, str)}


@law('compiled it is the same, its numbers traced')
def check_jit(case):
  """As in a train step."""
  outputs, old, batch = example(case)
  batch = prepare(case, old, batch)
  named = {k: v for k, v in case.settings.items() if isinstance(v, str)}
  f = functools.partial(case.row, **named)
  got = jax.jit(f)(outputs, batch, **traced(case.settings))
  all_close(got, case.row(outputs, batch, **case.hparams))


@law('bfloat16 outputs are rounded once')
def check_bfloat16(case):
  """Within 2^-7 of the loss, and 2^-6 of the gradient's largest entry."""
  outputs, old, batch = example(case)
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), outputs)
  assert not same(low, outputs)
  again = jax.tree.map(lambda x: x.astype(jnp.float32), low)
  got, want = (value(case, x, old, batch)[0] for x in (low, again))
  close(np.float32(got), want, rtol=2**-7)
  got, want = (gradient(case, x, old, batch) for x in (low, again))
  bound = 2**-6 * largest(want)
  assert bound > 0, 'there is no gradient'
  upcast = jax.tree.map(lambda x: x.astype(jnp.float32), got)
  all_close(upcast, want, rtol=0, atol=bound)


@law('unknown hyper-parameters are refused', once=True)
def check_unknown_hparams(case):
  for f in filter(None, (case.row, case.row.prepare)):
    kinds = [p.kind for p in inspect.signature(f).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD not in kinds, '**hparams take any'
    with pytest.raises(TypeError, match='no_such_hparam'):
      f(*example(case)[::2], no_such_hparam=1)


@law('its preparation has hyper-parameters of the loss', prepares, once=True)
def check_prepared_hparams(case):
  ours = losses.hparams_of(case.row.prepare)
  assert ours.items() <= case.settings.items(), f'{ours}'


@law('its preparation is of rows', prepares, once=True)
def check_prepared_rows(case):
  """Arrays [B, ...] that a microbatch can take its part of."""
  _, old, batch = example(case)
  ready = prepare(case, old, batch).prepared
  assert ready, 'nothing is prepared'
  for name, x in ready.items():
    assert len(x) == len(batch.rewards), f'{name}: {x.shape}'
