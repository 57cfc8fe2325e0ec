"""One train step for every method."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from align_jax import sharding
from align_jax.learn import finite
from align_jax.types import Batch, Metrics, Params, TrainState

View = Callable[[Params], Params]


def init_state(
  params: Params,
  tx: optax.GradientTransformation,
  anchors: Iterable[str] | Mapping[str, Params] = (),
  stats: Mapping[str, float] | None = None,
) -> TrainState:
  """A state at step 0.

  The params are a copy, because a step donates them; it does not donate the
  anchors. `tx.init` runs eagerly, so that the moments keep the parameters'
  sharding.

  Args:
    anchors: names, each for `params` as they are now; or {name: other params}.
    stats: {name: number} that the run carries along, see `TrainState`.
  """
  copy = lambda tree: jax.tree.map(jnp.copy, tree)
  if not isinstance(anchors, Mapping):
    anchors = dict.fromkeys(anchors, params)
  return TrainState(
    step=jnp.int32(0),
    params=copy(params),
    opt_state=tx.init(params),
    anchors=dict(anchors),
    stats={name: jnp.float32(x) for name, x in (stats or {}).items()},
  )


def refresh(
  state: TrainState,
  step: int,
  every: Mapping[str, int],
  view: View = lambda params: params,
) -> TrainState:
  """Copies the params into each anchor whose period divides the step.

  Args:
    step: int, the number of updates that the state has seen.
    every: {anchor name: steps}; 0 never refreshes.
    view: params -> what the anchors keep of them.
  """
  due = [name for name, n in every.items() if n and step and step % n == 0]
  fresh = {}
  for name in due:
    away = sharding.on_host(state.anchors[name])
    copy = sharding.to_host if away else partial(jax.tree.map, jnp.copy)
    fresh[name] = copy(view(state.params))
  return state.replace(anchors={**state.anchors, **fresh})


PREVIOUS = 'previous'  # the anchor of the params before the newest update


def remember(
  state: TrainState, view: View = lambda params: params
) -> TrainState:
  """Copies the params into the anchor PREVIOUS, if the state has it.

  To be called when a step's batch is there and its update is not: the next
  step's sampling depends on nothing that the update computes, so the two run
  side by side where the device lets them.
  """
  if PREVIOUS not in state.anchors:
    return state
  fresh = jax.tree.map(jnp.copy, view(state.params))
  return state.replace(anchors={**state.anchors, PREVIOUS: fresh})


def _microbatches(batch, num):
  """Batch -> the same arrays as [num, ...], whole groups together."""
  if batch.num_prompts % num:
    raise ValueError(
      f'{batch.num_prompts} prompts do not split into {num} parts'
    )

  def cut(x):
    groups = x.reshape(batch.num_prompts, -1, *x.shape[1:])
    return sharding.parts(groups, num).reshape(num, -1, *x.shape[1:])

  return jax.tree.map(cut, batch)


def computed_tokens(batch: Batch) -> int:
  """Tokens that a model computes on, padding included, prompts once: int."""
  return batch.prompts.size + batch.completions.size


def parts_within(batch: Batch, tokens: int) -> int:
  """The smallest number of equal parts, of at most `tokens` each.

  Raises:
    ValueError: one prompt with its completions is larger than that.
  """
  for num in range(1, batch.num_prompts + 1):
    if batch.num_prompts % num == 0 and computed_tokens(batch) <= num * tokens:
      return num
  raise ValueError(
    f'microbatch_tokens={tokens}: a prompt with its {batch.group_size} '
    f'completions has {computed_tokens(batch) // batch.num_prompts} tokens'
  )


# Metrics that are means over rows.
ROW_MEANS = ('reward', 'kl', 'baseline', 'importance')


def value_and_grad(
  forward: Callable[..., Any],
  loss: Callable[..., tuple[jax.Array, Metrics]],
  num_microbatches: int = 1,
) -> Callable[..., tuple[tuple[jax.Array, Metrics], Params]]:
  """-> f(params, batch, hparams, *anchors) -> (loss, metrics), grads.

  A microbatch's mean is weighted by its `metrics['weight']`, so the sum over
  microbatches is the gradient of the whole batch's mean, whatever their
  lengths. Microbatches have equally many rows, so ROW_MEANS weigh the same.
  """

  def objective(params, batch, hparams, *anchors):
    with jax.named_scope('forward'):
      outputs = forward(params, batch, *anchors)
    with jax.named_scope('loss'):
      return loss(outputs, batch, **hparams)

  one = jax.value_and_grad(objective, has_aux=True)
  if num_microbatches == 1:
    return one

  def scaled(metrics, scale):
    same = lambda k: k == 'weight' or k in ROW_MEANS
    return {k: v if same(k) else v * scale for k, v in metrics.items()}

  def many(params, batch, hparams, *anchors):
    def body(total, microbatch):
      (value, metrics), grads = one(params, microbatch, hparams, *anchors)
      weight = metrics['weight']
      grads = jax.tree.map(lambda g: g * weight, grads)
      parts = value * weight, scaled(metrics, weight), grads
      return jax.tree.map(jnp.add, total, parts), None

    batches = _microbatches(batch, num_microbatches)
    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(one, params, first, hparams, *anchors)
    (value, metrics), grads = jax.tree.map(
      lambda s: jnp.zeros(s.shape, jnp.float32), shapes
    )
    (value, metrics, grads), _ = jax.lax.scan(
      body, (value, metrics, grads), batches
    )
    weight = metrics['weight']
    scale = 1 / jnp.where(weight > 0, weight, 1)
    metrics = scaled(metrics, scale)
    means = {
      k: metrics[k] / num_microbatches for k in ROW_MEANS if k in metrics
    }
    grads = jax.tree.map(lambda g: g * scale, grads)
    return (value * scale, {**metrics, **means}), grads

  return many


def _shuffled(batch, key, num_epochs, num_minibatches):
  """Batch -> arrays [epochs * minibatches, ...], whole groups together."""
  prompts = batch.num_prompts

  def epoch(key):
    order = jax.random.permutation(key, prompts)
    rows = lambda x: x.reshape(prompts, -1, *x.shape[1:])[order].reshape(
      x.shape
    )
    return _microbatches(jax.tree.map(rows, batch), num_minibatches)

  parts = [epoch(k) for k in jax.random.split(key, num_epochs)]
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def update(
  grad: Callable[..., tuple[tuple[jax.Array, Metrics], Params]],
  tx: optax.GradientTransformation,
  params: Params,
  opt_state: optax.OptState,
  batch: Batch,
  hparams: Mapping[str, Any],
  *anchors: Mapping[str, Params],
) -> tuple[Params, optax.OptState, Metrics]:
  """One update of the parameters by one batch: pure, and all there is to it.

  Args:
    grad: see `value_and_grad`.
    hparams: of the loss, and 'learning_rate', which the update is multiplied
      by; 1 without it.
  """
  hparams = dict(hparams)
  learning_rate = hparams.pop('learning_rate', 1.0)
  (value, metrics), grads = grad(params, batch, hparams, *anchors)
  with jax.named_scope('update'):
    updates, opt_state = tx.update(grads, opt_state, params)
    updates = jax.tree.map(lambda u: u * learning_rate, updates)
    norms = dict(grad_norm=grads, update_norm=updates)
    norms = {name: optax.tree.norm(tree) for name, tree in norms.items()}
    metrics = {**metrics, 'loss': value, **norms}
    return optax.apply_updates(params, updates), opt_state, metrics


def make_train_step(
  forward: Callable[..., Any],
  loss: Callable[..., tuple[jax.Array, Metrics]],
  tx: optax.GradientTransformation,
  *,
  prepare: Callable[..., Batch] | None = None,
  reads_anchors: bool = False,
  num_microbatches: int = 1,
  microbatch_tokens: int = 0,
  num_epochs: int = 1,
  num_minibatches: int = 1,
  state: TrainState | None = None,
) -> Callable[
  [TrainState, Batch, Mapping[str, Any]], tuple[TrainState, Metrics]
]:
  """One step of any method.

  Args:
    forward: (params, batch) -> token log-probs f32 [B, T], scores f32 [B] or
      `Outputs`.
    loss: (outputs, batch, **hparams) -> (scalar, metrics with 'weight').
    tx: an optax transformation; its updates are multiplied by hparams'
      'learning_rate' when there is one.
    prepare: (outputs, batch, hparams) -> batch, what the loss needs of the
      whole batch; runs once per step, before the batch is split. For losses
      whose row has a `prepare`: `partial(losses.prepared, name)`.
    reads_anchors: forward is (params, batch, anchors).
    num_microbatches: prompts are split into this many parts, one at a time,
      whose gradients add up to one update.
    microbatch_tokens: instead of their number, the most computed tokens of one,
      see `parts_within`; 0: off.
    num_epochs, num_minibatches: updates over one batch: in every epoch its
      prompts are shuffled and split into minibatches, an update each.
    state: a placed state, whose shardings the returned state keeps.
  Returns:
    train_step(state, batch, hparams) -> (state, metrics), around a jitted
    `program`; donates the state, but not its anchors. `hparams` are traced
    numbers: a sweep over them compiles once. The state's `stats` override them,
    and take the metrics of their names after the step. Metrics are means over
    the updates, but for 'computed_tokens', see the function.
  """

  def updated(state, anchors, batch, hparams):
    hparams = {**hparams, **state.stats}
    anchors = (sharding.on_device(anchors),) if reads_anchors else ()
    if prepare:
      of_loss = {k: v for k, v in hparams.items() if k != 'learning_rate'}
      with jax.named_scope('prepare'):
        outputs = forward(state.params, batch, *anchors)
        batch = prepare(outputs, batch, of_loss)

    def body(carry, batch):
      num = num_microbatches
      if microbatch_tokens:
        num = parts_within(batch, microbatch_tokens)
      grad = value_and_grad(forward, loss, num)
      *carry, metrics = update(grad, tx, *carry, batch, hparams, *anchors)
      return tuple(carry), metrics

    carry = state.params, state.opt_state
    if num_epochs * num_minibatches == 1:
      carry, metrics = body(carry, batch)
    else:
      key = jax.random.fold_in(jax.random.key(0), state.step)
      parts = _shuffled(batch, key, num_epochs, num_minibatches)
      carry, metrics = jax.lax.scan(body, carry, parts)
      metrics = jax.tree.map(lambda m: jnp.mean(m, 0), metrics)
    # One program for each number of them.
    metrics = {
      **metrics,
      'computed_tokens': jnp.float32(computed_tokens(batch)),
    }
    metrics[finite.FINITE] = finite.flag(metrics, batch.rewards)
    params, opt_state = carry
    stats = {name: metrics.get(name, x) for name, x in state.stats.items()}
    state = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state, stats=stats
    )
    return state, metrics

  if state:
    state = jax.tree.map(lambda x: x.sharding, state.replace(anchors={}))
  updated = jax.jit(
    updated,
    donate_argnums=0,
    out_shardings=(state, None) if state else None,
  )

  def train_step(state, batch, hparams):
    # Anchors go around the program: they do not change, and who reads them
    # next need not wait for it.
    anchors, state = state.anchors, state.replace(anchors={})
    read = anchors if reads_anchors else {}
    state, metrics = updated(state, read, batch, hparams)
    return state.replace(anchors=anchors), metrics

  train_step.program = updated  # type: ignore[attr-defined]
  return train_step
