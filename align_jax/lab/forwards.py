"""What a loss is given: (params, batch) or (params, batch, anchors)."""

import dataclasses
import functools

from align_jax import losses, ops
from align_jax.losses import LOSSES
from align_jax.losses.kl import EXACT
from align_jax.models import lora
from align_jax.policy import scoring
from align_jax.policy.programs import CRITICS, policy_of, policy_programs
from align_jax.types import Outputs


@functools.cache
def with_lora(forward, reads_anchors, settings):
  """The forward of a full policy as one of adapters, a program per settings."""
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
  """Log-probs and the values of a critic: params['critic'], a trunk of its own,
  or params['value_head'] on the policy's states."""

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
  """The batch as a teacher sees it: with the context in every prompt."""
  if not context:
    return batch
  prompts, valid = ops.insert(context, batch.prompts, batch.prompt_valid, after)
  return batch.replace(prompts=prompts, prompt_valid=valid)


@functools.cache
def divergence(config, forward_kl, context=(), after=0):
  """Exact KLs between policy and anchors['teacher'], in either direction.

  The teacher alone sees `context`, see `ops.insert` (Snell et al. 2022).
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


def forward_of(config, run):
  """The forward of a run's loss, and whether it reads the anchors.

  Args:
    run: the fields of `configs.base`'s `arm`.
  """
  forward, reads_anchors = _full_forward_of(config, run)
  settings = lora.Lora(**run['lora'])
  if settings.rank:
    return with_lora(forward, reads_anchors, settings), True
  return forward, reads_anchors


def _full_forward_of(config, run):
  kl = losses.hparams_of(LOSSES[run['loss']]).get('kl')
  exact = run['loss_kwargs'].get('kl', kl) in EXACT
  if run['loss'] == 'ppo':
    critic = dataclasses.replace(config, head='scalar')
    return with_values(config, critic, exact), True
  if run['loss'] in ('forward_kl', 'reverse_kl'):
    context = tuple(run['context']), run['context_after']
    return divergence(config, run['loss'] == 'forward_kl', *context), True
  if exact:
    return logps_and_kls(config), True
  return policy_programs(config)[0], False
