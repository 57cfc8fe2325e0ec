"""Where metrics are shown, beside the files that runs and pages read."""

import contextlib
import contextvars
import hashlib
import importlib.util
import os
import sys

from align_jax import hosts, paths

PROJECT = 'align_jax'  # of W&B and of Trackio


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

    local = {'dir': os.fspath(directory)} if paths.is_local(directory) else {}
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', PROJECT),
      name=_short(directory),
      id=_key(directory),
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


class Trackio:
  """A run of Trackio on this machine, which goes on where this one does."""

  def __init__(self, directory, step):
    import trackio

    with _aside():
      # Its `init` ends the run before it in the same context, and runs that
      # train together are several at a time.
      self._run = contextvars.Context().run(
        trackio.init,
        project=PROJECT,
        name=f'{_short(directory)} {_key(directory)}',
        resume='allow',
        embed=False,
      )

  def show(self, step, values):
    """Logs {name: number} as of a step."""
    self._run.log(values, step=step)

  def close(self):
    """Ends the run."""
    with _aside():
      self._run.finish()


def _aside():
  """Trackio prints to where reports go."""
  return contextlib.redirect_stdout(sys.stderr)


def _short(directory):
  return '/'.join(directory.parts[-3:])


def _key(directory):
  """Tells runs of one short name apart."""
  name = os.fspath(directory).encode()
  return hashlib.blake2b(name, digest_size=8).hexdigest()


# By the name configs use: the package, and (directory, step) -> a tracker.
TRACKERS = {
  'tensorboard': ('tensorboardX', TensorBoard),
  'wandb': ('wandb', WandB),
  'trackio': ('trackio', Trackio),
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
