"""Train steps and optimizers, built once per process: a sweep compiles once."""

import functools

import jax

from align_jax import losses
from align_jax.learn import step
from align_jax.losses import LOSSES

_train_steps = {}


def train_program(forward, run, state, reads_anchors=False):
  """The train step of a run, its numbers to trace, and its optimizer state.

  Args:
    forward: (params, batch) -> outputs, the same object for the same program.
    run: the fields of `configs.base`'s `arm`.
    state: TrainState, placed.
    reads_anchors: see `step.make_train_step`.
  """
  kwargs = dict(run['loss_kwargs'])
  static = {k: v for k, v in kwargs.items() if isinstance(v, str)}
  updates = run.get('num_epochs', 1), run.get('num_minibatches', 1)
  key = (
    forward,
    run['loss'],
    tuple(static.items()),
    optimizer(run),
    run['num_microbatches'],
    run.get('microbatch_tokens', 0),
    updates,
  )
  if key not in _train_steps:
    name = run['loss']

    def prepare(outputs, batch, hparams):
      return losses.prepared(name, outputs, batch, {**hparams, **static})

    meshed = not jax.sharding.get_abstract_mesh().empty
    _train_steps[key] = step.make_train_step(
      forward,
      functools.partial(LOSSES[name], **static),
      optimizer(run),
      prepare=prepare if name in losses.PREPARE else None,
      reads_anchors=reads_anchors,
      num_microbatches=run['num_microbatches'],
      microbatch_tokens=run.get('microbatch_tokens', 0),
      num_epochs=updates[0],
      num_minibatches=updates[1],
      state=state if meshed else None,
    )
  hparams = {k: v for k, v in kwargs.items() if k not in static}
  return _train_steps[key], {**hparams, 'learning_rate': run['learning_rate']}


def optimizer(run):
  return _optimizer(
    run['warmup_steps'], run['max_grad_norm'], run['weight_decay']
  )


@functools.cache
def _optimizer(warmup_steps, max_grad_norm, weight_decay):
  return step.make_optimizer(
    warmup_steps=warmup_steps,
    max_grad_norm=max_grad_norm,
    weight_decay=weight_decay,
  )
