"""Sources that put groups together, and what becomes of their rewards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import ops
from align_jax.lab import forwards
from align_jax.learn import (
  batches,
  optimizers,
  pair_model,
  rewards,
  sources,
  step,
  truncated,
)
from align_jax.losses import LOSSES
from align_jax.policy import sampling, scoring

T = 6


def rows(batch, name):
  """A field of the batch as [P, G, ...]."""
  x = np.asarray(getattr(batch, name))
  return x.reshape(batch.num_prompts, batch.group_size, *x.shape[1:])


def fields(batch):
  names = 'completions valid mask rewards sampler_logps ref_logps'.split()
  return [n for n in names if getattr(batch, n) is not None]


@pytest.fixture(scope='module')
def annotate(token_logps):
  return scoring.make_annotate(lambda p, batch: token_logps(p, batch, 1.0))


@pytest.fixture(scope='module')
def state(params, ref_params):
  anchors = {'ref': ref_params}
  return step.init_state(params, optimizers.make_optimizer(), anchors)


@pytest.fixture(scope='module')
def draw(sample):
  return sample


@pytest.fixture(scope='module')
def online(prompts, draw, annotate):
  return sources.online(
    lambda step: prompts,
    draw,
    rewards.stateless(count),
    annotate,
    sources.current,
  )


@jax.jit
def count(batch):
  return ((batch.completions == 3) & batch.valid).sum(1) / 4


def test_joined_groups_hold_both_rows_in_order(batch):
  other = jax.tree.map(jnp.roll, batch, jax.tree.map(lambda x: 1, batch))
  joined = batches.join(batch, other)
  assert joined.group_size == 2 * batch.group_size
  for name in fields(batch):
    got, size = rows(joined, name), batch.group_size
    np.testing.assert_array_equal(got[:, :size], rows(batch, name))
    np.testing.assert_array_equal(got[:, size:], rows(other, name))


def test_side_by_side_draws_differ_and_keep_their_order(
  params, ref_params, prompts, draw
):
  first = lambda both, *args: draw(both[0], *args)
  second = lambda both, *args: draw(both[1], *args)
  key = jax.random.key(0)
  both = (params, ref_params)
  sample = sources.side_by_side(first, second)
  batch = sample(both, *prompts, key)
  assert batch.group_size == 6
  keys = jax.random.split(key)
  for half, f, k in (
    (slice(0, 3), first, keys[0]),
    (slice(3, 6), second, keys[1]),
  ):
    want = rows(f(both, *prompts, k), 'completions')
    np.testing.assert_array_equal(rows(batch, 'completions')[:, half], want)
  again = sources.side_by_side(first, first)(both, *prompts, key)
  halves = np.split(rows(again, 'completions'), 2, 1)
  assert (halves[0] != halves[1]).any()  # a key of its own for each


def test_hybrid_puts_fresh_rows_behind_the_pairs(state, online, draw, annotate):
  source = sources.hybrid(online, draw, annotate, sources.current)
  key = jax.random.key(0)
  batch, pairs = source(state, key, 0), online(state, key, 0)
  np.testing.assert_array_equal(
    rows(batch, 'ref_logps')[:, :3], rows(pairs, 'ref_logps')
  )
  assert (rows(batch, 'rewards')[:, 3:] == 0).all()
  # Fresh: of the current params, on the same prompts, under the reference.
  moved = source(state.replace(params=state.anchors['ref']), key, 0)
  assert (rows(moved, 'completions') != rows(batch, 'completions'))[:, 3:].any()
  scored = annotate(state.anchors['ref'], batch)
  np.testing.assert_allclose(scored.ref_logps, batch.ref_logps, atol=1e-5)


def test_mixed_has_the_prompts_of_both(state, online, batch, annotate):
  fixed = annotate(state.anchors['ref'], batch)
  offline = sources.offline(fixed, sources.epochs(4, 4, seed=0))
  key = jax.random.key(0)
  mixed = sources.mixed(offline, online)(state, key, 0)
  parts = offline(state, key, 0), online(state, key, 0)
  assert mixed.num_prompts == 8 and mixed.group_size == 3
  for name in fields(mixed):
    want = np.concatenate([rows(part, name) for part in parts])
    np.testing.assert_array_equal(rows(mixed, name), want)
  bare = lambda *args: offline(*args).replace(sampler_logps=None)
  assert sources.mixed(bare, online)(state, key, 0).sampler_logps is None
  pair = lambda *args: batches.join(*[offline(*args)] * 2)
  with pytest.raises(ValueError, match='groups of 6 and of 3'):
    sources.mixed(pair, online)(state, key, 0)


def test_mismatched_rows_are_of_another_prompt(state, online, annotate):
  source = sources.mismatched(online, annotate)
  key = jax.random.key(0)
  batch, plain = source(state, key, 0), online(state, key, 0)
  assert batch.group_size == 4
  got, want = rows(batch, 'completions'), rows(plain, 'completions')
  np.testing.assert_array_equal(got[:, :3], want)
  np.testing.assert_array_equal(got[:, 3], np.roll(want[:, 0], 1, 0))
  assert (rows(batch, 'rewards')[:, 3] == 0.5).all()
  # Their reference log-probs are under the prompt that they now follow.
  np.testing.assert_allclose(
    rows(batch, 'ref_logps')[:, :3], rows(plain, 'ref_logps'), atol=1e-5
  )
  moved = np.roll(rows(plain, 'ref_logps')[:, 0], 1, 0)
  assert np.abs(rows(batch, 'ref_logps')[:, 3] - moved).max() > 0.1


# Completions that were cut off; EOS has id 0, and so has padding.


def test_what_was_cut_off(batch):
  cut = np.asarray(truncated.unfinished(batch, 0))
  ends = [
    row[valid][-1] == 0
    for row, valid in zip(*map(np.asarray, (batch.completions, batch.valid)))
  ]
  assert cut.any() and not cut.all()
  np.testing.assert_array_equal(cut, ~np.array(ends))
  assert not truncated.unfinished(batch, None).any()


def test_policies_for_what_was_cut_off(batch):
  cut = np.asarray(truncated.unfinished(batch, 0))
  apply = {
    name: f(batch, eos_id=0, penalty=0.25)
    for name, f in truncated.TRUNCATED.items()
  }
  assert apply['keep'] is batch
  masked = apply['mask']
  assert not masked.mask[cut].any()
  np.testing.assert_array_equal(masked.mask[~cut], batch.mask[~cut])
  np.testing.assert_array_equal(masked.rewards, batch.rewards)
  lowered = apply['penalise']
  np.testing.assert_allclose(batch.rewards - lowered.rewards, 0.25 * cut)
  np.testing.assert_array_equal(lowered.mask, batch.mask)


def test_an_online_source_applies_it(state, prompts, draw, annotate):
  finish = functools.partial(truncated.penalise, eos_id=0, penalty=5.0)
  source = sources.online(
    lambda step: prompts,
    draw,
    rewards.stateless(count),
    annotate,
    sources.current,
    finish,
  )
  batch = source(state, jax.random.key(0), 0)
  cut = truncated.unfinished(batch, 0)
  assert cut.any()
  np.testing.assert_allclose(batch.rewards, count(batch) - 5.0 * cut)


# Rewards of rewards.


def test_preferences_are_mean_chances_to_win(batch):
  got = rewards.preferences(count)(batch)
  values = rows(batch.replace(rewards=count(batch)), 'rewards')
  assert np.ptp(values) > 0
  for p, group in enumerate(values):
    for g, mine in enumerate(group):
      others = np.delete(group, g)
      want = np.mean(1 / (1 + np.exp(others - mine)))
      assert abs(got[3 * p + g] - want) < 1e-6


def test_standardised():
  reward = rewards.standardised(lambda batch: jnp.float32([1.0, 3.0]), 1.0, 4.0)
  np.testing.assert_allclose(reward(None), [0.0, 0.5])


def test_ensembles():
  scores = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
  members = [lambda batch, row=row: jnp.asarray(row) for row in scores]
  want = {
    'mean': scores.mean(0),
    'worst_case': scores.min(0),
    'uncertainty_weighted': scores.mean(0) - 0.7 * scores.var(0),
  }
  assert set(want) == set(rewards.ENSEMBLES)
  for name, combine in rewards.ENSEMBLES.items():
    got = rewards.ensemble(members, combine, 0.7)(None)
    np.testing.assert_allclose(got, want[name], rtol=1e-5)


def test_orders_of_a_preference_model():
  """Bias towards the first place cancels, whichever way both are combined."""
  logits = np.random.default_rng(0).normal(size=(1, 3, 3))
  fair = logits - logits.swapaxes(1, 2)
  both = lambda x: (jnp.asarray(x), jnp.asarray(x.swapaxes(1, 2)))
  for decide in (
    pair_model.sign_of_difference,
    pair_model.mean_of_orders,
  ):
    table = np.asarray(decide(*both(fair)))
    np.testing.assert_allclose(table + table.swapaxes(1, 2), 1, atol=1e-6)
  biased = pair_model.sign_of_difference(*both(fair + 9.0))
  np.testing.assert_array_equal(
    biased, pair_model.sign_of_difference(*both(fair))
  )
  chances = 1 / (1 + np.exp(-fair))
  np.testing.assert_allclose(
    pair_model.mean_of_orders(*both(fair)), chances, atol=1e-6
  )


# The geometric mixture of two policies, in one decode.


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_the_mixture_is_sampled_from_normalised_products(
  share, config, params, ref_params, prompts, token_logps
):
  draw = jax.jit(
    functools.partial(
      sampling.sample, config=config, group_size=3, max_new_tokens=T, eos_id=0
    )
  )
  batch = draw(params, *prompts, jax.random.key(3), 1.0, ref_params, share)
  # A policy's next-token log-probs over the whole vocabulary, by asking for
  # the log-prob of every token in place of the last one.
  both = [
    next_logps(p, batch, config, token_logps) for p in (params, ref_params)
  ]
  mixed = (1 - share) * both[0] + share * both[1]
  mixed -= np.log(np.exp(mixed).sum(-1, keepdims=True))
  first = np.asarray(batch.completions)[:, :1]
  want = np.take_along_axis(mixed, first, 1)[:, 0]
  np.testing.assert_allclose(batch.sampler_logps[:, 0], want, atol=1e-4)
  if share in (0.0, 1.0):
    alone = token_logps((params, ref_params)[int(share)], batch, 1.0)
    np.testing.assert_allclose(batch.sampler_logps, alone, atol=1e-4)


def next_logps(params, batch, config, token_logps):
  """Log-probs of every first token of each row: f64 [B, V]."""
  columns = []
  for token in range(config.vocab_size):
    tokens = batch.completions.at[:, 0].set(token)
    columns.append(token_logps(params, batch.replace(completions=tokens), 1.0))
  return np.stack([np.asarray(c[:, 0], np.float64) for c in columns], 1)


def test_compare_is_both_policies(
  config, params, ref_params, batch, token_logps
):
  kls, logps, ref_logps = jax.jit(
    functools.partial(scoring.compare, config=config)
  )(params, ref_params, batch)
  np.testing.assert_allclose(logps, token_logps(params, batch, 1.0), atol=1e-5)
  np.testing.assert_allclose(
    ref_logps, token_logps(ref_params, batch, 1.0), atol=1e-5
  )
  assert (kls >= -1e-6).all() and kls.max() > 0.1


# A teacher that sees more.


@pytest.mark.parametrize('after', [0, 1])
def test_a_context_is_put_into_every_prompt(after, prompts):
  tokens, valid = prompts
  insert = jax.jit(functools.partial(ops.insert, [7, 8, 9], after=after))
  got, got_valid = insert(tokens, valid)
  assert got.shape == (4, 8)
  for row, mask, new, new_mask in zip(tokens, valid, got, got_valid):
    own = list(map(int, row[mask]))
    want = own[:after] + [7, 8, 9] + own[after:]
    assert list(map(int, new[new_mask])) == want
    assert not new_mask[: 8 - len(want)].any()


def test_only_the_teacher_sees_the_context(
  config, params, ref_params, batch, token_logps
):
  """The same as comparing with a teacher whose prompts are longer."""
  told = jax.jit(lambda b: forwards.with_context(b, (7, 8), 1))(batch)
  compare = jax.jit(functools.partial(scoring.compare, config=config))
  kls, logps, teacher_logps = compare(params, ref_params, batch, told)
  np.testing.assert_allclose(logps, token_logps(params, batch, 1.0), atol=1e-5)
  longer = token_logps(ref_params, told, 1.0)
  assert np.abs(longer - token_logps(ref_params, batch, 1.0)).max() > 0.1
  np.testing.assert_allclose(teacher_logps, longer, atol=1e-5)
  want = {
    'reverse': kls,
    'forward': compare(ref_params, params, told, batch)[0],
  }
  for direction, kls in want.items():
    f = forwards.divergence(config, direction == 'forward', (7, 8), 1)
    got = jax.jit(f)(params, batch, {'teacher': ref_params})
    np.testing.assert_allclose(got, kls, atol=1e-5)


def test_context_distillation_internalises_the_context(config, params, batch):
  """The student nears itself-with-context, which it does not see."""
  forward = forwards.divergence(config, True, (7, 8), 1)
  tx = optimizers.make_optimizer()
  train_step = step.make_train_step(
    forward, LOSSES['forward_kl'], tx, reads_anchors=True
  )
  state = step.init_state(params, tx, {'teacher': params})
  seen = []
  for _ in range(12):
    state, metrics = train_step(state, batch, {'learning_rate': 1e-2})
    seen.append(float(metrics['loss']))
  assert seen[0] > 0.05 and seen[-1] < 0.5 * seen[0]
