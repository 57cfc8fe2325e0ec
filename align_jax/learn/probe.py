"""Points: how far a policy is from the reference, and how good it really is."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from align_jax import hosts, ops
from align_jax.files import listed
from align_jax.learn.batches import chunks, first_rows
from align_jax.learn.forgetting import Texts
from align_jax.learn.metrics import Samples
from align_jax.learn.stopping import EVALUATION, check
from align_jax.losses.preference import log_ratios
from align_jax.types import Batch

# Decimals of a log-ratio, nats, that decide a pair. The reference prefers
# nothing, and what it has beyond them is rounding of float32. Chosen, not
# measured.
TIE_DECIMALS = 4


@dataclasses.dataclass(frozen=True)
class Probe:
  """What every policy of one seed is measured with."""

  sample: Callable  # (params, prompts, valid, key) -> Batch, M rows per prompt
  kls: Callable  # (params, ref_params, batch) -> exact KL, log-ratio [B, T]
  logps: Callable  # (params, batch) -> f32 [B, T]
  entropies: Callable  # (params, batch) -> f32 [B, T], of the next token
  batch_size: int  # pairs at a time that `logps` gets
  gold: Callable  # Batch -> f32 [B], which training never sees
  expected_gold: Callable | None  # (params, batch) -> f32 [B, T], or samples do
  proxy: Callable  # Batch -> f32 [B], what training is rewarded by
  decode: Callable  # Batch -> prompts, completions: a text per row
  vocab_size: int  # V
  eos_id: int | tuple | None  # tokens that end a completion
  metrics: dict  # {name: Samples -> f64 [E]}, see `metrics.METRICS`
  texts: Texts
  forgetting: dict  # {name: (texts, params, ref_params) -> f64 [N]}
  prompts: tuple  # tokens [E, S], valid [E, S]; held out
  sets: dict  # {name: such a tuple}, measured beside `prompts`
  pairs: Batch  # held-out gold-labelled pairs of the reference, annotated
  key: Any  # the same for all policies, so that they can be paired
  num_shown: int = 4  # prompts whose first completion is kept as text


_log_ratios = jax.jit(log_ratios)


def pair_statistics(probe, params):
  """How the policy ranks and moves the held-out pairs.

  Returns:
    implicit_accuracy: share of pairs whose log-ratios agree with gold, unless
      gold ties them all;
    chosen_log_ratio, rejected_log_ratio: mean log pi - log ref, nats.
  """
  pairs = probe.pairs
  by_pair = lambda x: ops.by_group(hosts.fetch(x), 2)
  rewards = by_pair(pairs.rewards)
  logps = []
  for part in chunks(pairs, probe.batch_size):
    check(EVALUATION)
    logps.append(hosts.fetch(probe.logps(params, part)))
  logps = np.concatenate(logps)[: len(pairs.rewards)]
  ratios = by_pair(_log_ratios(logps, pairs))
  accuracy = ranking_accuracy(np.round(ratios, TIE_DECIMALS), rewards)
  ratios = np.take_along_axis(ratios, np.argsort(rewards, axis=1), axis=1)
  return {
    **told(implicit_accuracy=accuracy),
    'chosen_log_ratio': float(ratios[:, 1].mean()),
    'rejected_log_ratio': float(ratios[:, 0].mean()),
  }


def ranking_accuracy(scores, gold):
  """Share of neighbouring pairs [:, 2i], [:, 2i + 1] ranked as gold ranks them.

  Pairs that gold ties are left out, and the last of an odd number, which has no
  neighbour; a tie of `scores` counts one half.

  Args:
    scores, gold: [N, M].
  Returns:
    float. None: gold decides no pair.
  """
  paired = scores.shape[1] // 2 * 2
  apart = lambda x: np.sign(x[:, 0:paired:2] - x[:, 1:paired:2])
  decided = apart(gold) != 0
  agree = (apart(scores) * apart(gold))[decided]
  return float((0.5 + 0.5 * agree).mean()) if decided.any() else None


def told(**numbers):
  """The numbers that are known, by name."""
  return {name: x for name, x in numbers.items() if x is not None}


def measure(probe, params, ref_params):
  """One point: a dict of plain numbers, lists and dicts, ready for JSON.

  What `measure_on` says of `probe.prompts`, how the policy ranks held-out
  pairs, what it forgets, a few completions as text (`shown`), and, where there
  are any, `sets`: {name: what `measure_on` says of a further set}.
  """
  point, batch = measure_on(probe, params, ref_params, probe.prompts, probe.key)
  forgotten = {
    name: measured(probe.texts, params, ref_params)
    for name, measured in probe.forgetting.items()
  }
  sets = {
    name: measure_on(
      probe, params, ref_params, prompts, key_of(probe.key, name)
    )[0]
    for name, prompts in probe.sets.items()
  }
  return {
    **pair_statistics(probe, params),
    **point,
    **named(forgotten),
    **({'sets': sets} if sets else {}),
    'shown': shown(probe, batch),
  }


def key_of(key, name):
  """A set's own key, whatever others are measured beside it."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def measure_on(probe, params, ref_params, prompts, key):
  """What a policy is like on some prompts.

  The KL is the sequence-level reverse KL to the reference in nats, from fresh
  samples at temperature 1: per completion the sum over its tokens of the exact
  next-token KL, then the mean over samples and prompts. Standard errors take
  the prompt as the unit. `kl_mc` is the Monte-Carlo log-ratio of the same
  samples. `gold` takes each token's worth in expectation, as the KL does, where
  the task knows it; `gold_samples` are of the samples themselves. Per-prompt
  vectors are kept: `*_by_prompt` [E], `gold_samples` [E, M]. Where gold decides
  no pair of samples there is no `proxy_accuracy`.

  Args:
    prompts: tokens [E, S], valid [E, S].
  Returns:
    numbers and lists by name, and the samples: a Batch on the host.
  """
  check(EVALUATION)
  batch = probe.sample(params, *prompts, key)
  ops.require_own_samples(batch)
  kls = hosts.fetch(probe.kls(params, ref_params, batch))
  check(EVALUATION)
  of = samples_of(probe, params, batch)
  # On the host, where a sum compiles nothing.
  kl, mc = (of.by_prompt(x.sum(1)) for x in kls)
  scored = (hosts.fetch(f(batch)) for f in (probe.gold, probe.proxy))
  samples, proxy = map(of.by_prompt, scored)
  gold = samples
  if probe.expected_gold:
    steps = hosts.fetch(probe.expected_gold(params, batch))
    gold = of.by_prompt(steps.sum(1))
  measured = {name: metric(of) for name, metric in probe.metrics.items()}
  point = {
    **with_error('kl_seq_nats', kl),
    **with_error('kl_mc_nats', mc),
    'kl_tok_mean': float(kl.sum() / of.lengths.sum()),
    **with_error('gold', gold),
    'proxy': float(proxy.mean()),
    **told(proxy_accuracy=ranking_accuracy(proxy, samples)),
    **by_prompt(kl=kl.mean(1), gold=gold.mean(1), proxy=proxy.mean(1)),
    **named(measured),
    'gold_samples': listed(samples),
  }
  return point, of.batch


