"""Laws of over-optimisation: gold reward gained, as a function of KL.

Gao et al. 2022 (arXiv 2210.10760, sec. 3), with d = sqrt(KL):

  best_of_n  R = d (alpha - beta d)
  policy     R = d (alpha - beta log d), which has an infinite slope at 0

Numpy only.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

FALLS = {'best_of_n': lambda d: d, 'policy': np.log}
# Share of the points, those of the largest KL, that a law is asked to predict.
# Chosen, not measured.
HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class Law:
  """One of FALLS with its coefficients, in reward per sqrt(nat)."""

  kind: str
  alpha: float
  beta: float

  def __call__(self, kl: ArrayLike) -> np.ndarray:
    """Reward gained at KLs above 0, nats."""
    d = np.sqrt(kl)
    return d * (self.alpha - self.beta * FALLS[self.kind](d))

  @property
  def peak(self) -> float:
    """KL of the most reward, nats; inf where it rises at last."""
    if self.beta <= 0:
      return np.inf
    ratio = self.alpha / self.beta
    with np.errstate(over='ignore'):
      if self.kind == 'best_of_n':
        d = max(ratio / 2, 0)
      else:
        d = np.exp(ratio - 1)
      return float(np.square(d))


def fit(
  kind: str, kl: ArrayLike, gain: ArrayLike, errors: ArrayLike | None = None
) -> Law:
  """Weighted least squares, which is linear in both coefficients.

  Args:
    kl: [N], nats, > 0.
    gain: [N], reward above the reference's.
    errors: [N], standard errors of the gains, > 0; None: equal.
  Raises:
    ValueError: fewer than two KLs, or an error of 0.
  """
  kl, gain = np.asarray(kl, float), np.asarray(gain, float)
  if len(np.unique(kl)) < 2:
    raise ValueError(f'a law has two coefficients, and points {len(kl)} KLs')
  d, errors = np.sqrt(kl), np.ones(len(kl)) if errors is None else errors
  if not np.all(np.asarray(errors) > 0):
    least = np.min(errors)
    raise ValueError(f'an error of a gain is {least:g}, expected above 0')
  weights = 1 / np.asarray(errors)
  columns = np.stack([d, -d * FALLS[kind](d)], 1)
  scaled = columns * weights[:, None]
  (alpha, beta), *_ = np.linalg.lstsq(scaled, gain * weights, rcond=None)
  return Law(kind, float(alpha), float(beta))


def held_out_error(
  kind: str, kl: ArrayLike, gain: ArrayLike, errors: ArrayLike | None = None
) -> float:
  """How far the law of the smaller KLs is off at the largest.

  Args: as of `fit`.
  Returns:
    Distance of the mean prediction from the mean gain over the HELD_OUT points
    of the largest KL, in units of the largest gain that was fitted.
  """
  kl, gain = np.asarray(kl, float), np.asarray(gain, float)
  order = np.argsort(kl, kind='stable')
  last = max(round(HELD_OUT * len(kl)), 1)
  known, unknown = order[:-last], order[-last:]
  chosen = None if errors is None else np.asarray(errors)[known]
  law = fit(kind, kl[known], gain[known], chosen)
  off = law(kl[unknown]).mean() - gain[unknown].mean()
  return float(abs(off) / np.abs(gain[known]).max())
