"""The laws that every loss keeps; a name in LOSSES is enough to be held.

A law is a function `check_*(case)` that raises AssertionError; test_planted.py
plants errors in copies of the losses and shows that the laws see them.
"""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from align_jax import losses, ops
from align_jax.learn import step
from align_jax.losses import LOSSES, PREPARE, preference
from align_jax.losses.kl import BIASED, EXACT, KL_TERMS
from align_jax.types import Batch, Outputs

P, T, V = 4, 5, 7

# --- What the laws need to know of a name; a plain one needs no entry ---------

# Outputs: token log-probs [B, T] unless listed here.
SCORES = ('binary_cross_entropy', 'bradley_terry', 'preference_model')  # [B]
TOKEN_SCORES = ('verifier',)  # any number, [B, T]
KLS = ('forward_kl', 'reverse_kl')  # never negative, [B, T]
VALUES = ('ppo',)  # `Outputs` with values

# Rows of a prompt: a pair of the policy and its opponent, else three.
GROUP_SIZE = {'nash_md': 2, 'xpo': 2}

# Judge every row by itself or against the whole batch: one of a prompt will do.
ROWWISE = (
  *('sft', 'forward_kl', 'reverse_kl'),
  *('binary_cross_entropy', 'preference_model', 'verifier'),
  *('reinforce', 'reinforce_mean', 'reinforce_ema', 'reinforce_pp', 'ppo'),
)

# Have no notion of a better row: they imitate.
UNDIRECTED = ('sft', 'forward_kl', 'reverse_kl')

# What to set for equal rewards to say nothing at all; else `beta` is zero
# where there is a reward to weigh it against.
TIED_HPARAMS = {
  'nash_md': {'beta': 0.0},
  'hypo': {'kl_coef': 0.0},  # its KL term asks for no rewards
  'xpo': {'alpha': 0.0},  # nor does its optimism
}
# Labels are tied where neither side is the likelier.
TIED_AT_HALF = ('kto', 'nash_md', 'preference_model')
EQUAL_REWARDS_MATTER = {
  'sft': 'reads no rewards',
  'forward_kl': 'reads no rewards',
  'reverse_kl': 'reads no rewards',
  'binary_cross_entropy': 'the labels of single rows',
  'verifier': 'the labels of single rows',
  'reinforce': 'has no baseline',
  'reinforce_ema': 'its baseline is that of earlier batches',
  'ppo': 'its baseline is the critic',
}

# Values other than `default * 1.3 + 0.05`.
CHOICES = {'kl': KL_TERMS, 'logp_reduction': preference.LOGP_REDUCTIONS}


class Case(NamedTuple):
  """A loss and its hyper-parameters, those left out at their defaults."""

  name: str
  hparams: dict[str, Any] = {}

  def __str__(self):
    return '-'.join([self.name, *(f'{k}={v}' for k, v in self.hparams.items())])

  def but(self, **hparams):
    return Case(self.name, {**self.hparams, **hparams})

  @property
  def settings(self):
    return {**losses.hparams_of(LOSSES[self.name]), **self.hparams}


def cases_of(name):
  """Defaults; and what they hide of the KL, which acts where beta is not 0."""
  settings = Case(name).settings
  yield Case(name)
  if 'kl' in settings:
    yield Case(name, {'beta': 0.05, 'kl': 'exact'})
    if not settings['beta']:
      yield Case(name, {'beta': 0.05})


NAMES = list(LOSSES)
CASES = [case for name in NAMES for case in cases_of(name)]

every = pytest.mark.parametrize('case', CASES, ids=str)
every_name = pytest.mark.parametrize('name', NAMES)
every_kl = pytest.mark.parametrize('kl', KL_TERMS)


def test_the_lists_name_losses():
  lists = SCORES, TOKEN_SCORES, KLS, VALUES, GROUP_SIZE, ROWWISE, UNDIRECTED
  lists += TIED_HPARAMS, TIED_AT_HALF, EQUAL_REWARDS_MATTER
  for names in lists:
    assert set(names) <= set(LOSSES)


# --- Inputs -------------------------------------------------------------------


class Example(NamedTuple):
  outputs: Any  # of the policy as it is now
  old: Any  # of the policy that wrote the rows, for which they were prepared
  batch: Batch  # not prepared


