"""What multiplies the learning rate, update by update.

Every schedule starts with the same linear warm-up: update i, counted from 0, of
n gets (i + 1) / n. The first one moves the parameters, which i / n wastes, and
the last one reaches 1, which (i + 1) / (n + 1) does one update later.
"""

import inspect

import jax.numpy as jnp


def constant():
  """1 after the warm-up."""
  return lambda i: 1.0


def linear(steps, *, final=0.0):
  """Falls from 1 to `final` on a straight line.

  Args:
    steps: updates after the warm-up. `final` would be the factor of the one
      after the last, so that none of them is zero.
  """
  return lambda i: 1 - (1 - final) * jnp.minimum(i / steps, 1)


def cosine(steps, *, final=0.0):
  """Falls from 1 to `final` on half a cosine (Loshchilov & Hutter 2017).

  Args: as in `linear`.
  """
  share = lambda i: jnp.minimum(i / steps, 1)
  return lambda i: final + (1 - final) * (1 + jnp.cos(jnp.pi * share(i))) / 2


def inverse_sqrt(*, timescale=1000.0):
  """Falls as 1 / sqrt(1 + i / timescale) (Zhai et al. 2022, arXiv 2106.04560).

  With the warm-up's length as the timescale it is that of Vaswani et al. 2017.
  """
  return lambda i: (1 + i / timescale) ** -0.5


# (updates after the warm-up, where it reads them; kwargs)
# -> (i updates after the warm-up -> factor).
SCHEDULES = {
  'constant': constant,
  'linear': linear,
  'cosine': cosine,
  'inverse_sqrt': inverse_sqrt,
}


def reads_steps(name):
  """Whether the schedule depends on how long a run is."""
  return 'steps' in inspect.signature(_named(name)).parameters


CONSTANT = {'name': 'constant'}
RANGES = {'final': (0.0, '>= 0'), 'timescale': (1e-9, '> 0')}


def make_schedule(schedule=CONSTANT, steps=None, warmup_steps=0):
  """A schedule behind its warm-up.

  Args:
    schedule: {'name': in SCHEDULES, its keyword arguments}, or its items.
    steps: updates of the whole run, for a schedule that `reads_steps`.
    warmup_steps: updates of the warm-up, a part of them.
  Returns:
    i -> factor of update i, counted from 0; None where it is always 1.
  Raises:
    ValueError: an unknown name or argument, or a number out of range.
  """
  kwargs = dict(schedule)
  name = kwargs.pop('name', 'constant')
  _check_kwargs(name, kwargs)
  _check_count('warmup_steps', warmup_steps)
  if reads_steps(name):
    _check_count('steps', steps)
    # A run may end within its warm-up.
    kwargs['steps'] = max(steps - warmup_steps, 1)
  after = SCHEDULES[name](**kwargs)
  if not warmup_steps:
    return None if name == 'constant' else after
  return lambda i: jnp.where(
    i < warmup_steps,
    (i + 1) / warmup_steps,
    after(jnp.maximum(i - warmup_steps, 0)),
  )


def _check_kwargs(name, kwargs):
  known = set(inspect.signature(_named(name)).parameters) - {'steps'}
  for key, value in kwargs.items():
    if key not in known:
      takes = ', '.join(sorted(known)) or 'nothing'
      raise ValueError(f'schedule.{key}: schedule {name!r} takes {takes}')
    least, wanted = RANGES.get(key, (value, ''))
    if not value >= least:
      raise ValueError(f'schedule.{key}={value!r}, expected a number {wanted}')


def _check_count(field, value):
  if not isinstance(value, int) or value < 0:
    raise ValueError(f'{field}={value!r}, expected an integer >= 0')


def _named(name):
  if name not in SCHEDULES:
    raise ValueError(f'schedule.name={name!r} is none of {sorted(SCHEDULES)}')
  return SCHEDULES[name]
