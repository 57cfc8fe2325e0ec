"""One protocol for every arm: the seed's stage, then the arm itself."""

import dataclasses
import functools
import pathlib
import tempfile

import numpy as np

from align_jax import hosts, paths
from align_jax.lab import grouping
from align_jax.lab.arms import make_source, sources_of
from align_jax.lab.forwards import forward_of
from align_jax.lab.pools import reweigh_arm
from align_jax.lab.setups import Telemetry
from align_jax.lab.stages import prepare
from align_jax.lab.starts import needs_of, start_of
from align_jax.lab.steps import numbers, optimizer, train_step_of
from align_jax.lab.streams import (
  ARM,
  BUDGET,
  EVAL,
  FORGETTING,
  silent,
  stream,
)
from align_jax.learn import batches, metrics, speed, together, trackers
from align_jax.learn import budget as budgets
from align_jax.learn.checkpoint import Checkpoints
from align_jax.learn.forgetting import Texts
from align_jax.learn.logs import Writer
from align_jax.learn.probe import Probe, checkpoint_steps, measure
from align_jax.learn.train import Schedule, train
from align_jax.learn.watch import Watch
from align_jax.models import weights
from align_jax.models.config import ModelConfig
from align_jax.policy.programs import (
  entropies,
  expectation,
  policy_of,
  policy_programs,
  sampler,
)


def run_arm(setup, run, report=silent):
  """Trains one run from the reference, and measures it during training.

  Args:
    setup: setups.Setup of the run's variant.
    run: settings.Run.
  """
  stage = prepare(setup, run.seed)
  if run.pool.how:
    return reweigh_arm(stage, run)
  forward, reads_anchors = forward_for(stage, run)
  state = _start(stage, run)
  source = make_source(stage, run)
  train_step = train_step_for(stage, run, forward, reads_anchors, state)
  probe = make_probe(setup, stage)
  train(
    stage.folder / run.name,
    state=state,
    source=source,
    train_step=train_step,
    hparams=numbers(run.loss, run.optimizer),
    evaluate=lambda state: measured(probe, state.params, stage),
    budget=budget_of(stage, run),
    keep_log=run.keep_log,
    watch=watch_of(stage, run),
    report=report,
    key=stream(stage.seed, ARM),
    schedule=_schedule(setup, run),
    view=view_of(stage),
    make_writer=functools.partial(_writer, setup.telemetry),
    work=work_of(stage, run),
    profile=setup.telemetry.profile,
  )


def _writer(telemetry, directory, step):
  return Writer(
    directory, step, trackers.opened(telemetry.trackers, directory, step)
  )


def work_of(stage, run):
  """What an update costs; None for a model of another kind."""
  if not isinstance(stage.task.model, ModelConfig):
    return None
  # Forward, and backward to activations and to weights; adapters have few.
  passes = (2 if run.lora.rank else 3) * run.updates.num_epochs
  return speed.Work(weights.forward_flops(stage.task.model), passes)


def watch_of(stage, run):
  """A Watch over a run's rollouts. None: it samples none."""
  if not all('labels' in source.reads for source in sources_of(run)):
    return None
  how, model = run.sampling.how, stage.task.model
  own = run.source.name == 'policy' and how.own
  ends, logps = how.ends(stage.task.eos_id), policy_programs(model)[0]
  return Watch(logps, own, ends, run.schedule.stop_on)


def forward_for(stage, run):
  """(forward, whether it reads anchors): what a run's loss is given."""
  model, needs = stage.task.model, needs_of(run.loss)
  return forward_of(model, needs, run.teacher, run.lora)


def optimizer_for(stage, run):
  """A run's optax optimizer."""
  updates = run.updates.num_epochs * run.updates.num_minibatches
  model, steps = stage.task.model, run.schedule.steps
  critic = run.critic.warmup if 'values' in needs_of(run.loss) else 0
  return optimizer(run.optimizer, steps, model, updates, critic)


def _start(stage, run):
  return start_of(stage, run, optimizer_for(stage, run))


def train_step_for(stage, run, forward, reads_anchors, state):
  """A run's train step, jitted once per process."""
  tx = optimizer_for(stage, run)
  return train_step_of(
    forward, run.loss, tx, state, run.updates, reads_anchors, run.correction
  )


def _schedule(setup, run):
  """The schedule of a run: when to measure, save and log."""
  when, points = run.schedule, run.schedule.points or setup.shared.eval.points
  first = setup.shared.eval.first_step
  return Schedule(
    num_steps=when.steps,
    save_every=when.save_every,
    log_every=when.log_every,
    eval_steps=checkpoint_steps(first, when.steps, points),
    refresh_every=when.refresh_every,
    keep=when.keep,
  )


def view_of(stage):
  """params -> the policy's parameters, with adapters merged into them."""
  return functools.partial(policy_of, base=stage.reference)


def budget_of(stage, run):
  """The run's KL budget, measured on the eval prompts, or None."""
  if not run.kl.nats:
    return None
  task = stage.task
  _, kls, _ = policy_programs(task.model)
  draw = sampler(task, run.kl.samples, run.sampling.rows_at_once)
  key = stream(stage.seed, BUDGET)

  def measure(params):
    params = view_of(stage)(params)
    batch = draw(params, *task.eval_prompts[:], key)
    kl = kls(params, stage.reference, batch)[0].sum(1).mean()
    return hosts.agree(float(kl))

  stop = run.kl.mode == 'stop'
  return budgets.Budget(run.kl.nats, stop, run.kl.every, measure)


