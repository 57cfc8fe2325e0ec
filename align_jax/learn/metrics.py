"""What else completions are like: numbers per prompt, chosen by eval.metrics.

Diversity depends on M, and on the tokenizer.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from align_jax.learn import diversity
from align_jax.learn.forgetting import FORGETTING
from align_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Samples:
  """What a metric is given: M completions of the policy for each of E prompts.

  What costs a pass of the model or of the tokenizer, or a count of n-grams, is
  computed when it is first read.
  """

  batch: Batch  # on the host; `sampler_logps` are the policy's own
  vocab_size: int  # V
  eos_id: int | tuple | None  # tokens that end a completion
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
    """Tokens of each completion, with its end: f64 [E, M]."""
    return self.by_prompt(self.batch.valid.sum(1))

  @property
  def size(self):
    """E, M."""
    return self.batch.num_prompts, self.batch.group_size

  def by_prompt(self, x):
    """A number per completion, [B] -> f64 [E, M]."""
    return np.asarray(x, np.float64).reshape(-1, self.batch.group_size)

  @functools.cached_property
  def grams(self):
    """The `diversity.Grams` of the completions, without what ends them."""
    tokens, valid = map(np.asarray, (self.batch.completions, self.batch.valid))
    last = np.cumsum(valid, 1) == valid.sum(1, keepdims=True)
    ends = np.isin(tokens, () if self.eos_id is None else self.eos_id)
    there = valid & ~(last & ends)
    return list(diversity.grams(tokens, there, self.vocab_size))

  @functools.cached_property
  def drawn(self):
    """N-grams of each completion: int [ORDERS, E, M]."""
    return np.stack([x.there.sum(1).reshape(self.size) for x in self.grams])

  @functools.cached_property
  def within(self):
    """A `diversity.Tally` of each n, whose groups are the prompts."""
    place = np.indices(self.size).reshape(2, -1)
    return [diversity.tally(x, *place) for x in self.grams]

  @functools.cached_property
  def across(self):
    """The same, whose groups are M sets of one completion of every prompt."""
    place = np.indices(self.size).reshape(2, -1)[::-1]
    return [diversity.tally(x, *place) for x in self.grams]


def length(samples):
  """Tokens per completion, with its end."""
  return samples.lengths.mean(1)


def repeats(samples):
  """Tokens per completion that occurred in it before."""
  found, (prompts, group) = samples.within[0], samples.size
  again = np.bincount(found.group, found.count - 1, prompts)
  return again / group


def _distinct_n(samples, n):
  found = diversity.distinct(samples.within[n - 1], samples.size[0])
  return found / np.maximum(samples.drawn[0].sum(1), 1)


def distinct_1(samples):
  """Distinct tokens of a prompt over all of its tokens (Li et al. 2016)."""
  return _distinct_n(samples, 1)


def distinct_2(samples):
  """Distinct bigrams of a prompt over all of its tokens (Li et al. 2016)."""
  return _distinct_n(samples, 2)


def ead_per_input(samples):
  """EAD of a prompt's completions, 1 to 5 tokens; 1 is as even draws."""
  found = [diversity.distinct(x, samples.size[0]) for x in samples.within]
  drawn = samples.drawn.sum(2)
  return diversity.ead(np.stack(found), drawn, samples.vocab_size)


def ead_across_inputs(samples):
  """EAD of one completion of every prompt; mean over M such sets.

  A prompt's number is E times what is due to it: n-grams that several prompts
  have are divided among them.
  """
  prompts, sets = samples.size
  parts = [diversity.shared_out(x, sets, prompts) for x in samples.across]
  drawn = samples.drawn.sum(1)[:, :, None]  # [ORDERS, M, 1]
  found = diversity.ead(np.stack(parts), drawn, samples.vocab_size)
  return prompts * found.mean(0)


def self_bleu(samples):
  """BLEU of a completion against the prompt's others; 1 if they are alike.

  Zhu et al. 2018 (arXiv 1802.01886).
  """
  orders, size = diversity.BLEU_ORDERS, samples.size
  found = [diversity.matched(x, *size) for x in samples.within[:orders]]
  drawn = samples.drawn[:orders]
  return diversity.bleu(np.stack(found), drawn, drawn[0]).mean(1)


def entropy(samples):
  """Exact entropy of the next token, nats, mean over sampled tokens."""
  total = samples.by_prompt(samples.entropies.sum(1)).sum(1)
  return total / samples.lengths.sum(1)


METRICS = {  # Samples -> f64 [E], by the name configs use
  'length': length,
  'repeats': repeats,
  'distinct_1': distinct_1,
  'distinct_2': distinct_2,
  'ead_per_input': ead_per_input,
  'ead_across_inputs': ead_across_inputs,
  'self_bleu': self_bleu,
  'entropy': entropy,
}
# Those that compare a prompt's completions with one another.
SEVERAL = {'distinct_1', 'distinct_2', 'ead_per_input', 'self_bleu'}


def uncovered(covered):
  """{name: metric}: share of the completions that no golden pair could hold.

  Args:
    covered: a task's, Batch -> bool [B], or None: then there is no metric.
  """
  if covered is None:
    return {}
  share = lambda samples: 1 - samples.by_prompt(covered(samples.batch)).mean(1)
  return {'uncovered': share}


def left_out(names, samples):
  """Those of the named metrics that M completions per prompt do not allow."""
  return [name for name in names if samples < 2 and name in SEVERAL]


def every():
  """{name: function} of all that `eval.metrics` may name."""
  return {**METRICS, **FORGETTING}


def chosen(names, samples):
  """The named entries of METRICS, less those left out, and of FORGETTING.

  Raises:
    ValueError: one of them is in neither.
  """
  for name in names:
    if name not in every():
      raise ValueError(
        f'eval.metrics={tuple(names)}: {name!r} is none of {sorted(every())}'
      )
  names = [name for name in names if name not in left_out(names, samples)]
  return [
    {name: table[name] for name in names if name in table}
    for table in (METRICS, FORGETTING)
  ]


def explained(name):
  """What a metric is, as its function says."""
  return every()[name].__doc__.splitlines()[0]
