"""One protocol for every arm: SFT, golden labels, a proxy, then the arm.

Each function returns at once what an earlier call has already finished in the
same `workdir`, and goes on from the last checkpoint of what it has not.
"""

import dataclasses
import functools
import inspect
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import (
  batches,
  rewards,
  sharding,
  sources,
  step,
  tasks,
)
from align_jax.evaluate import Judge, checkpoint_steps, evaluate
from align_jax.losses import LOSSES
from align_jax.metrics import write_atomically
from align_jax.models import bow, transformer
from align_jax.programs import (
  optimizer,
  policy_programs,
  sampler,
  scorer,
  train_program,
)
from align_jax.rewards import REWARDS
from align_jax.train import read_log, train

# Streams of randomness of one seed; a new one goes at the end.
(INIT, SFT, PAIRS, EVAL_PAIRS, PROXY, ARM, EVAL, NOISE) = range(8)


def silent(step, info):
  """A progress report that nobody reads."""


# --- One seed: what all of its arms share ------------------------------------


@dataclasses.dataclass(frozen=True)
class Seed:
  directory: pathlib.Path
  number: int
  task: tasks.Task
  reference: Any  # params of the SFT policy
  pairs: Any  # Batch: golden pairs of the reference, annotated
  held_out: Any  # Batch: gold-labelled pairs on the eval prompts, annotated
  proxy: Any  # Batch -> f32 [B]


def task_knobs(cfg, workdir):
  return dict(
    workdir=pathlib.Path(workdir) / 'task',
    model=dict(cfg['model']),
    sft_batch_size=cfg['sft']['batch_size'],
    **cfg['task'],
  )


def stream(seed, which):
  """The key of one stream of randomness of a seed."""
  return jax.random.fold_in(jax.random.key(seed), which)


def start_state(params, run, axes, anchors=()):
  """A TrainState at step 0, on the mesh if there is one."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return step.init_state(params, optimizer(run), anchors)
  params = sharding.place(params, axes, mesh)
  state = step.init_state(params, optimizer(run), anchors)
  return sharding.on_mesh(state, mesh)


def on_mesh(source):
  """The source with its batches split over the mesh, if there is one."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return source
  return lambda *args: sharding.place_batch(source(*args), mesh)


def replicated(params):
  return jax.tree.map(lambda x: (None,) * x.ndim, params)


def sample_pairs(task, params, prompts, seed, which, size, num):
  """`num` gold-labelled pairs of the policy on prompts drawn at random.

  Returns:
    Batch of `num` prompts, G = 2, rewards (1, 0), or (0.5, 0.5) where gold
    ties, annotated with the policy as the reference.
  """
  _, _, annotate = policy_programs(task.model)
  draw = sampler(task.model, 2, task.max_new_tokens, task.eos_id)
  index = np.random.default_rng([seed, which]).integers(0, len(prompts), num)
  key = stream(seed, which)
  parts = []
  for start in range(0, num, size):
    # The last batch wraps around, to keep one shape.
    rows = np.take(index, np.arange(start, start + size), mode='wrap')
    batch = draw(params, *prompts[rows], jax.random.fold_in(key, start))
    gold = np.asarray(task.gold(batch)).reshape(-1, 2)
    labels = 0.5 + 0.5 * np.sign(gold - gold[:, ::-1])
    batch = batch.replace(rewards=jnp.float32(labels.reshape(-1)))
    parts.append(annotate(params, batch))
  return batches.take(batches.concatenate(parts), np.arange(num))


def flip(pairs, share, seed):
  """The same pairs with a random share of their labels the wrong way round."""
  rng = np.random.default_rng([seed, NOISE])
  wrong = np.repeat(rng.random(pairs.num_prompts) < share, 2)
  return pairs.replace(
    rewards=jnp.where(wrong, 1 - pairs.rewards, pairs.rewards)
  )


def cached_pairs(path, make):
  if not path.exists():
    batches.save(path, make())
  return batches.load(path)


def train_sft(cfg, directory, task, seed, report):
  """The reference: SFT of a fresh policy on demonstrations."""
  run = {'loss': 'sft', 'loss_kwargs': {}, 'num_microbatches': 1, **cfg['sft']}
  params = transformer.init(stream(seed, INIT), task.model)
  state = start_state(params, run, transformer.axes(task.model))
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
  params = {**transformer.init(key, config)}
  params |= {k: v for k, v in reference.items() if k != 'head'}
  return scorer(config), params, transformer.axes(config)


VERIFIERS = {'bow': bag_of_words, 'transformer': from_reference}


def train_proxy(cfg, directory, task, seed, reference, pairs, report):
  """A reward model on the golden pairs -> jitted scores, params."""
  run = {
    'loss': 'bradley_terry',
    'loss_kwargs': {},
    'num_microbatches': 1,
    **cfg['proxy'],
  }
  scores, params, axes = VERIFIERS[run['verifier']](
    task, stream(seed, PROXY), reference
  )
  state = start_state(params, run, axes)
  train_step, hparams = train_program(scores, run, state)
  order = sources.epochs(pairs.num_prompts, run['batch_size'], seed)
  state = train(
    directory / 'proxy',
    state=state,
    source=on_mesh(sources.offline(pairs, order)),
    train_step=train_step,
    hparams=hparams,
    num_steps=run['steps'],
    key=stream(seed, PROXY),
    save_every=run['steps'],
    report=report,
  )
  return scores, state.params


