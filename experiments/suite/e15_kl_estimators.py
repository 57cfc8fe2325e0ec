"""Which KL estimators are right in value, and which in gradient?

  python -m experiments.suite.e15_kl_estimators --config=configs/toy.py \
    --workdir=runs/e15

Nothing is trained: all completions of small languages are enumerated, so that
means and gradients are exact. The config does not enter.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.losses.kl import BIASED, KL_TERMS
from experiments.claims import Exact
from experiments.enumerable import Language, kl
from experiments.study import Study, main

EXACT = 1e-5  # what single precision leaves of a number of order one
APART = 1e-3  # gradients further from one another than this differ
NEAR = 0.05  # nats, a small KL
LEAST = 3.0  # ratio of deviations at a small KL
SAMPLES = 4096
WITH_EOS = 'with EOS'
SEQUENCE = {'k1': ops.k1, 'k2': ops.k2, 'k3': ops.k3}
EXACT_STEPS = 'exact steps'
SHOWN = *SEQUENCE, 'k2 of completions', 'k3 of completions', EXACT_STEPS


@functools.cache
def numbers_of(language):
  """Compiled function: policy, reference -> {name: f32 [N, ...]}.

  Log-probs of completions, what each estimator says of them, and the `scores`,
  gradients of the policy's log-probs [N, parameters].
  """
  mask = language.mask
  whole = lambda x: ops.masked_sum(x, mask)

  @jax.jit
  def numbers(policy, reference):
    logps, ref = language.logps(policy), language.logps(reference)
    total = whole(logps), whole(ref)
    rows = jax.jacobian(language.seq_logps)(policy)
    return {
      'logps': total[0],
      'ref_logps': total[1],
      'scores': jnp.concatenate([x.reshape(len(mask), -1) for x in rows], 1),
      **{name: whole(f(logps, ref)) for name, f in SEQUENCE.items()},
      'k2 of completions': ops.k2(*total),
      'k3 of completions': ops.k3(*total),
      EXACT_STEPS: whole(language.kls(policy, reference)),
    }

  return numbers


@dataclasses.dataclass(frozen=True)
class Pair:
  """A policy and a reference, all of whose completions are known."""

  language: Language
  policy: tuple  # tables
  reference: tuple

  @functools.cached_property
  def numbers(self):
    """Numbers of completions, see `numbers_of`; f64."""
    found = numbers_of(self.language)(self.policy, self.reference)
    return {name: np.float64(x) for name, x in found.items()}

  @property
  def seq_logps(self):
    """Of completions under the policy and the reference: two f64 [N]."""
    return self.numbers['logps'], self.numbers['ref_logps']

  @property
  def law(self):
    return np.exp(self.numbers['logps'])

  @property
  def kl(self):
    return kl(self.law, np.exp(self.numbers['ref_logps']))

  def moments(self, name):
    """Mean and standard deviation of an estimator over the policy's samples."""
    x = self.numbers[name]
    mean = self.law @ x / self.law.sum()
    return mean, (self.law @ np.square(x - mean) / self.law.sum()) ** 0.5

  @functools.cached_property
  def gradients(self):
    """{what a loss may have the gradient of: flat}."""
    logps, ref = self.seq_logps
    reverse = (self.law * (logps - ref)) @ self.numbers['scores']
    forward = -np.exp(ref) @ self.numbers['scores']
    return {'zero': 0 * reverse, 'reverse': reverse, 'forward': forward}

  def as_loss(self, estimator):
    """Expected gradient of an estimator as a loss on the policy's samples."""
    slopes = jax.vmap(jax.grad(estimator))(*map(jnp.float32, self.seq_logps))
    return (self.law * np.float64(slopes)) @ self.numbers['scores']

  def of_term(self, name):
    """Expected gradient of a KL term of a policy gradient."""
    batches, chances = self.language.all_batches(self.law, 1)
    return -self.language.ascent(
      'reinforce',
      self.policy,
      self.reference,
      batches,
      weights=chances,
      beta=1.0,
      kl=name,
    )


