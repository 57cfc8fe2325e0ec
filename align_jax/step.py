"""One train step for every method."""

import jax
import jax.numpy as jnp
import optax

from align_jax.types import TrainState


def make_optimizer(*, warmup_steps=0, max_grad_norm=1.0, weight_decay=0.0):
  """Adam(W) behind global-norm clipping, constant after a linear warm-up.

  The learning rate itself is a traced hyper-parameter of the train step.
  """
  schedule = optax.linear_schedule(0.0, 1.0, warmup_steps)
  return optax.chain(
    optax.clip_by_global_norm(max_grad_norm),
    optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_schedule(schedule) if warmup_steps else optax.identity(),
    optax.scale(-1.0),
  )


def init_state(params, tx, anchors=()):
  """A state at step 0 with a copy of `params` for each named anchor.

  Copies, because the state is donated; `tx.init` runs eagerly, so that the
  moments keep the parameters' sharding.
  """
  copy = lambda: jax.tree.map(jnp.copy, params)
  return TrainState(
    step=jnp.int32(0),
    params=copy(),
    opt_state=tx.init(params),
    anchors={name: copy() for name in anchors},
  )


def refresh(state, step, every):
  """Copies the params into each anchor whose period divides the step.

  Args:
    step: int, the number of updates that the state has seen.
    every: {anchor name: steps}; 0 never refreshes.
  """
  due = [name for name, n in every.items() if n and step and step % n == 0]
  fresh = {name: jax.tree.map(jnp.copy, state.params) for name in due}
  return state.replace(anchors={**state.anchors, **fresh})


def make_annotate(forward):
  """-> annotate(ref_params, batch) -> batch with `ref_logps`."""

  @jax.jit
  def annotate(ref_params, batch):
    return batch.replace(ref_logps=forward(ref_params, batch))

  return annotate


def _microbatches(batch, num):
  """Batch -> the same arrays as [num, ...], whole groups together."""
  if batch.num_prompts % num:
    raise ValueError(
      f'{batch.num_prompts} prompts do not split into {num} microbatches'
    )
  return jax.tree.map(lambda x: x.reshape(num, -1, *x.shape[1:]), batch)


def value_and_grad(forward, loss, num_microbatches=1):
  """-> f(params, batch, hparams) -> (loss, metrics), grads.

  A microbatch's mean is weighted by its `metrics['weight']`, so the sum over
  microbatches is the gradient of the whole batch's mean, whatever their
  lengths.
  """

  def objective(params, batch, hparams):
    return loss(forward(params, batch), batch, **hparams)

  one = jax.value_and_grad(objective, has_aux=True)
  if num_microbatches == 1:
    return one

  def many(params, batch, hparams):
    def body(total, microbatch):
      (value, metrics), grads = one(params, microbatch, hparams)
      weight = metrics['weight']
      metrics = {
        k: v if k == 'weight' else v * weight for k, v in metrics.items()
      }
      grads = jax.tree.map(lambda g: g * weight, grads)
      return jax.tree.map(
        jnp.add, total, (value * weight, metrics, grads)
      ), None

    batches = _microbatches(batch, num_microbatches)
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(one, params, first, hparams)
    (value, metrics), grads = jax.tree.map(
      lambda s: jnp.zeros(s.shape, jnp.float32), shapes
    )
    (value, metrics, grads), _ = jax.lax.scan(
      body, (value, metrics, grads), batches
    )
    weight = metrics['weight']
    mean = lambda x: x / jnp.where(weight > 0, weight, 1)
    metrics = {k: v if k == 'weight' else mean(v) for k, v in metrics.items()}
    return (mean(value), metrics), jax.tree.map(mean, grads)

  return many


def make_train_step(forward, loss, tx, *, num_microbatches=1, state=None):
  """One step of any method.

  Args:
    forward: (params, batch) -> token log-probs f32 [B, T] or scores f32 [B].
    loss: (outputs, batch, **hparams) -> (scalar, metrics with 'weight').
    tx: an optax transformation; its updates are multiplied by hparams'
      'learning_rate' when there is one.
    num_microbatches: prompts are split into this many parts, one at a time.
    state: a placed state, whose shardings the returned state keeps.
  Returns:
    train_step(state, batch, hparams) -> (state, metrics), jitted; donates the
    state. `hparams` are traced numbers: a sweep over them compiles once.
  """
  grad = value_and_grad(forward, loss, num_microbatches)

  def train_step(state, batch, hparams):
    hparams = dict(hparams)
    learning_rate = hparams.pop('learning_rate', 1.0)
    (value, metrics), grads = grad(state.params, batch, hparams)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: u * learning_rate, updates)
    metrics = {
      **metrics,
      'loss': value,
      'grad_norm': optax.tree.norm(grads),
    }
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return state, metrics

  shardings = state and jax.tree.map(lambda x: x.sharding, state)
  return jax.jit(
    train_step,
    donate_argnums=0,
    out_shardings=(shardings, None) if state else None,
  )
