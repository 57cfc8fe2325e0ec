"""Where batches come from: `source(state, key, step) -> Batch`, pure.

Online and offline differ here and nowhere else: an online source reads
`state.params`, an offline one does not look at the state.
"""

import functools

import numpy as np

from align_jax.batches import take


def epochs(size, batch_size, seed):
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


def offline(data, indices):
  """A fixed data set.

  Args:
    data: Batch of N prompts.
    indices: step -> int [P] into the prompts; see `epochs` and `replay_order`.
  """
  return lambda state, key, step: take(data, indices(step))


def replay_order(num_steps, batch_size, *, shuffle, seed=0):
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


def online(prompts, sample, reward, annotate, read):
  """Fresh completions of whatever policy `read` finds in the state.

  Args:
    prompts: step -> prompts [P, S], valid [P, S].
    sample: (params, prompts, valid, key) -> Batch without rewards.
    reward: Batch -> f32 [B].
    annotate: (ref_params, batch) -> Batch with `ref_logps`.
    read: state -> params of the sampler: `current`, or `anchor(name)`.
  """

  def source(state, key, step):
    tokens, valid = prompts(step)
    batch = sample(read(state), tokens, valid, key)
    batch = batch.replace(rewards=reward(batch))
    return annotate(state.anchors['ref'], batch)

  return source


def current(state):
  """On policy: the params as they are."""
  return state.params


def anchor(name):
  """Off policy: the reference ('ref'), or a lagging copy ('sampler')."""
  return lambda state: state.anchors[name]