def by_prompt(**vectors):
  """{NAME_by_prompt: numbers} of vectors [E] by name."""
  return {f'{name}_by_prompt': listed(x) for name, x in vectors.items()}


def named(vectors):
  """{name: vector} -> the mean of each, and the vector itself as a list."""
  means = {name: float(x.mean()) for name, x in vectors.items()}
  return {**means, **by_prompt(**vectors)}


def with_error(name, x):
  """The mean of x [E, M] and its standard error, whose unit is the prompt."""
  error = x.mean(1).std(ddof=1) / len(x) ** 0.5
  return {name: float(x.mean()), f'{name}_se': float(error)}


def samples_of(probe, params, batch):
  """What metrics are given of a batch of the policy's own samples."""
  return Samples(
    hosts.fetch(batch),
    probe.vocab_size,
    probe.eos_id,
    probe.decode,
    lambda: hosts.fetch(probe.entropies(params, batch)),
  )


def shown(probe, batch):
  """The first completion of the first few prompts, as text."""
  prompts, completions = probe.decode(first_rows(batch, probe.num_shown))
  return [{'prompt': p, 'completion': c} for p, c in zip(prompts, completions)]


def checkpoint_steps(first, last, num):
  """0 (the reference), then log-spaced steps from `first` to `last`.

  `last`, the end of the run, is always one of them.
  """
  grid = np.round(np.geomspace(first, last, num)).astype(int)
  return (0, *map(int, np.unique([*grid[:-1], last])))
