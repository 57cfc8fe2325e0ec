"""Random streams of one seed, and a progress report that does nothing."""

import jax

# Random streams of one seed. Add new ones at the end.
(INIT, SFT, PAIRS, EVAL_PAIRS, PROXY) = range(5)
(ARM, EVAL, NOISE, BUDGET, POOL, LORA, OPPONENTS) = range(5, 12)
(WRITTEN, FORGETTING, TEMPER) = range(12, 15)


def silent(step, info):
  """A progress report that does nothing."""


def stream(seed, which):
  """The key of one random stream of a seed."""
  return jax.random.fold_in(jax.random.key(seed), which)
