"""Rewards, and the pairwise preference model that stands for one."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from align_jax import tasks
from align_jax.compare import reweigh
from align_jax.lab import pairs, pools
from align_jax.learn import pair_model, rewards
from align_jax.types import Batch

P, G, T = 2, 3, 2


@pytest.fixture
def batch():
  """Row i holds the tokens (10 i, 10 i + 1); odd rows end one token early."""
  completions = 10 * np.arange(P * G)[:, None] + np.arange(T)
  valid = np.arange(T) < 2 - np.arange(P * G)[:, None] % 2
  batch = Batch(
    prompts=np.array([[1], [2]]),
    prompt_valid=np.ones((P, 1), bool),
    completions=completions,
    valid=valid,
    mask=valid,
    rewards=np.array([0.5, 0.25, 0.25, -1, 3, 2], np.float32),
    sampler_logps=np.zeros((P * G, T), np.float32),
    group_size=G,
  )
  return jax.tree.map(jnp.asarray, batch)


def test_ordered_pairs(batch):
  """All ordered pairs of each group, the first index major; ties at a half."""
  got = pair_model.ordered_pairs(batch)
  assert got.group_size == G * (G - 1) and got.num_prompts == P
  row = 0
  for p in range(P):
    for i in range(G):
      for j in [j for j in range(G) if j != i]:
        first, second = p * G + i, p * G + j
        for name in ('completions', 'valid', 'mask'):
          x = np.asarray(getattr(batch, name))
          want = np.concatenate([x[first], x[second]])
          assert (getattr(got, name)[row] == want).all()
        a, b = batch.rewards[first], batch.rewards[second]
        assert got.rewards[row] == (0.5 if a == b else float(a > b))
        row += 1
  assert row == len(got.completions)
  # Per-token log-probs of single rows mean nothing for pairs.
  assert got.sampler_logps is None and got.ref_logps is None


def test_pairs_need_two(batch):
  with pytest.raises(ValueError, match='group_size'):
    pair_model.ordered_pairs(batch.replace(group_size=1))


def pairwise(hidden, bias):
  """A preference model that favours whatever comes first by `bias`."""

  def scores(params, pairs):
    first = hidden(params, pairs.completions[:, 0])
    second = hidden(params, pairs.completions[:, T])
    return first - second + bias

  return scores


BIASED = pytest.mark.parametrize('bias', [-100.0, 0.0, 100.0])


@BIASED
def test_positional_bias_cancels(batch, bias):
  indifferent = pairwise(lambda params, tokens: 0.0 * tokens, bias)
  got = pair_model.group_preferences(indifferent, None)(batch)
  assert (got == 0.5).all()


@BIASED
def test_a_group_is_ordered_by_the_hidden_reward(batch, bias):
  """The share of the others that a row beats; ties count one half."""
  table = jnp.zeros(60).at[10 * np.arange(6)].set(batch.rewards)
  prefer = pairwise(lambda table, tokens: table[tokens], bias)
  got = pair_model.group_preferences(prefer, table)(batch)
  np.testing.assert_allclose(got, [1, 0.25, 0.25, 0, 1, 0.5], atol=1e-6)


# --- The share of fixed opponents that a completion beats ---------------------


def worth(table, tokens):
  return table[tokens]


def of_tokens(prompts, tokens):
  """Prompts [P, S], -1 where padded, each with completions of one token and
  padding: [P, G] -> Batch."""
  tokens, valid = np.asarray(tokens), prompts >= 0
  rows = np.stack([tokens.ravel(), np.zeros(tokens.size, int)], 1)
  own = np.broadcast_to([True, False], rows.shape)
  batch = Batch(
    prompts=np.where(valid, prompts, 0),
    prompt_valid=valid,
    completions=rows,
    valid=own,
    mask=own,
    rewards=np.zeros(tokens.size, np.float32),
    group_size=tokens.shape[1],
  )
  return jax.tree.map(jnp.asarray, batch)


# Not sorted, the third the first one again, 0 after padding and 0 as a token.
PROMPTS = np.array([[-1, 7, 2], [-1, 0, 1], [-1, 7, 2], [0, 0, 1], [3, 9, 0]])
WORTH = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 4.0], np.float32)
OPPONENTS = np.array([[0, 1, 2], [3, 3, 3], [0, 1, 2], [5, 0, 5], [1, 4, 4]])


def perfect(bias=0.0, **kwargs):
  opponents = of_tokens(PROMPTS, OPPONENTS)
  model = pairwise(worth, bias)
  return pair_model.from_preference_model(model, WORTH, opponents, **kwargs)


def share(tokens, opponents):
  """Of them beaten: [G], [K] -> [G]."""
  difference = WORTH[np.asarray(tokens)][:, None] - WORTH[opponents]
  return (0.5 + 0.5 * np.sign(difference)).mean(1)


@BIASED
def test_the_share_of_a_prompts_own_opponents_that_is_beaten(bias):
  tokens = np.arange(10).reshape(5, 2) % 6
  got = perfect(bias)(of_tokens(PROMPTS, tokens)).reshape(5, 2)
  want = [share(*x) for x in zip(tokens, OPPONENTS)]
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert len(np.unique(want)) > 4


def test_the_mean_chance_where_chances_are_asked():
  tokens = np.arange(5)[:, None]
  decide = pair_model.mean_of_orders
  got = perfect(decide=decide)(of_tokens(PROMPTS, tokens))
  difference = WORTH[tokens] - WORTH[OPPONENTS]
  want = (1 / (1 + np.exp(-difference))).mean(1)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_it_does_not_matter_who_else_is_in_the_group():
  reward = perfect()
  alone = reward(of_tokens(PROMPTS, [[1]] * 5))
  for mate in range(6):
    got = reward(of_tokens(PROMPTS, [[1, mate]] * 5)).reshape(5, 2)
    np.testing.assert_array_equal(got[:, 0], alone)


def test_what_padding_is_filled_with_does_not_matter():
  batch = of_tokens(PROMPTS, [[1]] * 5)
  filled = jnp.where(batch.prompt_valid, batch.prompts, 7)
  got = perfect()(batch.replace(prompts=filled))
  np.testing.assert_array_equal(got, perfect()(batch))


@pytest.mark.parametrize('row', [(-1, 7, 3), (0, 7, 2), (-1, 0, 0), (9, 9, 9)])
def test_an_unknown_prompt_is_given_nobody_elses_opponents(row):
  batch = of_tokens(np.array([PROMPTS[1], row]), [[1, 2]] * 2)
  with pytest.raises(ValueError, match='1 others of 2.* number 1 of the batch'):
    perfect()(batch)
  got = jax.jit(perfect())(batch)
  assert np.isnan(got).tolist() == [False, False, True, True]


def test_prompts_of_other_slots_are_refused():
  with pytest.raises(ValueError, match='of 1 slots, expected the 3'):
    perfect()(of_tokens(PROMPTS[:, 2:], [[1]] * 5))


def test_many_prompts_are_each_found():
  """Whatever their number: the first, the last and all in between."""
  rng = np.random.default_rng(0)
  for number in (1, 2, 5, 257):
    prompts = rng.permutation(np.argwhere(np.ones((17, 17))))[:number]
    own = rng.integers(0, 6, (number, 1))
    reward = pair_model.from_preference_model(
      pairwise(worth, 0.0), WORTH, of_tokens(prompts, own)
    )
    got = reward(of_tokens(prompts, np.full((number, 1), 3)))
    want = [share([3], x)[0] for x in own]
    np.testing.assert_array_equal(got, want)


def test_stacked_batches_are_rewarded_on_the_device():
  batch, reward = of_tokens(PROMPTS, [[1, 4]] * 5), perfect()
  other = batch.replace(completions=batch.completions[::-1])
  both = jax.vmap(lambda x: reward(batch.replace(completions=x)))(
    jnp.stack([batch.completions, other.completions])
  )
  np.testing.assert_array_equal(both, [reward(batch), reward(other)])


# Of a perfect model, where the worth of a token is a quantile of the normal
# distribution, and the reference's tokens are uniform.
QUANTILES = special.ndtri((np.arange(2**14) + 0.5) / 2**14).astype(np.float32)


def uniform(seed, num_prompts, num):
  return np.random.default_rng(seed).integers(0, 2**14, (num_prompts, num))


def normal(num_prompts, num):
  """Prompts, and the reward against so many opponents for each."""
  prompts = np.arange(num_prompts)[:, None]
  opponents = of_tokens(prompts, uniform(0, num_prompts, num))
  model = pairwise(worth, 0.0)
  reward = pair_model.from_preference_model(model, QUANTILES, opponents)
  return prompts, reward


def test_the_reference_scores_a_half_and_a_better_policy_more():
  prompts, reward = normal(256, 8)
  tokens = uniform(1, 256, 8)
  mean = lambda tokens: float(reward(of_tokens(prompts, tokens)).mean())
  assert abs(mean(tokens) - 0.5) < 0.03
  better = np.maximum(tokens, uniform(2, 256, 8))  # the best of two
  assert abs(mean(better) - 2 / 3) < 0.03


def test_parts_of_a_pool_are_on_one_scale(monkeypatch):
  """Best-of-64 by the model is that by the truth, 2.35 deviations."""
  num, size, part = 32, 512, 32
  prompts, reward = normal(num, 512)

  def draw(params, tokens, valid, key):
    batch = of_tokens(prompts, uniform(3 + draw.calls, num, part))
    draw.calls += 1
    return batch.replace(sampler_logps=jnp.zeros(batch.valid.shape))

  def best_of_64(reward):
    draw.calls = 0
    task = types.SimpleNamespace(eval_prompts=(0, 0), gold=gold)
    stage = types.SimpleNamespace(task=task, seed=0, reference=0, proxy=gold)
    pool = pools.draw_pool(stage, reward, size, part)
    weights = [reweigh.best_of_n_weights(r, 64) for r in pool.rewards]
    return (np.stack(weights) * pool.gold).sum(1).mean()

  gold = lambda batch: QUANTILES[np.asarray(batch.completions[:, 0])]
  monkeypatch.setattr(pools, 'sampler', lambda *_: draw)
  true, got = best_of_64(gold), best_of_64(reward)
  assert abs(true - 2.35) < 0.08
  assert abs(got - true) < 0.03
  # Each part against itself alone: the best of every part are all the same.
  model = pairwise(worth, 0.0)
  alone = best_of_64(pair_model.group_preferences(model, QUANTILES))
  assert alone < true - 0.2


def test_opponents_are_the_references_once_for_every_prompt(config, params):
  """For prompts to train on and to measure on, in parts of one shape."""
  both = [np.array(x) for x in ([[4, 2], [1, 2]], [[4, 2], [3, 3], [1, 2]])]
  train, held_out = (tasks.Prompts(x, np.ones(x.shape, bool)) for x in both)
  task = types.SimpleNamespace(
    model=config,
    max_new_tokens=3,
    eos_id=0,
    train_prompts=train,
    eval_prompts=held_out,
  )
  got = pairs.sample_opponents(task, params, 0, 2, 5)
  assert np.asarray(got.prompts).tolist() == [[1, 2], [3, 3], [4, 2]]
  assert got.completions.shape == (15, 3)
  assert len(np.unique(np.where(got.valid, got.completions, -1), axis=0)) > 5
  again = pairs.sample_opponents(task, params, 0, 2, 5)
  other = pairs.sample_opponents(task, params, 1, 2, 5)
  np.testing.assert_array_equal(got.completions, again.completions)
  assert (got.completions != other.completions).any()
  task.eval_prompts = train  # the same set
  assert pairs.sample_opponents(task, params, 0, 2, 5).num_prompts == 2


# --- Scores and rules ---------------------------------------------------------


def test_scores_are_read_as_they_are(batch):
  scores = lambda params, batch: params * batch.completions[:, 0]
  got = rewards.from_model(scores, 0.5)(batch)
  assert (got == 5 * jnp.arange(P * G)).all()


def decode(batch):
  tokens = np.asarray(batch.completions)
  prompts = np.repeat(np.asarray(batch.prompts), batch.group_size, 0)
  words = lambda rows: [' '.join(map(str, row)) for row in rows]
  return words(prompts), words(tokens)


def test_from_text(batch):
  """A text of prompt and completion per row, a float32 for each."""
  fn = lambda prompts, texts: [
    int(x) + len(y.split()) / 4 for x, y in zip(prompts, texts)
  ]
  got = rewards.from_text(fn, decode)(batch)
  assert got.dtype == jnp.float32
  assert got.tolist() == [1.5, 1.5, 1.5, 2.5, 2.5, 2.5]


@pytest.mark.parametrize(
  'values', [[1.0], [[1.0]] * 6, [1, 2, 3, 4, 5, float('nan')], [np.inf] * 6]
)
def test_from_text_names_a_bad_rule(batch, values):
  def broken_rule(prompts, completions):
    return values

  with pytest.raises(ValueError, match='broken_rule.*6 finite'):
    rewards.from_text(broken_rule, decode)(batch)


def test_every_rule_gives_a_number_per_text(batch):
  for rule in rewards.REWARDS.values():
    got = rewards.from_text(rule, decode)(batch)
    assert got.shape == (P * G,)


def test_brevity():
  assert rewards.brevity(['', ''], ['a b c', 'a']) == [-3, -1]