def per_row(case, batch_size, kind):
  """Outputs from noise f64 [B, T]: kind(noise) for each of the arrays."""
  rng = np.random.default_rng(kind)
  f = lambda x: jnp.asarray(x, jnp.float32)
  normal = rng.normal(size=(batch_size, T))
  size = rng.exponential(size=(3, batch_size, T))
  if case.name in SCORES:
    return f(normal[:, 0])
  if case.name in TOKEN_SCORES:
    return f(normal)
  if case.name in KLS:
    return f(size[0])
  kls = f(size[1]) if case.settings.get('kl') in EXACT else None
  if case.name in VALUES:
    return Outputs(f(-size[0]), kls, f(normal))
  return f(-size[0]) if kls is None else Outputs(f(-size[0]), kls)


def blend(x, y, share):
  return jax.tree.map(lambda a, b: (1 - share) * a + share * b, x, y)


def make_batch(group_size):
  """Unequal lengths, masks with holes, fractional rewards, one tie."""
  rng = np.random.default_rng(0)
  B = P * group_size
  # The groups' lengths differ, so that their weights do.
  shorter = (np.arange(group_size) == group_size - 1).astype(int)
  lengths = np.repeat([1, 2, 3, 5], group_size) - np.tile(shorter, P)
  valid = np.arange(T) < np.maximum(lengths, 1)[:, None]
  mask = valid.copy()
  mask[-1, 0] = mask[-2, 2] = False
  rewards = rng.permutation(B) / B + 0.03
  rewards[group_size : 2 * group_size] = 0.5
  batch = Batch(
    prompts=rng.integers(0, V, (P, 2)),
    prompt_valid=np.ones((P, 2), bool),
    completions=rng.integers(0, V, (B, T)),
    valid=valid,
    mask=mask,
    rewards=rewards.astype(np.float32),
    ref_logps=-2.5 * rng.exponential(size=(B, T)).astype(np.float32),
    group_size=group_size,
  )
  return jax.tree.map(jnp.asarray, batch)


def logps_of(outputs):
  return outputs.logps if isinstance(outputs, Outputs) else outputs


@functools.cache
def _example(name, with_kls):
  case = Case(name, {'kl': 'exact'} if with_kls else {})
  batch = make_batch(GROUP_SIZE.get(name, 3))
  B = len(batch.rewards)
  old = per_row(case, B, 1)
  outputs = blend(old, per_row(case, B, 2), 0.3)
  if name not in SCORES:
    batch = batch.replace(sampler_logps=logps_of(old))
  return Example(outputs, old, batch)


def example(case):
  return _example(case.name, case.settings.get('kl') in EXACT)


# --- Running a loss -----------------------------------------------------------


def prepare(case, old, batch):
  return losses.prepared(case.name, old, batch, case.settings)


def value(case, outputs, old, batch):
  """-> loss, metrics; `case.hparams` alone are given to the loss."""
  batch = prepare(case, old, batch)
  return LOSSES[case.name](outputs, batch, **case.hparams)


def everything(case, outputs, old, batch):
  """-> (loss, metrics), gradient by the outputs; the prepared is constant."""
  batch = prepare(case, old, batch)
  f = lambda x: LOSSES[case.name](x, batch, **case.hparams)
  return jax.value_and_grad(f, has_aux=True)(outputs)


def gradient(case, outputs, old, batch):
  return everything(case, outputs, old, batch)[1]


def over_tokens(f, outputs, batch, *more):
  """f(array, *more) of all arrays [B, T] of the outputs and of the batch."""
  grid = batch.mask.shape
  names = 'ref_logps', 'sampler_logps'
  fields = {k: getattr(batch, k) for k in names}
  g = lambda x: f(x, *more) if x.shape == grid else x
  return jax.tree.map(g, outputs), batch.replace(**jax.tree.map(g, fields))


def largest(tree):
  return max(jnp.abs(x).max() for x in jax.tree.leaves(tree))


def close(x, y, rtol=1e-5, atol=2e-6):
  np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def all_close(x, y, **tolerance):
  jax.tree.map(functools.partial(close, **tolerance), x, y)


def all_equal(x, y):
  jax.tree.map(np.testing.assert_array_equal, x, y)


# --- The formulas -------------------------------------------------------------


def variants(name):
  """-> (case, the same with another value of one hparam), for each value."""
  for hparam, default in Case(name).settings.items():
    # The KL term shows where its weight is not zero.
    plain = Case(name, {'beta': 0.3} if hparam == 'kl' else {})
    others = [x for x in CHOICES.get(hparam, ()) if x != default]
    for other in others or [default * 1.3 + 0.05]:
      yield plain, plain.but(**{hparam: other})