def pair_accuracy(scores, params, pairs):
  """Share of the pairs that the scorer orders as their labels do."""
  _, metrics = LOSSES['bradley_terry'](scores(params, pairs), pairs)
  return float(metrics['accuracy'])


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

  pairs = cached_pairs(
    directory / 'pairs.npz',
    lambda: flip(
      sampled(task.train_prompts, PAIRS, golden['pairs']),
      golden['label_noise'],
      number,
    ),
  )
  held_out = cached_pairs(
    directory / 'held_out.npz',
    lambda: sampled(task.eval_prompts, EVAL_PAIRS, cfg['eval']['pairs']),
  )
  scores, params = train_proxy(
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
      'golden': pair_accuracy(scores, params, pairs),
      'held_out': pair_accuracy(scores, params, held_out),
    }
    write_atomically(directory / 'proxy.json', json.dumps(accuracy))
  proxy = rewards.from_model(scores, params)
  return Seed(directory, number, task, reference, pairs, held_out, proxy)


def prepare_seed(cfg, number, workdir, report=silent):
  """SFT, golden pairs and proxy of one seed; kept for the next call.

  Args:
    cfg: the experiment's fields as plain dicts.
  """
  return _prepare_seed(json.dumps(cfg), number, str(workdir), report)


# --- Arms ---------------------------------------------------------------------


def _uniform_prompts(seed, run):
  prompts, size = seed.task.train_prompts, run['batch_size']

  def draw(step):
    rng = np.random.default_rng([seed.number, ARM, step])
    return prompts[rng.integers(0, len(prompts), size)]

  return draw


def _sampling(read):
  def make(seed, run):
    task = seed.task
    _, _, annotate = policy_programs(task.model)
    return sources.online(
      _uniform_prompts(seed, run),
      sampler(task.model, run['group_size'], task.max_new_tokens, task.eos_id),
      reward_of(seed, run['labels']),
      annotate,
      read,
    )

  return make


def golden_pairs(seed, run):
  """The fixed data set of golden-labelled pairs of the reference."""
  order = sources.epochs(seed.pairs.num_prompts, run['batch_size'], seed.number)
  return sources.offline(seed.pairs, order)


def log_of_run(seed, run):
  """What another run of this seed sampled, shuffled within windows."""
  order = sources.replay_order(
    run['steps'],
    run['batch_size'],
    shuffle=run['shuffle'] or run['steps'],
    seed=seed.number,
  )
  return sources.offline(read_log(seed.directory / run['log_of']), order)


SOURCES = {
  'golden_pairs': golden_pairs,
  'log': log_of_run,
  'policy': _sampling(sources.current),
  'reference': _sampling(sources.anchor('ref')),
  'sampler': _sampling(sources.anchor('sampler')),
}


def reward_of(seed, labels):
  """'proxy', 'gold', or a rule of `rewards.REWARDS`."""
  if labels in REWARDS:
    return rewards.from_text(REWARDS[labels], seed.task.decode)
  return {'proxy': seed.proxy, 'gold': seed.task.gold}[labels]


def make_judge(cfg, seed):
  task = seed.task
  logps, kls, _ = policy_programs(task.model)
  return Judge(
    sample=sampler(
      task.model, cfg['eval']['samples'], task.max_new_tokens, task.eos_id
    ),
    kls=kls,
    logps=logps,
    gold=task.gold,
    proxy=seed.proxy,
    decode=task.decode,
    prompts=task.eval_prompts[:],
    pairs=seed.held_out,
    key=stream(seed.number, EVAL),
  )


def run_arm(cfg, run, workdir, report=silent):
  """Trains one arm of one seed from the reference and measures it on the way.

  Args:
    cfg: the experiment's fields as plain dicts.
    run: the fields of `configs.base`'s `arm`, with `name` and `seed`.
  """
  seed = prepare_seed(cfg, run['seed'], workdir)
  directory = seed.directory / run['name']
  logps, _, _ = policy_programs(seed.task.model)
  # 'sampler' lags behind; 'ref' may be moved too, the KL is always measured
  # from the original.
  anchors = ('ref', *(name for name in run['refresh_every'] if name != 'ref'))
  state = start_state(
    seed.reference, run, transformer.axes(seed.task.model), anchors
  )
  train_step, hparams = train_program(logps, run, state)
  judge = make_judge(cfg, seed)
  train(
    directory,
    state=state,
    source=on_mesh(SOURCES[run['source']](seed, run)),
    train_step=train_step,
    hparams=hparams,
    num_steps=run['steps'],
    key=stream(seed.number, ARM),
    save_every=run['save_every'],
    log_every=run['log_every'],
    eval_steps=checkpoint_steps(
      cfg['eval']['first_step'], run['steps'], cfg['eval']['points']
    ),
    evaluate=lambda state: evaluate(judge, state.params, seed.reference),
    refresh_every=run['refresh_every'],
    keep_log=run['keep_log'],
    report=report,
  )


def check_run(run):
  """Raises ValueError for what would fail only after hours of compute."""
  name = run['name']

  def one_of(field, known):
    if run[field] not in known:
      raise ValueError(
        f'{name}: {field}={run[field]!r} is none of {sorted(known)}'
      )

  one_of('source', SOURCES)
  one_of('loss', LOSSES)
  if run['source'] in ('policy', 'reference', 'sampler'):
    one_of('labels', {'proxy', 'gold', *REWARDS})
    if run['group_size'] < 2 and run['loss'] != 'sft':
      raise ValueError(
        f'{name}: group_size={run["group_size"]}, but loss {run["loss"]!r} '
        'compares completions of one prompt and needs at least 2'
      )
  known = list(inspect.signature(LOSSES[run['loss']]).parameters)[2:]
  for field in run['loss_kwargs']:
    if field not in known:
      raise ValueError(
        f'{name}: loss_kwargs.{field} is none of the parameters of '
        f'{run["loss"]!r}: {known}'
      )
