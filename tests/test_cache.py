"""What a coarser cache of keys and values costs, and that it says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax.models import cache, transformer
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


@pytest.mark.parametrize('name', ['float32', 'int8'])
def test_a_scan_over_layers_decodes_the_same(
  name, config, params, prompts, monkeypatch
):
  """As accelerators decode large models, all rows at once or a few."""

  def draw(**kwargs):
    f = sampling.sample_many if kwargs else sampling.sample
    more = dict(config=config, group_size=2, max_new_tokens=6, eos_id=1)
    f = functools.partial(f, cache_dtype=name, **more, **kwargs)
    return jax.jit(f)(params, *prompts, jax.random.key(0))

  want = draw()
  monkeypatch.setattr(transformer, '_scans_decoding', lambda c: True)
  for batch in (draw(), draw(slots=3)):
    np.testing.assert_array_equal(batch.completions, want.completions)
    np.testing.assert_allclose(
      batch.sampler_logps, want.sampler_logps, atol=1e-5
    )


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
