"""Diversity: counted again by loops, and what it does and does not see."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from align_jax.learn.metrics import METRICS, SEVERAL, Samples
from align_jax.types import Batch

END = 0
DIVERSITY = 'ead_per_input', 'ead_across_inputs', 'self_bleu'


def of(name, tokens, lengths, group_size, vocab_size=10, eos_id=END):
  tokens = np.array(tokens)
  prompts = np.zeros((len(tokens) // group_size, 1), int)
  valid = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
  batch = Batch(
    prompts, prompts == 0, tokens, valid, valid, None, group_size=group_size
  )
  return METRICS[name](Samples(batch, vocab_size, eos_id, None, None))


def drawn(seed, rows=12, most=9, vocab_size=10):
  """Random completions, some empty, some cut, most of them with an end."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, vocab_size, (rows, most))
  tokens = np.where(rng.random(rows)[:, None] < 0.5, tokens, tokens % 3 + 1)
  lengths = rng.integers(1, most + 1, rows)
  ended = rng.random(rows) < 0.7
  tokens[ended, lengths[ended] - 1] = END
  texts = [row[:n].tolist() for row, n in zip(tokens, lengths)]
  return tokens, lengths, [[x for x in text if x != END] for text in texts]


def ngrams(text, n):
  return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def slow_ead(texts, vocab_size):
  found = []
  for n in range(1, 6):
    every, kinds = sum((ngrams(x, n) for x in texts), []), vocab_size**n
    if every:
      most = float(kinds * (1 - Fraction(kinds - 1, kinds) ** len(every)))
      found.append(len(set(every)) / most)
  return np.mean(found) if found else 0


def slow_bleu(text, others):
  logs = []
  for n in range(1, 5):
    mine, most = Counter(ngrams(text, n)), Counter()
    for other in others:
      most |= Counter(ngrams(other, n))
    if mine:
      same = sum((mine & most).values())
      logs.append(np.log((same or 0.1) / sum(mine.values())))
  near = min((abs(len(x) - len(text)), len(x)) for x in others)[1]
  if near <= len(text):
    brevity = 1
  else:
    brevity = np.exp(1 - near / len(text)) if text else 0
  return brevity * np.exp(np.mean(logs) if logs else 0)


@pytest.mark.parametrize('group', [2, 3, 4])
@pytest.mark.parametrize('vocab_size', [10, 150_000])  # ids that need numbering
def test_equals_loops(group, vocab_size):
  for seed in range(20):
    tokens, lengths, texts = drawn(seed)
    args = tokens, lengths, group, vocab_size
    by_prompt = [texts[i : i + group] for i in range(0, len(texts), group)]
    want = [slow_ead(x, vocab_size) for x in by_prompt]
    np.testing.assert_allclose(of('ead_per_input', *args), want)
    sets = [slow_ead(texts[k::group], vocab_size) for k in range(group)]
    got = of('ead_across_inputs', *args)
    np.testing.assert_allclose(got.mean(), np.mean(sets))
    want = [
      np.mean([slow_bleu(x[i], x[:i] + x[i + 1 :]) for i in range(group)])
      for x in by_prompt
    ]
    np.testing.assert_allclose(of('self_bleu', *args), want)


@pytest.mark.parametrize('name', ['ead_per_input', 'ead_across_inputs'])
def test_ead_of_even_draws_is_one_whatever_the_length(name):
  rng = np.random.default_rng(0)
  for length in (1, 2, 5, 40):
    tokens = rng.integers(0, 10, (2000, length))
    got = of(name, tokens, [length] * 2000, 2, eos_id=None)
    np.testing.assert_allclose(got.mean(), 1, atol=0.01)


def test_one_token_again_and_again_has_no_diversity():
  tokens = np.full((8, 60), 7)
  args = tokens, [60, 40, 50, 60] * 2, 4
  assert of('ead_per_input', *args).max() < 0.05
  assert of('ead_across_inputs', *args).max() < 0.05
  assert of('self_bleu', *args).min() > 0.7  # one is shorter than all others


@pytest.mark.parametrize('name', DIVERSITY)
def test_the_order_of_a_prompts_samples_does_not_matter(name):
  tokens, lengths, _ = drawn(1)
  shuffled = np.random.default_rng(2).permuted(
    np.arange(12).reshape(4, 3), axis=1
  )
  before = of(name, tokens, lengths, 3)
  index = shuffled.ravel()
  after = of(name, tokens[index], lengths[index], 3)
  if name == 'ead_across_inputs':  # other sets, of which it is the mean
    before, after = before.mean(), after.mean()
    np.testing.assert_allclose(after, before, rtol=0.1)
  else:
    np.testing.assert_allclose(after, before)


def test_one_answer_to_each_prompt_is_diverse_across_prompts_alone():
  answers = np.random.default_rng(0).integers(1, 100, (30, 8))
  fixed = np.repeat(answers, 4, axis=0), [8] * 120, 4, 100
  free = np.random.default_rng(1).integers(1, 100, (120, 8)), *fixed[1:]
  assert of('ead_per_input', *free).mean() > 0.95
  assert of('ead_per_input', *fixed).mean() < 0.35
  assert of('ead_across_inputs', *fixed).mean() > 0.95
  np.testing.assert_allclose(of('self_bleu', *fixed), 1)
  assert of('self_bleu', *free).max() < 0.1


def test_self_bleu_is_one_of_equal_completions_however_short():
  for length in (0, 1, 3, 6):
    tokens = np.tile([1, 2, 3, 4, 5, 6], (4, 1))
    tokens = np.concatenate([tokens[:, :length], np.zeros((4, 1), int)], 1)
    np.testing.assert_allclose(of('self_bleu', tokens, [length + 1] * 4, 2), 1)


@pytest.mark.parametrize('name', sorted(SEVERAL | {'ead_across_inputs'}))
def test_what_ends_a_completion_is_not_alike_in_two_of_them(name):
  ended = [[1, 2, END, 9], [3, 4, END, 9], [5, END, 9, 9], [6, 7, END, 9]]
  got = of(name, ended, [3, 3, 2, 3], 2, eos_id=(END, 8))
  bare = [[1, 2], [3, 4], [5, 9], [6, 7]]
  np.testing.assert_allclose(got, of(name, bare, [2, 2, 1, 2], 2, eos_id=None))


@pytest.mark.parametrize('name', sorted(SEVERAL | {'ead_across_inputs'}))
def test_completions_that_end_at_once_have_a_number(name):
  got = of(name, [[END]] * 4, [1] * 4, 2)
  np.testing.assert_array_equal(got, 1 if name == 'self_bleu' else 0)


def test_a_prompts_part_is_greater_for_what_no_other_prompt_has():
  tokens = [[1, 2], [1, 2], [3, 4]]
  parts = of('ead_across_inputs', tokens, [2] * 3, 1)
  np.testing.assert_allclose(parts[0], parts[1])
  np.testing.assert_allclose(parts[2], 2 * parts[0])


def test_no_ngram_goes_from_one_completion_to_the_next():
  got = of('distinct_2', [[1, 2], [3, 4]] * 2, [1] * 4, 2)
  np.testing.assert_array_equal(got, 0)
