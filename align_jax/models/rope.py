"""Rotary embeddings (Su et al. 2021), and the ways to stretch them.

A scaling is a function of the head's plain frequencies. It returns the new ones
and a factor on the cosines and sines. Two of the published ones, 'dynamic' and
'longrope', depend on how long the sequence is. A token's log-prob would then
depend on the tokens after it. Here the length is an option, fixed once, so that
a policy is one function of its prefix.
"""

import math

import jax.numpy as jnp
import numpy as np


def linear(plain, theta, *, factor):
  """Positions divided by `factor`."""
  return plain / factor, 1.0


def dynamic(plain, theta, *, factor, original_length, length=0):
  """NTK-aware scaling: a larger theta for sequences of `length` tokens."""
  growth = factor * max(length, original_length) / original_length - factor + 1
  half = len(plain)
  theta = theta * growth ** (half / (half - 1))
  return theta ** (-np.arange(half) / half), 1.0


def llama3(
  plain, theta, *, factor, low_freq_factor, high_freq_factor, original_length
):
  """Slow frequencies divided by `factor`, fast ones kept (Llama 3.1)."""
  turns = original_length * plain / (2 * math.pi)
  share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
  share = np.clip(share, 0, 1)
  return plain * (share + (1 - share) / factor), 1.0


def yarn(
  plain,
  theta,
  *,
  factor,
  original_length,
  attention_factor=None,
  mscale=None,
  mscale_all_dim=None,
  beta_fast=32,
  beta_slow=1,
  truncate=True,
):
  """Between interpolation and extrapolation by frequency (Peng et al. 2023)."""

  def magnitude(weight):
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

  if attention_factor is None:
    attention_factor = magnitude(1)
    if mscale and mscale_all_dim:
      attention_factor = magnitude(mscale) / magnitude(mscale_all_dim)

  def dimension(turns):
    ratio = original_length / (turns * 2 * math.pi)
    return len(plain) * math.log(ratio) / math.log(theta)

  low, high = dimension(beta_fast), dimension(beta_slow)
  if truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, 2 * len(plain) - 1)
  high = high + 0.001 if low == high else high
  share = 1 - np.clip((np.arange(len(plain)) - low) / (high - low), 0, 1)
  return plain * (share + (1 - share) / factor), attention_factor


def longrope(
  plain,
  theta,
  *,
  factor,
  original_length,
  short_factor,
  long_factor,
  attention_factor=None,
  length=0,
):
  """A factor per frequency, for short or long sequences (Ding et al. 2024)."""
  if attention_factor is None:
    attention_factor = 1.0
    if factor > 1:
      ratio = math.log(factor) / math.log(original_length)
      attention_factor = math.sqrt(1 + ratio)
  factors = long_factor if length > original_length else short_factor
  return plain / np.asarray(factors), attention_factor


def frequencies(size, theta, scaling=()):
  """Angle per position of each of the size / 2 pairs, and the factor.

  Args:
    size: dimensions of a head that are rotated.
    scaling: as ModelConfig.rope_scaling.
  Returns:
    f32 [size / 2], float.
  """
  half = size // 2
  if not scaling:
    return theta ** (-jnp.arange(half, dtype=jnp.float32) / half), 1.0
  name, options = scaling
  plain = theta ** (-np.arange(half) / half)
  scaled, factor = SCALINGS[name](plain, theta, **dict(options))
  return jnp.asarray(scaled, jnp.float32), factor


def table(size, frequencies, factor=1.0):
  """Cosines and sines of the angles at positions 0 to `size` - 1.

  Args:
    frequencies: f32 [h].
    factor: of both.
  Returns:
    f32 [size, h] twice.
  """
  angles = jnp.arange(size)[:, None] * frequencies
  return factor * jnp.cos(angles), factor * jnp.sin(angles)


def rope(x, cos, sin):
  """Rotates the first dimensions of each head, half-split as in Llama.

  Args:
    x: [..., H].
    cos, sin: f32, broadcastable to [..., h], 2 h <= H. Dimensions beyond 2 h
      are not rotated.
  """
  size, rest = 2 * cos.shape[-1], None
  if size < x.shape[-1]:
    x, rest = x[..., :size], x[..., size:]
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  rotated = rotated.astype(x.dtype)
  return rotated if rest is None else jnp.concatenate([rotated, rest], -1)


SCALINGS = {
  'linear': linear,
  'dynamic': dynamic,
  'llama3': llama3,
  'yarn': yarn,
  'longrope': longrope,
}
