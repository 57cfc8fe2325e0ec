"""Laws of a loss: what padding, order, parts and rewards of a batch may do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from loss_cases import (
  P,
  all_close,
  all_equal,
  blend,
  everything,
  example,
  gradient,
  largest,
  logps_of,
  over_tokens,
  prepare,
  tables,
  tabular,
  value,
)
from loss_laws import law

from align_jax import ops
from align_jax.learn import step


def weighted(case):
  """An example, with weights if the loss reads them."""
  return example(case, int(case.row.weighted))


# --- Reductions and masks -----------------------------------------------------


@law('loss and metrics are finite scalars')
def check_scalar_and_finite(case):
  loss, metrics = value(case, *example(case))
  assert metrics['weight'] > 0, f'weight {metrics["weight"]}'
  for name, x in {'loss': loss, **metrics}.items():
    assert jnp.shape(x) == () and jnp.isfinite(x), f'{name}: {x}'


@law('nothing enters from outside the mask, NaN and infinities included')
def check_mask(case):
  outputs, old, batch = weighted(case)
  want = everything(case, outputs, old, batch)
  for g in jax.tree.leaves(want[1]):
    outside = g[~batch.mask] if g.shape == batch.mask.shape else 0
    assert jnp.all(outside == 0), 'a gradient lies outside'
  assert (logps_of(want[1]) != 0).any(), 'there is no gradient at all'
  for junk in (jnp.nan, jnp.inf, -jnp.inf):
    fill = lambda x: jnp.where(batch.mask, x, junk)
    dirty_outputs, dirty = over_tokens(fill, outputs, batch)
    dirty_old, _ = over_tokens(fill, old, batch)
    all_equal(everything(case, dirty_outputs, dirty_old, dirty), want)


@law('padding columns full of numbers change nothing')
def check_padding(case):
  outputs, old, batch = weighted(case)
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


@law('a row without a token, as of a completion left out, gives no NaN')
def check_an_empty_row(case):
  outputs, old, batch = example(case)
  mask = batch.mask.at[0].set(False).at[-1].set(False)
  got = everything(case, outputs, old, batch.replace(mask=mask))
  for x in jax.tree.leaves(got):
    assert jnp.isfinite(x).all(), f'{x}'


@law('the order of the groups changes nothing')
def check_order(case):
  index = np.array([2, 0, 3, 1])
  outputs, old, batch = weighted(case)

  def pick(x):
    size = len(x) // P
    return ops.by_group(x, size)[index].reshape(x.shape)

  tree = outputs, old, batch
  shuffled = jax.tree.map(pick, tree)
  assert (shuffled[2].rewards != batch.rewards).any()
  (loss, grads) = everything(case, *tree)
  all_close(everything(case, *shuffled), (loss, jax.tree.map(pick, grads)))


@law('microbatches of any lengths recombine to loss, metrics and gradient')
def check_microbatches(case):
  batch, forward = weighted(case).batch, tabular(case)
  per_part = batch.mask.reshape(P, -1).sum(1)
  assert len(set(per_part.tolist())) == P
  old, params = tables(2), blend(tables(2), tables(3), 0.3)
  if 'scores' not in case.needs:
    batch = batch.replace(sampler_logps=logps_of(forward(old, batch)))
  batch = prepare(case, forward(old, batch), batch)
  loss = functools.partial(case.row, **case.hparams)
  whole = step.value_and_grad(forward, loss)(params, batch, {})
  split = jax.jit(step.value_and_grad(forward, loss, P))
  assert largest(whole[1]) > 1e-3, 'there is no gradient'
  all_close(split(params, batch, {}), whole)


# --- Rewards ------------------------------------------------------------------


def compares(row):
  """Whether only differences of rewards count."""
  return row.rewards in ('compared', 'chances', 'successes')


def reads_rewards(row):
  return row.rewards != 'unread'


@law('the best row rises over the worst of its group', of=reads_rewards)
def check_descent(case):
  """From the reference."""
  outputs, _, batch = example(case)
  outputs = jax.tree.map(jnp.zeros_like, outputs)
  batch = batch.replace(sampler_logps=batch.ref_logps)
  row_of = case.row
  if row_of.rows == 'mismatched':  # reads which side of 1/2 a reward is on
    rewards = jnp.tile(jnp.array([0.9, 0.2, 0.5, 0.1, 0.7, 0.5]), P // 2)
    batch = batch.replace(rewards=rewards)
  if 'logps' in case.needs:
    several, logps = len(case.needs) > 1, batch.ref_logps
    outputs = outputs.replace(logps=logps) if several else logps
  if 'lam' in case.settings:
    case = case.but(lam=1.0)  # else short rows weigh more
  uphill = -logps_of(gradient(case, outputs, outputs, batch))
  if uphill.ndim == 2:
    uphill = ops.masked_mean(uphill, batch.mask)
  compared = 0
  for row, reward in zip(uphill.reshape(P, -1), batch.rewards.reshape(P, -1)):
    if row_of.rows in ('hybrid', 'mismatched'):  # the last is not compared
      row, reward = row[:2], reward[:2]
    if row_of.rows == 'duel' and row_of.rewards == 'chances':
      # One row plays; its reward is how it fares.
      row, reward = row.at[1].set(0), reward.at[1].set(0.5)
    if reward.max() > reward.min():
      compared += 1
      best, worst = row[reward.argmax()], row[reward.argmin()]
      assert best > worst, f'best {best}, worst {worst}'
  assert compared >= P - 1


@law('fractional rewards are not rounded, in any dtype', of=reads_rewards)
def check_fractional_rewards(case):
  """Rewards that an integer cast would make equal differ."""
  outputs, old, batch = example(case)
  few = jnp.linspace(0.6, 0.8, batch.group_size)
  if case.row.rewards == 'chances':  # may read no more than the side of 1/2
    few = few.at[0].set(0.4)
  for dtype in (jnp.float32, jnp.bfloat16):
    grads = []
    for rewards in (few, few[::-1]):
      rewards = jnp.tile(rewards.astype(dtype), P)
      at = lambda x: gradient(case, outputs, old, batch.replace(rewards=x))
      grads.append(at(rewards.astype(jnp.float32)))
      if dtype != jnp.float32:
        high = largest(grads[-1])
        all_close(at(rewards), grads[-1], rtol=1e-3, atol=1e-3 * high)
    apart = largest(jax.tree.map(lambda x, y: x - y, *grads))
    assert apart > 1e-3, f'gradients of other rewards are {apart} apart'


@law('equal rewards leave no gradient, not even by rounding', of=compares)
def check_equal_rewards(case):
  outputs, old, batch = example(case)
  case = case.but(**case.row.off)
  at_half = case.row.rewards == 'chances'
  for reward in (0.5,) if at_half else (0.1, 1 / 3, 0.7, -0.9, 123.4):
    tied = batch.replace(rewards=jnp.full(len(batch.rewards), reward))
    (_, metrics), grads = everything(case, outputs, old, tied)
    left = largest(grads)
    assert left == 0, f'rewards of {reward:.2f} leave {left}'
    for name, x in metrics.items():
      assert jnp.isfinite(x), f'{name}: {x}'


SIZES = {  # of the groups that a loss takes, of 1, 2 and 3
  'single': {1, 2, 3},
  'ordered': {1, 2, 3},
  'group': {2, 3},
  'mismatched': {2, 3},
  'duel': {2},
  'hybrid': {3},
}


@law('groups of a wrong size are refused, the others accepted', once=True)
def check_group_size(case):
  for size in (1, 2, 3):
    try:
      loss, _ = value(case, *example(case, group_size=size))
    except ValueError as error:
      assert size not in SIZES[case.row.rows], f'{error}'
      assert f'group_size {size}' in str(error), f'{error}'
    else:
      assert size in SIZES[case.row.rows], f'group_size {size} is accepted'
      assert jnp.isfinite(loss), f'group_size {size}: {loss}'
