"""Optimizers by name, and what stands around every one of them.

An optimizer here turns gradients into a direction. `make_optimizer` clips what
goes in, and adds weight decay and the schedule to what comes out. The learning
rate is a traced hyper-parameter of the train step.
"""

import inspect
import math

import jax
import jax.numpy as jnp
import optax

from align_jax.learn.schedules import CONSTANT, make_schedule
from align_jax.models import lora
from align_jax.models.interface import of
from align_jax.policy.programs import CRITICS


def muon(
  *,
  matrices,
  beta=0.95,
  ns_steps=5,
  nesterov=True,
  rms=0.2,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
):
  """Momentum, orthogonalised matrix by matrix (Jordan et al. 2024).

  A fused matrix is orthogonalised whole, a stacked one layer by layer and
  expert by expert. Under LoRA each A and each B is a matrix of its own. All
  else gets AdamW, see `matrices_of`.

  Args:
    matrices: as `matrices_of` returns it.
    beta: decay of the momentum.
    ns_steps: iterations of Newton and Schulz.
    nesterov: look ahead by one step of the momentum.
    rms: root mean square of an entry of an update. AdamW's is about 0.2, so
      that both can have one learning rate (Liu et al. 2025, arXiv 2502.16982,
      sec. 2.2).
    b1, b2, eps: AdamW's.
  """

  def label(path, x):
    return 'adamw' if matrices(path, x) is None else 'muon'

  def axes(path, x):
    stacked, inputs = matrices(path, x)
    dims = tuple(range(stacked, x.ndim))
    return optax.contrib.MuonDimensionNumbers(dims[:inputs], dims[inputs:])

  def resized(path, x):
    stacked, inputs = matrices(path, x)
    sides = x.shape[stacked:][:inputs], x.shape[stacked + inputs :]
    return rms * max(map(math.prod, sides)) ** 0.5 * x

  over = lambda f: lambda tree, *_: jax.tree_util.tree_map_with_path(f, tree)
  orthogonal = optax.contrib.scale_by_muon(
    ns_steps=ns_steps,
    beta=beta,
    nesterov=nesterov,
    weight_dimension_numbers=over(axes),
  )
  return optax.partition(
    {
      'muon': optax.chain(orthogonal, optax.stateless(over(resized))),
      'adamw': optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    },
    over(label),
  )


def rmsprop(decay=0.99, eps=1e-8):
  """RMSProp (Tieleman and Hinton 2012) as in PyTorch, without momentum."""
  return optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=False)


# Keyword arguments -> an optax transformation from gradients to directions. One
# that takes `matrices` is given those of the model.
OPTIMIZERS = {
  'adamw': optax.scale_by_adam,
  'lion': optax.scale_by_lion,
  'muon': muon,
  'rmsprop': rmsprop,
}


def matrices_of(model):
  """What is orthogonalised of parameters that are trained.

  These are the matrices inside of `layers`, the policy's and those of PPO's own
  critic, as the model's `matrix_dims` knows them, and both factors of every
  matrix that LoRA adapts. Embeddings, heads, norms and biases are not, nor is
  anything of an `Adapter`, whose parameters have no table, or of no model.

  Args:
    model: what `models.interface.of` knows; None: no matrix at all.
  Returns:
    (path, array) -> (stacked, input) dimensions; None for what is no matrix.
  """

  def dims(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='.')
    if model is None:
      return None
    if name.startswith(f'{lora.KEY}.'):
      return lora.factor_dims(path, model)
    name = name.removeprefix('critic.')
    if not name.startswith('layers.'):
      return None
    try:
      return of(model).matrix_dims(name, x.shape, model)
    except ValueError:  # a norm or a bias
      return None

  return dims


def _parameters(name):
  if name not in OPTIMIZERS:
    raise ValueError(f'optimizer.name={name!r} is none of {sorted(OPTIMIZERS)}')
  return set(inspect.signature(OPTIMIZERS[name]).parameters)


def _check_kwargs(name, kwargs):
  known = sorted(_parameters(name) - {'matrices', 'mu_dtype'})
  for key, value in kwargs.items():
    if key not in known:
      raise ValueError(
        f'optimizer.{key}: optimizer {name!r} takes '
        f'{", ".join(known) or "nothing"}'
      )
    if key in DECAYS and not 0 <= value < 1:
      raise ValueError(
        f'optimizer.{key}={value!r}, expected a number in [0, 1)'
      )


DECAYS = ('b1', 'b2', 'beta', 'decay')
ADAMW = {'name': 'adamw'}


def make_optimizer(
  *,
  optimizer=ADAMW,
  schedule=CONSTANT,
  model=None,
  steps=None,
  warmup_steps=0,
  max_grad_norm=1.0,
  weight_decay=0.0,
  critic_warmup=0,
):
  """Clipping by the global norm, an optimizer, weight decay, a schedule.

  Args:
    optimizer: {'name': in OPTIMIZERS, its keyword arguments}, or its items.
    schedule: {'name': in SCHEDULES, its keyword arguments}, or its items.
    model: whose parameters are trained, see `matrices_of`.
    steps, warmup_steps: updates of the run and of its warm-up, see
      `make_schedule`.
    max_grad_norm: gradients of a larger norm are scaled to it; > 0, inf: none.
    weight_decay: share of every parameter that is subtracted, times the
      learning rate and the schedule.
    critic_warmup: first updates, in which only a critic moves.
  Returns:
    an optax transformation; its updates are for a learning rate of 1.
  Raises:
    ValueError: an unknown name or argument, or a number out of range.
  """
  if not max_grad_norm > 0:
    raise ValueError(
      f'max_grad_norm={max_grad_norm!r}, expected a number > 0; inf clips '
      'nothing'
    )
  if not weight_decay >= 0:
    raise ValueError(f'weight_decay={weight_decay!r}, expected a number >= 0')
  kwargs = dict(optimizer)
  name = kwargs.pop('name', 'adamw')
  _check_kwargs(name, kwargs)
  if 'matrices' in _parameters(name):
    kwargs['matrices'] = matrices_of(model)
  factor = make_schedule(schedule, steps, warmup_steps)
  # Around the rest: no moment takes in a gradient, and no decay gets through.
  alone = [critics_alone(critic_warmup)] if critic_warmup else []
  return optax.chain(
    *alone,
    optax.clip_by_global_norm(max_grad_norm),
    OPTIMIZERS[name](**kwargs),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_schedule(factor) if factor else optax.identity(),
    optax.scale(-1.0),
    *alone,
  )


def critics_alone(updates):
  """Sets all but critics to zero in the first updates: an optax one."""

  def apply(tree, count, params=None):
    del params

    def only(path, x):
      return x if path[0].key in CRITICS else jnp.where(count < updates, 0, x)

    return jax.tree_util.tree_map_with_path(only, tree), count + 1

  return optax.GradientTransformation(
    lambda params: jnp.zeros((), jnp.int32), apply
  )
