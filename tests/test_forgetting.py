"""What a policy forgets: the other KL, and demonstrations; laws of both."""

import functools

import jax
import numpy as np
import pytest
from conftest import init

from align_jax import tasks
from align_jax.learn import forgetting
from align_jax.policy import scoring
from align_jax.types import Batch
from experiments.enumerable import Language

V = T = 4
LANGUAGE = Language(V, T)
N = LANGUAGE.size
PROMPTS = np.array([[1, 2], [3, 0]], np.int32)


def texts(**fields):
  every = ('samples', 'demonstrations', 'kls', 'logps', 'batch_size')
  return forgetting.Texts(**{**dict.fromkeys(every), **fields})


@pytest.fixture(scope='module')
def policies(tiny):
  return init(0, tiny), init(1, tiny)


@pytest.fixture(scope='module')
def enumerated(tiny, policies):
  """Texts of all completions, and log pi and log ref of each: [P, N]."""
  batch = LANGUAGE.after(PROMPTS)
  logps = jax.jit(functools.partial(scoring.token_logps, config=tiny))
  kls = jax.jit(functools.partial(scoring.token_kls, config=tiny))
  own, ref = (np.asarray(logps(p, batch).sum(1), float) for p in policies)

  def weighed(params, other, batch):
    """By the reference's probabilities, so that the mean is the expectation."""
    exact, ratios = kls(params, other, batch)
    return np.exp(ref)[:, None] * N * np.asarray(exact), ratios

  of = texts(samples=lambda: batch, kls=weighed)
  return of, own.reshape(2, N), ref.reshape(2, N)


def test_forward_kl_is_that_of_the_reference_from_the_policy(
  enumerated, policies
):
  of, own, ref = enumerated
  want = (np.exp(ref) * (ref - own)).sum(1)
  reverse = (np.exp(own) * (own - ref)).sum(1)
  assert (abs(want - reverse) > 0.03).all()
  got = forgetting.forward_kl(of, *policies)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_the_reference_has_forgotten_nothing(enumerated, policies):
  got = forgetting.forward_kl(enumerated[0], policies[1], policies[1])
  np.testing.assert_allclose(got, 0, atol=1e-6)


def demonstrations(number=5):
  """Rows of which the first token is not what the assistant says."""
  rng = np.random.default_rng(0)
  valid = np.arange(T) < rng.integers(2, T + 1, number)[:, None]
  prompts = np.zeros((number, 2), np.int32)
  return Batch(
    prompts=prompts,
    prompt_valid=prompts == 0,
    completions=rng.integers(0, V, (number, T)).astype(np.int32),
    valid=valid,
    mask=valid & (np.arange(T) > 0),
    rewards=np.ones(number, np.float32),
    ref_logps=np.where(valid, -rng.random((number, T)), 0).astype(np.float32),
  )


def test_demonstrations_are_scored_per_token_that_is_learned():
  batch = demonstrations()
  # A policy whose log-prob of a token is minus a tenth of its number.
  logps = lambda params, part: -0.1 * part.completions
  of = texts(demonstrations=lambda: batch, logps=logps, batch_size=2)
  got = forgetting.demonstration_logp(of, None, None)
  rows = zip(batch.completions, batch.ref_logps, batch.mask)
  want = [np.mean(-0.1 * x[mask] - ref[mask]) for x, ref, mask in rows]
  assert len(got) == 5  # the last part wraps around
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_task_without_held_out_demonstrations_is_refused():
  task = tasks.Task(*[None] * 8)
  tasks.check_demonstrations(task, ('forward_kl',))
  with pytest.raises(ValueError, match="'demonstration_logp' needs the task's"):
    tasks.check_demonstrations(task, ('length', 'demonstration_logp'))
