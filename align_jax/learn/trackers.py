"""Where metrics are shown, beside the files that runs and pages read."""

import contextlib
import hashlib
import importlib.util
import os

from align_jax import hosts, paths


class TensorBoard:
  """Event files under tensorboard/ of a run; in a store, put at its end."""

  def __init__(self, directory, step):
    import tensorboardX

    self._stack = contextlib.ExitStack()
    folder = self._stack.enter_context(paths.filling(directory / 'tensorboard'))
    # What an earlier process wrote after its last checkpoint is hidden.
    self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=step + 1)

  def show(self, step, values):
    """Adds a scalar for each of {name: number}."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def close(self):
    """Ends the file, and puts it into a store."""
    self._writer.close()
    self._stack.close()


class WandB:
  """A run of W&B, which goes on where this one does; see its own variables."""

  def __init__(self, directory, step):
    import wandb

    name = os.fspath(directory)
    key = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    local = {'dir': name} if paths.is_local(directory) else {}
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', 'align_jax'),
      name='/'.join(directory.parts[-3:]),
      id=key,
      resume='allow',
      reinit='create_new',
      **local,
    )

  def show(self, step, values):
    """Logs {name: number} as of a step."""
    self._run.log(values, step=step)

  def close(self):
    """Ends the run."""
    self._run.finish()


# By the name configs use: the package, and (directory, step) -> a tracker.
TRACKERS = {
  'tensorboard': ('tensorboardX', TensorBoard),
  'wandb': ('wandb', WandB),
}


def check(names):
  """Raises ValueError for a tracker whose package is not installed."""
  for name in names:
    package = TRACKERS[name][0]
    if importlib.util.find_spec(package) is None:
      raise ValueError(
        f'trackers={tuple(names)!r}: {name!r} needs the package {package}, '
        f'which is not installed: pip install {package}'
      )


def opened(names, directory, step):
  """The trackers of a run, in the first process only."""
  if not hosts.first():
    return []
  return [TRACKERS[name][1](paths.path(directory), step) for name in names]
