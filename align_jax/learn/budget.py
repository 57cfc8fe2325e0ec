"""The KL budget and its controller: a run is held at it, or stopped there.

Every few steps the KL is measured on fresh samples. A run that left the budget
goes back along the straight line to the parameters of the last measurement, as
a trust-region method's line search does, so that no measured policy exceeds the
budget by more than the tolerance, whatever its loss. In between, `beta` adapts
where the loss has one: it rises with an overshoot, and falls where the run, at
its present pace, would not get to its budget in time. A run that has drifted
back by its end gives the policy that was last at its budget.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from align_jax.learn import stopping
from align_jax.learn.finite import NotFinite
from align_jax.types import TrainState

INSIDE = 'inside'  # the anchor with the parameters of the last measurement
HELD = 'held'  # the anchor with those that were last at the budget
# Share of the budget by which a measured KL may exceed it. A fifth of what a
# comparison allows a held run on fresh samples, `readings.HELD_WITHIN`.
TOLERANCE = 0.01
# Change of log beta per measurement, for a KL beyond the budget and short of it
# by the whole of it: beta changes at most e-fold. Chosen, not measured.
RISE = FALL = 1.0
# Share of the line that each measurement takes off at least, and the most of
# them: together they leave at most 8% of it. Chosen, not measured.
LEAST = 0.1
MAX_SECANTS = 24


@dataclasses.dataclass(frozen=True)
class Budget:
  """
  Attributes:
    nats: the sequence KL to reach, > 0.
    stop: end the run there, instead of holding it.
    every: steps between measurements.
    measure: params -> sequence KL in nats, the same for the same params.
    tolerance: share of the budget by which a measured KL may exceed it.
    rise, fall: change of log beta per measurement, for a KL beyond the budget
      and short of it by the whole of it.
    known: {INSIDE: KL of that anchor}, so that it is not measured twice.
  """

  nats: float
  stop: bool
  every: int
  measure: Callable
  tolerance: float = TOLERANCE
  rise: float = RISE
  fall: float = FALL
  known: dict = dataclasses.field(default_factory=dict)


def due(budget, step, num_steps):
  """Whether the KL is measured after that many updates."""
  return step % budget.every == 0 or step == num_steps


def left(budget, step, num_steps):
  """Measurements to come after that many updates."""
  return -(-(num_steps - step) // budget.every)


def measured(budget, params):
  """The policy's KL. Raises NotFinite: a NaN would pass every comparison."""
  kl = budget.measure(params)
  if not math.isfinite(kl):
    raise NotFinite(
      f'kl_budget={budget.nats:g}: the measured KL is {kl}, expected a finite '
      'number. The last checkpoint is kept'
    )
  return kl


@jax.jit
def between(inside, outside, share):
  """inside + share * (outside - inside), leaf by leaf."""
  return jax.tree.map(lambda x, y: x + share * (y - x), inside, outside)


def back_inside(budget, inside, outside, kls):
  """The policy on the line from `inside` whose KL is the budget's.

  False position in sqrt(KL), which is nearly straight along a short line; the
  KL is continuous there, and beyond the budget at its end.

  Args:
    kls: of `inside` and `outside`, nats.
  Returns:
    params and their KL.
  Raises:
    Stopped: the process was asked to stop. The last checkpoint is what stays.
  """
  goal = math.sqrt(budget.nats)
  low, high = 0.0, 1.0
  below, above = (math.sqrt(max(kl, 0.0)) for kl in kls)
  params, found = inside, kls[0]
  for _ in range(MAX_SECANTS):
    stopping.check('while a run is brought back to its KL budget')
    share = (goal - below) / (above - below) if above > below else 0.5
    share = low + (high - low) * min(max(share, LEAST), 1 - LEAST)
    candidate = between(inside, outside, share)
    kl = measured(budget, candidate)
    if kl > budget.nats * (1 + budget.tolerance):
      high, above = share, math.sqrt(kl)
    else:
      low, below, params, found = share, math.sqrt(max(kl, 0)), candidate, kl
      if kl >= budget.nats * (1 - budget.tolerance):
        break
  return params, found


def adapted(budget, beta, kl, last_kl, left):
  """The next `beta`.

  Args:
    kl, last_kl: now and at the measurement before.
    left: measurements to come.
  """
  deviation = min(kl / budget.nats - 1, 1.0)
  if deviation > budget.tolerance:
    return beta * math.exp(budget.rise * deviation)
  in_time = kl + left * (kl - last_kl) >= budget.nats * (1 - budget.tolerance)
  return beta if in_time else beta * math.exp(budget.fall * deviation)


def keep(budget, state: TrainState, left=0):
  """Measures; brings the run back inside and adapts `beta` if need be.

  Args:
    left: measurements to come.
  Returns:
    state, and whether the budget was reached and the run shall stop.
  """
  copy = lambda tree: jax.tree.map(jnp.copy, tree)  # the state is donated
  kl, inside = measured(budget, state.params), state.anchors[INSIDE]
  params, stats = state.params, dict(state.stats)
  reached = kl > budget.nats * (1 - budget.tolerance)
  beyond = kl > budget.nats * (1 + budget.tolerance)
  adapts = not budget.stop and 'beta' in stats
  if adapts or beyond:
    last_kl = budget.known.get(INSIDE)
    last_kl = measured(budget, inside) if last_kl is None else last_kl
  if adapts:
    beta = adapted(budget, float(stats['beta']), kl, last_kl, left)
    stats['beta'] = jnp.float32(beta)
  if beyond:
    params, kl = back_inside(budget, inside, params, (last_kl, kl))
    reached = kl > budget.nats * (1 - budget.tolerance)
  elif not (reached or left or budget.stop):  # it ends short
    held = state.anchors[HELD]
    held_kl = measured(budget, held)
    if held_kl >= budget.nats * (1 - budget.tolerance):
      params, kl = copy(held), held_kl
  budget.known[INSIDE] = kl
  anchors = {**state.anchors, INSIDE: copy(params)}
  if reached:
    anchors[HELD] = copy(params)
  state = state.replace(params=params, stats=stats, anchors=anchors)
  return state, budget.stop and reached
