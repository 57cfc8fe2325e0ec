"""Points: how far a policy is from the reference, and how good it really is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from align_jax import ops
from align_jax.learn.batches import parts
from align_jax.losses.preference import log_ratios
from align_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Judge:
  """What every policy of one seed is measured with."""

  sample: Callable  # (params, prompts, valid, key) -> Batch, M rows per prompt
  kls: Callable  # (params, ref_params, batch) -> exact KL, log-ratio [B, T]
  logps: Callable  # (params, batch) -> f32 [B, T]
  batch_size: int  # pairs at a time that `logps` gets
  gold: Callable  # Batch -> f32 [B], which training never sees
  expected_gold: Callable | None  # (params, batch) -> f32 [B, T], or samples do
  proxy: Callable  # Batch -> f32 [B], what training is rewarded by
  decode: Callable  # Batch -> prompts, completions: a text per row
  prompts: tuple  # tokens [E, S], valid [E, S]; held out
  pairs: Batch  # held-out gold-labelled pairs of the reference, annotated
  key: Any  # the same for all policies, so that they can be paired
  num_shown: int = 4  # prompts whose first completion is kept as text


_log_ratios = jax.jit(log_ratios)


def pair_statistics(judge, params):
  """How the policy ranks and moves the held-out pairs.

  Returns:
    implicit_accuracy: share of pairs whose log-ratios agree with gold;
    chosen_log_ratio, rejected_log_ratio: mean log pi - log ref, nats.
  """
  pairs = judge.pairs
  by_pair = lambda x: ops.by_group(np.asarray(x), 2)
  rewards = by_pair(pairs.rewards)
  logps = [judge.logps(params, x) for x in parts(pairs, judge.batch_size)]
  logps = np.concatenate(logps)[: len(pairs.rewards)]
  ratios = by_pair(_log_ratios(logps, pairs))
  # The reference itself has no opinion: what is left there is rounding.
  accuracy = ranking_accuracy(np.round(ratios, 4), rewards)
  ratios = np.take_along_axis(ratios, np.argsort(rewards, axis=1), axis=1)
  return {
    'implicit_accuracy': accuracy,
    'chosen_log_ratio': float(ratios[:, 1].mean()),
    'rejected_log_ratio': float(ratios[:, 0].mean()),
  }


def ranking_accuracy(scores, gold):
  """Share of neighbouring pairs [:, 2i], [:, 2i + 1] ranked as gold ranks them.

  Pairs that gold ties are left out; a tie of `scores` counts one half.
  """
  agree = np.sign(scores[:, ::2] - scores[:, 1::2]) * np.sign(
    gold[:, ::2] - gold[:, 1::2]
  )
  decided = gold[:, ::2] != gold[:, 1::2]
  return float((0.5 + 0.5 * agree)[decided].mean()) if decided.any() else 0.5


def repeats(completions, valid):
  """Tokens of each row that occurred in it before: int [B]."""
  return np.array(
    [int(v.sum()) - len(set(row[v])) for row, v in zip(completions, valid)]
  )


def evaluate(judge, params, ref_params):
  """One point: a dict of plain numbers and lists, ready for JSON.

  The KL is the sequence-level reverse KL to the reference in nats, from fresh
  samples at temperature 1: per completion the sum over its tokens of the exact
  next-token KL, then the mean over samples and prompts. Standard errors take
  the prompt as the unit. `kl_mc` is the Monte-Carlo log-ratio of the same
  samples. `gold` takes each token's worth in expectation, as the KL does, where
  the task knows it; `gold_samples` are of the samples themselves. Per-prompt
  vectors are kept: `*_by_prompt` [E], `gold_samples` [E, M].
  """
  batch = judge.sample(params, *judge.prompts, judge.key)
  ops.require_own_samples(batch)
  size = batch.group_size
  by_prompt = lambda x: np.asarray(x, np.float64).reshape(-1, size)
  kls = judge.kls(params, ref_params, batch)
  samples, proxy = by_prompt(judge.gold(batch)), by_prompt(judge.proxy(batch))
  gold = samples
  if judge.expected_gold:
    steps = jax.device_get(judge.expected_gold(params, batch))
    gold = by_prompt(steps.sum(1))
  # On the host, where a sum compiles nothing.
  batch, kls = jax.device_get((batch, kls))
  kl, mc = (by_prompt(x.sum(1)) for x in kls)
  lengths = by_prompt(batch.valid.sum(1))
  repeated = by_prompt(repeats(batch.completions, batch.valid))

  def standard_error(x):
    return float(x.mean(1).std(ddof=1) / len(x) ** 0.5)

  listed = lambda x: np.round(x, 5).tolist()
  return {
    'kl_seq_nats': float(kl.mean()),
    'kl_seq_nats_se': standard_error(kl),
    'kl_mc_nats': float(mc.mean()),
    'kl_mc_nats_se': standard_error(mc),
    'kl_tok_mean': float(kl.sum() / lengths.sum()),
    'gold': float(gold.mean()),
    'gold_se': standard_error(gold),
    'proxy': float(proxy.mean()),
    'proxy_accuracy': ranking_accuracy(proxy, samples),
    'length': float(lengths.mean()),
    'repeats': float(repeated.mean()),
    **pair_statistics(judge, params),
    'kl_by_prompt': listed(kl.mean(1)),
    'gold_by_prompt': listed(gold.mean(1)),
    'proxy_by_prompt': listed(proxy.mean(1)),
    'gold_samples': listed(samples),
    'shown': shown(judge, batch),
  }


def shown(judge, batch):
  """The first completion of the first few prompts, as text."""
  rows = np.arange(judge.num_shown) * batch.group_size
  first = jax.tree.map(
    lambda x: x[rows], batch.replace(prompts=(), prompt_valid=())
  )
  first = first.replace(
    prompts=batch.prompts[: judge.num_shown],
    prompt_valid=batch.prompt_valid[: judge.num_shown],
    group_size=1,
  )
  prompts, completions = judge.decode(first)
  return [{'prompt': p, 'completion': c} for p, c in zip(prompts, completions)]


def checkpoint_steps(first, last, num):
  """0 (the reference), then log-spaced steps from `first` to `last`."""
  grid = np.unique(np.round(np.geomspace(first, last, num)).astype(int))
  return (0, *map(int, grid))
