"""What all arms of one seed share: SFT, golden labels, a proxy.

Each function returns at once what an earlier call has already finished in the
same `workdir`, and goes on from the last checkpoint of what it has not.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops, sharding, tasks
from align_jax.files import write_atomically
from align_jax.lab.steps import optimizer, train_program
from align_jax.learn import batches, rewards, sources, step
from align_jax.learn.probe import ranking_accuracy
from align_jax.learn.train import train
from align_jax.models import bow, initial
from align_jax.models.interface import of
from align_jax.policy.programs import (
  policy_programs,
  sampler,
  scorer,
  token_scorer,
)

# Streams of randomness of one seed; a new one goes at the end.
(INIT, SFT, PAIRS, EVAL_PAIRS, PROXY) = range(5)
(ARM, EVAL, NOISE, BUDGET, POOL, LORA, OPPONENTS) = range(5, 12)


def silent(step, info):
  """A progress report that nobody reads."""


@dataclasses.dataclass(frozen=True)
class Seed:
  directory: pathlib.Path
  number: int
  task: tasks.Task
  reference: Any  # params of the SFT policy
  pairs: Any  # Batch: golden pairs of the reference, annotated
  held_out: Any  # Batch: gold-labelled pairs on the eval prompts, annotated
  proxy: Any  # Batch -> f32 [B]
  preferences: Any  # Batch -> f32 [B], the proxy's among a group's completions
  proxy_params: Any  # of its first member


def task_knobs(cfg, workdir):
  model, knobs = cfg['model'], dict(cfg['task'])
  if model.get('checkpoint') and knobs.get('tokenizer') == '':
    knobs['tokenizer'] = str(initial.folder_of(model))
  # What some kinds of RoPE are scaled for.
  length = knobs.get('prompt_len', 0) + knobs.get('completion_len', 0)
  return dict(
    workdir=pathlib.Path(workdir) / 'task',
    model=initial.model_fields(model, length),
    sft_batch_size=cfg['sft']['batch_size'],
    **knobs,
  )


def stream(seed, which):
  """The key of one stream of randomness of a seed."""
  return jax.random.fold_in(jax.random.key(seed), which)


def start_state(params, run, axes, anchors=None, stats=None):
  """A TrainState at step 0, on the mesh if there is one.

  Args:
    axes: logical axes of the params; an anchor may hold a part of them.
    anchors: {name: params}.
  """
  anchors, mesh = anchors or {}, sharding.current_mesh()
  place = lambda tree: sharding.place(tree, {k: axes[k] for k in tree}, mesh)
  params = place(params)
  anchors = {name: place(tree) for name, tree in anchors.items()}
  state = step.init_state(params, optimizer(run), anchors, stats)
  return sharding.on_mesh(state, mesh)


def on_mesh(source):
  """The source with its batches split over the mesh, if there is one."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return source
  return lambda *args: sharding.place_batch(source(*args), mesh)


def replicated(params):
  return jax.tree.map(lambda x: (None,) * x.ndim, params)


def sample_parts(task, params, prompts, key, size, group_size, finish):
  """Completions of the policy, so many prompts at a time.

  Args:
    prompts: Prompts, N of them.
    size: prompts at a time.
    finish: Batch -> Batch, what is kept of them.
  Returns:
    Batch of N prompts, G = `group_size`, on the host.
  """
  draw, parts = sampler(task, group_size), []
  for start in range(0, len(prompts), size):
    # The last batch wraps around, to keep one shape.
    rows = np.arange(start, start + size) % len(prompts)
    batch = draw(params, *prompts[rows], jax.random.fold_in(key, start))
    parts.append(finish(batch))
  return batches.take(batches.concatenate(parts), np.arange(len(prompts)))


