"""A bag-of-words verifier: each completion token scored by itself, summed.

It is structurally simpler than the policy, so it learns from far fewer labels.
This is the generation-verification gap that online methods exploit (Swamy et
al. 2025).
"""

import jax
import jax.numpy as jnp

from align_jax import ops

# Width of the embeddings, and their standard deviation at the start. With these
# a token's first score has a standard deviation of half the root of S. Both are
# chosen, not measured.
DIM = 32
EMBED_SCALE = 0.3


def init(key, *, vocab_size, prompt_len, dim=DIM):
  """Parameters for prompts left-padded to `prompt_len`, S."""
  keys = jax.random.split(key, 4)
  normal = jax.random.normal
  return {
    'prompt': EMBED_SCALE * normal(keys[0], (prompt_len, vocab_size, dim)),
    'embed': EMBED_SCALE * normal(keys[1], (vocab_size, dim)),
    'match': dim**-0.5 * normal(keys[2], (dim, dim)),
    'token': dim**-0.5 * normal(keys[3], (dim, dim)),
    'head': jnp.zeros(dim),
  }


def scores(params, batch):
  """f32 [B]: sum over tokens of <e, h> + head . gelu((e * h) A + e B).

  h sums the prompt's embeddings, one table per prompt position.
  """
  slots = jnp.arange(batch.prompts.shape[1])
  h = params['prompt'][slots, batch.prompts]  # [P, S, dim]
  h = ops.masked_sum(h, batch.prompt_valid[..., None], axis=1)
  h = jnp.repeat(h, batch.group_size, axis=0)[:, None]
  e = params['embed'][batch.completions]
  z = jax.nn.gelu((h * e) @ params['match'] + e @ params['token'])
  return ops.masked_sum(z @ params['head'] + (h * e).sum(-1), batch.valid)
