"""Every way of sampling draws its own law.

Four tokens, completions of at most four: the law is worked out by enumeration,
a step at a time, with 0 as EOS.
"""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EOS_ID, init
from runs import run_of
from scipy import stats

from align_jax.lab import pools, protocol
from align_jax.learn import batches, truncated
from align_jax.learn.probe import measure
from align_jax.policy import draw_tokens, sampling, scoring
from align_jax.policy.draw_tokens import Truncation
from configs import base
from experiments import common
from experiments.enumerable import Language, total_variation

V = T = 4
N = 20_000  # completions of each of the two prompts
PROMPTS = np.array([[1, 2], [3, 0]], np.int32)
WHOLE = np.ones(PROMPTS.shape, bool)
MODES = {  # temperature, truncation, stop token, limits
  'temperature': (0.6, Truncation(), -1, (T, T)),
  'top_k': (1.0, Truncation(top_k=2), -1, (T, T)),
  'top_p': (1.0, Truncation(top_p=0.7), -1, (T, T)),
  'min_p': (1.0, Truncation(min_p=0.3), -1, (T, T)),
  'all three': (1.4, Truncation(3, 0.9, 0.2), -1, (T, T)),
  'stop token': (1.0, Truncation(), 2, (T, T)),
  'limits': (1.0, Truncation(), -1, (1, 3)),
}


@pytest.fixture(scope='module')
def policy(tiny):
  return init(0, tiny)


@pytest.fixture(scope='module')
def next_logps(tiny, policy):
  """{prefix: f64 [V]} of each prompt, by scoring."""
  language = Language(V, T)
  batch = language.rows(np.tile(np.arange(V**T), 2), V**T)
  batch = batch.replace(prompts=PROMPTS, prompt_valid=WHOLE)
  score = jax.jit(functools.partial(scoring.token_logps, config=tiny))
  logps = np.asarray(score(policy, batch), np.float64).reshape(2, -1, T)
  steps = [{}, {}]
  for table, rows in zip(steps, logps):
    for tokens, row in zip(language.tokens.tolist(), rows):
      for t in range(T):
        table.setdefault(tuple(tokens[:t]), np.zeros(V))[tokens[t]] = row[t]
  return steps


def step_law(logps, temperature, truncation):
  """The rules, a token at a time: f64 [V]."""
  probs = np.exp(logps / temperature)
  order = sorted(range(V), key=lambda i: -probs[i])[: truncation.top_k]
  total, before, kept = probs[order].sum(), 0.0, []
  for i in order:
    if before < truncation.top_p * total:
      kept.append(i)
    before += probs[i]
  kept = [i for i in kept if probs[i] >= truncation.min_p * probs[order[0]]]
  law = np.zeros(V)
  law[kept] = probs[kept]
  return law / law.sum()


def law_of(steps, temperature, truncation, stop, limit):
  """Probability of each padded completion: f64 [V^T]."""
  law = np.zeros((V,) * T)

  def walk(prefix, chance):
    if prefix and (prefix[-1] in (EOS_ID, stop) or len(prefix) >= limit):
      law[prefix + (0,) * (T - len(prefix))] += chance
      return
    chances = step_law(steps[prefix], temperature, truncation)
    for token in range(V):
      walk((*prefix, token), chance * chances[token])

  walk((), 1.0)
  return law.reshape(-1)