def check_formula(case):
  """The loss in float64, loop by loop."""
  outputs, old, batch = example(case)
  loss, _ = value(case, outputs, old, batch)
  x, b = oracles.double(outputs), oracles.data(batch, outputs, old)
  close(loss, oracles.ORACLES[case.name](x, b, **case.hparams), rtol=2e-5)


def check_gradient(case):
  """The gradient is the derivative of the formula, in random directions."""
  outputs, old, batch = example(case)
  got = oracles.double(gradient(case, outputs, old, batch))
  x, b = oracles.double(outputs), oracles.data(batch, outputs, old)
  oracle = oracles.ORACLES[case.name]
  rng = np.random.default_rng(3)
  for _ in range(4):
    towards = jax.tree.map(lambda a: rng.normal(size=a.shape), x)
    at = lambda h: jax.tree.map(lambda a, d: a + h * d, x, towards)
    f = lambda h: oracle(at(h), b, **case.hparams)
    want = (f(1e-5) - f(-1e-5)) / 2e-5
    dot = jax.tree.map(lambda g, d: (g * d).sum(), got, towards)
    close(sum(jax.tree.leaves(dot)), want, rtol=1e-4, atol=1e-5)


def test_every_loss_has_an_oracle():
  assert set(oracles.ORACLES) == set(LOSSES)
  for name, oracle in oracles.ORACLES.items():
    parameters = inspect.signature(oracle).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name not in 'xb'}
    assert defaults == Case(name).settings


@every
def test_equals_the_formula(case):
  check_formula(case)


@every_name
def test_equals_the_formula_whatever_the_hparams(name):
  """And none of them is without effect."""
  for plain, case in variants(name):
    check_formula(case)
    one, two = (
      jax.tree.leaves(value(c, *example(case))) for c in (plain, case)
    )
    # A score function may have one value and two gradients.
    if all(x == y for x, y in zip(one, two)):
      one, two = (gradient(c, *example(case)) for c in (plain, case))
      assert largest(jax.tree.map(jnp.subtract, one, two)) > 0


@every
def test_gradient_is_that_of_the_formula(case):
  check_gradient(case)


@pytest.mark.parametrize(
  'case',
  [c for c in CASES if {'clip', 'clip_low'} & c.settings.keys()],
  ids=str,
)
def test_clipping_is_active_on_some(case):
  """Else the formulas would be compared where they are simple."""
  _, metrics = value(case, *example(case))
  assert 0 < metrics['clipped'] < 1


# --- Reductions and masks -----------------------------------------------------


def check_scalar_and_finite(case):
  loss, metrics = value(case, *example(case))
  assert metrics['weight'] > 0
  for x in (loss, *metrics.values()):
    assert jnp.shape(x) == () and jnp.isfinite(x)


def check_mask(case):
  """Nothing enters from outside the mask, NaN and infinities included."""
  outputs, old, batch = example(case)
  want = everything(case, outputs, old, batch)
  for g in jax.tree.leaves(want[1]):
    assert g.shape != batch.mask.shape or (g[~batch.mask] == 0).all()
  assert (logps_of(want[1]) != 0).any()
  for junk in (jnp.nan, jnp.inf, -jnp.inf):
    fill = lambda x: jnp.where(batch.mask, x, junk)
    dirty_outputs, dirty = over_tokens(fill, outputs, batch)
    dirty_old, _ = over_tokens(fill, old, batch)
    all_equal(everything(case, dirty_outputs, dirty_old, dirty), want)


def check_padding(case):
  """More padding columns, full of numbers, change nothing."""
  outputs, old, batch = example(case)
  rng = np.random.default_rng(5)
  # Other numbers in every row and array: nothing may cancel.
  junk = lambda x: jnp.asarray(rng.normal(size=(len(x), 3)), x.dtype)
  wider = lambda x: jnp.concatenate([x, junk(x)], 1)
  wide_outputs, wide = over_tokens(wider, outputs, batch)
  wide_old, _ = over_tokens(wider, old, batch)
  blank = lambda x: jnp.pad(x, ((0, 0), (0, 3)))
  fields = {k: blank(getattr(batch, k)) for k in ('valid', 'mask')}
  wide = wide.replace(**fields, completions=wider(batch.completions))
  got = value(case, wide_outputs, wide_old, wide)
  all_close(got, value(case, outputs, old, batch))


