"""Train steps and optimizers, built once per process: a sweep compiles once."""

import functools

import jax

from align_jax import losses
from align_jax.lab.settings import Correction, Loss, Optimizer, Updates
from align_jax.learn import step
from align_jax.learn.optimizers import make_optimizer
from align_jax.learn.schedules import reads_steps
from align_jax.losses import LOSSES
from align_jax.losses.correction import corrected

_train_steps = {}


def forget():
  """Drops the train steps, which keep the shardings of their first state."""
  _train_steps.clear()


def train_step_of(
  forward,
  loss: Loss,
  tx,
  state,
  updates=None,
  anchors=False,
  correction=Correction('', 1.0),
):
  """The train step of a loss. `numbers` gives the hyper-parameters it traces.

  Args:
    forward: (params, batch) -> outputs. Equal objects share a program.
    tx: see `optimizer`.
    state: TrainState, placed.
    updates: settings.Updates. None: one update with the whole batch.
    anchors: whether `forward` reads them, see `step.make_train_step`.
    correction: settings.Correction of the batch's sampler.
  """
  updates = updates or Updates(0, 1, 0, 1, 1)
  words = _words(loss)
  split = {k: v for k, v in vars(updates).items() if k != 'batch_size'}
  key = forward, loss.name, tuple(words.items()), tx, tuple(split.values())
  key += (correction,)
  meshed = not jax.sharding.get_abstract_mesh().empty
  if meshed:  # the step keeps the shardings of one structure
    key += (jax.tree.structure(state.replace(anchors={})),)
  if key not in _train_steps:

    def prepare(outputs, batch, hparams):
      if correction.how:
        batch = corrected(outputs, batch, correction.how, correction.cap)
      return losses.prepared(loss.name, outputs, batch, {**hparams, **words})

    _train_steps[key] = step.make_train_step(
      forward,
      functools.partial(LOSSES[loss.name], **words),
      tx,
      prepare=prepare if correction.how or LOSSES[loss.name].prepare else None,
      reads_anchors=anchors,
      state=state if meshed else None,
      **split,
    )
  return _train_steps[key]


def _words(loss):
  """Hyper-parameters that select the compiled program."""
  return {k: v for k, v in loss.kwargs.items() if isinstance(v, str)}


def numbers(loss: Loss, settings: Optimizer):
  """Traced hyper-parameters, over which a sweep compiles only once."""
  words = _words(loss)
  hparams = {k: v for k, v in loss.kwargs.items() if k not in words}
  return {**hparams, 'learning_rate': settings.learning_rate}


def optimizer(settings: Optimizer, steps, model, updates=1, critic_warmup=0):
  """The optimizer of settings. Equal settings return the same object.

  Args:
    steps: steps of the run.
    model: the trained model, see `models.interface.of`. None: a bag of words.
    updates: updates per step, which the schedule counts.
    critic_warmup: steps in which only a critic moves.
  """
  schedule = settings.schedule
  # Runs of different lengths share a program if the schedule allows it.
  long = reads_steps(schedule.get('name', 'constant'))
  return _optimizer(
    tuple(sorted(settings.how.items())),
    tuple(sorted(schedule.items())),
    model,
    steps * updates if long else None,
    settings.warmup_steps * updates,
    settings.max_grad_norm,
    settings.weight_decay,
    critic_warmup * updates,
  )


@functools.cache
def _optimizer(
  optimizer, schedule, model, steps, warmup, max_norm, decay, critic_warmup
):
  return make_optimizer(
    optimizer=optimizer,
    schedule=schedule,
    model=model,
    steps=steps,
    warmup_steps=warmup,
    max_grad_norm=max_norm,
    weight_decay=decay,
    critic_warmup=critic_warmup,
  )
