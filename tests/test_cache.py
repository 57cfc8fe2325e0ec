"""What a coarser cache of keys and values costs, and that it says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.models import cache
from align_jax.policy import sampling
from align_jax.tools import cache_cost


@pytest.mark.parametrize(
  'name, bound', [('bfloat16', 1e-4), ('int8', 1e-3), ('float32', 1e-6)]
)
def test_a_coarse_cache_costs_little_and_says_its_own_logps(
  name, bound, config, params, prompts
):
  kls, batch = jax.jit(
    functools.partial(cache_cost.cost, config=config, cache_dtype=name)
  )(params, *prompts, jax.random.key(0))
  mean = float(kls.mean())
  assert mean < bound and (name == 'float32' or mean > 1e-7)
  logits = [
    jax.jit(functools.partial(f, config=config))(params, batch)
    for f in (
      functools.partial(cache_cost.cached_logits, cache_dtype=name),
      cache_cost.exact_logits,
    )
  ]
  away, off = (
    jnp.abs(
      jnp.take_along_axis(
        jax.nn.log_softmax(x), batch.completions[..., None], axis=-1
      )[..., 0]
      - batch.sampler_logps
    )
    for x in logits
  )
  if name == 'float32':
    assert max(away.max(), off.max()) < 1e-5
  else:  # where the last bit rounds one of 127 steps the other way, a little
    assert off.mean() > 1e-4 and away.mean() < 0.1 * off.mean()


def test_an_unknown_cache_is_refused(config, params, prompts):
  with pytest.raises(ValueError, match="cache_dtype='int4' is none of"):
    sampling.sample(
      params,
      *prompts,
      jax.random.key(0),
      config=config,
      group_size=1,
      max_new_tokens=2,
      cache_dtype='int4',
    )


def test_eight_bits_round_by_token_and_head():
  x = np.random.default_rng(0).normal(size=(3, 2, 5, 8)).astype(np.float32)
  x[0, 0, 0] = 0
  x[1, 1] *= 1e3
  kept = cache.store(x, 'int8')
  assert kept.numbers.dtype == jnp.int8 and kept.scales.shape == x.shape[:-1]
  error = np.abs(kept.numbers * kept.scales[..., None] - x)
  assert (error <= 0.5001 / 127 * np.abs(x).max(-1, keepdims=True)).all()
