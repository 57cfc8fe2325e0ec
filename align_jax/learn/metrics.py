"""What else completions are like: numbers per prompt, chosen by eval.metrics.

Diversity is that within a prompt: of its M completions together, as in Kirk et
al. 2024 (arXiv 2310.06452); distinct-n is that of Li et al. 2016 (arXiv
1510.03055). It depends on M, and on the tokenizer. EOS is a token like any
other.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from align_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Samples:
  """What a metric is given: M completions of the policy for each of E prompts.

  What costs a pass of the model or of the tokenizer is computed when it is
  first read.
  """

  batch: Batch  # on the host; `sampler_logps` are the policy's own
  vocab_size: int  # V
  read_texts: Callable  # Batch -> prompts, completions: a text per row
  read_entropies: Callable  # () -> f32 [B, T]

  @functools.cached_property
  def texts(self):
    """Prompts and completions: two lists of B texts."""
    return self.read_texts(self.batch)

  @functools.cached_property
  def entropies(self):
    """Exact entropy of the next token: f32 [B, T], nats, 0 on padding."""
    return np.asarray(self.read_entropies())

  @functools.cached_property
  def lengths(self):
    """Tokens of each completion: f64 [E, M]."""
    return self.by_prompt(self.batch.valid.sum(1))

  def by_prompt(self, x):
    """A number per completion, [B] -> f64 [E, M]."""
    return np.asarray(x, np.float64).reshape(-1, self.batch.group_size)

  def distinct(self, n):
    """Distinct n-grams of each prompt's completions: f64 [E]."""
    rows = [
      row[valid].tolist()
      for row, valid in zip(self.batch.completions, self.batch.valid)
    ]
    found = [set(zip(*(row[i:] for i in range(n)))) for row in rows]
    size = self.batch.group_size
    groups = [found[i : i + size] for i in range(0, len(found), size)]
    return np.array([len(set.union(*group)) for group in groups], float)


def length(samples):
  """Tokens per completion."""
  return samples.lengths.mean(1)


def repeats(samples):
  """Tokens per completion that occurred in it before."""
  rows = zip(samples.batch.completions, samples.batch.valid)
  return samples.by_prompt([v.sum() - len(set(x[v])) for x, v in rows]).mean(1)


def distinct_1(samples):
  """Distinct tokens of a prompt over all of its tokens (Li et al. 2016)."""
  return samples.distinct(1) / samples.lengths.sum(1)


def distinct_2(samples):
  """Distinct bigrams of a prompt over all of its tokens (Li et al. 2016)."""
  return samples.distinct(2) / samples.lengths.sum(1)


def ead(samples):
  """Distinct tokens of a prompt over those of as many even draws of a token.

  The expectation-adjusted distinct of Liu et al. 2022 (arXiv 2202.13587).
  """
  size, drawn = samples.vocab_size, samples.lengths.sum(1)
  return samples.distinct(1) / (size * (1 - (1 - 1 / size) ** drawn))


def entropy(samples):
  """Exact entropy of the next token, nats, mean over sampled tokens."""
  total = samples.by_prompt(samples.entropies.sum(1)).sum(1)
  return total / samples.lengths.sum(1)


METRICS = {  # Samples -> f64 [E], by the name configs use
  'length': length,
  'repeats': repeats,
  'distinct_1': distinct_1,
  'distinct_2': distinct_2,
  'ead': ead,
  'entropy': entropy,
}


def uncovered(covered):
  """{name: metric}: share of the completions that no golden pair could hold.

  Args:
    covered: a task's, Batch -> bool [B], or None: then there is no metric.
  """
  if covered is None:
    return {}
  share = lambda samples: 1 - samples.by_prompt(covered(samples.batch)).mean(1)
  return {'uncovered': share}


def chosen(names):
  """{name: function} of the named metrics.

  Raises:
    ValueError: one of them is not in METRICS.
  """
  for name in names:
    if name not in METRICS:
      raise ValueError(
        f'eval.metrics={tuple(names)}: {name!r} is none of {sorted(METRICS)}'
      )
  return {name: METRICS[name] for name in names}


def explained(name):
  """What a metric is, as its function says."""
  return METRICS[name].__doc__.splitlines()[0]
