"""What a coarser key-value cache costs: exact KL from the policy itself.

  python -m align_jax.tools.cache_cost [FOLDER]

Samples completions with each cache of `models.cache.STORES` from a checkpoint,
or from random weights, and prints the exact full-vocabulary KL per token from
the policy that sampled to the one that `scoring` sees, and the bytes kept per
token. A sampler's own log-probs are those of the policy that sampled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.models import cache, hf, transformer
from align_jax.policy import sampling, scoring
from align_jax.tools.cli import Parser

RANDOM = dict(
  vocab_size=512,
  dim=128,
  num_layers=4,
  num_heads=4,
  num_kv_heads=4,
  head_dim=32,
  mlp_dim=384,
)
TOKENS, GROUP = 48, 4


def cached_logits(params, batch, *, config, cache_dtype=None):
  """Next-token logits f32 [B, T, V] along completions, as decoding has them."""
  tokens = ops.by_group(batch.completions, batch.group_size)
  layers = transformer.split_layers(params, config)
  first, kvs = transformer.prefill(
    params, config, batch.prompts, batch.prompt_valid, cache_dtype
  )
  empty = transformer.empty_cache(config, *tokens.shape, cache_dtype)

  def step(caches, x):
    index, token = x
    state, caches = transformer.decode_step(
      layers, config, token, index, kvs, batch.prompt_valid, caches, cache_dtype
    )
    return caches, state

  steps = jnp.arange(tokens.shape[2] - 1), jnp.moveaxis(tokens[..., :-1], 2, 0)
  _, states = jax.lax.scan(step, empty, steps)
  first = jnp.broadcast_to(first[:, None], (*tokens.shape[:2], first.shape[-1]))
  states = jnp.concatenate([first[None], states])
  states = jnp.moveaxis(states, 0, 2).reshape(*batch.valid.shape, -1)
  weights = transformer.head_weights(params, config)
  return transformer.logits(states, weights, config)


def exact_logits(params, batch, *, config):
  """The same as scoring has them."""
  states = scoring.predicting_states(params, config, batch)
  weights = transformer.head_weights(params, config)
  return transformer.logits(states, weights, config)


def token_kls(params, batch, *, config, cache_dtype):
  """Exact KL(cached policy || policy) f32 [B, T]; nats, 0 on padding."""
  kls = ops.token_kl(
    cached_logits(params, batch, config=config, cache_dtype=cache_dtype),
    exact_logits(params, batch, config=config),
  )
  return jnp.where(batch.valid, kls, 0)


def cost(params, prompts, valid, key, *, config, cache_dtype):
  """Token KLs [B, T] on completions of the cached policy, and the Batch."""
  batch = sampling.sample(
    params,
    prompts,
    valid,
    key,
    config=config,
    group_size=GROUP,
    max_new_tokens=TOKENS,
    cache_dtype=cache_dtype,
  )
  f = functools.partial(token_kls, config=config, cache_dtype=cache_dtype)
  return f(params, batch), batch


def bytes_per_token(config, cache_dtype):
  """Of keys and values, all layers and heads."""
  shape = (1, config.num_kv_heads, 1, config.head_dim)
  kept = jax.eval_shape(lambda: cache.empty(shape, cache_dtype))
  one = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
  return 2 * config.num_layers * one


def random_policy():
  """Weights whose next-token laws are far from uniform."""
  config = transformer.ModelConfig(**RANDOM)
  params = transformer.init(jax.random.key(0), config)
  return {**params, 'embed': 10 * params['embed']}, config


def main(argv=None):
  """The command `align cache cost`."""
  parser = Parser(prog='align cache cost', description=__doc__.split('\n')[0])
  parser.add_argument('folder', nargs='?', help='a local folder or a hub id')
  args = parser.parse_args(argv)
  if args.folder:
    model = hf.load(hf.fetch(args.folder))
    params, config = model.params, model.config
  else:
    params, config = random_policy()
  prompts = np.random.default_rng(0).integers(
    0, config.vocab_size, (4, 24), np.int32
  )
  f = jax.jit(cost, static_argnames=('config', 'cache_dtype'))
  for name in ('float32', 'bfloat16', 'int8'):
    kls, _ = f(
      params,
      prompts,
      np.ones(prompts.shape, bool),
      jax.random.key(1),
      config=config,
      cache_dtype=name,
    )
    rows = np.asarray(kls, np.float64)
    print(
      f'{name:8s}  {rows.mean():.2e} nats per token (worst {rows.max():.1e}), '
      f'{rows.sum(1).mean():.2e} per completion of {TOKENS}; '
      f'{bytes_per_token(config, name):,} bytes kept per token'
    )


if __name__ == '__main__':
  main()