def check_an_empty_row(case):
  """A row without a token, as of a completion left out, is no NaN."""
  outputs, old, batch = example(case)
  mask = batch.mask.at[0].set(False).at[-1].set(False)
  got = everything(case, outputs, old, batch.replace(mask=mask))
  for x in jax.tree.leaves(got):
    assert jnp.isfinite(x).all()


def check_order(case):
  """The order of the groups changes nothing."""
  index = np.array([2, 0, 3, 1])
  outputs, old, batch = example(case)

  def pick(x):
    size = len(x) // P
    return ops.by_group(x, size)[index].reshape(x.shape)

  tree = outputs, old, batch
  shuffled = jax.tree.map(pick, tree)
  assert (shuffled[2].rewards != batch.rewards).any()
  (loss, grads) = everything(case, *tree)
  all_close(everything(case, *shuffled), (loss, jax.tree.map(pick, grads)))


def tabular(case):
  """(params, batch) -> outputs, of a table with numbers per token."""

  def forward(params, batch):
    by_token = lambda x: x[batch.completions]
    logps = by_token(jax.nn.log_softmax(params['policy']))
    if case.name in SCORES:
      return jnp.where(batch.valid, logps, 0).sum(1)
    if case.name in TOKEN_SCORES:
      return by_token(params['policy'])
    if case.name in KLS:
      return jnp.square(by_token(params['policy']))
    kls = values = None
    if case.settings.get('kl') in EXACT:
      kls = jnp.square(by_token(params['policy']))
    if case.name in VALUES:
      values = by_token(params['values'])
    same = kls is None and values is None
    return logps if same else Outputs(logps, kls, values)

  return forward


def tables(seed):
  rng = np.random.default_rng(seed)
  draw = lambda: jnp.asarray(rng.normal(size=V), jnp.float32)
  return {'policy': draw(), 'values': draw()}


def check_microbatches(case, num=P):
  """They recombine to loss, metrics and gradient, whatever their lengths."""
  batch, forward = example(case).batch, tabular(case)
  per_part = batch.mask.reshape(num, -1).sum(1)
  assert len(set(per_part.tolist())) == num
  old, params = tables(2), blend(tables(2), tables(3), 0.3)
  if case.name not in SCORES:
    batch = batch.replace(sampler_logps=logps_of(forward(old, batch)))
  batch = prepare(case, forward(old, batch), batch)
  loss = functools.partial(LOSSES[case.name], **case.hparams)
  whole = step.value_and_grad(forward, loss)(params, batch, {})
  split = jax.jit(step.value_and_grad(forward, loss, num))
  assert largest(whole[1]) > 1e-3
  all_close(split(params, batch, {}), whole)


@every
def test_scalar_and_finite(case):
  check_scalar_and_finite(case)


@every
def test_nothing_enters_from_outside_the_mask(case):
  check_mask(case)


@every
def test_padding_columns_change_nothing(case):
  check_padding(case)


@every
def test_a_row_without_tokens(case):
  check_an_empty_row(case)


@every
def test_order_of_groups_changes_nothing(case):
  check_order(case)


@every
def test_microbatches_recombine(case):
  check_microbatches(case)


# --- Rewards ------------------------------------------------------------------


