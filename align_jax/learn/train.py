"""The loop: one run from its source to its last checkpoint, resumable."""

import contextlib
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from align_jax import hosts
from align_jax.files import digest
from align_jax.learn import batches as logs
from align_jax.learn import budget as budgets
from align_jax.learn import finite, speed, stopping
from align_jax.learn import step as steps
from align_jax.learn import watch as watch_lib
from align_jax.learn.checkpoint import (
  NEWEST,
  Checkpoints,
  check_logs,
  drop_damaged,
)
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
  watch=None,
  make_writer=Writer,
  report=lambda step, info: None,
  work=None,
  profile=(),
):
  """Trains `state` from where `directory`'s last checkpoint is, or its start.

  A resumed run ends in the same bits as an uninterrupted one: randomness is
  folded from `key` and the step, sources are pure, and whatever was written
  after the last checkpoint is dropped and made again. A run that ended goes on
  where `schedule.num_steps` has grown; points and metrics of its old end stay.
  Of several hosts all take the same steps, and host 0 writes.

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
    watch: a `watch.Watch` over what is sampled. None: nothing is.
    make_writer: (directory, step) -> what keeps metrics and points.
    report: called with the step and {'kl', 'gold'} of the newest point.
    work: speed.Work of an update, for MFU. None: not told.
    profile: (first, last) updates of a trace under profile/. (): none.
  Returns:
    the final state.
  Raises:
    ValueError: more updates are done than `schedule.num_steps`.
    NotFinite: a number of a step or point is none. The last checkpoint stays.
    Stopped: the process was asked to stop. A checkpoint is written first, but
      while a run is brought back to its KL budget.
    Alarm: a sign that `watch` is to stop on.
  """
  num_steps = schedule.num_steps
  stopping.check(f'before {directory}')
  drop_damaged(directory)
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
    ended = (
      start
      and budget
      and budget.stop
      and budgets.due(budget, start, num_steps)
      and budgets.keep(budget, state)[1]
    )
    with (
      make_writer(directory, start) as writer,
      speed.Clock(directory, schedule.log_every, work) as clock,
      contextlib.ExitStack() as traced,
    ):
      files = _Files(
        directory, start, schedule, writer, checkpoints, keep_log, watch
      )
      files.measure(start, state, evaluate, last=ended)
      for step in range(start, start if ended else num_steps):
        if profile and step + 1 == max(start + 1, profile[0]) <= profile[1]:
          traced.enter_context(speed.profiled(directory))
        clock.begins(step + 1)
        state = steps.refresh(state, step, schedule.refresh_every, view)
        batch = source(state, jax.random.fold_in(key, step), step)
        clock.scored(batch)
        state = steps.remember(state, view)
        files.look(step + 1, state.params, batch, view)
        state, metrics = train_step(state, batch, hparams)
        done, stop = step + 1, False
        clock.trained(done, metrics)
        if profile and done == profile[1]:
          jax.block_until_ready(metrics)
          traced.close()
        files.took(done, batch, metrics)
        if budget and budgets.due(budget, done, num_steps):
          files.check()
          left = budgets.left(budget, done, num_steps)
          state, stop = budgets.keep(budget, state, left)
        last = stop or done == num_steps
        if done % schedule.log_every == 0 or last:
          files.log(done, state, metrics)
          report(done, files.newest)
        measured = files.try_measure(done, state, evaluate, last=stop)
        asked = stopping.asked() and not last or not measured
        if done % schedule.save_every == 0 or last or asked:
          files.save(done, state)
        if asked:
          raise stopping.Stopped(f'{directory}: saved after {done} updates')
        if stop:
          break
  return state


