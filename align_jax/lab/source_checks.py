"""Rules on where a run's rows are from: its source, its loss and its task."""

from align_jax import tasks
from align_jax.lab.arms import SOURCES
from align_jax.lab.forwards import FORWARDS
from align_jax.lab.starts import needs_of
from align_jax.learn.step import PREVIOUS
from align_jax.losses import LOSSES
from align_jax.losses.row import REWARDS, SCORES, TEACHER
from align_jax.values import check_name


def check_source(run, task):
  """Checks the source of a run.

  Args:
    run: settings.Run.
    task: fields of its task.
  Raises:
    ValueError: the loss cannot learn from its rows, or the task has none.
  """
  _check_rows(run)
  _check_parts(run)
  _check_groups(run)
  check_pairs(run, task)


def all_sources(run):
  """Names of a run's source and of its parts."""
  return run.source.name, *run.source.parts


def _check_rows(run):
  """A loss must get the rows and outputs that it needs."""
  source, loss = run.source.name, LOSSES[run.loss.name]
  what, size = f'{run.name}: loss {run.loss.name!r}', run.sampling.group_size
  read = {x for name in all_sources(run) for x in SOURCES[name].reads}
  drawn = {'labels', 'group_size'} <= read
  if drawn and size < 2 and run.labels.scale == 'preference':
    raise ValueError(
      f"{run.name}: group_size={size}, but reward_scale='preference' compares "
      'completions of one prompt and needs at least 2'
    )
  if drawn and size < 2 and loss.rows != 'single':
    raise ValueError(
      f'{run.name}: group_size={size}, but loss {run.loss.name!r} '
      'compares completions of one prompt and needs at least 2'
    )
  if loss.rows in ('duel', 'hybrid') and SOURCES[source].rows != loss.rows:
    given = [k for k, x in SOURCES.items() if x.rows == loss.rows]
    raise ValueError(
      f'{what} needs source {" or ".join(given)}, got {source!r}'
    )
  if 'file_labels' in all_sources(run):
    fits = loss.rows in ('single', 'mismatched') and loss.rewards != 'unread'
    if not fits or source == 'hybrid':
      raise ValueError(
        f"{what} and source 'file_labels': single answers with labels, "
        "expected a loss that reads them, such as 'kto'"
      )
  if source == 'hybrid' and loss.rows != 'hybrid':
    raise ValueError(
      f"{what} takes no rows of source 'hybrid', expected another source or "
      f'one of {[k for k, x in LOSSES.items() if x.rows == "hybrid"]}'
    )
  if loss.rewards == 'successes' and run.labels.scale == 'reference':
    raise ValueError(
      f"{run.where('reward_scale')}='reference', expected 'none' or "
      f"'preference': {what} divides by the group's mean reward, which must "
      'be at least 0'
    )
  if loss.rows == 'mismatched' and run.updates.batch_size < 2:
    raise ValueError(
      f'{run.where("batch_size")}={run.updates.batch_size}, expected at least '
      f'2: {what} takes completions of other prompts'
    )
  if loss.rewards in ('chances', 'successes') and 'labels' in read:
    _check_chances(run, loss.rewards)
  needs = needs_of(run.loss)
  if (source == 'teacher' or needs & TEACHER) and not run.teacher.run:
    raise ValueError(f'{run.name}: teacher_of must name the run that teaches')
  if needs & SCORES:
    raise ValueError(f'{what} trains reward models, no policy')
  if needs not in FORWARDS:
    raise ValueError(
      f'{what} needs {sorted(needs)}, expected one of '
      f'{[sorted(x) for x in FORWARDS]}'
    )


def _check_chances(run, wanted):
  """A proxy's score is any number, unless it says how often one wins."""
  labels, proxy = run.labels, run.shared.proxy
  pairwise = LOSSES[proxy.loss].rows == 'group'
  if labels.name == 'proxy' and labels.scale == 'none' and pairwise:
    raise ValueError(
      f"{run.where('reward_scale')}='none', expected 'preference': loss "
      f'{run.loss.name!r} reads {REWARDS[wanted]}, and the score of a proxy of '
      f'loss={proxy.loss!r} is any number'
    )


