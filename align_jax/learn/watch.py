"""Signs that online training goes wrong while its numbers are finite."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from align_jax import hosts
from align_jax.learn.truncated import unfinished

# Mean difference per token, nats, between the log-probs of sampler and trainer.
# Half precision gives about 0.01. Chosen, not measured.
GAP = 0.1
RUNAWAY = 100.0  # nats of KL; comparisons are made below 10. Chosen
SIGNS = 'gap', 'empty', 'cut', 'runaway'


class Alarm(ValueError):
  """A sign that the run was asked to stop on."""


@dataclasses.dataclass(frozen=True)
class Watch:
  """Looks at rollouts.

  Attributes:
    logps: (policy's params, batch) -> f32 [B, T].
    own: whether the current policy draws the rows, untruncated.
    ends: tokens that end a completion. None: there are none.
    stop_on: signs of SIGNS that end the run. All others are noted once.
  """

  logps: Callable
  own: bool
  ends: object
  stop_on: tuple = ()

  def look(self, params, batch):
    """Shares of rows, and the gap in nats: {name: f32 []}, on the device.

    Args:
      params: of the policy that drew the batch.
    """
    return _look(self.logps(params, batch), batch, self.ends, self.own)


@jax.jit
def _look(logps, batch, ends, own):
  found = {'empty': (batch.valid.sum(1) <= (ends is not None)).mean()}
  if ends is not None:
    found['cut'] = unfinished(batch, ends).mean()
  if batch.sampler_logps is not None:
    apart = jnp.abs(logps - batch.sampler_logps) * batch.valid
    gap = apart.sum() / jnp.maximum(batch.valid.sum(), 1)
    found['gap'] = jnp.where(own, gap, 0.0)
  return found


def signs(seen, kl=0.0):
  """{sign: what it says} of what `Watch.look` saw, and of a measured KL."""
  told = {}
  if seen.get('gap', 0) > GAP:
    told['gap'] = (
      f'sampler and trainer differ by {seen["gap"]:.3g} nats per token, '
      f'expected at most {GAP:g}'
    )
  if seen.get('empty', 0) == 1:
    told['empty'] = 'all completions are empty'
  if seen.get('cut', 0) == 1:
    told['cut'] = 'all completions are cut off before their end'
  if kl > RUNAWAY:
    told['runaway'] = f'the KL is {kl:.3g} nats, beyond {RUNAWAY:g}'
  return told


def tell(name, step, told, stop_on, known):
  """Notes signs that are not yet known of a run.

  Args:
    told: as `signs` returns it.
    known: a set, updated.
  Raises:
    Alarm: a sign that the run is to stop on.
  """
  for sign, text in told.items():
    if sign in stop_on:
      raise Alarm(f'{name}: step {step}: {text} (stop_on={sign!r})')
    if sign not in known:
      known.add(sign)
      hosts.say(f'note: {name}: step {step}: {text}')
