"""Arms: what a run learns from, and what it starts from.

A source, a reward and an initial state for the fields of `configs.base`'s
`arm`; `protocol` puts them together.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from align_jax import judges, ops
from align_jax.lab import reference_logps
from align_jax.lab.stages import ARM, LORA, on_mesh, start_state, stream
from align_jax.learn import buckets, budget, rewards, sources
from align_jax.learn.checkpoint import final_params
from align_jax.learn.rewards import REWARDS
from align_jax.learn.step import PREVIOUS
from align_jax.learn.train import read_log
from align_jax.losses import LOSSES, hparams_of
from align_jax.losses.preference import REFERENCE_FREE
from align_jax.models import lora
from align_jax.models.interface import of
from align_jax.policy.programs import (
  mixture_sampler,
  policy_of,
  policy_programs,
  sampler,
)


def _uniform_prompts(seed, run):
  prompts, size = seed.task.train_prompts, run['batch_size']

  def draw(step):
    rng = np.random.default_rng([seed.number, ARM, step])
    return prompts[rng.integers(0, len(prompts), size)]

  return draw


def sampler_of(seed, run, group_size=None):
  """(params, prompts, valid, key) -> Batch, as a run samples."""
  return sampler(seed.task, group_size or run['group_size'], run['slots'])


def _mixture_sampler_of(seed, run, group_size=None):
  """The same of ((policy, reference), ...), from their geometric mixture."""
  size = group_size or run['group_size']
  sample = mixture_sampler(seed.task, size, run['slots'])
  return functools.partial(sample, share=run['mixture'])


def _online(seed, run, sample, read, annotate=None):
  """A source that samples, labels and annotates."""
  task = seed.task
  annotate = annotate or policy_programs(task.model)[2]
  finish = functools.partial(
    rewards.TRUNCATED[run['truncated']],
    eos_id=task.eos_id,
    penalty=run['truncation_penalty'],
  )
  prompts, reward = _uniform_prompts(seed, run), reward_of(seed, run)
  return sources.online(prompts, sample, reward, annotate, read, finish)


def policy(state):
  """On policy: the params as they are, merged and less the critic."""
  return policy_of(state.params, lora.base_of(state.anchors))


def policy_and_reference(state):
  return policy(state), state.anchors['ref']


def _sampling(read):
  """A source of one policy's samples."""
  return lambda seed, run: _online(seed, run, sampler_of(seed, run), read)


def reference(seed, run):
  """Samples of the reference, whose log-probs under it the sampler knows.

  In float32: in fewer bits decoding and scoring differ by more than rounding.
  """
  draw, read = sampler_of(seed, run), sources.anchor('ref')

  def annotate(ref_params, batch):
    ops.require_own_samples(batch)
    return batch.replace(ref_logps=batch.sampler_logps)

  exact = getattr(seed.task.model, 'dtype', '') == 'float32'
  return _online(seed, run, draw, read, annotate if exact else None)


def teacher(seed, run):
  """Samples of the anchor 'teacher', which alone sees the run's context."""
  draw = sampler_of(seed, run)
  context = tuple(run['context']), run['context_after']

  def sample(params, prompts, valid, key):
    if not context[0]:
      return draw(params, prompts, valid, key)
    batch = draw(
      params, *ops.insert(context[0], prompts, valid, context[1]), key
    )
    return batch.replace(prompts=prompts, prompt_valid=valid)

  return _online(seed, run, sample, sources.anchor('teacher'))


def mixture(seed, run):
  """Samples of the geometric mixture of policy and reference (IPO-MD)."""
  return _online(
    seed, run, _mixture_sampler_of(seed, run), policy_and_reference
  )


def _duel(opponent):
  """A completion of the policy, then one of its opponent."""

  def make(seed, run):
    draw = sampler_of(seed, run, 1)
    first = lambda both, *args: draw(both[0], *args)
    sample = sources.side_by_side(first, opponent(seed, run))
    return _online(seed, run, sample, policy_and_reference)

  return make


