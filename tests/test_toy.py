"""The generated task: its reward, its prompts, and what it knows exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import tasks
from align_jax.lab import pairs
from align_jax.lab.streams import PAIRS
from align_jax.learn import metrics
from align_jax.policy import sampling
from align_jax.policy.programs import expectation
from align_jax.tasks import toy

SIZES = dict(dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4)
FIELDS = dict(
  prompts=20,
  eval_prompts=5,
  prompt_len=3,
  completion_len=4,
  peak_shift=0.7,
  repeat_penalty=0.6,
)


def make(seed=0, workdir=None, **fields):
  model = dict(vocab_size=8, mlp_dim=8, **SIZES)
  return tasks.make_task(
    name='toy',
    seed=seed,
    workdir=workdir,
    model=model,
    sft_batch_size=4,
    **{**FIELDS, **fields},
  )


@pytest.fixture(scope='module')
def task():
  return make()


@pytest.fixture(scope='module')
def sampled(task):
  """Parameters far from uniform, and many of their samples."""
  from align_jax.models import transformer

  params = transformer.init(jax.random.key(0), task.model)
  params = {**params, 'embed': 10 * params['embed']}
  draw = jax.jit(
    lambda params, prompts, valid, key: sampling.sample(
      params,
      prompts,
      valid,
      key,
      config=task.model,
      group_size=2000,
      max_new_tokens=task.max_new_tokens,
      eos_id=None,
    )
  )
  return params, draw(params, *task.eval_prompts[:], jax.random.key(1))


def by_hand(task, weights, batch, penalty):
  """A loop over tokens, as the module's docstring says it."""
  totals = []
  for row, tokens in enumerate(np.asarray(batch.completions)):
    prompt = np.asarray(batch.prompts)[row // batch.group_size]
    total, seen = 0.0, set()
    for token in tokens:
      worth = sum(w[p, token] for w, p in zip(weights, prompt))
      total += -penalty if token in seen else worth
      seen.add(token)
    totals.append(total)
  return totals


def test_gold_counts_distinct_tokens_and_takes_off_repeats(sampled):
  _, batch = sampled
  few = jax.tree.map(lambda x: x[:40], batch.replace(prompts=(), valid=()))
  few = few.replace(
    prompts=batch.prompts[:1],
    prompt_valid=batch.prompt_valid[:1],
    valid=batch.valid[:40],
    group_size=40,
  )
  weights = np.random.default_rng(0).normal(size=(3, 8, 8))
  gold = toy.gold_reward(jnp.float32(weights), 0.6, few)
  expected = by_hand(None, weights, few, 0.6)
  np.testing.assert_allclose(gold, expected, rtol=1e-4, atol=1e-5)
  repeated = [len(set(row)) < 4 for row in np.asarray(few.completions)]
  assert any(repeated) and not all(repeated)


def test_steps_of_the_tokens_taken_add_up_to_gold(task, sampled):
  _, batch = sampled
  steps = np.asarray(task.gold_steps(batch))
  taken = np.take_along_axis(steps, np.asarray(batch.completions)[..., None], 2)
  gold = np.asarray(task.gold(batch))
  np.testing.assert_allclose(taken.sum((1, 2)), gold, rtol=1e-4, atol=1e-5)


def test_worth_in_expectation_has_the_mean_of_samples_and_less_noise(
  task, sampled
):
  params, batch = sampled
  exact = expectation(task.model)(params, batch, task.gold_steps(batch))
  exact, gold = np.asarray(exact.sum(1)), np.asarray(task.gold(batch))
  error = (gold - exact).std() / len(gold) ** 0.5
  assert abs(gold.mean() - exact.mean()) < 4 * error
  assert exact.var() < 0.7 * gold.var()


def test_worth_is_expected_of_the_policy_alone(task, sampled):
  """Samples of another distribution would give another mean."""
  params, batch = sampled
  off = batch.replace(policy_logps=batch.sampler_logps)
  with pytest.raises(ValueError):
    expectation(task.model)(params, off, task.gold_steps(off))


@pytest.mark.parametrize('length, side', [(1, 25), (2, 5), (3, 3)])
def test_prompts_are_distinct_and_of_the_smallest_cube(length, side):
  train, held_out = toy.split_prompts(20, 5, length)
  every = np.concatenate([train.tokens, held_out.tokens])
  assert len({tuple(row) for row in every}) == 25
  assert every.shape == (25, length) and every.max() == side - 1
  train, same = toy.split_prompts(20, 0, length)
  assert same is train


def test_seeds_share_the_tokens_of_prompts_and_not_their_worth(task):
  other = make(seed=1)
  np.testing.assert_array_equal(
    task.eval_prompts.tokens, other.eval_prompts.tokens
  )
  assert not tasks.shares_prompts('toy') and tasks.shares_prompts('arithmetic')


def test_too_small_a_vocabulary_is_refused():
  with pytest.raises(ValueError, match='vocab_size'):
    make(prompt_len=1)


def test_training_prompts_are_a_set_to_measure_on(task):
  found = task.eval_sets['train']
  assert len(found) == len(task.eval_prompts)
  rows = lambda prompts: set(map(tuple, prompts.tokens.tolist()))
  assert rows(found) < rows(task.train_prompts)
  # They are measured anyhow.
  assert 'train' not in make(eval_prompts=0).eval_sets


def test_held_out_demonstrations_answer_held_out_prompts(task):
  batch = task.held_out_demonstrations()
  rows = lambda x: set(map(tuple, np.asarray(x).tolist()))
  assert rows(batch.prompts) <= rows(task.eval_prompts.tokens)
  assert batch.num_prompts == len(task.eval_prompts)
  again = task.held_out_demonstrations()
  np.testing.assert_array_equal(batch.completions, again.completions)


def test_prompts_out_of_distribution_have_a_token_that_no_training_has(task):
  found, held_out = task.eval_sets['ood'].tokens, task.eval_prompts.tokens
  seen = np.concatenate([task.train_prompts.tokens, held_out])
  assert ((found > seen.max()).sum(1) == 1).all()
  assert ((found == held_out).sum(1) == found.shape[1] - 1).all()
  vocab = int(seen.max()) + 1
  assert 'ood' not in toy.eval_sets(
    task.train_prompts, task.eval_prompts, vocab, vocab
  )


def test_the_second_task_is_worth_what_demonstrations_show():
  """More than other tokens are, where no other token is shown for the first."""
  task = make(old_prompts=8, peak_shift=1.0)
  old = task.eval_sets['old'].tokens
  first = task.train_prompts.tokens.max() + 1
  assert old.shape == (8, 3) and (old.min(), old.max()) == (first, first + 1)
  lead = {True: [], False: []}
  for i in range(50):
    batch = task.demonstrations(None, jax.random.key(i), 0)
    others = [(batch.completions + step) % 8 for step in range(1, 8)]
    gold = lambda x: np.asarray(task.gold(batch.replace(completions=x)))
    leads = gold(batch.completions) - np.mean([gold(x) for x in others], 0)
    for of_old, x in zip(np.asarray(batch.prompts).min(1) >= first, leads):
      lead[bool(of_old)].append(x)
  assert np.mean(lead[True]) > 1.5 > 1 > np.mean(lead[False])


def test_without_a_second_task_nothing_differs(task):
  none, some = task, make(old_prompts=8)
  np.testing.assert_array_equal(
    none.eval_prompts.tokens, some.eval_prompts.tokens
  )
  batch = none.held_out_demonstrations()
  np.testing.assert_array_equal(none.gold(batch), some.gold(batch))
  assert 'old' not in none.eval_sets
  assert none.eval_sets['ood'].tokens.max() > some.eval_prompts.tokens.max()


def test_sets_that_the_task_does_not_have_are_refused(task):
  tasks.check_sets(task, ['train'])
  with pytest.raises(
    ValueError, match=r"'tests' is none .* \['ood', 'train'\]"
  ):
    tasks.check_sets(task, ['train', 'tests'])


def test_golden_pairs_lack_uncovered_tokens(task, sampled):
  """As many pairs as asked for, and the first ones that a whole task has."""
  params, batch = sampled
  partly = make(uncovered=2)
  draw = lambda task: pairs.sample_pairs(
    task, params, task.train_prompts, 0, PAIRS, 10, 60
  )
  got, whole = draw(partly), draw(task)
  assert got.num_prompts == whole.num_prompts == 60
  assert got.completions.min() == 2 and whole.completions.min() == 0
  first = next(x for x in whole.completions.reshape(-1, 8) if x.min() > 1)
  np.testing.assert_array_equal(got.completions[:2].ravel(), first)
  [share] = metrics.uncovered(partly.covered).values()
  samples = metrics.Samples(batch, 8, None, None, None)
  want = (np.asarray(batch.completions) < 2).any(1).mean()
  np.testing.assert_allclose(share(samples).mean(), want, rtol=1e-6)
  assert 0.1 < want < 0.95 and metrics.uncovered(task.covered) == {}


def test_a_task_without_covered_pairs_is_refused():
  check = {**FIELDS, 'prompts': 5, 'eval_prompts': 2}
  toy.check({'vocab_size': 8}, uncovered=4, **check)
  with pytest.raises(ValueError, match='task.uncovered=5, expected at most 4'):
    toy.check({'vocab_size': 8}, uncovered=5, **check)
