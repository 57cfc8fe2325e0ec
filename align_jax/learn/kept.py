"""Checkpoints of a run that stay: its parameters at chosen steps and KLs."""

from typing import NamedTuple

from align_jax import hosts, paths
from align_jax.files import damaged, read_jsonl, read_record
from align_jax.learn.checkpoint import KEPT, Checkpoints, steps_in, steps_of

DONE = 'done.json'  # the record that a run has ended


class Keep(NamedTuple):
  """What is kept; the fields of `configs.base`'s `arm.keep`.

  Attributes:
    steps: numbers of updates.
    kls: nats; of each the first measured point at that KL or beyond it.
  """

  steps: tuple = ()
  kls: tuple = ()


def check(keep, num_steps):
  """Raises ValueError for a step that the run does not have, or a KL <= 0."""
  for step in keep.steps:
    if not isinstance(step, int) or not 0 < step <= num_steps:
      raise ValueError(
        f'keep.steps={step!r}, expected whole steps from 1 to steps={num_steps}'
      )
  for kl in keep.kls:
    if not kl > 0:
      raise ValueError(f'keep.kls={kl!r}, expected nats above 0')


def measured(directory):
  """{step: sequence KL in nats} of a run's points, in their order."""
  rows = read_points(paths.path(directory))
  return {row['step']: row['kl_seq_nats'] for row in rows}


def read_points(directory):
  """The points of a run.

  Raises:
    ValueError: the run has ended, and its logs are not what it wrote.
  """
  done = directory / DONE
  if done.exists():
    found = damaged(directory, read_record(done).get('logs', {}))
    if found:
      raise ValueError(f'{found}: damaged. Remove {done} and run again')
  return read_jsonl(directory / 'points.jsonl')


def first_beyond(kls, nats):
  """The first step of {step: KL} whose KL is `nats` or more; or None."""
  return next((step for step, kl in sorted(kls.items()) if kl >= nats), None)


def missed(directory, keep, done):
  """What a run went past without keeping it: a list of 'field=value'.

  Args:
    done: updates so far.
  """
  there, kls = steps_of(directory), measured(directory) if keep.kls else {}
  passed = {f'keep.steps={step}': step for step in keep.steps if step <= done}
  passed |= {f'keep.kls={kl:g}': first_beyond(kls, kl) for kl in keep.kls}
  return [name for name, step in passed.items() if step and step not in there]


class Kept:
  """The folder kept/ of a run that is under way.

  Opening at a step drops what is after it: a resumed run makes it anew.
  """

  def __init__(self, directory, keep, step):
    self._folder, self._keep = paths.path(directory) / KEPT, keep
    self._kls = measured(directory) if keep.kls else {}
    if self._folder.is_dir() and hosts.first():
      _drop_after(self._folder, step)

  def offer(self, step, params, point=None):
    """Saves the parameters if they are to be kept, and waits for the disk.

    A newer checkpoint must not be there before they are: a run that goes on
    from it has no second chance to keep them.

    Args:
      point: what was measured after that step, if anything was.
    """
    if not (self._keep.kls or self._keep.steps):
      return
    if point:
      self._kls[step] = point['kl_seq_nats']
    chosen = {first_beyond(self._kls, kl) for kl in self._keep.kls}
    due = step in chosen.union(self._keep.steps)
    if hosts.agree(due and step not in steps_in(self._folder)):
      with Checkpoints(self._folder, max_to_keep=None) as checkpoints:
        checkpoints.save(step, {'params': params})


def _drop_after(folder, step):
  """Also what a killed process left half written."""
  stay = {str(s) for s in steps_in(folder) if s <= step}
  for path in folder.iterdir():
    if path.name not in stay:
      paths.remove(path)
