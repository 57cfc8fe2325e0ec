"""align_jax on the fixed workload, through what experiments use."""

import functools
import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import sharding
from align_jax.lab import malloc, placing, settings, steps
from align_jax.lab.fields import build
from align_jax.learn.optimizers import ADAMW
from align_jax.learn.schedules import CONSTANT
from align_jax.models import transformer
from align_jax.policy import programs, sampling
from align_jax.types import Batch
from experiments.peers import workload
from experiments.peers.worker import Clock


def about(spec):
  names = ('jax', 'jaxlib', 'optax', 'flax', 'numpy')
  versions = {name: importlib.metadata.version(name) for name in names}
  return {
    'versions': versions,
    'device': jax.devices()[0].device_kind,
    'platform': jax.default_backend(),
    'weights': workload.weights(spec['model'])[0],
  }


def policy(spec):
  """-> ModelConfig, params, on the mesh if there is one."""
  config = transformer.ModelConfig(**spec['model'])
  init = jax.jit(transformer.init, static_argnums=1)
  params = init(jax.random.key(0, impl='unsafe_rbg'), config)
  count = sum(x.size for x in jax.tree.leaves(params))
  assert count == workload.weights(spec['model'])[0], count
  axes = transformer.axes(config)
  return config, sharding.place(params, axes, sharding.current_mesh())


def prompts(spec):
  shape = spec['task']['prompts'], spec['task']['prompt_len']
  return jnp.asarray(workload.tokens(spec, shape)), jnp.ones(shape, bool)


def sampler(spec, config, **kwargs):
  f = functools.partial(
    kwargs.pop('f', sampling.sample),
    config=config,
    group_size=spec['task']['group_size'],
    max_new_tokens=spec['task']['completion_len'],
    **kwargs,
  )
  return jax.jit(f)


def sample(spec, gate):
  config, params = policy(spec)
  draw, given = sampler(spec, config), prompts(spec)

  def run():
    jax.block_until_ready(draw(params, *given, jax.random.key(1)))
    return {}

  gate.repeat(run, **about(spec))


def refill(spec, gate):
  """A row that ends makes room for the next one."""
  config, params = policy(spec)
  slots = spec['task']['slots']
  draw = sampler(spec, config, f=sampling.sample_many, slots=slots)
  given, wanted = prompts(spec), workload.limits(spec['task'])

  def run():
    batch = draw(params, *given, jax.random.key(1), limits=wanted)
    assert int(batch.valid.sum()) == wanted.sum()
    return {}

  gate.repeat(run, **about(spec))


def static_batches(spec, gate):
  """Each batch of `slots` rows takes as long as its longest one."""
  config, params = policy(spec)
  draw, slots = sampler(spec, config), spec['task']['slots']
  (tokens, valid), wanted = prompts(spec), workload.limits(spec['task'])

  def run():
    count = 0
    for i in range(0, len(wanted), slots):
      rows = slice(i, i + slots)
      batch = draw(
        params,
        tokens[rows],
        valid[rows],
        jax.random.key(1),
        limits=wanted[rows],
      )
      count += int(batch.valid.sum())
    assert count == wanted.sum()
    return {}

  gate.repeat(run, **about(spec))


def trainer(loss, spec, config, params):
  """-> the state, train(state, batch) -> state, annotate(batch)."""
  told = dict(spec['train'], optimizer=ADAMW, schedule=CONSTANT)
  method = settings.Loss(loss, told.pop('loss_kwargs')[loss])
  told = build(settings.Optimizer, told, 'train.{}'.format)
  logps, _, annotate = programs.policy_programs(config)
  tx = steps.optimizer(told, 1, config)
  state = placing.start_state(params, tx, transformer.axes(config))
  updates = settings.Updates(0, spec['task']['microbatches'], 0, 1, 1)
  train_step = steps.train_step_of(logps, method, tx, state, updates)
  hparams = steps.numbers(method, told)

  def train(state, batch):
    state, metrics = train_step(state, batch, hparams)
    assert np.isfinite(metrics['loss'])  # waits for the step
    return jax.block_until_ready(state)

  return state, train, functools.partial(annotate, params)


def full_batch(spec):
  """Completions of full length, with rewards 1, 0, 1, 0, ..."""
  task = spec['task']
  rows = task['prompts'] * task['group_size']
  shape = rows, task['completion_len']
  given, valid = prompts(spec)
  full = jnp.ones(shape, bool)
  return Batch(
    prompts=given,
    prompt_valid=valid,
    completions=jnp.asarray(workload.tokens(spec, shape)),
    valid=full,
    mask=full,
    rewards=jnp.arange(1, rows + 1, dtype=jnp.float32) % 2,
    group_size=task['group_size'],
  )


def updates(prepare, loss, spec, gate):
  """Steps of a loss on one batch.

  Args:
    prepare: (batch, annotate) -> the batch at hand and what a repetition does
      to it first.
  """
  config, params = policy(spec)
  state, train, annotate = trainer(loss, spec, config, params)
  batch = placing.on_mesh(full_batch)(spec)
  batch, refine = prepare(batch, annotate)

  def run():
    nonlocal state
    state = train(state, refine(batch))
    return {}

  gate.repeat(run, **about(spec))


def with_stored_ref(batch, annotate):
  batch = annotate(batch)
  # As if the sampler had been the reference: what rollouts come with.
  return batch.replace(sampler_logps=batch.ref_logps), lambda batch: batch


def with_ref(batch, annotate):
  return batch, annotate


def online(loss, spec, gate):
  """Sample, a reward on the host, reference log-probs, one update."""
  config, params = policy(spec)
  state, train, annotate = trainer(loss, spec, config, params)
  draw, given = sampler(spec, config), prompts(spec)

  def run():
    nonlocal state
    clock = Clock()
    key = jax.random.fold_in(jax.random.key(1), state.step)
    batch = draw(state.params, *given, key)
    rows = np.asarray(batch.completions).tolist()
    generated, clock = clock(), Clock()
    rewards = jnp.asarray([float(len(set(row))) for row in rows])
    state = train(state, annotate(batch.replace(rewards=rewards)))
    return {'parts': {'generate': generated, 'train': clock()}}

  gate.repeat(run, **about(spec))


def begun(task, on_cores=False):
  """A kind: `task` of a process that has not started JAX yet.

  Args:
    on_cores: a core is a device, and prompts are split over them.
  """

  def kind(spec, gate):
    malloc.keep()
    if on_cores:
      sharding.use_mesh(data=spec['cores'])
    task(spec, gate)

  return kind


TASKS = {
  'sample': sample,
  'refill': refill,
  'static_batches': static_batches,
  'dpo': functools.partial(updates, with_stored_ref, 'dpo'),
  'dpo_ref': functools.partial(updates, with_ref, 'dpo'),
  'update': functools.partial(updates, with_stored_ref, 'grpo'),
  'grpo': functools.partial(online, 'grpo'),
  'rloo': functools.partial(online, 'rloo'),
}
KINDS = {name: begun(task) for name, task in TASKS.items()} | {
  f'{name}_on_cores': begun(TASKS[name], on_cores=True)
  for name in workload.WORK
}