def near(tables, seed, scale):
  """Tables a little off others."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: x + jnp.float32(scale * rng.normal(size=x.shape)), tables
  )


def counterexample():
  """Every completion has the same log-ratio, its steps have not.

  The policy chooses one of two first tokens evenly and the second for sure; the
  reference prefers the first, and what follows it the less.
  """
  language, after = Language(2, 2), np.exp([-2.5, -2.5 + np.log(9)])
  first = np.array([0.9, 0.1])
  reference = np.stack([first * after, first * (1 - after)], 1).ravel()
  policy = np.array([0.5, 0.0, 0.5, 0.0])
  return Pair(language, language.fit(policy), language.fit(reference))


@functools.cache
def pairs():
  """{name: Pair}, policies close to the reference and far from it."""
  made = {}
  for ends, eos in {'of 3 tokens': False, WITH_EOS: True}.items():
    language = Language(3, 3, eos)
    reference = language.tables(eos)
    for name, scale in {'near': 0.1, 'midway': 0.5, 'far': 1.5}.items():
      policy = near(reference, 10 + eos, scale)
      made[f'{name}, {ends}'] = Pair(language, policy, reference)
  return made


def every_pair():
  return {**pairs(), 'counterexample': counterexample()}


@dataclasses.dataclass(frozen=True)
class Means:
  """{case: distance of an estimator's mean from the KL, over EXACT}."""

  names: tuple

  def __call__(self, evidence):
    return {
      f'{name} of {title}': abs(pair.moments(name)[0] - pair.kl) - EXACT
      for title, pair in pairs().items()
      for name in self.names
    }


@dataclasses.dataclass(frozen=True)
class Sampled:
  """{case: standard errors of a sampled mean from the KL, over 3}."""

  names: tuple

  def __call__(self, evidence):
    rng, found = np.random.default_rng(0), {}
    for title, pair in pairs().items():
      drawn = rng.choice(len(pair.law), SAMPLES, p=pair.law / pair.law.sum())
      for name in self.names:
        x = pair.numbers[name][drawn]
        error = x.std(ddof=1) / SAMPLES**0.5
        found[f'{name} of {title}'] = abs(x.mean() - pair.kl) / error - 3
    return found


@dataclasses.dataclass(frozen=True)
class Losses:
  """{case: distance of a loss's expected gradient from one, over EXACT}."""

  wanted: dict  # {estimator of whole completions: name in Pair.gradients}

  def __call__(self, evidence):
    return {
      f'{name} of {title}': distance(
        pair.as_loss(SEQUENCE[name]), pair.gradients[want]
      )
      - EXACT
      for title, pair in pairs().items()
      for name, want in self.wanted.items()
    }


@dataclasses.dataclass(frozen=True)
class Terms:
  """{case: distance of KL terms from the gradient, over what it should be}."""

  biased: tuple

  def __call__(self, evidence):
    found = {}
    for name, off in distances_of_terms().items():
      found[name] = APART - off if name in self.biased else off - EXACT
    return found


@dataclasses.dataclass(frozen=True)
class Variances:
  """{case: variance of the exact steps above that of the log-ratios}."""

  with_counterexample: bool = True

  def __call__(self, evidence):
    chosen = every_pair() if self.with_counterexample else pairs()
    spread = lambda pair, name: pair.moments(name)[1] ** 2
    return {
      title: spread(pair, EXACT_STEPS) - spread(pair, 'k1')
      for title, pair in chosen.items()
    }


@dataclasses.dataclass(frozen=True)
class Ratios:
  """{case: what the deviation of k1 over the exact steps' is below `least`}."""

  least: float

  def __call__(self, evidence):
    deviation = lambda pair, name: pair.moments(name)[1]
    return {
      title: self.least - deviation(pair, 'k1') / deviation(pair, EXACT_STEPS)
      for title, pair in pairs().items()
      if pair.kl < NEAR
    }


@functools.cache
def distances_of_terms():
  """{KL term: distance of its gradient from the KL's}."""
  pair = pairs()[f'far, {WITH_EOS}']
  return {
    name: distance(pair.of_term(name), pair.gradients['reverse'])
    for name in KL_TERMS.keys() - {'none'}
  }


def distance(got, want):
  """The largest difference of two gradients."""
  return float(np.abs(got - want).max())


UNBIASED = 'k1', 'k3', 'k3 of completions', EXACT_STEPS


def add_table(page, evidence, folder):
  """Adds each estimator's mean and deviation, over the KL."""
  page.heading('Means and deviations of the estimators')
  rows = []
  for title, pair in pairs().items():
    moments = [pair.moments(name) for name in SHOWN]
    shown = [f'{m / pair.kl:.2f} ± {s / pair.kl:.2f}' for m, s in moments]
    rows.append([title, f'{pair.kl:.3f}', *shown])
  page.table(['policy', 'KL (nats)', *SHOWN], rows)
  page.note(
    'Mean and standard deviation of one sample, in units of the KL, by '
    'enumeration. Of completions: of the log-ratio of a whole completion; the '
    'others are sums over tokens.'
  )
  pair = counterexample()
  k1, exact = (pair.moments(name)[1] for name in ('k1', EXACT_STEPS))
  page.note(
    f'The counterexample, {pair.kl:.3f} nats from its reference: the log-ratio '
    f'deviates by {k1:.2f} nats and the sum of exact KLs by {exact:.2f}. The '
    'policy chooses either of two first tokens evenly and the second for sure; '
    'the reference prefers one of the first, and by as much less what follows.'
  )


STUDY = Study(
  __file__,
  'E15',
  'Which KL estimators are right in value, and which in gradient?',
  (
    Exact(
      'values',
      'k1, k3 and the sum of the exact KLs of all steps have the mean KL.',
      'Schulman 2020; Amini et al. 2025 (2504.10637)',
      f'Distance of the mean from the KL, over {EXACT:g} nats',
      Means(UNBIASED),
    ),
    Exact(
      'samples',
      f'So have their means over {SAMPLES} samples.',
      'Schulman 2020',
      'Standard errors between mean and KL, over 3',
      Sampled(UNBIASED),
    ),
    Exact(
      'losses',
      'As a loss on whole completions k1 has no expected gradient, k2 that of '
      'the KL, and k3 that of the forward KL.',
      'Tang and Munos 2025 (2506.09477)',
      f'Distance between gradients, over {EXACT:g}',
      Losses({'k1': 'zero', 'k2': 'reverse', 'k3': 'forward'}),
    ),
    Exact(
      'penalties',
      'Of the KL terms of a policy gradient only those have its gradient in '
      'which a token answers for its own KL and that of all later tokens.',
      'Tang and Munos 2025 (2506.09477)',
      f'Distance between gradients, over {EXACT:g} where it should be 0, and '
      f'under {APART:g} where it should not',
      Terms(tuple(BIASED)),
    ),
    Exact(
      'variance',
      'The sum of exact KLs never varies more than the log-ratio does.',
      'Amini et al. 2025 (2504.10637)',
      'Difference of their variances',
      Variances(),
    ),
    Exact(
      'small KL',
      f'Below {NEAR:g} nats the log-ratio deviates at least {LEAST:g} times as '
      'much as the sum of exact KLs.',
      'Amini et al. 2025 (2504.10637)',
      f'Ratio of their deviations, below {LEAST:g}',
      Ratios(LEAST),
    ),
  ),
  'Languages of three tokens have few completions: policies of thousands of '
  'tokens are further from the reference in most of them, so that k3 of whole '
  'completions varies far more there. What is exact here is exact at any size, '
  'and one counterexample is enough at any size.',
  trains=False,
  sections=(add_table,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