class _Files:
  """What a run under way writes, and what of it is not yet checked.

  Attributes:
    newest: {'kl', 'gold'} of the newest point.
  """

  def __init__(
    self, directory, start, schedule, writer, checkpoints, keep_log, watch
  ):
    self._directory, self._writer = directory, writer
    self._checkpoints, self._eval_steps = checkpoints, schedule.eval_steps
    self._kept = Kept(directory, schedule.keep, start)
    self._keep_log, self._batches, self._saved = keep_log, [], start
    self._logs = {}
    if hosts.first():
      drop_log(directory, start)
      self._logs = log_digests(directory)
    self._measured_or_kept = {*schedule.eval_steps, *schedule.keep.steps}
    self._unchecked, self.newest = [], {}
    self._save_every, self._watch, self._known = (
      schedule.save_every,
      watch,
      set(),
    )

  def took(self, done, batch, metrics):
    """Takes note of a step. It checks the step before, which has ended."""
    self.check()
    if finite.FINITE in metrics:  # a step of one's own may not say
      self._unchecked.append((done, metrics, batch.rewards))
    self._checkpoints.record()
    if self._keep_log:
      self._batches.append(batch)

  def look(self, done, params, batch, view):
    """Looks at the samples of a step that is to be measured or saved.

    Args:
      params: before the step.
      view: params -> the policy's.
    """
    if self._watch is None:
      return
    if done in self._eval_steps or done % self._save_every == 0:
      seen = hosts.fetch(self._watch.look(view(params), batch))
      self._tell(done, watch_lib.signs(seen))

  def _tell(self, step, signs):
    stop_on = self._watch.stop_on if self._watch else ()
    name = self._writer.names[0]
    watch_lib.tell(name, step, signs, stop_on, self._known)

  def check(self):
    """Raises NotFinite for a step with a number that is none."""
    while self._unchecked:
      finite.check_step(self._writer.names, *self._unchecked.pop(0))

  def log(self, done, state, metrics):
    # Copies: the next step donates the state before these are read.
    stats = {k: jnp.copy(v) for k, v in state.stats.items()}
    told = {k: v for k, v in metrics.items() if k != finite.FINITE}
    self._writer.write(done, {**told, **stats})

  def measure(self, step, state, evaluate, last=False):
    """Measures and keeps the policy where its schedule or its end says so."""
    if last or step in self._measured_or_kept:
      self.check()
    point, due = None, last or step in self._eval_steps
    if due and step not in self._writer.points:
      found = evaluate(state)
      finite.check_points(self._writer.names, step, found)
      point = self._writer.point(step, found)
      self.newest.update(kl=point['kl_seq_nats'], gold=point['gold'])
      self._tell(step, watch_lib.signs({}, point['kl_seq_nats']))
    self._kept.offer(step, state.params, point)

  def try_measure(self, *args, **kwargs):
    """Whether it could; not if the process is asked to stop meanwhile."""
    try:
      self.measure(*args, **kwargs)
    except stopping.Stopped:
      return False
    return True

  def save(self, done, state):
    """Begins a checkpoint, after all that it must not be without."""
    self.check()
    if self._keep_log:
      batches = [hosts.fetch(batch) for batch in self._batches]
      if hosts.first():
        path = write_log(self._directory, self._saved, done, batches)
        self._logs[f'log/{path.name}'] = digest(path)
    logs = self._writer.digests(self._directory) | self._logs
    self._checkpoints.save(done, state, logs)
    self._batches, self._saved = [], done


def write_log(directory, start, end, batches):
  """Keeps the batches of steps [start, end) as one Batch, in order: a path."""
  path = directory / 'log' / f'{start:08d}-{end:08d}.npz'
  logs.save(path, logs.concatenate(batches))
  return path


def log_digests(directory):
  """{path: [bytes, digest]} of the parts of a run's log."""
  parts = sorted((directory / 'log').glob('*.npz'))
  return {f'log/{part.name}': digest(part) for part in parts}


def drop_log(directory, step):
  """Drops the batches after `step`: a resumed run writes them anew, and maybe
  in other parts."""
  for path in (directory / 'log').glob('*.npz'):
    if int(path.stem.split('-')[1]) > step:
      path.unlink()


def read_log(directory):
  """All batches of a finished run as one Batch, in the order of training.

  Raises:
    FileNotFoundError: the run kept no log.
    ValueError: a part is missing or damaged; names it.
  """
  check_logs(directory)
  parts = sorted((directory / 'log').glob('*.npz'))
  if not parts:
    raise FileNotFoundError(f'{directory} kept no log of its batches')
  log = logs.concatenate([logs.load(part) for part in parts])
  return jax.tree.map(jnp.asarray, log)
