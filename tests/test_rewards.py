"""Rewards, and the pairwise preference model that stands for one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import rewards
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
  got = rewards.ordered_pairs(batch)
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
    rewards.ordered_pairs(batch.replace(group_size=1))


def pairwise(hidden, bias):
  """A preference model that favours whatever comes first by `bias`."""

  def scores(params, pairs):
    first = hidden(params, pairs.completions[:, 0])
    second = hidden(params, pairs.completions[:, T])
    return first - second + bias

  return scores


@pytest.mark.parametrize('bias', [-100.0, 0.0, 100.0])
def test_positional_bias_cancels(batch, bias):
  indifferent = pairwise(lambda params, tokens: 0.0 * tokens, bias)
  got = rewards.from_preference_model(indifferent, None)(batch)
  assert (got == 0.5).all()


@pytest.mark.parametrize('bias', [-100.0, 0.0, 100.0])
def test_preference_model_orders_by_its_hidden_reward(batch, bias):
  """The share of the others that a row beats; ties count one half."""
  table = jnp.zeros(60).at[10 * np.arange(6)].set(batch.rewards)
  prefer = pairwise(lambda table, tokens: table[tokens], bias)
  got = rewards.from_preference_model(prefer, table)(batch)
  np.testing.assert_allclose(got, [1, 0.25, 0.25, 0, 1, 0.5], atol=1e-6)


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
