"""The contents of a report on a pair of arms, computed from points."""

import dataclasses

import numpy as np

from align_jax.compare import frontier
from align_jax.compare.intervals import LEVEL
from align_jax.compare.report import show
from experiments import (
  equal_steps,
  findings,
  matched,
  measures,
  pages,
  registration,
  sections,
)


@dataclasses.dataclass(frozen=True)
class Result:
  """The contents of a report, computed once.

  Attributes:
    names: names of treatment and control.
    references: {name: its Run} of the arms that train nothing.
    effects: {name: K Estimates}.
    refused: sentences on effects that cannot be measured.
    steps, step: all `equal_steps.Step`s, and the one to report.
    accuracies: see `sections.accuracies`.
    measures: Tables of diversity, forgetting and gold on other prompts.
  """

  comparison: frontier.Comparison
  finding: findings.Finding
  names: tuple
  references: dict
  effects: dict
  refused: list
  steps: list
  step: equal_steps.Step | None
  accuracies: dict
  measures: list

  @property
  def both(self):
    return comparable(self.comparison, self.names)

  @property
  def compared(self):
    """Control and treatment, if they have points."""
    return [n for n in self.names[::-1] if n in self.comparison.arms]

  @property
  def trained(self):
    """Names of the arms that train."""
    return [n for n in self.comparison.arms if n not in self.references]

  @property
  def window(self):
    """The compared window, or None."""
    return self.finding.gap.window if self.finding.gap else None

  @property
  def naive(self):
    return equal_steps.sentence(self.step, self.finding.gap, self.names)

  @property
  def ranking(self):
    """The sentence on who ranks pairs better, or ''."""
    if not self.accuracies:
      return ''
    gap = self.finding.gap
    by_seed = gap.estimate.by_seed if gap else ()
    gaps = [
      x
      for seed, x in zip(self.comparison.seeds, by_seed)
      if seed in self.accuracies
    ]
    return sections.accuracy_sentence(self.accuracies, gaps, self.names)


def comparable(comparison, names):
  """Whether all arms have points, for equal numbers of configurations."""
  arms = [comparison.arms.get(name) for name in names]
  return all(arms) and len({len(arm.configurations) for arm in arms}) == 1


def work_out(points, cfg, workdir, about, every):
  """Computes the Result of points. Reading a verdict records a look.

  Args:
    about: About.
    every: all Runs of the experiment.
  """
  settings = cfg['report']
  names = settings['treatment'], settings['control']
  comparison = pages.compare(points, cfg, pages.gain(points))
  seeds, both = len(comparison.seeds), comparable(comparison, names)
  level = LEVEL
  if both and seeds > 1:
    level = registration.look(cfg, workdir, seeds)
  steps = equal_steps.steps_of(comparison, *names) if both else []
  references = {
    run.label: run
    for run in every
    if run.pool.how and run.label in comparison.arms
  }
  shown = matched.column_budgets(comparison, settings['shown'])
  return Result(
    comparison,
    findings.find(comparison, settings, level),
    names,
    references,
    *matched.effects(comparison, about.effects or difference_of(names)),
    steps,
    equal_steps.chosen(comparison, names, steps),
    accuracies_of(points, workdir, comparison, names),
    measures.tables(
      points,
      cfg,
      comparison.budgets[shown],
      [name for name in comparison.arms if name not in references],
      names if both else (),
    ),
  )


def difference_of(names):
  """{title: pair} of the judged pair."""
  return {f'{names[0]} - {names[1]}': names}


def accuracies_of(points, workdir, comparison, names):
  """`sections.accuracies`, or none if variants have their own proxies."""
  if any('variant' in p for p in points):
    return {}
  return sections.accuracies(points, workdir, comparison.seeds, names[1])


def against(points, arm):
  """Function point -> win rates against the seed's last policy of `arm`."""
  mine = [p for p in points if p['arm'] == arm]
  last = {seed: p for (_, _, seed), p in pages.last_points(mine).items()}
  return lambda point: frontier.win_rate(
    point['gold_samples'], last[point['seed']]['gold_samples']
  )


def summary_table(comparison, names):
  """Table of peaks, their KL, the fall after them, and KLs of given scores."""
  peaks = comparison.peaks()
  best = max(peaks[name][0].value for name in names)
  levels = [share * best for share in (0.25, 0.5, 0.75)]
  grid = np.linspace(0.1, np.sqrt(comparison.budgets[-1]), 60) ** 2
  header = ['arm', 'peak gain', 'KL of the peak', 'fall to the last']
  header += [f'KL needed for {level:.2f}' for level in levels]
  rows = [
    [
      name,
      *map(show, peaks[name]),
      *(show(comparison.kl_needed(name, level, grid)) for level in levels),
    ]
    for name in names
  ]
  return header, rows


def main_table(result):
  """The terminal's table: both arms and the effects, at the reached budgets."""
  comparison = result.comparison
  return matched.budget_rows(
    comparison,
    {
      **matched.arm_columns(comparison, result.compared),
      **matched.difference_columns(result.effects),
    },
  )


def optima(result):
  """Names of the arms that are the closed-form optimum of a reward."""
  named = result.references.items()
  return [name for name, run in named if run.pool.how == 'optimum']


def reference_table(result):
  """Table of gains by reweighting, and of each arm's share of the optimum."""
  comparison = result.comparison
  columns = matched.reference_columns(comparison, result.references)
  for optimum in optima(result):
    columns |= matched.share_columns(comparison, result.trained, optimum)
  return matched.budget_rows(comparison, columns)


def terminal(result):
  """The text for the terminal: the page's main tables and sentences."""
  finding, arms = result.finding, result.compared
  parts = [
    pages.markdown(*main_table(result)),
    f'{matched.key(result.comparison, arms)} '
    f'{matched.unreached(result.comparison)}'.strip(),
    pages.markdown(*reference_table(result)) if result.references else '',
    *(pages.markdown(t.header, t.last) for t in result.measures),
    result.ranking,
    '\n'.join([finding.sentence, *finding.notes]),
    result.naive if result.both else '',
  ]
  return '\n\n'.join(filter(None, parts))
