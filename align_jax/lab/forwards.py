"""Forward passes: (params, batch) or (params, batch, anchors) -> outputs."""

import dataclasses
import functools

from align_jax import ops
from align_jax.models import lora
from align_jax.policy import scoring
from align_jax.policy.programs import CRITICS, policy_of, policy_programs
from align_jax.types import Outputs


@functools.cache
def with_lora(forward, reads_anchors, settings):
  """Turns the forward of a full policy into one of adapters.

  The cache keeps one result per settings.
  """
  del settings

  def adapted(params, batch, anchors):
    critics = {k: v for k, v in params.items() if k in CRITICS}
    full = {**policy_of(params, lora.base_of(anchors)), **critics}
    return forward(full, batch, *([anchors] if reads_anchors else []))

  return adapted


@functools.cache
def logps_and_kls(config):
  """Log-probs, and exact KLs to the reference."""

  def forward(params, batch, anchors):
    kls, logps, _ = scoring.compare(
      policy_of(params), anchors['ref'], batch, config=config
    )
    return Outputs(logps, kls)

  return forward


@functools.cache
def with_values(config, critic_config, exact):
  """Log-probs and the values of a critic.

  The critic is params['critic'], a trunk of its own, or params['value_head'] on
  the policy's states.
  """

  def values(params, batch):
    if 'value_head' in params:
      states = scoring.predicting_states(params, config, batch)
      return scoring.values(states, params['value_head'])
    critic = params['critic']
    states = scoring.predicting_states(critic, critic_config, batch)
    return scoring.values(states, critic['head'])

  def forward(params, batch, anchors):
    if exact:
      out = logps_and_kls(config)(params, batch, anchors)
    else:
      out = Outputs(scoring.token_logps(params, batch, config=config))
    return out.replace(values=values(params, batch))

  return forward


def with_context(batch, context, after):
  """The batch with the teacher's context in every prompt."""
  if not context:
    return batch
  prompts, valid = ops.insert(context, batch.prompts, batch.prompt_valid, after)
  return batch.replace(prompts=prompts, prompt_valid=valid)


@functools.cache
def divergence(config, forward_kl, context=(), after=0):
  """Exact KLs between policy and anchors['teacher'], in either direction.

  Only the teacher sees `context`, see `ops.insert` (Snell et al. 2022).
  """

  def forward(params, batch, anchors):
    pair = (
      (params, batch),
      (
        anchors['teacher'],
        with_context(batch, context, after),
      ),
    )
    (p, p_batch), (q, q_batch) = pair[::-1] if forward_kl else pair
    return scoring.compare(p, q, p_batch, q_batch, config=config)[0]

  return forward


def _logps(config, told):
  return policy_programs(config)[0]


def _kls(config, told):
  return logps_and_kls(config)


def _values(config, told, exact=False):
  return with_values(config, dataclasses.replace(config, head='scalar'), exact)


def _to_teacher(config, told, forward_kl=False):
  return divergence(config, forward_kl, told.context, told.after)


LOGPS = frozenset({'logps'})
FORWARDS = {  # {needs of a loss: forward}; all but LOGPS read the anchors
  LOGPS: _logps,
  LOGPS | {'kls'}: _kls,
  LOGPS | {'values'}: _values,
  LOGPS | {'kls', 'values'}: functools.partial(_values, exact=True),
  frozenset({'kls_to_teacher'}): _to_teacher,
  frozenset({'kls_from_teacher'}): functools.partial(
    _to_teacher, forward_kl=True
  ),
}


def forward_of(config, needs, teacher, adapters):
  """The forward of a loss, and whether it reads the anchors.

  Args:
    config: of the policy's model.
    needs: names in `losses.row.NEEDS`.
    teacher: settings.Teacher.
    adapters: lora.Lora.
  """
  forward, reads_anchors = FORWARDS[needs](config, teacher), needs != LOGPS
  if adapters.rank:
    return with_lora(forward, reads_anchors, adapters), True
  return forward, reads_anchors
