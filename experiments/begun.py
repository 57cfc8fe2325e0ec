"""What a workdir already holds, that other settings would contradict."""

from align_jax.learn.checkpoint import newest_step

# What stages and runs leave. Settings alone are of a start that failed.
MADE = (
  'seed*/pairs.npz',
  'seed*/held_out.npz',
  'seed*/*/checkpoints/[0-9]*',
  'seed*/*/*/checkpoints/[0-9]*',
  'seed*/*/*/done.json',
)


def stage(folder):
  """Whether a folder of seeds holds anything that was computed."""
  return any(next(folder.glob(pattern), None) for pattern in MADE)


def experiment(workdir):
  """Whether a workdir or one of its variants holds anything computed."""
  variants = [path for path in workdir.glob('*') if path.is_dir()]
  return any(map(stage, [workdir, *variants]))


def steps(directory):
  """Steps done by a run, alone or together with others of its arm."""
  together = directory.parent.glob('together-*')
  return max(map(newest_step, [directory, *together]))


def run(directory):
  """Whether a run has a checkpoint or an end."""
  return bool(steps(directory)) or (directory / 'done.json').exists()
