"""Groups of runs that train together as one program: see `learn.together`."""

import hashlib

from align_jax.learn.rewards import REWARDS

NUMBERS = ('learning_rate', 'loss_kwargs')  # may differ


def program_of(run):
  """A key that runs must share to train together. None: the run trains alone.

  A run trains alone if its rewards are computed on the host from texts, if it
  keeps a log or checkpoints, or if it has a KL budget or a pool.
  """
  if run.labels.name in ('judge', *REWARDS):
    return None
  kept = run.keep_log or any(run.schedule.keep)
  if kept or run.kl.nats or run.pool.how:
    return None
  shared = {k: v for k, v in run.flat.items() if k not in NUMBERS}
  hparams = run.loss.kwargs
  words = {k: v for k, v in hparams.items() if isinstance(v, str)}
  where = run.variant, run.arm, run.seed
  return repr((where, sorted(shared.items()), sorted(hparams), words))


def groups(runs):
  """Lists of runs that train together, in order."""
  found = {}
  for i, run in enumerate(runs):
    found.setdefault(program_of(run) or i, []).append(run)
  return list(found.values())


def directory(runs):
  """The folder of these runs' checkpoints while they train together."""
  names = '\n'.join(run.name for run in runs)
  digest = hashlib.blake2b(names.encode(), digest_size=4).hexdigest()
  return f'{runs[0].arm}/together-{digest}'
