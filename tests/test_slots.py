"""A completion is the same in whatever slot, company and shape of products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EOS_ID, init

from align_jax.learn import batches
from align_jax.models import transformer
from align_jax.policy import sampling
from align_jax.policy.draw_tokens import Truncation


@pytest.fixture(scope='module')
def ragged(params, prompts, config):
  """(f, prompts, ids, limits, **static) -> Batch of G = 3, T = 6."""
  key = jax.random.key(3)
  static = dict(config=config, group_size=3, max_new_tokens=6, eos_id=EOS_ID)

  def f(sampler, ids, limits, **more):
    sampler = jax.jit(functools.partial(sampler, **static, **more))
    pick = [x[np.array(ids)] for x in prompts]
    ids = jnp.array(ids)
    return sampler(params, *pick, key, limits=limits[ids], prompt_ids=ids)

  return f


LIMITS = jnp.array([[6, 1, 2], [6, 6, 3], [1, 1, 1], [6, 5, 6]])


@pytest.fixture(scope='module')
def alone(ragged):
  batch = ragged(sampling.sample, range(4), LIMITS)
  assert len(set(np.asarray(batch.valid.sum(1)).tolist())) > 3
  return batch


@pytest.mark.parametrize('slots', [1, 5])
def test_a_slot_leaves_no_trace(ragged, alone, slots):
  """Row by row what the whole batch is; any number of slots."""
  batch = ragged(sampling.sample_many, range(4), LIMITS, slots=slots)
  same(batch, alone)


def test_neighbours_leave_no_trace(ragged, alone):
  """Other prompts, in another order, with the ids that they had."""
  batch = ragged(sampling.sample, [3, 1], LIMITS)
  same(batch, batches.take(alone, np.array([3, 1])))
  renamed = ragged(sampling.sample, [3, 1], LIMITS * 0 + 6)
  assert (renamed.completions != batch.completions).any()


def same(batch, other):
  assert batch.group_size == other.group_size
  for name in ('prompts', 'completions', 'valid', 'mask'):
    np.testing.assert_array_equal(getattr(batch, name), getattr(other, name))
  np.testing.assert_allclose(
    batch.sampler_logps, other.sampler_logps, atol=1e-5
  )


@pytest.mark.parametrize('name', ['temperature', 'truncation'])
def test_sampler_logps_of_slots_equal_scoring(
  params, prompts, config, token_logps, name
):
  change = {'temperature': 0.7, 'truncation': Truncation(top_p=0.8)}[name]
  f = functools.partial(
    sampling.sample_many,
    slots=5,
    config=config,
    group_size=3,
    max_new_tokens=6,
    eos_id=EOS_ID,
  )
  batch = jax.jit(f)(params, *prompts, jax.random.key(0), **{name: change})
  close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
  close(batch.policy_logps, token_logps(params, batch, 1.0))
  assert jnp.abs(batch.policy_logps - batch.sampler_logps).max() > 0.1
  if name == 'temperature':
    close(batch.sampler_logps, token_logps(params, batch, 0.7))
  else:
    assert (batch.sampler_logps >= batch.policy_logps - 1e-5).all()


@pytest.fixture(scope='module')
def wide():
  """Of a size at which products are blocked and the vocabulary is too."""
  config = transformer.ModelConfig(
    vocab_size=4096,
    dim=192,
    num_layers=2,
    num_heads=6,
    num_kv_heads=6,
    head_dim=32,
    mlp_dim=768,
  )
  return init(0, config), config


@pytest.mark.parametrize('group_size', [1, 4])
def test_refill_changes_no_bit_of_any_row(wide, group_size):
  params, config = wide
  prompts = np.random.default_rng(0).integers(0, 4096, (24 // group_size, 16))
  valid = np.arange(16) >= np.arange(len(prompts))[:, None] % 5
  limits = np.random.default_rng(1).geometric(1 / 12, (len(prompts), 1))
  limits = np.minimum(limits * np.arange(1, group_size + 1), 40)
  static = dict(config=config, group_size=group_size, max_new_tokens=40)
  at_once = jax.jit(functools.partial(sampling.sample, **static))
  by_slots = jax.jit(functools.partial(sampling.sample_many, slots=8, **static))
  given = params, prompts, valid, jax.random.key(0)
  batch = at_once(*given, limits=limits)
  assert len(set(np.asarray(batch.valid.sum(1)).tolist())) > 5
  off = by_slots(*given, limits=limits, refill=False)
  on = by_slots(*given, limits=limits, refill=True)
  jax.tree.map(np.testing.assert_array_equal, off, on)  # to the bit
  same(batch, on)
