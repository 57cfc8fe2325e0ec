"""Runs of a config, trained or prepared one at a time."""

import base64
import pathlib
import pickle
import signal
import subprocess
import sys

from align_jax.lab import (
  groups,
  protocol,
  setups,
  stages,
  starts,
  streams,
  sweep,
)
from align_jax.lab.steps import optimizer
from experiments import damage, pages


def run_of(cfg, **fields):
  """The run, on the first seed, of an arm with these fields."""
  return sweep.sweep({**cfg, 'arms': {'arm': fields}})[0]


def setup_of(cfg, workdir, variant=''):
  shared = {variant: groups.shared(sweep.varied(cfg, variant))}
  return setups.setups_of(shared, workdir)[variant]


def train_arm(cfg, run, workdir, report=streams.silent):
  protocol.run_arm(setup_of(cfg, workdir, run.variant), run, report)


def without_a_page(cfg, workdir):
  """Runs a whole experiment, and writes no more of its page than the points."""

  def report(points, cfg, workdir):
    pages.save(workdir / 'points.jsonl', points)

  damage.run(cfg, workdir, report)


KILLED = """
import base64, os, pickle, signal, sys
from runs import train_arm
cfg, run, workdir, at = pickle.loads(base64.b64decode(sys.argv[1]))
def report(step, info):
  if step == at:
    os.kill(os.getpid(), signal.SIGKILL)
train_arm(cfg, run, workdir, report)
"""


def train_until_killed(cfg, run, workdir, at):
  """The same in a process that is killed when it reports that step."""
  here = pathlib.Path(__file__).parent
  given = base64.b64encode(pickle.dumps((cfg, run, workdir, at)))
  path = f'import sys; sys.path.insert(0, {str(here)!r})'
  killed = subprocess.run(
    [sys.executable, '-c', path + KILLED, given.decode()], timeout=300
  )
  assert killed.returncode == -signal.SIGKILL


def train_together(cfg, runs, workdir, report=streams.silent):
  protocol.run_together(setup_of(cfg, workdir), runs, report)


def stage_of(cfg, seed, workdir):
  return stages.prepare(setup_of(cfg, workdir), seed)


def start_of(stage, run):
  """The state at step 0 of a run."""
  steps, model = run.schedule.steps, stage.task.model
  return starts.start_of(stage, run, optimizer(run.optimizer, steps, model))
