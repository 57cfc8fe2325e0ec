"""A bag-of-words verifier: each completion token scored by itself, summed.

Structurally simpler than the policy, so it learns from far fewer labels: the
generation-verification gap that online methods live on (Swamy et al. 2025).
"""

import jax
import jax.numpy as jnp

from align_jax import ops


def init(key, *, vocab_size, prompt_len, dim=32):
  """Parameters; `prompt_len` is S, prompts being left-padded to it."""
  keys = jax.random.split(key, 4)
  normal = jax.random.normal
  return {
    'prompt': 0.3 * normal(keys[0], (prompt_len, vocab_size, dim)),
    'embed': 0.3 * normal(keys[1], (vocab_size, dim)),
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
