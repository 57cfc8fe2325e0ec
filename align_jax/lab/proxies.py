"""The proxy: reward models trained on the golden pairs of the reference."""

import dataclasses
import functools

import jax

from align_jax import hosts, ops, paths, sharding
from align_jax.lab.pairs import sample_opponents
from align_jax.lab.placing import on_mesh, replicated, start_state
from align_jax.lab.steps import numbers, optimizer, train_step_of
from align_jax.lab.streams import PROXY, stream
from align_jax.learn import batches, pair_model, rewards, sources
from align_jax.learn.probe import ranking_accuracy
from align_jax.learn.train import Schedule, train
from align_jax.losses import LOSSES
from align_jax.losses.row import SCORES
from align_jax.models import bow, initial, vocabulary
from align_jax.models.interface import of
from align_jax.policy.programs import scorer, token_scorer

MEMBER_SEEDS = 1000  # distance between the seeds of an ensemble's members


def bag_of_words(task, key, reference, fields):
  """The verifier `bow`: scores, fresh parameters and their axes."""
  params = bow.init(
    key,
    vocab_size=task.model.vocab_size,
    prompt_len=task.train_prompts.tokens.shape[1],
  )
  return None, params


def sized(task, key, reference, fields):
  """A transformer of its own size, from random parameters or a checkpoint."""
  config = size_of(task, fields)
  return config, initial.scorer_params(fields, config, key)


def size_of(task, fields):
  """The ModelConfig that `proxy.model` stands for."""
  length = task.train_prompts.tokens.shape[1] + task.max_new_tokens
  return initial.scorer(fields, task.model, 'proxy.model', length)


def from_reference(task, key, reference, fields):
  """The SFT policy with a scalar head, the usual start of reward models."""
  config = dataclasses.replace(task.model, head='scalar')
  # Jitted, so that what the reference has is not drawn at all.
  head = jax.jit(lambda key: of(config).init(key, config)['head'])(key)
  return config, {**sharding.on_device(reference), 'head': head}


# (task, key, reference, proxy.model) -> its ModelConfig, which is None for the
# bag of words, and params.
VERIFIERS = {
  'bow': bag_of_words,
  'transformer': from_reference,
  'sized': sized,
}
LENT = 'bow', 'sized'  # those that do not start from a policy


def check_proxy_of(task, proxy):
  """Refuses a proxy that cannot read what the task's policy writes.

  Raises:
    ValueError: a checkpoint with fewer ids, or other tokens.
  """
  if not proxy.model:
    return
  size_of(task, proxy.model)
  if proxy.model.get('checkpoint') and task.tokenizer:
    folder = initial.folder_of(proxy.model)
    check_tokens(task.tokenizer, folder, 'proxy.model.checkpoint')


def check_tokens(first, second, where):
  """Raises ValueError if the tokenizers of two folders are not the same.

  Args:
    first, second: folders, with a tokenizer.json if there is any.
    where: the field that names the second.
  """
  both = [vocabulary.read(paths.local(x)) for x in (first, second)]
  if all(both):
    vocabulary.check_same(*both, f'{where}: {first} and {second}')


def as_ordered_pairs(source, gold):
  """A source of pairs in both orders, for a pairwise preference model."""
  return lambda *args: pair_model.ordered_pairs(source(*args))


def as_judged(source, gold):
  """A source of single completions with gold labels, for a verifier.

  Raises:
    ValueError: a label is not within [0, 1].
  """

  def judged(*args):
    batch = source(*args)
    labels = gold(batch)
    if not ((labels >= 0) & (labels <= 1)).all():
      raise ValueError(
        'proxy.loss learns gold labels within [0, 1], and the task gives '
        f'{float(labels.min()):g} to {float(labels.max()):g}'
      )
    return batch.replace(rewards=labels)

  return judged


def as_pairs(source, gold):
  """A source of golden pairs, as it is."""
  return source


# {rows of a reward model's loss: source of golden pairs in that form}.
LABELLED = {'group': as_pairs, 'ordered': as_ordered_pairs, 'single': as_judged}
PROXIES = [
  name
  for name, loss in LOSSES.items()
  if loss.needs_of() & SCORES and loss.rows in LABELLED
]


def train_proxy(setup, task, seed, reference, pairs, report, member=0):
  """Trains a member of the proxy on the golden pairs.

  Returns:
    jitted scores, params.
  """
  proxy, key = setup.shared.proxy, stream(seed, PROXY)
  if member:
    key = jax.random.fold_in(key, member)
  make = VERIFIERS[proxy.verifier]
  config, params = make(task, key, reference, proxy.model)
  scores, row = scorer(config), LOSSES[proxy.loss]
  by_token = 'token_scores' in row.needs_of()
  forward = token_scorer(config) if by_token else scores
  tx = optimizer(proxy.optimizer, proxy.steps, config)
  axes = of(config).axes(config) if config else replicated(params)
  state = start_state(params, tx, axes)
  order = sources.epochs(
    pairs.num_prompts, proxy.batch_size, seed + MEMBER_SEEDS * member
  )
  source = LABELLED[row.rows](sources.offline(pairs, order), task.gold)
  state = train(
    setup.folder('proxy', seed) / f'proxy{member}',
    state=state,
    source=on_mesh(source),
    key=key,
    schedule=Schedule(num_steps=proxy.steps, save_every=proxy.steps),
    report=report,
    train_step=train_step_of(forward, proxy.learns, tx, state, proxy.updates),
    hparams=numbers(proxy.learns, proxy.optimizer),
  )
  return scores, state.params


def make_proxy(setup, task, seed, reference, pairs, report):
  """The proxy, an ensemble if it has several members.

  Returns:
    reward, Batch -> f32 [B]; preferences within a group, Batch -> f32 [B];
    params of the first member.
  """
  proxy = setup.shared.proxy
  members = [
    train_proxy(setup, task, seed, reference, pairs, report, member)
    for member in range(proxy.members)
  ]

  def combined(wrap):
    each = [wrap(scores, params) for scores, params in members]
    if len(each) == 1:
      return each[0]
    combine = rewards.ENSEMBLES[proxy.combine]
    return rewards.ensemble(each, combine, proxy.variance_weight)

  params = members[0][1]
  if LOSSES[proxy.loss].rows != 'ordered':
    reward = combined(rewards.from_model)
    return reward, rewards.preferences(reward), params
  opponents = batches.cached(
    setup.folder('proxy', seed) / 'opponents.npz',
    lambda: sample_opponents(
      task, reference, seed, setup.shared.batch_size, proxy.opponents
    ),
  )
  against = functools.partial(
    pair_model.from_preference_model, opponents=opponents
  )
  return combined(against), combined(pair_model.group_preferences), params


def pair_accuracy(reward, pairs):
  """Share of pairs that the reward orders like their labels, or None."""
  by_pair = lambda x: ops.by_group(hosts.fetch(x), 2)
  return ranking_accuracy(by_pair(reward(pairs)), by_pair(pairs.rewards))
