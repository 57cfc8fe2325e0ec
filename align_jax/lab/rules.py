"""Rules on settings that runs, SFT and the proxy share."""

import math

from align_jax.lab import steps as steps_of
from align_jax.losses import LOSSES, hparams_of
from align_jax.values import check_name, is_number


def _check_arguments(where, told):
  """The name of an optimizer or schedule, and numbers for the rest."""
  if not isinstance(told.get('name'), str):
    raise ValueError(f'{where}={told!r}, expected a name among its entries')
  for key, value in told.items():
    if key != 'name' and not isinstance(value, bool):
      if not is_number(value) or value < 0:
        raise ValueError(
          f'{where}.{key}={value!r}, expected a finite number of at least 0'
        )


def check_optimizer(optimizer, steps, where):
  """Checks an optimizer's and its schedule's names, arguments and warm-up."""
  for group, told in (
    ('optimizer', optimizer.how),
    ('schedule', optimizer.schedule),
  ):
    _check_arguments(where(group), told)
  try:
    steps_of.optimizer(optimizer, steps, None)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where("optimizer")}: {error}') from None
  if 0 < steps < optimizer.warmup_steps:  # no steps read no warm-up
    raise ValueError(
      f'{where("warmup_steps")}={optimizer.warmup_steps}, expected at most '
      f'{where("steps")}={steps}'
    )


# Bounds of hyper-parameters: (least, most). All others are at least 0.
BOUNDS = {
  'label_smoothing': (0, 0.5),
  'bias': (0, 1),
  'decay': (0, 1),
  'lam': (0, 1),
  'baseline': (-math.inf, math.inf),
}


def check_hparams(loss, where):
  """Checks the hyper-parameters of a settings.Loss.

  Args:
    where: hyper-parameter -> its name in errors.
  """
  row = LOSSES[loss.name]
  known = hparams_of(row)
  for key, value in loss.kwargs.items():
    if key not in known:
      raise ValueError(
        f'{where(key)} is none of the parameters of {loss.name!r}: '
        f'{list(known)}'
      )
    if key in row.choices:
      check_name(where(key), value, row.choices[key])
      continue
    low, high = BOUNDS.get(key, (0, math.inf))
    if not (is_number(value) and low <= value <= high):
      most = f' and at most {high}' if high < math.inf else ''
      raise ValueError(
        f'{where(key)}={value!r}, expected a finite number of at least '
        f'{low}{most}'
      )