def samplers(config, size):
  """All at once and by slots; the modes are arguments."""
  static = dict(config=config, max_new_tokens=T, eos_id=EOS_ID, group_size=size)
  refill = functools.partial(sampling.sample_many, slots=size // 25)
  return {
    'whole': jax.jit(functools.partial(sampling.sample, **static)),
    'slots': jax.jit(functools.partial(refill, **static)),
  }


def draw(sampler, policy, mode, seed=0):
  temperature, truncation, stop, limits = mode
  return sampler(
    policy,
    PROMPTS,
    WHOLE,
    jax.random.key(seed),
    temperature,
    truncation=truncation,
    stop_tokens=jnp.array([stop, -1]),
    limits=jnp.array(limits),
  )


@pytest.fixture(scope='module')
def drawn(tiny, policy):
  """(way, name of a mode) -> its Batch."""
  ways = samplers(tiny, N)
  return functools.cache(lambda way, name: draw(ways[way], policy, MODES[name]))


def follows(batch, laws):
  """Chi-square over the completions of each prompt, the rarest ones pooled."""
  index = np.ravel_multi_index(np.asarray(batch.completions).T, (V,) * T)
  for drawn, law in zip(index.reshape(2, -1), laws):
    counts, expected = np.bincount(drawn, minlength=V**T), len(drawn) * law
    assert counts[law == 0].sum() == 0
    rare = (expected < 5) & (law > 0)
    pool = lambda x: np.append(x[expected >= 5], x[rare].sum())
    got, want = pool(counts), pool(expected)
    if want[-1] < 5:  # too few for a cell of their own
      got, want = (np.append(x[:-2], x[-2:].sum()) for x in (got, want))
    assert stats.chisquare(got, want * got.sum() / want.sum()).pvalue > 1e-3


@pytest.mark.parametrize('way', ['whole', 'slots'])
@pytest.mark.parametrize('name', MODES)
def test_every_mode_draws_its_law(drawn, next_logps, way, name):
  temperature, truncation, stop, limits = MODES[name]
  laws = [
    law_of(x, temperature, truncation, stop, limit)
    for x, limit in zip(next_logps, limits)
  ]
  for law, steps in zip(laws, next_logps):
    plain = law_of(steps, 1.0, Truncation(), -1, T)
    assert total_variation(law, plain) > 0.05
  batch = drawn(way, name)
  follows(batch, laws)
  # The same distribution by what the sampler says of it.
  index = np.ravel_multi_index(np.asarray(batch.completions).T, (V,) * T)
  said = np.asarray(batch.sampler_logps).sum(1).reshape(2, -1)
  for law, rows, logps in zip(laws, index.reshape(2, -1), said):
    np.testing.assert_allclose(logps, np.log(law[rows]), atol=2e-5)
  # And the policy's own, which the law with nothing changed tells.
  own, rows = np.asarray(batch.policy_logps), np.asarray(batch.completions)
  lengths = np.asarray(batch.valid).sum(1)
  for row in range(0, 2 * N, 997):
    tokens = tuple(rows[row].tolist())
    for t in range(lengths[row]):
      want = next_logps[row // N][tokens[:t]][tokens[t]]
      np.testing.assert_allclose(own[row, t], want, atol=1e-5)


def test_no_mode_draws_the_policy(tiny, policy, next_logps):
  f = functools.partial(
    sampling.sample, config=tiny, max_new_tokens=T, group_size=N, eos_id=EOS_ID
  )
  batch = jax.jit(f)(policy, PROMPTS, WHOLE, jax.random.key(1))
  assert batch.policy_logps is None
  follows(batch, [law_of(x, 1.0, Truncation(), -1, T) for x in next_logps])


def test_modes_compile_once(tiny, policy, lowered):
  """Numbers, stop tokens, limits and keys are arguments like any others."""
  for sampler in samplers(tiny, 50).values():
    draw(sampler, policy, MODES['limits'])
    lowered.clear()
    for seed, mode in enumerate(MODES.values()):
      draw(sampler, policy, mode, seed)
    assert not [name for name in lowered if 'sample' in name], lowered


def test_stop_tokens_end_a_completion(drawn):
  batch = drawn('whole', 'stop token')
  tokens, valid = np.asarray(batch.completions), np.asarray(batch.valid)
  ends = (tokens == 2) | ((tokens == EOS_ID) & valid)
  assert ends.any() and not ends[:, :-1][valid[:, 1:]].any()
  last = tokens[np.arange(len(tokens)), valid.sum(1) - 1]
  cut = np.asarray(truncated.unfinished(batch, [EOS_ID, 2]))
  assert cut.any() and (cut == ~np.isin(last, (EOS_ID, 2))).all()
  assert (valid[cut].sum(1) == T).all()
  assert (np.asarray(truncated.unfinished(batch, EOS_ID)) > cut).any()


def test_limits_are_kept_and_count_as_cut_off(drawn):
  batch = drawn('whole', 'limits')
  lengths = np.asarray(batch.valid).sum(1).reshape(2, -1)
  assert (lengths[0] == 1).all() and lengths[1].max() == 3
  cut = np.asarray(truncated.unfinished(batch, EOS_ID)).reshape(2, -1)
  assert cut[0].any() and not cut[0].all()
  assert (lengths[1][cut[1]] == 3).all()


def test_truncation_keeps_what_its_rules_say(lowered):
  """Ties and impossible tokens included, against a sort in float64."""
  rng = np.random.default_rng(0)
  logits = (3 * rng.normal(size=(60, 20))).astype(np.float32)
  logits[:30] = np.round(logits[:30])
  logits[:, 3] = -np.inf
  f = jax.jit(draw_tokens.truncate)
  f(logits, Truncation(2, 0.9, 0.01))
  lowered.clear()
  values = itertools.product((1, 5, 20, 2**30), (0.5, 0.99, 1.0), (0.0, 0.1))
  for k, p, m in values:
    got = np.isfinite(f(logits, Truncation(k, p, m)))
    for row, kept in zip(logits.astype(np.float64), got):
      inside = row >= np.sort(row)[::-1][min(k, 20) - 1]
      probs = np.where(inside, np.exp(row - row.max()), 0)
      above = np.array([probs[row > x].sum() for x in row]) / probs.sum()
      inside &= (above < p) & (row > -np.inf)
      inside &= np.exp(row - row.max()) >= m
      np.testing.assert_array_equal(kept, inside)
  assert not lowered


# No KL is estimated from anything but the policy itself.


@pytest.fixture(scope='module')
def tempered(params, prompts, sample):
  batch = sample(params, *prompts, jax.random.key(0), 0.5)
  assert batch.policy_logps is not None
  return batch


REFUSED = pytest.raises(ValueError, match='temperature 1 and untruncated')


def test_no_kl_of_tempered_samples(config, params, ref_params, tempered):
  probe = types.SimpleNamespace(
    sample=lambda *args: tempered, prompts=(), key=None
  )
  with REFUSED:
    measure(probe, params, ref_params)
  with REFUSED:
    scoring.token_kls(params, ref_params, tempered, config=config)


def test_no_budget_and_no_pool_of_tempered_samples(
  config, params, tempered, monkeypatch
):
  drawn = lambda *args: lambda *args: tempered
  for module in (protocol, pools):
    monkeypatch.setattr(module, 'sampler', drawn)
  task = types.SimpleNamespace(
    model=config, max_new_tokens=6, eos_id=0, eval_prompts=[0]
  )
  stage = types.SimpleNamespace(task=task, seed=0, reference=params)
  run = run_of(common.as_dict(base.get_config()), kl_budget=1.0, kl_samples=3)
  with REFUSED:
    protocol.budget_of(stage, run).measure(params)
  with REFUSED:
    pools.draw_pool(stage, None, 3, 3)


def test_tempered_samples_stay_known_as_such(config, params, batch, tempered):
  assert batch.sampler_logps is not None
  for both in ((batch, tempered), (tempered, batch)):
    with REFUSED:
      scoring.token_kls(params, params, batches.join(*both), config=config)


def test_blocks_draw_what_one_running_sum_draws():
  """Over a vocabulary that no block divides, against float64."""
  rng = np.random.default_rng(0)
  logits = (3 * rng.normal(size=(2000, 1001))).astype(np.float32)
  logits[:, rng.random(1001) < 0.3] = -np.inf
  uniforms = rng.random(2000).astype(np.float32)
  tokens, logps = jax.jit(draw_tokens.inverse_cdf)(uniforms, logits)
  probs = np.exp(logits.astype(np.float64))
  probs /= probs.sum(1, keepdims=True)
  rows, tokens = np.arange(2000), np.asarray(tokens)
  end = np.cumsum(probs, 1)[rows, tokens]
  assert (uniforms < end + 1e-6).all()
  assert (uniforms > end - probs[rows, tokens] - 1e-6).all()
  np.testing.assert_allclose(logps, np.log(probs[rows, tokens]), atol=1e-5)
