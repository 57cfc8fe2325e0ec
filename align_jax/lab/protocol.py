"""One protocol for every arm: the seed's shared parts, then the arm itself."""

import functools
import pathlib
import tempfile

import jax
import numpy as np

from align_jax import ops
from align_jax.compare import reweigh
from align_jax.lab.arms import make_source, reward_of, sampler_of, start_of
from align_jax.lab.forwards import forward_of
from align_jax.lab.stages import (
  ARM,
  BUDGET,
  EVAL,
  POOL,
  prepare_seed,
  silent,
  stream,
)
from align_jax.lab.steps import train_program
from align_jax.learn import budget as budgets
from align_jax.learn import together
from align_jax.learn.checkpoint import Checkpoints
from align_jax.learn.logs import Writer
from align_jax.learn.probe import Judge, checkpoint_steps, evaluate
from align_jax.learn.train import train
from align_jax.policy.programs import (
  expectation,
  policy_of,
  policy_programs,
  sampler,
)


def budget_of(seed, run):
  """The run's KL budget, measured on the evaluation's prompts; or None."""
  if not run['kl_budget']:
    return None
  task = seed.task
  _, kls, _ = policy_programs(task.model)
  draw = sampler_of(seed, run, run['kl_samples'])
  key = stream(seed.number, BUDGET)

  def measure(params):
    params = view_of(seed)(params)
    batch = draw(params, *task.eval_prompts[:], key)
    return float(kls(params, seed.reference, batch)[0].sum(1).mean())

  stop = run['kl_mode'] == 'stop'
  return budgets.Budget(run['kl_budget'], stop, run['kl_every'], measure)


def expected_gold(task):
  """(params, batch) -> f32 [B, T] where the task knows each token's worth."""
  if task.gold_steps is None:
    return None
  mean = expectation(task.model)
  return lambda params, batch: mean(params, batch, task.gold_steps(batch))


def make_judge(cfg, seed):
  task = seed.task
  logps, kls, _ = policy_programs(task.model)
  return Judge(
    sample=sampler(task, cfg['eval']['samples']),
    kls=kls,
    logps=logps,
    batch_size=cfg['arm']['batch_size'],
    gold=task.gold,
    expected_gold=expected_gold(task),
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
  if run['reweigh']:
    return reweigh_arm(seed, run, directory)
  forward, reads_anchors = forward_of(seed.task.model, run)
  state = start_of(seed, run)
  train_step, hparams = train_program(forward, run, state, reads_anchors)
  judge = make_judge(cfg, seed)
  train(
    directory,
    state=state,
    source=make_source(seed, run),
    train_step=train_step,
    hparams=hparams,
    evaluate=lambda state: judged(judge, state.params, seed),
    budget=budget_of(seed, run),
    keep_log=run['keep_log'],
    report=report,
    **_schedule(cfg, seed, run),
  )


def view_of(seed):
  """params -> the policy's own, adapters merged into the reference."""
  return functools.partial(policy_of, base=seed.reference)


def judged(judge, params, seed):
  return evaluate(judge, view_of(seed)(params), seed.reference)


def _schedule(cfg, seed, run):
  """When what happens in a run's `train`."""
  return dict(
    num_steps=run['steps'],
    key=stream(seed.number, ARM),
    save_every=run['save_every'],
    log_every=run['log_every'],
    eval_steps=checkpoint_steps(
      cfg['eval']['first_step'],
      run['steps'],
      run['points'] or cfg['eval']['points'],
    ),
    refresh_every=run['refresh_every'],
    view=view_of(seed),
  )


def run_together(cfg, runs, workdir, report=silent):
  """Trains runs of one `together.kind` as one program.

  Each ends with the points, metrics and last checkpoint that `run_arm` gives
  it, up to rounding; checkpoints on the way are those of all.

  Raises:
    ValueError: a reward is computed on the host.
  """
  first = runs[0]
  seed = prepare_seed(cfg, first['seed'], workdir)
  forward, reads_anchors = forward_of(seed.task.model, first)
  states = [start_of(seed, run) for run in runs]
  programs = [
    train_program(forward, run, state, reads_anchors)
    for run, state in zip(runs, states)
  ]
  judge, number = make_judge(cfg, seed), range(len(runs))
  state = train(
    seed.directory / together.directory(runs),
    state=together.stack(states),
    source=together.source(make_source(seed, first)),
    train_step=together.step(programs[0][0]),
    hparams=together.stack([hparams for _, hparams in programs]),
    evaluate=lambda state: [
      judged(judge, together.unstack(state.params, i), seed) for i in number
    ],
    make_writer=lambda _, step: together.Writers(
      [seed.directory / run['name'] for run in runs], step
    ),
    report=report,
    **_schedule(cfg, seed, first),
  )
  for i, run in enumerate(runs):
    path = seed.directory / run['name'] / 'checkpoints'
    with Checkpoints(path) as checkpoints:
      if checkpoints.latest_step() != run['steps']:
        checkpoints.save(run['steps'], together.unstack(state, i))


def run_arms(cfg, runs, workdir, report=silent):
  """One run by itself, several as one program."""
  if len(runs) == 1:
    run_arm(cfg, runs[0], workdir, report)
  else:
    run_together(cfg, runs, workdir, report)


def rehearse(cfg, runs, workdir):
  """One step of runs, as `run_arms` takes it; keeps nothing.

  From an untrained reference and few pairs, in a folder that goes away: what
  it compiles is there when the runs' turn comes.
  """
  few = {'pairs': cfg['arm']['batch_size']}
  cfg = {
    **cfg,
    'sft': {**cfg['sft'], 'steps': 0},
    'golden': {**cfg['golden'], **few},
    'proxy': {**cfg['proxy'], 'steps': 1},
    'eval': {**cfg['eval'], **few, 'first_step': 1},
  }
  runs = [{**run, 'steps': 1, 'points': 1} for run in runs]
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    (scratch / 'task').symlink_to(workdir / 'task')
    run_arms(cfg, runs, scratch)


def reweigh_arm(seed, run, directory):
  """Points of the reference's own samples, reweighed: nothing is trained."""
  pool = draw_pool(seed, reward_of(seed, run), run['pool'], run['batch_size'])
  with Writer(directory, 0) as writer:
    for number, point in enumerate(reweigh.REWEIGH[run['reweigh']](pool)):
      if number not in writer.points:
        writer.point(number, point)


def draw_pool(seed, reward, size, group_size):
  """`size` samples of the reference per eval prompt, scored: a Pool."""
  task = seed.task
  draw = sampler(task, group_size)
  parts = []
  for start in range(0, size, group_size):
    key = jax.random.fold_in(stream(seed.number, POOL), start)
    batch = draw(seed.reference, *task.eval_prompts[:], key)
    ops.require_own_samples(batch)
    columns = (
      reward(batch),
      task.gold(batch),
      seed.proxy(batch),
      batch.sampler_logps.sum(1),
    )
    parts.append([np.asarray(x).reshape(-1, group_size) for x in columns])
  return reweigh.Pool(*(np.concatenate(x, 1) for x in zip(*parts)))