def check_descent(case):
  """From the reference, the best row rises over the worst of its group."""
  outputs, _, batch = example(case)
  outputs = jax.tree.map(jnp.zeros_like, outputs)
  batch = batch.replace(sampler_logps=batch.ref_logps)
  if case.name == 'kto':  # reads which side of 1/2 a reward is on
    rewards = jnp.tile(jnp.array([0.9, 0.2, 0.5, 0.1, 0.7, 0.5]), P // 2)
    batch = batch.replace(rewards=rewards)
  if case.name not in SCORES + TOKEN_SCORES:
    here = isinstance(outputs, Outputs)
    logps = batch.ref_logps
    outputs = outputs.replace(logps=logps) if here else logps
  if 'lam' in case.settings:
    case = case.but(lam=1.0)  # else short rows weigh more
  uphill = -logps_of(gradient(case, outputs, outputs, batch))
  if uphill.ndim == 2:
    uphill = ops.masked_mean(uphill, batch.mask)
  compared = 0
  for row, reward in zip(uphill.reshape(P, -1), batch.rewards.reshape(P, -1)):
    if case.name in ('hypo', 'kto'):  # the last is not compared
      row, reward = row[:2], reward[:2]
    if case.name == 'nash_md':  # one row plays; its reward is how it fares
      row, reward = row.at[1].set(0), reward.at[1].set(0.5)
    if reward.max() > reward.min():
      compared += 1
      assert row[reward.argmax()] > row[reward.argmin()]
  assert compared >= P - 1


def check_fractional_rewards(case):
  """Rewards that an integer cast would make equal differ, in any dtype."""
  outputs, old, batch = example(case)
  if case.name == 'kto':  # desirable or not: it reads no more than that
    few = jnp.array([0.4, 0.6, 0.6])
  else:
    few = jnp.linspace(0.6, 0.8, batch.group_size)
  for dtype in (jnp.float32, jnp.bfloat16):
    grads = []
    for rewards in (few, few[::-1]):
      rewards = jnp.tile(rewards.astype(dtype), P)
      low, high = (
        gradient(case, outputs, old, batch.replace(rewards=x))
        for x in (rewards, rewards.astype(jnp.float32))
      )
      all_close(low, high, rtol=1e-3, atol=1e-3 * largest(high))
      grads.append(high)
    apart = jax.tree.map(lambda x, y: x - y, *grads)
    assert largest(apart) > 1e-3


def check_equal_rewards(case):
  """No gradient at all, not even what rounding leaves."""
  outputs, old, batch = example(case)
  no_kl = {'beta': 0.0} if 'kl' in case.settings else {}
  case = case.but(**no_kl, **TIED_HPARAMS.get(case.name, {}))
  at_half = case.name in TIED_AT_HALF
  for reward in (0.5,) if at_half else (0.1, 1 / 3, 0.7, -0.9, 123.4):
    tied = batch.replace(rewards=jnp.full(len(batch.rewards), reward))
    (_, metrics), grads = everything(case, outputs, old, tied)
    assert largest(grads) == 0
    assert all(jnp.isfinite(x) for x in metrics.values())


def check_group_of_one(case):
  """Refused by name where rows are compared within a group, else accepted."""
  args = example(case)
  alone = args._replace(batch=args.batch.replace(group_size=1))
  if case.name in ROWWISE:
    loss, _ = value(case, *alone)
    assert jnp.isfinite(loss)
    return
  try:
    value(case, *alone)
  except ValueError as error:
    assert 'group_size' in str(error)
  else:
    raise AssertionError(f'{case.name} took a group of one')


@pytest.mark.parametrize(
  'case', [c for c in CASES if c.name not in UNDIRECTED], ids=str
)
def test_descent_raises_the_best_over_the_worst(case):
  check_descent(case)


@pytest.mark.parametrize(
  'case', [c for c in CASES if c.name not in UNDIRECTED], ids=str
)
def test_fractional_rewards_survive(case):
  check_fractional_rewards(case)


@pytest.mark.parametrize(
  'case', [c for c in CASES if c.name not in EQUAL_REWARDS_MATTER], ids=str
)
def test_equal_rewards_have_no_gradient(case):
  check_equal_rewards(case)


@every_name
def test_a_group_of_one(name):
  check_group_of_one(Case(name))


@pytest.mark.parametrize(
  'name, size', [('nash_md', 3), ('xpo', 3), ('hypo', 2)]
)
def test_a_group_of_another_size_is_refused(name, size):
  batch = make_batch(size)
  with pytest.raises(ValueError, match=f'group_size {size}'):
    LOSSES[name](batch.ref_logps, batch)


# --- Numbers and signatures ---------------------------------------------------


def traced(hparams):
  return {k: v for k, v in hparams.items() if not isinstance(v, str)}


def check_jit(case):
  """Compiled it is the same, its numbers traced, as in a train step."""
  outputs, old, batch = example(case)
  batch = prepare(case, old, batch)
  named = {k: v for k, v in case.settings.items() if isinstance(v, str)}
  f = functools.partial(LOSSES[case.name], **named)
  got = jax.jit(f)(outputs, batch, **traced(case.settings))
  all_close(got, LOSSES[case.name](outputs, batch, **case.hparams))


def check_bfloat16(case):
  """Within 2^-7 of the loss, and 2^-6 of the gradient's largest entry."""
  outputs, old, batch = example(case)
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), outputs)
  assert any(
    (x != y).any() for x, y in zip(*map(jax.tree.leaves, (low, outputs)))
  )
  same = jax.tree.map(lambda x: x.astype(jnp.float32), low)
  got, want = (value(case, x, old, batch)[0] for x in (low, same))
  close(np.float32(got), want, rtol=2**-7)
  got, want = (gradient(case, x, old, batch) for x in (low, same))
  bound = 2**-6 * largest(want)
  assert bound > 0
  upcast = jax.tree.map(lambda x: x.astype(jnp.float32), got)
  all_close(upcast, want, rtol=0, atol=bound)


