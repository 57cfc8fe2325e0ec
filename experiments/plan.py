"""What would this design resolve? Before any compute, or from a pilot.

  python -m experiments.plan --config=configs/toy.py --workdir=runs/pilot
  python -m experiments.plan --config=configs/toy.py \
    --config.report.deviation=0.12 [--config.seeds=20]

reads the deviation of the confirmatory gap between seeds off the points of a
finished experiment, or takes the one that is assumed, and prints the half-width
and the smallest difference that the config's seeds would find, and how many
seeds the half-width `report.half_width` takes. Points are of `--config.pilot`
seeds as a rule: those that a verdict rests on are no place to choose it.
"""

from align_jax import paths
from align_jax.compare import intervals, verdict, words
from align_jax.lab import effects, sweep
from experiments import (
  command,
  common,
  online_vs_offline,
  registration,
)
from experiments.pages import compare, gain


def level_of(cfg):
  """Level of the interval at one look of the declared schedule."""
  return intervals.each_of(
    len(registration.declared(cfg['report']['schedule'], cfg['seeds']))
  )


def workload(cfg):
  """One sentence on the amount of training."""
  runs = [run for run in sweep.sweep(cfg) if not run.pool.how]
  steps = sum(run.schedule.steps for run in runs)
  arms = len(sweep.sizes(cfg['arms']))
  return (
    f'{len(runs)} runs of {steps} updates in all: {arms} arms on '
    f'{cfg["seeds"]} seeds.'
  )


def measured(cfg, workdir):
  """The Power of `cfg`, from the points in `workdir`.

  Raises:
    ValueError: fewer than two seeds have points of both arms.
  """
  settings = cfg['report']
  names = settings['treatment'], settings['control']
  runs = [r for r in common.points_of(workdir) if r['arm'] in names]
  if {r['arm'] for r in runs} != set(names):
    raise ValueError(
      f'{workdir} holds no points of {names[0]} and {names[1]}; without '
      '--workdir an assumed --config.report.deviation is read'
    )
  comparison = compare(runs, cfg, gain(runs))
  if len(comparison.seeds) < 2:
    raise ValueError(f'{workdir} holds one seed, expected 2 or more')
  gap = comparison.gap(*names, settings['window'])
  return verdict.power_of(
    gap.matrix,
    settings['half_width'],
    comparison.shared_prompts,
    cfg['seeds'],
    level_of(cfg),
  )


def plan(cfg, workdir=None):
  """The text that the command prints.

  Raises:
    ValueError: there are neither points nor an assumed standard deviation.
  """
  settings = cfg['report']
  if workdir is not None:
    power = measured(cfg, workdir)
  elif settings['deviation'] > 0:
    spread = intervals.between(settings['deviation'], cfg['seeds'])
    power = verdict.planned_power(spread, settings['half_width'], level_of(cfg))
  else:
    raise ValueError(
      'nothing to plan from: give the --workdir of a finished pilot, or '
      "--config.report.deviation, the gap's between seeds"
    )
  return f'{workload(cfg)}\n{words.power_text(power)}'


def main():
  def run(cfg, given):
    effects.check(online_vs_offline.runs, cfg, given)
    common.check(cfg, online_vs_offline.runs(cfg))
    workdir = command.WORKDIR.value
    print(plan(cfg, paths.absolute(workdir) if workdir else None))

  command.start(run)


if __name__ == '__main__':
  main()