def _mixture_opponent(seed, run):
  return _mixture_sampler_of(seed, run, 1)


def _reference_opponent(seed, run):
  draw = sampler_of(seed, run, 1)
  return lambda both, *args: draw(both[1], *args)


def _fixed(seed, run, data, order):
  """Batches of fixed data; a reference that moves annotates them anew."""
  draw = buckets.offline(data, order, run['length_buckets'])
  if 'ref' not in run['refresh_every']:
    return draw
  _, _, annotate = policy_programs(seed.task.model)
  return lambda *args: annotate(args[0].anchors['ref'], draw(*args))


def golden_pairs(seed, run):
  """The fixed data set of golden-labelled pairs of the reference."""
  order = sources.epochs(seed.pairs.num_prompts, run['batch_size'], seed.number)
  return _fixed(seed, run, seed.pairs, order)


def file_pairs(seed, run):
  """The pairs of the task's own file, under the labels they came with."""
  pairs = seed.task.pairs
  if pairs is None:
    raise ValueError(f"{run['name']}: source 'file_pairs': the task has none")
  order = sources.epochs(pairs.num_prompts, run['batch_size'], seed.number)
  if 'ref' not in run['refresh_every']:
    _, _, annotate = policy_programs(seed.task.model)
    pairs = reference_logps.annotated(
      pairs,
      seed.reference,
      annotate,
      config=seed.task.model,
      folder=seed.directory.parent / 'reference_logps',
      batch_size=run['batch_size'],
    )
  return _fixed(seed, run, pairs, order)


def log_of_run(seed, run):
  """What another run of this seed sampled, shuffled within windows."""
  order = sources.replay_order(
    run['steps'],
    run['batch_size'],
    shuffle=run['shuffle'] or run['steps'],
    seed=seed.number,
  )
  return _fixed(seed, run, read_log(seed.directory / run['log_of']), order)