def _check_parts(run):
  """Composed sources must have parts that fit together."""
  source, size = run.source, run.updates.batch_size
  wanted = {'mixed': 2, 'hybrid': 1}.get(source.name, len(source.parts))
  if len(source.parts) != wanted or (source.name == 'mixed' and size % 2):
    raise ValueError(
      f'{run.name}: source {source.name!r} needs {wanted} parts'
      f'{" and an even batch_size" * (source.name == "mixed")}, got '
      f'parts={source.parts} and batch_size={size}'
    )
  if source.name == 'log' and not source.log_of:
    raise ValueError(f"{run.name}: log_of='', expected the run to replay")
  if 'written_pairs' in all_sources(run):
    _check_writers(run)
  for name in all_sources(run):
    anchor = SOURCES[name].anchor
    if anchor == 'sampler' and anchor not in run.schedule.refresh_every:
      raise ValueError(
        f'{run.name}: source {name!r} needs its period in refresh_every, '
        f"expected such as {{'sampler': 8}}, got {run.schedule.refresh_every}"
      )
  read = {'ref', *(SOURCES[name].anchor for name in all_sources(run))}
  read -= {'', PREVIOUS}
  for anchor in run.schedule.refresh_every:
    check_name(run.where('refresh_every'), anchor, read)
  if source.length_buckets and run.keep_log:
    raise ValueError(
      f'{run.name}: length_buckets={source.length_buckets}, expected none for '
      'a run whose log another one reads'
    )


def _check_writers(run):
  """Pairs have two writers, and gold's own labels."""
  writers, noise = run.source.writers, run.shared.golden.label_noise
  if len(writers) != 2:
    raise ValueError(
      f'{run.where("writers")}={writers}, expected the two policies that write '
      "the pairs of source 'written_pairs'"
    )
  if noise:
    raise ValueError(
      f'golden.label_noise={noise:g}, expected 0: source '
      f"'written_pairs' of {run.name} has gold's own labels"
    )


def group_size_of(source, run):
  """Completions per prompt of a source. None: of a log, which tells later."""
  reads = SOURCES[source].reads
  if 'log_of' in reads:
    return None
  if 'group_size' in reads:
    return run.sampling.group_size
  if SOURCES[source].rows == 'single':
    return 1  # answers with labels
  return 2  # pairs, from a data set or of two policies


def _check_groups(run):
  """The halves of a batch must have equal groups."""
  if run.source.name != 'mixed':
    return
  sizes = [group_size_of(part, run) for part in run.source.parts]
  if None not in sizes and len(set(sizes)) > 1:
    told = ' and '.join(
      f'{x} of {part!r}' for x, part in zip(sizes, run.source.parts)
    )
    raise ValueError(
      f'{run.where("parts")}={run.source.parts}: completions per prompt are '
      f'{told}, expected equal numbers: set group_size={min(sizes)}'
    )


OF_FILE = {'file_pairs': 'pairs', 'file_labels': 'labels'}


def check_pairs(run, task):
  """The task must have the rows that a source of its file reads."""
  for name, kind in OF_FILE.items():
    if name not in all_sources(run):
      continue
    if not tasks.has_pairs(task['name']):
      raise ValueError(
        f"{run.where('source')}: {name!r} reads {kind} of the task's file, "
        f'and task {task["name"]!r} has none, expected another source'
      )
    judge = dict(task.get('judge') or {}).get('kind')
    if judge in OF_FILE.values() and judge != kind:
      raise ValueError(
        f'{run.where("source")}: {name!r} reads {kind}, and '
        f'task.judge.kind={judge!r} learns from {judge} of the same file'
      )