def expected_gold(task):
  """(params, batch) -> f32 [B, T], or None if the task has no `gold_steps`."""
  if task.gold_steps is None:
    return None
  mean = expectation(task.model)
  return lambda params, batch: mean(params, batch, task.gold_steps(batch))


def texts_of(stage, draw, batch_size):
  """The Texts that all policies of a stage are measured on.

  Args:
    draw: the sampler of evaluations.
  """
  task, reference = stage.task, stage.reference
  logps, kls, annotate = policy_programs(task.model)

  @functools.cache
  def samples():
    key = stream(stage.seed, FORGETTING)
    return draw(reference, *task.eval_prompts[:], key)

  @functools.cache
  def demonstrations():
    found = hosts.fetch(task.held_out_demonstrations())
    parts = batches.chunks(found, batch_size)
    parts = [annotate(reference, part) for part in parts]
    number = np.arange(found.num_prompts)
    return hosts.fetch(batches.take(batches.concatenate(parts), number))

  return Texts(samples, demonstrations, kls, logps, batch_size)


def make_probe(setup, stage):
  """The Probe that measures a stage's policies."""
  task, shared = stage.task, setup.shared
  logps, kls, _ = policy_programs(task.model)
  draw = sampler(task, shared.eval.samples)
  chosen = metrics.chosen(shared.eval.metrics, shared.eval.samples)
  return Probe(
    sample=draw,
    kls=kls,
    logps=logps,
    entropies=entropies(task.model),
    batch_size=shared.batch_size,
    gold=task.gold,
    expected_gold=expected_gold(task),
    proxy=stage.proxy,
    decode=task.decode,
    vocab_size=task.model.vocab_size,
    eos_id=task.eos_id,
    metrics=chosen[0] | metrics.uncovered(task.covered),
    texts=texts_of(stage, draw, shared.batch_size),
    forgetting=chosen[1],
    prompts=task.eval_prompts[:],
    sets={name: task.eval_sets[name][:] for name in shared.eval.sets},
    pairs=stage.held_out,
    key=stream(stage.seed, EVAL),
  )


def measured(probe, params, stage):
  """The point of a run's parameters, see `probe.measure`."""
  return measure(probe, view_of(stage)(params), stage.reference)


def run_together(setup, runs, report=silent):
  """Trains runs of one `grouping.program_of` as one program.

  Each run gets the points, metrics and last checkpoint of `run_arm`, up to
  rounding. The runs share earlier checkpoints.

  Raises:
    ValueError: a reward is computed on the host.
  """
  first = runs[0]
  stage = prepare(setup, first.seed)
  forward, reads_anchors = forward_for(stage, first)
  states = [_start(stage, run) for run in runs]
  step = train_step_for(stage, first, forward, reads_anchors, states[0])
  probe, number = make_probe(setup, stage), range(len(runs))
  state = train(
    stage.folder / grouping.directory(runs),
    state=together.stack(states),
    source=together.source(make_source(stage, first)),
    train_step=together.step(step),
    hparams=together.stack([numbers(r.loss, r.optimizer) for r in runs]),
    evaluate=lambda state: [
      measured(probe, together.unstack(state.params, i), stage) for i in number
    ],
    make_writer=lambda _, step: together.Writers(
      [stage.folder / run.name for run in runs],
      step,
      functools.partial(_writer, setup.telemetry),
    ),
    work=work_of(stage, first),
    profile=setup.telemetry.profile,
    report=report,
    key=stream(stage.seed, ARM),
    schedule=_schedule(setup, first),
    view=view_of(stage),
  )
  for i, run in enumerate(runs):
    with Checkpoints(stage.folder / run.name / 'checkpoints') as checkpoints:
      if checkpoints.latest_step() != run.schedule.steps:
        checkpoints.save(run.schedule.steps, together.unstack(state, i))


def run_arms(setup, runs, report=silent):
  """Trains one run alone, or several as one program."""
  if len(runs) == 1:
    run_arm(setup, runs[0], report)
  else:
    run_together(setup, runs, report)


def rehearse(setup, runs):
  """Takes one step of runs as `run_arms` does, to compile their programs.

  It uses an untrained reference, few pairs and a temporary folder. The compiled
  programs are cached when the runs start.
  """
  shared = setup.shared
  few = dict(pairs=shared.batch_size)
  shared = dataclasses.replace(
    shared,
    sft=dataclasses.replace(shared.sft, steps=0),
    golden=dataclasses.replace(shared.golden, **few),
    proxy=dataclasses.replace(shared.proxy, steps=1),
    eval=dataclasses.replace(shared.eval, first_step=1, **few),
  )
  runs = [run.but(steps=1, points=1, keep={}) for run in runs]
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    empty = dataclasses.replace(
      setup, shared=shared, workdir=scratch, telemetry=Telemetry()
    )
    empty.task_folder.parent.mkdir(parents=True, exist_ok=True)
    if setup.task_folder.exists():
      empty.task_folder.symlink_to(paths.local(setup.task_folder))
    run_arms(empty, runs)