def mixed(seed, run):
  """Prompts of two sources, half of the batch each."""
  half = {**run, 'batch_size': run['batch_size'] // 2}
  return sources.mixed(*(SOURCES[name](seed, half) for name in run['parts']))


def hybrid(seed, run):
  """Pairs of the first of `parts`, and group_size fresh completions (HyPO)."""
  _, _, annotate = policy_programs(seed.task.model)
  pairs = SOURCES[run['parts'][0]](seed, {**run, 'group_size': 2})
  return sources.hybrid(pairs, sampler_of(seed, run), annotate, policy)


SOURCES = {
  'golden_pairs': golden_pairs,
  'file_pairs': file_pairs,
  'log': log_of_run,
  'policy': _sampling(policy),
  'reference': reference,
  'sampler': _sampling(sources.anchor('sampler')),
  'one_step_stale': _sampling(sources.anchor(PREVIOUS)),
  'teacher': teacher,
  'mixture': mixture,
  'policy_and_mixture': _duel(_mixture_opponent),
  'policy_and_reference': _duel(_reference_opponent),
  'mixed': mixed,
  'hybrid': hybrid,
}
FIXED = ('golden_pairs', 'file_pairs', 'log')  # hold their own labels


def make_source(seed, run):
  """The source of a run, with what its loss needs in every group."""
  source = SOURCES[run['source']](seed, run)
  if run['loss'] == 'kto':
    _, _, annotate = policy_programs(seed.task.model)
    source = sources.mismatched(source, annotate)
  return on_mesh(source)


def of_reference(seed, reward):
  """In deviations of the reference's rewards, around their mean."""
  values = np.asarray(reward(seed.pairs), np.float64)
  if not values.std():
    raise ValueError(
      "reward_scale='reference': all samples of the reference score "
      f'{values.mean():g}'
    )
  return rewards.standardised(reward, values.mean(), values.std())


def as_preferences(seed, reward):
  """As chances to win within the group; a preference model is asked itself."""
  if reward is seed.proxy:
    return seed.preferences
  return rewards.preferences(reward)


REWARD_SCALES = {
  'none': lambda seed, reward: reward,
  'reference': of_reference,
  'preference': as_preferences,
}


def reward_of(seed, run):
  """What a run's samples are labelled by: Batch -> f32 [B]."""
  labels = run['labels']
  if labels in REWARDS:
    reward = rewards.from_text(REWARDS[labels], seed.task.decode)
  elif labels == 'judge':
    reward = judges.as_reward(judges.make(run['judge']), seed.task.decode)
  else:
    reward = {'proxy': seed.proxy, 'gold': seed.task.gold}[labels]
  return REWARD_SCALES[run['reward_scale']](seed, reward)


def critic_of(seed, run):
  """PPO's critic: params to add to the policy's, and their axes."""
  config = dataclasses.replace(seed.task.model, head='scalar')
  size = of(config).width(config)
  head_axes = of(config).axes(config)['head']
  if run['critic'] == 'shared':
    return {'value_head': jnp.zeros(size)}, {'value_head': head_axes}
  axes = {'critic': of(config).axes(config)}
  if run['critic_init'] == 'reward_model':
    return {'critic': seed.proxy_params}, axes
  trunk = {k: v for k, v in seed.reference.items() if k != 'head'}
  return {'critic': {**trunk, 'head': jnp.zeros(size)}}, axes


def adapters_of(seed, settings):
  """LoRA's adapters of the reference: params, and their axes."""
  config = seed.task.model
  key = stream(seed.number, LORA)
  adapters = lora.init(key, seed.reference, config, settings)
  return {lora.KEY: adapters}, {lora.KEY: lora.axes(config, settings)}


def start_of(seed, run):
  """The state at step 0 of a run."""
  params, axes = seed.reference, of(seed.task.model).axes(seed.task.model)
  adapted = lora.Lora(**run['lora'])
  if adapted.rank:
    params, own_axes = adapters_of(seed, adapted)
    axes = {**axes, **own_axes}
  if run['loss'] == 'ppo':
    critic, critic_axes = critic_of(seed, run)
    params, axes = {**params, **critic}, {**axes, **critic_axes}
  # 'sampler' lags behind; 'ref' may be moved too, the KL is always measured
  # from the original.
  anchors = dict.fromkeys(['ref', *run['refresh_every']], seed.reference)
  if 'one_step_stale' in (run['source'], *run['parts']):
    anchors[PREVIOUS] = seed.reference
  if adapted.rank and 'ref' in run['refresh_every']:
    anchors[lora.BASE] = seed.reference
  if run['teacher_of']:
    anchors['teacher'] = teacher_params(seed, run['teacher_of'])
  if run['kl_budget']:
    anchors |= {budget.INSIDE: params, budget.HELD: params}
  return start_state(params, run, axes, anchors, stats_of(run))


def teacher_params(seed, name):
  """The last policy of the run of that name; 'reference' is the seed's own."""
  if name == 'reference':
    return seed.reference
  params = final_params(seed.directory / name)
  if lora.KEY in params:
    raise ValueError(
      f'teacher_of={name!r} trained adapters (lora.rank > 0), expected a run '
      'of all parameters'
    )
  return policy_of(params)


def stats_of(run):
  """The numbers that a run carries along."""
  known = hparams_of(LOSSES[run['loss']])
  stats = {'baseline': 0.0} if 'baseline' in known else {}
  if run['kl_budget'] and run['kl_mode'] == 'hold' and has_kl_term(run):
    stats['beta'] = run['loss_kwargs'].get('beta', known['beta'])
  return stats


def has_kl_term(run):
  """Whether the loss has a `beta` that holds the policy near the reference."""
  known = hparams_of(LOSSES[run['loss']])
  return 'beta' in known and run['loss'] not in REFERENCE_FREE
