"""Length buckets: padding cut off, to one of a few shapes.

Every shape is a program to compile, so there is one for each bucket and one
for whatever no bucket holds. What is cut off is padding and nothing else.
"""

import functools

import jax
import numpy as np

from align_jax.learn.batches import PROMPT, TOKENS, take


def lengths(batch):
  """Slots that each prompt, and the longest of its completions, need.

  Returns:
    int [P] twice: from the right end of the prompt, whose padding is on the
    left, and from the left end of the completions.
  """
  prompt = np.asarray(batch.prompt_valid)[:, ::-1]
  completion = np.asarray(batch.valid).reshape(
    batch.num_prompts, -1, batch.valid.shape[1]
  )
  # The last valid slot, not the count: there may be padding in between.
  end = lambda x: (x * np.arange(1, x.shape[-1] + 1)).max(-1)
  return end(prompt), end(completion).max(1)


def check(buckets, prompt_len, completion_len):
  """Raises ValueError unless each bucket is (S, T) within these two sizes."""
  for bucket in buckets:
    whole = len(bucket) == 2 and all(isinstance(x, int) for x in bucket)
    if not whole or not (
      0 < bucket[0] <= prompt_len and 0 < bucket[1] <= completion_len
    ):
      raise ValueError(
        f'length_buckets: {bucket!r} is not (prompt positions, completion '
        f'positions) within the data set: ({prompt_len}, {completion_len})'
      )


def smallest(buckets, prompt_len, completion_len):
  """The bucket of fewest positions that holds both lengths, or None."""
  holds = lambda b: b[0] >= prompt_len and b[1] >= completion_len
  return min(filter(holds, buckets), key=lambda b: (sum(b), b), default=None)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _take_cut(batch, index, prompt_len, completion_len):
  batch = take(batch, index)
  prompt = {k: getattr(batch, k)[:, -prompt_len:] for k in PROMPT}
  rows = {k: getattr(batch, k) for k in TOKENS}
  rows = {k: x if x is None else x[:, :completion_len] for k, x in rows.items()}
  return batch.replace(**prompt, **rows)


def offline(data, indices, buckets):
  """`sources.offline` in the smallest bucket that holds the longest row.

  Args:
    data: Batch of N prompts.
    indices: step -> int [P] into the prompts.
    buckets: ((S, T), ...), prompt and completion positions; a batch that none
      holds keeps the shape of `data`.
  """
  whole = data.prompts.shape[1], data.completions.shape[1]
  check(buckets, *whole)
  prompt_lens, completion_lens = lengths(data)

  def source(state, key, step):
    index = indices(step)
    needed = prompt_lens[index].max(), completion_lens[index].max()
    return _take_cut(data, index, *(smallest(buckets, *needed) or whole))

  return source