def sample_pairs(task, params, prompts, seed, which, size, num):
  """`num` gold-labelled pairs of the policy on prompts drawn at random.

  Returns:
    Batch of `num` prompts, G = 2, rewards (1, 0), or (0.5, 0.5) where gold
    ties, annotated with the policy as the reference.
  """
  _, _, annotate = policy_programs(task.model)

  def labelled(batch):
    gold = np.asarray(task.gold(batch)).reshape(-1, 2)
    labels = 0.5 + 0.5 * np.sign(gold - gold[:, ::-1])
    batch = batch.replace(rewards=jnp.float32(labels.reshape(-1)))
    return annotate(params, batch)

  index = np.random.default_rng([seed, which]).integers(0, len(prompts), num)
  drawn, key = tasks.Prompts(*prompts[index]), stream(seed, which)
  return sample_parts(task, params, drawn, key, size, 2, labelled)


def sample_opponents(task, params, seed, size, num):
  """What a preference model compares with: fixed completions of the policy.

  Returns:
    Batch of G = `num` for each prompt to train or to measure on, those that
    are both once.
  """
  both = zip(task.train_prompts[:], task.eval_prompts[:])
  tokens, valid = map(np.concatenate, both)
  rows = np.where(valid, tokens, -1)
  index = np.unique(rows, axis=0, return_index=True)[1]
  prompts = tasks.Prompts(tokens[index], valid[index])
  key = stream(seed, OPPONENTS)
  bare = lambda batch: batch.replace(sampler_logps=None)
  return sample_parts(task, params, prompts, key, size, num, bare)


def flip(pairs, share, seed):
  """The same pairs with a random share of their labels the wrong way round."""
  rng = np.random.default_rng([seed, NOISE])
  wrong = np.repeat(rng.random(pairs.num_prompts) < share, 2)
  return pairs.replace(
    rewards=jnp.where(wrong, 1 - pairs.rewards, pairs.rewards)
  )


def train_sft(cfg, directory, task, seed, report):
  """The reference: SFT of a fresh policy, or of a checkpoint; see `initial`."""
  run = {'loss': 'sft', 'loss_kwargs': {}, 'num_microbatches': 1, **cfg['sft']}
  params = initial.params(cfg['model'], task.model, stream(seed, INIT))
  state = start_state(params, run, of(task.model).axes(task.model))
  logps, _, _ = policy_programs(task.model)
  train_step, hparams = train_program(logps, run, state)
  return train(
    directory / 'sft',
    state=state,
    source=on_mesh(task.demonstrations),
    train_step=train_step,
    hparams=hparams,
    num_steps=run['steps'],
    key=stream(seed, SFT),
    save_every=run['steps'],
    report=report,
  ).params


def bag_of_words(task, key, reference):
  params = bow.init(
    key,
    vocab_size=task.model.vocab_size,
    prompt_len=task.train_prompts.tokens.shape[1],
  )
  return scorer(None), params, replicated(params)


def from_reference(task, key, reference):
  """The SFT policy with a scalar head, as reward models usually start."""
  config = dataclasses.replace(task.model, head='scalar')
  params = {**of(config).init(key, config)}
  params |= {k: v for k, v in reference.items() if k != 'head'}
  return scorer(config), params, of(config).axes(config)


VERIFIERS = {'bow': bag_of_words, 'transformer': from_reference}


def as_ordered_pairs(source, gold):
  """For a pairwise preference model."""
  return lambda *args: rewards.ordered_pairs(source(*args))


