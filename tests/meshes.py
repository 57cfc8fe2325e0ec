"""Every method on a mesh of eight devices: is it what one device computes?

  python -m tests.meshes            # all meshes, some minutes
  python -m tests.meshes MESH ...   # such as fsdp=2,rollout=2,tensor=2

prints by how much losses, gradients, log-probs of samples and KLs differ, and
fails if a sampled token does, or anything by more than TOLERANCE. Where
`context` splits rows, keys are gathered, and then sent round in a ring.
"""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np

from align_jax import losses, sharding
from align_jax.lab import forwards
from align_jax.learn import step
from align_jax.models import lora, transformer
from align_jax.policy import sampling, scoring
from align_jax.types import Batch

# Of the largest number of an array. Sums have other orders, and the KLs of a
# random policy are small differences.
TOLERANCE = 1e-4
MESHES = (
  dict(data=8),
  dict(data=2, fsdp=2, tensor=2),
  dict(fsdp=8),
  dict(fsdp=2, tensor=4),
  dict(fsdp=2, rollout=2, tensor=2),
  dict(fsdp=2, context=2, tensor=2),
  dict(data=2, context=4),
)
C = transformer.ModelConfig(
  vocab_size=16,
  dim=16,
  num_layers=2,
  num_heads=8,
  num_kv_heads=4,
  head_dim=4,
  mlp_dim=32,
  remat=True,
)
CRITIC = transformer.ModelConfig(**{**vars(C), 'head': 'scalar'})
LORA = lora.Lora(rank=2)
P, G, S, T = 8, 2, 8, 9


def made():
  """Parameters of all methods, and a batch: the same everywhere."""
  rng = np.random.default_rng(0)
  keys = jax.random.split(jax.random.key(0), 3)
  policy, ref = (transformer.init(k, C) for k in keys[:2])
  critic = transformer.init(keys[2], CRITIC)
  adapters = lora.init(keys[2], policy, C, LORA)
  noise = lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32)
  trees = dict(
    policy=policy,
    ref=ref,
    critic=jax.tree.map(noise, critic),
    lora=jax.tree.map(noise, adapters),
  )
  valid = np.arange(T) < rng.integers(1, T + 1, (P * G, 1))
  batch = Batch(
    prompts=rng.integers(0, 16, (P, S)),
    prompt_valid=np.arange(S) >= rng.integers(0, S, (P, 1)),
    completions=rng.integers(0, 16, (P * G, T)),
    valid=valid,
    mask=valid,
    rewards=rng.normal(size=P * G).astype(np.float32),
    sampler_logps=-rng.exponential(size=(P * G, T)).astype(np.float32),
    ref_logps=-rng.exponential(size=(P * G, T)).astype(np.float32),
    group_size=G,
  )
  return jax.device_get(trees), batch


def axes():
  own, critic = transformer.axes(C), transformer.axes(CRITIC)
  return dict(policy=own, ref=own, critic=critic, lora=lora.axes(C, LORA))


def gradient(forward, name, params, batch, *anchors, parts=1, **hparams):
  """The loss of a method and its gradient."""
  batch = losses.prepared(
    name, forward(params, batch, *anchors), batch, hparams
  )
  grad = step.value_and_grad(forward, losses.LOSSES[name], parts)
  (value, _), grads = grad(params, batch, hparams, *anchors)
  return value, grads


METHODS = 'ipo', 'ipo in two parts', 'rloo', 'ppo', 'lora', 'point'


def everything(trees, batch, methods, attention):
  """{what: arrays} of one program."""
  c, critic = (dataclasses.replace(x, attention=attention) for x in (C, CRITIC))
  logps = functools.partial(scoring.token_logps, config=c)
  policy, ref = trees['policy'], {'ref': trees['ref']}
  with_critic = {**policy, 'critic': trees['critic']}
  adapted = forwards.with_lora(logps, False, LORA)
  kl = dict(beta=0.1, kl='exact')
  found = {
    'ipo': lambda: gradient(logps, 'ipo', policy, batch, beta=0.1),
    'ipo in two parts': lambda: gradient(
      logps, 'ipo', policy, batch, parts=2, beta=0.1
    ),
    'rloo': lambda: gradient(
      forwards.logps_and_kls(c), 'rloo', policy, batch, ref, **kl
    ),
    'ppo': lambda: gradient(
      forwards.with_values(c, critic, False), 'ppo', with_critic, batch, ref
    ),
    'lora': lambda: gradient(
      adapted, 'ipo', {lora.KEY: trees['lora']}, batch, {'ref': policy}
    ),
    'point': lambda: scoring.token_kls(
      policy, trees['ref'], batch.replace(sampler_logps=None), config=c
    ),
  }
  return {name: found[name]() for name in methods}


def run(sizes, methods, attention='plain'):
  """What a mesh of these sizes computes; {}: one device."""
  trees, batch = made()
  prompts = batch.prompts, batch.prompt_valid, jax.random.key(1)
  draw = functools.partial(
    sampling.sample, config=C, group_size=G, max_new_tokens=5, eos_id=1
  )
  told = dict(methods=methods, attention=attention)
  program = jax.jit(functools.partial(everything, **told))
  if not sizes:
    trees = jax.device_put(trees, jax.devices()[0])
    found = program(trees, batch)
    return jax.device_get((found, jax.jit(draw)(trees['policy'], *prompts)))
  mesh = sharding.make_mesh(**sizes)
  with jax.set_mesh(mesh):
    trees = sharding.place(trees, axes(), mesh)
    found = program(trees, sharding.place_batch(batch, mesh))
    return jax.device_get((found, jax.jit(draw)(trees['policy'], *prompts)))


def distance(x, y):
  """The largest difference of two trees, in units of each array's largest."""

  def of(a, b):
    most = np.abs(a).max(initial=0) + 1e-6
    return float(np.abs(a - b).max(initial=0) / most)

  return max(jax.tree.leaves(jax.tree.map(of, x, y)))


def forms(meshes):
  """Each mesh with its ways to attend."""
  for sizes in meshes:
    yield sizes, 'plain'
    if sizes.get('context', 1) > 1:
      yield sizes, 'ring'


def compare(meshes, methods=METHODS):
  """{mesh: {what: distance}}, 'tokens' being the share that differs.

  To be called before JAX starts.
  """
  jax.config.update('jax_num_cpu_devices', 8)
  (want, drawn), found = run({}, methods), {}
  for sizes, attention in forms(meshes):
    got, rows = run(sizes, methods, attention)
    off = {name: distance(want[name], got[name]) for name in want}
    off['sampler_logps'] = distance(drawn.sampler_logps, rows.sampler_logps)
    off['tokens'] = float((drawn.completions != rows.completions).mean())
    name = ' '.join(f'{k}={v}' for k, v in sizes.items())
    found[name if attention == 'plain' else f'{name} {attention}'] = off
  return found


def parsed(text):
  return {k: int(v) for k, v in (x.split('=') for x in text.split(','))}


if __name__ == '__main__':
  told = compare([parsed(x) for x in sys.argv[1:]] or MESHES)
  for mesh, off in told.items():
    print(f'{mesh}: {json.dumps(off)}')
  sys.exit(max(max(x.values()) for x in told.values()) > TOLERANCE)
