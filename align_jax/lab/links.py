"""Links between runs, which read each other's logs and last policies."""

from align_jax.lab.named import REFERENCE, split
from align_jax.lab.source_checks import group_size_of
from align_jax.losses import LOSSES
from align_jax.values import nearest


def check_links(runs):
  """Checks the runs' `log_of`, `teacher_of` and `writers`.

  Args:
    runs: all runs of an experiment.
  Raises:
    ValueError: a run names one that does not exist or cannot serve.
  """
  by_name = {(r.variant, r.name): r for r in runs}
  names = sorted({run.name for run in runs})
  for run in runs:
    for key, name in links_of(run):
      if name == REFERENCE and key != 'log_of':
        continue
      of, step = split(name) if key != 'log_of' else (name, None)
      other = by_name.get((run.variant, of))
      if other is None:
        raise ValueError(
          f'{run.where(key)}={name!r} is none of the runs {", ".join(names)}: '
          f'{nearest(of, names)}'
        )
      _check_link(run, other, key, name)
      if step and step not in other.schedule.keep.steps:
        raise ValueError(
          f'{run.where(key)}={name!r}, expected one of the steps that '
          f'{other.where("keep")} keeps, {other.schedule.keep.steps}'
        )
  for run in runs:
    _check_circle(run, by_name)


def links_of(run):
  """Yields (field, name) of the runs and policies that a run reads."""
  named = {'log_of': [run.source.log_of], 'teacher_of': [run.teacher.run]}
  named['writers'] = run.source.writers
  yield from ((key, name) for key in named for name in named[key] if name)


def _check_circle(run, by_name):
  """Refuses a run that waits for itself, maybe by way of others."""
  waits, ahead = set(), [run]
  while ahead:
    for name in ahead.pop().needed:
      if name == run.name:
        raise ValueError(
          f'{run.name}: log_of, teacher_of or writers lead back to it, so '
          'that it waits for itself'
        )
      if name not in waits:
        waits.add(name)
        ahead.append(by_name[run.variant, name])


def _check_log_groups(run, logged):
  """A log that is half of a batch must have groups of the other half's size."""
  of = {part: group_size_of(part, run) for part in run.source.parts}
  size = group_size_of(logged.source.name, logged)
  for part, other in of.items():
    if size and other and size != other:
      raise ValueError(
        f'{run.where("log_of")}={logged.name!r} has {size} completions per '
        f'prompt and {part!r} has {other}, expected equal numbers'
      )


def _check_link(run, other, key, name):
  if key != 'log_of' and other.lora.rank:
    raise ValueError(
      f'{run.where(key)}={name!r} trains adapters '
      '(lora.rank > 0), expected a run of all parameters'
    )
  if key == 'log_of' and other.kl.nats and other.kl.mode == 'stop':
    raise ValueError(
      f'{run.where(key)}={name!r} may stop at its kl_budget, and sample less '
      f"than is replayed, expected kl_mode='hold' of {other.name!r}"
    )
  if key == 'log_of' and group_size_of(other.source.name, other) == 1:
    if LOSSES[run.loss.name].rows != 'single':
      raise ValueError(
        f'{run.where(key)}={name!r} has one completion per prompt, but loss '
        f'{run.loss.name!r} compares them and needs at least 2'
      )
  if key == 'log_of' and 'mixed' == run.source.name:
    _check_log_groups(run, other)
  logged = other.schedule.steps * other.updates.batch_size
  asked = run.schedule.steps * run.updates.batch_size
  if key == 'log_of' and asked > logged:
    raise ValueError(
      f'{run.where("steps")}={run.schedule.steps} of '
      f'batch_size={run.updates.batch_size} replay {asked} prompts, expected '
      f'at most the {logged} that {other.name!r} samples'
    )
