"""Length buckets lose nothing and bound the number of programs."""

import jax
import numpy as np
import pytest

from align_jax.learn import batches, buckets, optimizers, sources, step
from align_jax.losses import LOSSES

BUCKETS = (2, 2), (4, 3), (5, 6)


@pytest.fixture(scope='module')
def data(batch):
  """Groups of three; every third prompt's rows fit each of the buckets."""
  rng = np.random.default_rng(0)
  size = 24
  data = batches.take(batch, np.arange(size) % batch.num_prompts)
  most = np.array(BUCKETS)[np.arange(size) % 3]
  prompt_lens = rng.integers(1, most[:, 0] + 1)
  lens = rng.integers(1, most[:, 1:] + 1, (size, 3))
  valid = np.arange(6) < lens.reshape(-1, 1)
  return data.replace(
    prompt_valid=np.arange(5) >= 5 - prompt_lens[:, None],
    valid=valid,
    mask=valid,
    ref_logps=data.sampler_logps,
  )


def test_lengths_reach_to_the_last_valid_slot(data):
  valid = np.array(data.valid)
  valid[0] = [False, True, False, True, False, False]
  valid[1:3] = False
  prompt, completion = buckets.lengths(data.replace(valid=valid))
  assert completion[0] == 4
  assert (prompt == np.asarray(data.prompt_valid).sum(1)).all()


def test_the_smallest_bucket_that_holds_all():
  assert buckets.smallest(BUCKETS, 2, 2) == (2, 2)
  assert buckets.smallest(BUCKETS, 2, 3) == buckets.smallest(BUCKETS, 4, 1)
  assert buckets.smallest(BUCKETS[:2], 1, 4) is None


def test_nothing_but_padding_is_cut(data):
  order = sources.epochs(24, 1, seed=0)
  whole = sources.offline(data, order)
  cut = buckets.offline(data, order, BUCKETS[:2])
  shapes = set()
  for i in range(24):
    a, b = whole(None, None, i), cut(None, None, i)
    shapes.add((b.prompts.shape[1], b.completions.shape[1]))
    for x, y in (
      (a.prompts[a.prompt_valid], b.prompts[b.prompt_valid]),
      (a.completions[a.valid], b.completions[b.valid]),
      (a.ref_logps[a.mask], b.ref_logps[b.mask]),
      (a.rewards, b.rewards),
    ):
      np.testing.assert_array_equal(x, y)
  assert shapes == {(2, 2), (4, 3), (5, 6)}


def test_one_program_for_each_bucket(data, params, token_logps, lowered):
  """And the same training as in one shape."""
  forward = lambda params, batch: token_logps(params, batch, 1.0)
  tx = optimizers.make_optimizer()
  order = sources.epochs(24, 1, seed=0)

  def run(source):
    train_step = step.make_train_step(forward, LOSSES['sft'], tx)
    state, slots, losses = step.init_state(params, tx), set(), []
    lowered.clear()
    for i in range(10):
      state, metrics = train_step(
        state, source(None, None, i), {'learning_rate': 1e-2}
      )
      slots.add(float(metrics['computed_tokens']))
      losses.append(metrics['loss'])
    return sum('updated' in name for name in lowered), slots, losses

  plain, slots, losses = run(sources.offline(data, order))
  assert plain == len(slots) == 1
  bucketed, slots, same = run(buckets.offline(data, order, BUCKETS))
  assert 1 < bucketed == len(slots) <= len(BUCKETS)
  np.testing.assert_allclose(losses, same, rtol=1e-4)


@pytest.mark.parametrize('bucket', [(6, 2), (2, 7), (0, 2), (2,), (2, 2.5)])
def test_a_wrong_bucket_is_named(data, bucket):
  with pytest.raises(
    ValueError, match='prompt positions, completion positions'
  ):
    buckets.offline(data, sources.epochs(24, 2, seed=0), [bucket])


def test_as_few_microbatches_as_fit(data, params, token_logps):
  """24 prompts of 5 + 3 * 6 = 23 positions."""
  assert step.computed_tokens(data) == 24 * 23
  for tokens, num in ((10**6, 1), (552, 1), (551, 2), (23 * 5, 6), (23, 24)):
    assert step.parts_within(data, tokens) == num
  with pytest.raises(ValueError, match='microbatch_tokens=22: .*23 tokens'):
    step.parts_within(data, 22)
  forward = lambda params, batch: token_logps(params, batch, 1.0)
  tx = optimizers.make_optimizer()
  moved = []
  for tokens in (0, 12 * 23):
    train_step = step.make_train_step(
      forward, LOSSES['sft'], tx, microbatch_tokens=tokens
    )
    hparams = {'learning_rate': 1e-2}
    text = str(
      jax.make_jaxpr(train_step)(step.init_state(params, tx), data, hparams)
    )
    assert ('i32[2,12,5]' in text) == (tokens > 0)
    state = step.init_state(params, tx)
    moved.append(train_step(state, data, hparams)[1])
  for name in ('loss', 'grad_norm'):
    np.testing.assert_allclose(moved[0][name], moved[1][name], rtol=1e-4)