@every
def test_jit_changes_nothing(case):
  check_jit(case)


@every
def test_bfloat16_outputs(case):
  check_bfloat16(case)


@every_name
def test_unknown_hparams_are_refused(name):
  for f in (LOSSES[name], PREPARE.get(name, LOSSES[name])):
    kinds = [p.kind for p in inspect.signature(f).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match='no_such_hparam'):
      f(*example(Case(name))[::2], no_such_hparam=1)


@pytest.mark.parametrize('name', PREPARE)
def test_preparation_shares_the_hparams(name):
  ours = losses.hparams_of(PREPARE[name])
  assert ours.items() <= losses.hparams_of(LOSSES[name]).items()


@every_name
def test_preparation_is_of_rows(name):
  """Arrays [B, ...] that a microbatch can take its part of."""
  outputs, old, batch = example(Case(name))
  ready = prepare(Case(name), old, batch).prepared
  assert bool(ready) == (name in PREPARE)
  assert all(len(x) == len(batch.rewards) for x in ready.values())


# --- KL terms -----------------------------------------------------------------


def kl_example(kl):
  """Outputs and batch; the outputs have `kls` where the term needs them."""
  outputs, _, batch = example(Case('ppo', {'kl': kl}))
  return outputs, batch


def kl_parts(term, outputs, batch):
  """-> (reward, loss), gradients of their sums."""
  parts = term(outputs, batch)
  grads = jax.jacrev(lambda x: jnp.stack([p.sum() for p in term(x, batch)]))
  return tuple(parts), grads(outputs)


def check_kl_formula(kl, term):
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
  assert got[0] == 0  # a reward is a number
  close(got, (total(1e-5) - total(-1e-5)) / 2e-5, rtol=1e-4, atol=1e-5)


def check_kl_mask(kl, term):
  outputs, batch = kl_example(kl)
  want = kl_parts(term, outputs, batch)
  for junk in (jnp.nan, jnp.inf, -jnp.inf):
    fill = lambda x: jnp.where(batch.mask, x, junk)
    got = kl_parts(term, *over_tokens(fill, outputs, batch))
    all_equal(got, want)
  for x in jax.tree.leaves(want):
    assert (jnp.where(batch.mask, 0, x) == 0).all()


def check_kl_padding(kl, term):
  outputs, batch = kl_example(kl)
  rng = np.random.default_rng(5)
  junk = lambda x: jnp.asarray(rng.normal(size=(len(x), 3)), x.dtype)
  wider = lambda x: jnp.concatenate([x, junk(x)], 1)
  wide_outputs, wide = over_tokens(wider, outputs, batch)
  wide = wide.replace(mask=jnp.pad(batch.mask, ((0, 0), (0, 3))))
  got = term(wide_outputs, wide)
  all_close([x[:, :T] for x in got], [*term(outputs, batch)])
  assert all((x[:, T:] == 0).all() for x in got)


@every_kl
def test_kl_term_equals_the_formula(kl):
  check_kl_formula(kl, KL_TERMS[kl])


@every_kl
def test_nothing_enters_a_kl_term_from_outside_the_mask(kl):
  check_kl_mask(kl, KL_TERMS[kl])


@every_kl
def test_padding_columns_do_not_change_a_kl_term(kl):
  check_kl_padding(kl, KL_TERMS[kl])


def test_kl_names():
  assert set(oracles.KL_TERMS) == set(KL_TERMS)
  assert set(BIASED) <= set(KL_TERMS) and EXACT <= set(KL_TERMS)
  for kl, term in KL_TERMS.items():
    outputs, batch = kl_example('reward_k1')
    assert outputs.kls is None
    if kl in EXACT:
      with pytest.raises(ValueError, match='kls'):
        term(outputs, batch)
