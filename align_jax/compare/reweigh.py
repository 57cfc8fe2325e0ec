"""Policies that need no training: the reference's samples, reweighed.

Best-of-n and the closed-form optimum ref * exp(r / beta) / Z are both the
reference with its completions weighed anew, so one pool of N samples per prompt
stands for all of their strengths. Numpy and scipy only.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from align_jax.files import listed


@dataclasses.dataclass(frozen=True)
class Pool:
  """N samples of the reference for each of E prompts; all arrays f64 [E, N]."""

  rewards: np.ndarray  # what is optimised
  gold: np.ndarray
  proxy: np.ndarray
  logps: np.ndarray  # of the whole completion, under the reference


def _levels(rewards):
  """Of sorted rewards [N]: first and one-past-last index of each one's ties."""
  first = np.searchsorted(rewards, rewards, 'left')
  return first, np.searchsorted(rewards, rewards, 'right')


def best_of_n_weights(rewards: np.ndarray, n: int) -> np.ndarray:
  """Chance that each sample is the best of n drawn without replacement.

  The unbiased estimator of Nakano et al. 2021 (app. I): samples are ranked,
  ties share what they have together.

  Args:
    rewards: [N].
  Returns:
    [N], sums to one.
  """
  size = len(rewards)
  order = np.argsort(rewards, kind='stable')
  first, last = _levels(rewards[order])

  def below(count):
    """Chance that all n are among the `count` lowest."""
    log_ways = lambda k: special.gammaln(k + 1) - special.gammaln(k - n + 1)
    chance = np.exp(log_ways(np.maximum(count, n)) - log_ways(size))
    return np.where(count >= n, chance, 0.0)

  weights = np.empty(size)
  weights[order] = (below(last) - below(first)) / (last - first)
  return weights


def best_of_n_bound(n: int) -> float:
  """log n - (n - 1) / n, nats: the KL of best-of-n is never larger.

  Equal to it only where no completion has mass and none tie (Beirami et al.
  2024, theorem 3.1).
  """
  return np.log(n) - (n - 1) / n


def best_of_n_kl(rewards: np.ndarray, logps: np.ndarray, n: int) -> float:
  """KL(best-of-n || reference) of one prompt, estimated from its samples.

  A completion, or those of equal reward, with mass m and the mass F - m below
  has probability F^n - (F - m)^n. Were the mass spread evenly over [F - m, F],
  the KL would be the bound; what evenness adds is known in closed form, and is
  taken off, averaged over the samples by their chance to be the best. So the
  estimate is the bound where every completion is rare, and never above it. m is
  the completion's own probability, which is known, or the share of samples that
  tie with it, if that is larger; F is read off the ranks.

  Args:
    rewards, logps: [N], of samples of the reference.
  Returns:
    nats.
  """
  size = len(rewards)
  order = np.argsort(rewards, kind='stable')
  first, last = _levels(rewards[order])
  ties = np.where(last - first > 1, (last - first) / size, 0)
  mass = np.maximum(np.exp(logps[order]), ties)
  middle = (first + last) / (2 * size)
  low = np.minimum(np.maximum(middle - mass / 2, 0), 1 - mass)
  weights = best_of_n_weights(rewards[order], n)
  excess = np.where(mass * n > RARE, _evenness(low, low + mass, n), 0)
  return best_of_n_bound(n) - (weights * excess).sum()


RARE = 1e-3  # of m n, below which evenness adds less than its square


def _evenness(low, high, n):
  """Mean of log n u^(n-1) over [low, high], less the log of its mean.

  The first mean is under the density n u^(n-1) of a best-of-n rank u, so this
  is the KL that is lost by knowing of u only that it lies there.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    log = lambda u: np.where(u > 0, np.log(u), 0)
    share = np.maximum(high**n - low**n, np.finfo(float).tiny)
    inside = lambda u: u**n * np.log(n) + (n - 1) * u**n * (log(u) - 1 / n)
    mean = (inside(high) - inside(low)) / share
    return np.maximum(mean - np.log(share / (high - low)), 0)


# Samples of a pool for each of the n, so that the best of n are not always the
# same few. Chosen, not measured.
POOL_PER_DRAW = 4


SIZES = tuple(2**k for k in range(11))


def best_of_n(pool: Pool, sizes: Iterable[int] = SIZES) -> Iterator[dict]:
  """Points of best-of-n for n up to a quarter of the pool."""
  for n in sizes:
    if n > pool.rewards.shape[1] // POOL_PER_DRAW:
      return
    weights = np.stack([best_of_n_weights(r, n) for r in pool.rewards])
    kl = [best_of_n_kl(r, l, n) for r, l in zip(pool.rewards, pool.logps)]
    yield {
      **_point(pool, weights, kl),
      'n': n,
      'kl_bound_nats': float(best_of_n_bound(n)),
    }


# Samples that the weights must be worth, for a point to be given. The standard
# error of a mean is then below a quarter of a standard deviation. Chosen, not
# measured.
MIN_SAMPLES = 20
# From hardly a change to more than a pool can tell, in finer steps towards the
# end, where the KL grows faster. Chosen, not measured.
BETAS = 8.0, 4.0, 2.0, 1.4, 1.0, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2


def deviation_of(rewards: np.ndarray) -> float:
  """Of a pool's rewards. Raises ValueError where they are all alike."""
  if not np.ptp(rewards):
    raise ValueError(
      f'all rewards of a pool are {rewards.flat[0]:g}: no beta tells its '
      'samples apart'
    )
  return float(rewards.std())


def optimum(pool: Pool, betas: Iterable[float] = BETAS) -> Iterator[dict]:
  """Points of ref * exp(r / beta) / Z, by self-normalised importance sampling.

  Betas are in deviations of the pool's rewards. The series ends where the
  weights of the average prompt are worth fewer than MIN_SAMPLES samples.
  """
  deviation = deviation_of(pool.rewards)
  yield {**even_point(pool, 0.0), 'beta': float('inf')}
  for scale in betas:
    tilt = pool.rewards / (scale * deviation)
    log_z = special.logsumexp(tilt, axis=1, keepdims=True)
    weights = np.exp(tilt - log_z)
    if np.mean(1 / np.square(weights).sum(1)) < MIN_SAMPLES:
      return
    ratios = tilt - log_z + np.log(tilt.shape[1])
    yield {
      **_point(pool, weights, (weights * ratios).sum(1)),
      'beta': float(scale * deviation),
    }


def even_point(pool: Pool, kl: ArrayLike) -> dict:
  """A point of samples of equal weight, at KLs [E] or one for all."""
  return _point(
    pool, np.full(pool.rewards.shape, 1 / pool.rewards.shape[1]), kl
  )


def _point(pool, weights, kl):
  """A point as `probe.measure` makes them, of the pool under weights [E, N]."""
  kl = np.broadcast_to(kl, len(weights))
  mean = lambda x: (weights * x).sum(1)
  gold, proxy = mean(pool.gold), mean(pool.proxy)
  return {
    'kl_seq_nats': float(kl.mean()),
    'gold': float(gold.mean()),
    'proxy': float(proxy.mean()),
    'kl_by_prompt': listed(kl),
    'gold_by_prompt': listed(gold),
    'proxy_by_prompt': listed(proxy),
  }


REWEIGH = {'best_of_n': best_of_n, 'optimum': optimum}
