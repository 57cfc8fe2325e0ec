"""Importance weights for a sampler that is not the trained policy."""

import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import Case, close, everything, example, same

from align_jax.losses import LOSSES
from align_jax.losses.correction import CORRECTIONS, corrected

CAP = 1.2


def by_loops(how, ratios, mask):
  """Weights as papers state them; ratios are of tokens."""
  weights = np.ones(mask.shape)
  for row, t in np.argwhere(mask):
    ratio = ratios[row, t]
    if how.startswith('sequence'):
      ratio = np.prod(ratios[row][mask[row]])
    if how.endswith('truncate'):
      weights[row, t] = min(ratio, CAP)
    elif how.endswith('mask'):
      weights[row, t] = ratio if ratio <= CAP else 0.0
  return weights


@pytest.mark.parametrize('how', CORRECTIONS)
def test_weights(how):
  outputs, _, batch = example(Case('grpo'))
  got = corrected(outputs, batch, how, CAP)
  mask = np.asarray(batch.mask)
  difference = np.asarray(outputs, np.float64) - np.asarray(batch.sampler_logps)
  want = by_loops(how, np.exp(difference), mask)
  close(got.weights[mask], want[mask])
  if how != 'ignore':  # some are beyond the cap, and some are not
    bounded = want[mask] == (CAP if how.endswith('truncate') else 0)
    assert 0 < bounded.mean() < 1
  assert same(got.policy_logps, outputs)


@pytest.mark.parametrize('how', CORRECTIONS)
def test_the_policys_own_rows_need_no_correction(how):
  """Every weight is 1 to the bit, and no loss knows the difference."""
  for name in ('rloo', 'gspo', 'ppo', 'dar'):
    case = Case(name)
    _, old, batch = example(case)
    fixed = corrected(old, batch, how, 1.0)
    assert (fixed.weights == 1).all()
    (loss, metrics), grads = everything(case, old, old, fixed)
    assert metrics.pop('importance') == 1
    want = everything(case, old, old, batch)
    assert same(((loss, metrics), grads), want), name


def test_a_ratio_is_to_the_policy_as_the_batch_arrived():
  """Not to the sampler: else the difference would count twice."""
  outputs, _, batch = example(Case('grpo'))
  fixed = corrected(outputs, batch, 'token_mask')
  _, metrics = LOSSES['grpo'](outputs, fixed, kl='none', clip=0.0)
  assert metrics['clipped'] == 0
  _, metrics = LOSSES['grpo'](outputs, batch, kl='none', clip=0.0)
  assert metrics['clipped'] > 0.1


def test_nothing_outside_the_mask_is_read():
  outputs, _, batch = example(Case('grpo'))
  dirty = lambda x: jnp.where(batch.mask, x, jnp.nan)
  for how in CORRECTIONS:
    got = corrected(
      dirty(outputs),
      batch.replace(sampler_logps=dirty(batch.sampler_logps)),
      how,
    )
    assert same(got.weights, corrected(outputs, batch, how).weights)
