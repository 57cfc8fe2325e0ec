"""Trains a tiny policy online with RLOO, without a config or data.

python -m examples.online_rloo
"""

from functools import partial

import jax
import optax

import align_jax as aj
from align_jax.losses.policy_gradient import rloo
from align_jax.models import transformer

# Vocabulary, width, layers, heads, key heads, their size, width of the MLP.
config = aj.ModelConfig(16, 32, 1, 2, 2, 16, 64)
params = transformer.init(jax.random.key(0), config)
prompts = jax.random.randint(jax.random.key(1), (8, 4), 0, 16)
sample = partial(aj.sample, config=config, group_size=8, max_new_tokens=8)
logps = jax.jit(partial(aj.token_logps, config=config))
source = aj.sources.online(
  prompts=lambda step: (prompts, prompts >= 0),  # all of them are valid
  sample=jax.jit(sample),
  reward=lambda batch, state: 1.0 * (batch.completions == 7).sum(1),  # of 8
  annotate=aj.make_annotate(logps),  # adds the reference's log-probs
  read=aj.sources.current,  # the policy itself samples
)
train_step = aj.make_train_step(logps, rloo, optax.adam(3e-3))
state = aj.init_state(params, optax.adam(3e-3), anchors=['ref'])
for step in range(61):
  batch = source(state, jax.random.key(step), step)
  state, seen = train_step(state, batch, {'beta': 0.05})
  if step % 20 == 0:
    print(f'step {step}: reward {seen["reward"]:.1f}, KL {seen["kl"]:.1f} nats')
