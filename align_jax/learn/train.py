"""The loop: one run from its source to its last checkpoint, resumable."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from align_jax.learn import batches as logs
from align_jax.learn import budget as budgets
from align_jax.learn import step as steps
from align_jax.learn.checkpoint import NEWEST, Checkpoints
from align_jax.learn.kept import Keep, Kept
from align_jax.learn.logs import Writer


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long a run is, and when what happens in it. All are numbers of updates.

  Attributes:
    num_steps: updates in all.
    save_every: updates between checkpoints; one is always written at the end.
    log_every: updates between rows of metrics.
    eval_steps: after so many updates the policy is measured.
    refresh_every: {anchor: updates}, see `step.refresh`.
    keep: which parameters stay under kept/.
  """

  num_steps: int
  save_every: int
  log_every: int = 10
  eval_steps: tuple[int, ...] = ()
  refresh_every: Mapping[str, int] = dataclasses.field(default_factory=dict)
  keep: Keep = Keep()


def train(
  directory,
  *,
  state,
  source,
  train_step,
  hparams,
  key,
  schedule,
  evaluate=None,
  view=lambda params: params,
  budget=None,
  keep_log=False,
  make_writer=Writer,
  report=lambda step, info: None,
):
  """Trains `state` from where `directory`'s last checkpoint is, or its start.

  A resumed run ends in the same bits as an uninterrupted one: randomness is
  folded from `key` and the step, sources are pure, and whatever was written
  after the last checkpoint is dropped and made again. A run that ended goes on
  where `schedule.num_steps` has grown; points and metrics of its old end stay.

  Args:
    directory: holds checkpoints/, kept/, metrics.jsonl, points.jsonl and log/.
    state: TrainState at step 0.
    source: (state, key, step) -> Batch.
    train_step, hparams: see `step.make_train_step`.
    key: of what the source draws.
    schedule: a `Schedule`.
    evaluate: state -> point, after each of `schedule.eval_steps`.
    view: params -> what an anchor keeps of them.
    budget: a `budget.Budget`, for a state with the anchor `budget.INSIDE`; a
      run that is to stop at it ends with its last checkpoint and point there.
    keep_log: keep every batch under log/, for `read_log`.
    make_writer: (directory, step) -> what keeps metrics and points.
    report: called with the step and {'kl', 'gold'} of the newest point.
  Returns:
    the final state.
  Raises:
    ValueError: more updates are done than `schedule.num_steps`.
  """
  num_steps = schedule.num_steps
  with Checkpoints(directory / NEWEST) as checkpoints:
    start = checkpoints.latest_step() or 0
    if start > num_steps:
      raise ValueError(
        f'{directory} holds {start} updates, expected at most {num_steps}'
      )
    if start:
      state = checkpoints.restore(state)
    # Several workers may read what one has finished, and then measure nothing.
    if start == num_steps and not schedule.eval_steps:
      return state
    if start and budget and budget.stop and budgets.keep(budget, state)[1]:
      return state
    drop_log(directory, start)
    with make_writer(directory, start) as writer:
      info, batches, saved = {}, [], start
      kept = Kept(directory, schedule.keep, start)

      def measure(step, last=False):
        point = None
        if (last or step in schedule.eval_steps) and step not in writer.points:
          point = writer.point(step, evaluate(state))
          info.update(kl=point['kl_seq_nats'], gold=point['gold'])
        kept.offer(step, state.params, point)

      measure(start)
      for step in range(start, num_steps):
        state = steps.refresh(state, step, schedule.refresh_every, view)
        batch = source(state, jax.random.fold_in(key, step), step)
        state = steps.remember(state, view)
        state, metrics = train_step(state, batch, hparams)
        done = step + 1
        stop = False
        if budget and budgets.due(budget, done, num_steps):
          left = budgets.left(budget, done, num_steps)
          state, stop = budgets.keep(budget, state, left)
        last = stop or done == num_steps
        if keep_log:
          batches.append(batch)
        if done % schedule.log_every == 0 or last:
          # Copies: the next step donates the state before these are read.
          stats = {k: jnp.copy(v) for k, v in state.stats.items()}
          writer.write(done, {**metrics, **stats})
          report(done, info)
        measure(done, last=stop)
        if done % schedule.save_every == 0 or last:
          if keep_log:
            write_log(directory, saved, done, batches)
          checkpoints.save(done, state)
          batches, saved = [], done
        if stop:
          break
  return state


def write_log(directory, start, end, batches):
  """The batches of steps [start, end) as one Batch, in order."""
  path = directory / 'log' / f'{start:08d}-{end:08d}.npz'
  logs.save(path, logs.concatenate(batches))


def drop_log(directory, step):
  """Drops the batches after `step`: a resumed run writes them anew, and maybe
  in other parts."""
  for path in (directory / 'log').glob('*.npz'):
    if int(path.stem.split('-')[1]) > step:
      path.unlink()


def read_log(directory):
  """All batches of a finished run as one Batch, in the order of training."""
  parts = sorted((directory / 'log').glob('*.npz'))
  if not parts:
    raise FileNotFoundError(f'{directory} kept no log of its batches')
  log = logs.concatenate([logs.load(part) for part in parts])
  return jax.tree.map(jnp.asarray, log)