def as_judged(source, gold):
  """For a verifier: each completion by itself, with its own gold label.

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
  return source


def train_proxy(cfg, directory, task, seed, reference, pairs, report, member=0):
  """One member of the proxy on the golden pairs -> jitted scores, params."""
  run = {'num_microbatches': 1, **cfg['proxy']}
  key = stream(seed, PROXY)
  if member:
    key = jax.random.fold_in(key, member)
  scores, params, axes = VERIFIERS[run['verifier']](task, key, reference)
  forward = scores
  if run['loss'] == 'verifier':
    forward = token_scorer(dataclasses.replace(task.model, head='scalar'))
  state = start_state(params, run, axes)
  train_step, hparams = train_program(forward, run, state)
  order = sources.epochs(
    pairs.num_prompts, run['batch_size'], seed + MEMBER_SEEDS * member
  )
  source = sources.offline(pairs, order)
  source = PROXIES[run['loss']](source, task.gold)
  state = train(
    directory / f'proxy{member}',
    state=state,
    source=on_mesh(source),
    train_step=train_step,
    hparams=hparams,
    num_steps=run['steps'],
    key=key,
    save_every=run['steps'],
    report=report,
  )
  return scores, state.params


MEMBER_SEEDS = 1000  # between the seeds of an ensemble's members


def make_proxy(cfg, directory, task, seed, reference, pairs, report):
  """The proxy, an ensemble if it has members.

  Returns:
    Batch -> f32 [B]; the same of its preferences among a group's completions;
    params of the first member.
  """
  settings = cfg['proxy']
  members = [
    train_proxy(cfg, directory, task, seed, reference, pairs, report, member)
    for member in range(settings['members'])
  ]

  def combined(wrap):
    each = [wrap(scores, params) for scores, params in members]
    if len(each) == 1:
      return each[0]
    combine = rewards.ENSEMBLES[settings['combine']]
    return rewards.ensemble(each, combine, settings['variance_weight'])

  params = members[0][1]
  if settings['loss'] != 'preference_model':
    proxy = combined(rewards.from_model)
    return proxy, rewards.preferences(proxy), params
  opponents = batches.cached(
    directory / 'opponents.npz',
    lambda: sample_opponents(
      task, reference, seed, cfg['arm']['batch_size'], settings['opponents']
    ),
  )
  against = functools.partial(
    rewards.from_preference_model, opponents=opponents
  )
  return combined(against), combined(rewards.group_preferences), params


PROXIES = {  # loss: how it sees the golden pairs
  'bradley_terry': as_pairs,
  'preference_model': as_ordered_pairs,
  'verifier': as_judged,
  'binary_cross_entropy': as_judged,
}


def pair_accuracy(reward, pairs):
  """Share of the pairs that the reward orders as their labels do."""
  by_pair = lambda x: ops.by_group(np.asarray(x), 2)
  return ranking_accuracy(by_pair(reward(pairs)), by_pair(pairs.rewards))


@functools.lru_cache(maxsize=1)
def _prepare_seed(cfg_json, number, workdir, report):
  cfg = json.loads(cfg_json)
  directory = pathlib.Path(workdir) / f'seed{number}'
  directory.mkdir(parents=True, exist_ok=True)
  task = tasks.make_task(seed=number, **task_knobs(cfg, workdir))
  sft_steps = cfg['sft']['steps']
  reference = train_sft(cfg, directory, task, number, report)
  golden = cfg['golden']

  def sampled(prompts, which, num):
    size = cfg['arm']['batch_size']
    return sample_pairs(task, reference, prompts, number, which, size, num)

  pairs = batches.cached(
    directory / 'pairs.npz',
    lambda: flip(
      sampled(task.train_prompts, PAIRS, golden['pairs']),
      golden['label_noise'],
      number,
    ),
  )
  held_out = batches.cached(
    directory / 'held_out.npz',
    lambda: sampled(task.eval_prompts, EVAL_PAIRS, cfg['eval']['pairs']),
  )
  proxy, preferences, proxy_params = make_proxy(
    cfg,
    directory,
    task,
    number,
    reference,
    pairs,
    lambda done, info: report(sft_steps + done, info),
  )
  if not (directory / 'proxy.json').exists():
    accuracy = {
      'golden': pair_accuracy(proxy, pairs),
      'held_out': pair_accuracy(proxy, held_out),
    }
    write_atomically(directory / 'proxy.json', json.dumps(accuracy))
  return Seed(
    directory,
    number,
    task,
    reference,
    pairs,
    held_out,
    proxy,
    preferences,
    proxy_params,
  )


def prepare_seed(cfg, number, workdir, report=silent):
  """SFT, golden pairs and proxy of one seed; kept for the next call.

  Args:
    cfg: the experiment's fields as plain dicts.
  """
  return _prepare_seed(json.dumps(cfg), number, str(workdir), report)
