"""A report on any arms, and on which of a pair is better at the same KL.

An experiment gives a list of runs, a title and the pair to judge:

  comparing.main(runs, 'Many prompts or many completions?', ('many', 'few'))
"""

import dataclasses

from align_jax.compare import frontier
from align_jax.compare.report import Page
from align_jax.values import nearest
from configs import base
from experiments import common, matched, pages, provenance
from experiments.result import terminal, work_out
from experiments.result_page import fill


@dataclasses.dataclass(frozen=True)
class About:
  """The subject of a report.

  Attributes:
    title: title of the page.
    pair: names of treatment and control. (): those of the config's report.
    effects: {title: names of two arms}, further differences. {}: the pair's.
    explained: {title of an effect: what it changes}.
  """

  title: str
  pair: tuple = ()
  effects: dict = dataclasses.field(default_factory=dict)
  explained: dict = dataclasses.field(default_factory=dict)

  def settle(self, cfg, given=()):
    """The config with the judged pair, unless a user names another pair."""
    if not self.pair or any(x.path.startswith(OF_PAIR) for x in given):
      return cfg
    treatment, control = self.pair
    pair = dict(treatment=treatment, control=control)
    return {**cfg, 'report': {**cfg['report'], **pair}}


OF_PAIR = ('report.treatment', 'report.control')


def checked(runs, cfg, about):
  """The runs, after checks that they can be compared.

  Raises:
    ValueError: an arm of the pair is unknown, compared arms have unequal
      numbers of configurations, or arms are held below the window.
  """
  settings = cfg['report']
  pair = {name: settings[name] for name in ('treatment', 'control')}
  configs = {}
  for run in runs:
    configs.setdefault(run.label, set()).add(run.configuration)
  for field, name in pair.items():
    if name not in configs:
      raise ValueError(
        f'report.{field}={name!r} is none of the arms {", ".join(configs)}'
      )
  if pair['treatment'] == pair['control']:
    raise ValueError(
      f'report.treatment={pair["treatment"]!r} is report.control too, expected '
      'two arms'
    )
  check_golden(cfg, configs)
  sizes = {name: len(found) for name, found in configs.items()}
  frontier.check_equal(sizes, [tuple(pair.values()), *about.effects.values()])
  check_window(settings, [r for r in runs if r.label in pair.values()])
  return runs


def check_golden(cfg, names):
  """Refuses a `golden_policy` that is no arm here, nor elsewhere in the config.

  Where an experiment lacks the arm, it shows no win rates.

  Args:
    names: of the experiment's arms.
  """
  golden = cfg['report']['golden_policy']
  default = base.get_config().report.golden_policy  # configs may lack that arm
  if golden not in {'', default, *names, *cfg['arms'], *cfg['methods']}:
    raise ValueError(
      f'report.golden_policy={golden!r} is no arm, {nearest(golden, names)}'
    )


def check_window(settings, compared):
  """Refuses a window of the verdict that no run can reach.

  Args:
    compared: the runs of the two arms.
  Raises:
    ValueError: all runs are held below the window.
  """
  low, high = settings['window']
  held = {run.kl.nats for run in compared}
  if all(0 < nats < low for nats in held):
    raise ValueError(
      f'report.window={(low, high)} lies beyond arm.kl_budget='
      f'{max(held):g}, where all runs of the verdict are held: none of them '
      'gets there'
    )


def reporter(runs, about):
  """Makes the function report(points, cfg, workdir) of an experiment.

  Args:
    runs: cfg -> a list of Runs.
    about: About.
  """

  def report(points, cfg, workdir):
    """Writes the page and its tables. Returns the text for the terminal."""
    cfg = about.settle(cfg) if about.pair else cfg
    result = work_out(points, cfg, workdir, about, runs(cfg))
    table = matched.csv_table(
      result.comparison, result.effects, list(result.references)
    )
    pages.write_tables(workdir, points, *table)
    if result.measures:
      rows = [row for t in result.measures for row in (t.header, *t.rows)]
      pages.write_csv(workdir / 'measures.csv', rows)
    page = Page(about.title)
    fill(page, result, points, cfg, workdir, about)
    provenance.finish(page, cfg, workdir, provenance.used(cfg, runs, points))
    return terminal(result)

  return report


def main(runs, title, pair=(), **about):
  """The command line of an experiment that compares its arms.

  Args:
    runs: cfg -> a list of Runs, see `lab.sweep`.
    title, pair, **about: see About.
  """
  about = About(title, pair, **about)
  every = lambda cfg: checked(runs(cfg), cfg, about)
  common.main(every, reporter(runs, about), about.settle)
