"""Where batches come from: `source(state, key, step) -> Batch`, pure.

Online and offline differ here and nowhere else: an online source reads
`state.params`, an offline one does not look at the state.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.learn import speed
from align_jax.learn.batches import join, take, with_policy_logps
from align_jax.types import Batch, Params, TrainState

Source = Callable[[TrainState, jax.Array, int], Batch]
# (params, prompts [P, S], valid [P, S], key) -> Batch without rewards
Sample = Callable[[Params, jax.Array, jax.Array, jax.Array], Batch]
Annotate = Callable[[Params, Batch], Batch]
Read = Callable[[TrainState], Params]
Indices = Callable[[int], np.ndarray]
PromptsAt = Callable[[int], tuple[jax.Array, jax.Array]]


def epochs(size: int, batch_size: int, seed: int) -> Indices:
  """-> indices(step): int [P], a fresh permutation of `size` every epoch.

  An epoch that ends within a batch goes on with the next epoch's first ones,
  so every element is seen exactly once per epoch.
  """
  if size < 1:
    raise ValueError('cannot draw batches from an empty data set')

  @functools.lru_cache(maxsize=2)
  def permutation(epoch):
    return np.random.default_rng([seed, epoch]).permutation(size)

  def indices(step):
    index = step * batch_size + np.arange(batch_size)
    return np.array([permutation(i // size)[i % size] for i in index])

  return indices


def offline(data: Batch, indices: Indices) -> Source:
  """A fixed data set.

  Args:
    data: Batch of N prompts.
    indices: step -> int [P] into the prompts; see `epochs` and `replay_order`.
  """
  return lambda state, key, step: take(data, indices(step))


def replay_order(
  num_steps: int, batch_size: int, *, shuffle: int, seed: int = 0
) -> Indices:
  """-> indices(step) over the log of an online run, each prompt once.

  Args:
    num_steps, batch_size: of the run that wrote the log.
    shuffle: steps within whose window the order is destroyed: 1 replays the
      run as it was, `num_steps` shuffles the whole log uniformly (Tang et al.
      2024, fig. 4 and 13).
  """
  rng = np.random.default_rng(seed)
  order = np.arange(num_steps * batch_size)
  if shuffle > 1:
    for window in np.split(order, range(0, len(order), shuffle * batch_size)):
      rng.shuffle(window)  # a view of `order`
  return lambda step: order[step * batch_size : (step + 1) * batch_size]


def online(
  prompts: PromptsAt,
  sample: Sample,
  reward: Callable[[Batch, TrainState], jax.Array],
  annotate: Annotate,
  read: Read,
  finish: Callable[[Batch], Batch] = lambda batch: batch,
) -> Source:
  """Fresh completions of whatever policy `read` finds in the state.

  Args:
    prompts: step -> prompts [P, S], valid [P, S].
    sample: (params, prompts, valid, key) -> Batch without rewards.
    reward: (Batch, state) -> f32 [B]; see `rewards.stateless`.
    annotate: (ref_params, batch) -> Batch with `ref_logps`.
    read: state -> params of the sampler: `current`, `anchor(name)`, or several
      of them for a `sample` that takes several.
    finish: Batch -> Batch, what becomes of rewards and masks before training;
      see `truncated.TRUNCATED`.
  """

  def source(state, key, step):
    tokens, valid = prompts(step)
    batch = sample(read(state), tokens, valid, key)
    speed.sampled(batch)
    batch = finish(batch.replace(rewards=reward(batch, state)))
    return annotate(state.anchors['ref'], batch)

  return source


def side_by_side(*samplers: Sample) -> Sample:
  """One sampler whose groups hold the rows of several, in their order.

  Args:
    samplers: (params, prompts, valid, key) -> Batch; each gets a key of its
      own.
  """

  def sample(params, prompts, valid, key):
    keys = jax.random.split(key, len(samplers))
    parts = [f(params, prompts, valid, k) for f, k in zip(samplers, keys)]
    return functools.reduce(join, parts)

  return sample


def hybrid(
  pairs: Source, sample: Sample, annotate: Annotate, read: Read
) -> Source:
  """Rows of a source, and fresh completions of the same prompts behind them.

  Args:
    pairs: a source of annotated groups.
    sample, annotate, read: as in `online`; the fresh rows have no rewards.
  """

  def source(state, key, step):
    batch = pairs(state, key, step)
    fresh = sample(read(state), batch.prompts, batch.prompt_valid, key)
    ops.require_own_samples(fresh)  # HyPO's KL is estimated from them
    return join(batch, annotate(state.anchors['ref'], fresh))

  return source


def mixed(first: Source, second: Source) -> Source:
  """Prompts of two sources in one batch; their groups must be of one size."""

  def source(state, key, step):
    a, b = first(state, key, step), second(state, key, step)
    if a.group_size != b.group_size:
      raise ValueError(
        f'groups of {a.group_size} and of {b.group_size} completions do not mix'
      )
    a, b = _with_common_logps(*with_policy_logps(a, b))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)

  return source


def _with_common_logps(a, b):
  """Two batches without the writers' log-probs that only one of them has."""
  for name in ('sampler_logps', 'policy_logps'):
    if getattr(a, name) is None or getattr(b, name) is None:
      a, b = a.replace(**{name: None}), b.replace(**{name: None})
  return a, b


def mismatched(source: Source, annotate: Annotate) -> Source:
  """A source whose groups end with a completion of the next prompt.

  What KTO needs for its reference point. The extra row's reward is 0.5.

  Args:
    annotate: (ref_params, batch) -> Batch with `ref_logps`.
  """

  def extended(state, key, step):
    batch = source(state, key, step)
    if batch.num_prompts < 2:
      raise ValueError('a mismatched completion needs at least two prompts')
    return annotate(state.anchors['ref'], _with_mismatch(batch))

  return extended


@jax.jit
def _with_mismatch(batch):
  first = lambda x: ops.by_group(x, batch.group_size)[:, 0]
  other = lambda x: jnp.roll(first(x), 1, axis=0)
  return join(
    batch.replace(sampler_logps=None, policy_logps=None, ref_logps=None),
    batch.replace(
      completions=other(batch.completions),
      valid=other(batch.valid),
      mask=other(batch.mask),
      rewards=jnp.full(batch.num_prompts, 0.5),
      sampler_logps=None,
      policy_logps=None,
      ref_logps=None,
      group_size=1,
    ),
  )


def current(state: TrainState) -> Params:
  """On policy: the params as they are."""
  return state.params


def anchor(name: str) -> Read:
  """Off policy: the reference ('ref'), or a lagging copy ('sampler')."""
  return lambda state: state.anchors[name]
