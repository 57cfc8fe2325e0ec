"""A study: claims of papers, the runs that test them, and its page.

A module of `experiments.suite` holds one. It takes a task's config, such as
configs/toy.py, and makes its own arms from the arms that it finds there.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from align_jax.compare import figures
from align_jax.compare.lines import lines_of
from align_jax.compare.report import Page, show
from align_jax.compare.words import by_seed_text, power_text
from align_jax.files import read_record, write_record
from align_jax.lab import overrides, sweep
from experiments import (
  claims,
  common,
  matched,
  measures,
  pages,
  provenance,
  registration,
)

COLOURS = {claims.REPRODUCED: 'above', claims.OPPOSITE: 'below'}
NAME = 'verdicts.json'
OWN_RULES = tuple(
  f'experiments/{name}.py' for name in ('claims', 'derived', 'study')
)


def nothing(cfg):
  return {}


@dataclasses.dataclass(frozen=True)
class Study:
  """Claims and what they are tested by.

  Attributes:
    file: the module's __file__.
    key: short and unique, such as 'E3'.
    title: a question.
    claims: Claims and Exacts.
    arms: config -> {name: arm}, the arms to train. {}: those of the config.
    variants: config -> {name: changes}. {}: none, whatever the config has.
    changes: config -> {dotted field: value}, what else differs from the config.
    trains: False: the claims need no runs.
    strong: names of the arms whose intervals the figure shows.
    frontier: whether the page has all arms in one figure.
    decides: further files whose code decides the verdicts.
    caveat: which choice of a small task could have made these verdicts: a text,
      or config -> text.
    figure: a file of its figures that RESULTS.md shows. '': none.
    sections: functions (page, evidence, folder of figures), added to the page.
  """

  file: str
  key: str
  title: str
  claims: tuple
  caveat: str | Callable
  arms: Callable = nothing
  variants: Callable = nothing
  changes: Callable = nothing
  trains: bool = True
  strong: tuple = ()
  figure: str = ''
  frontier: bool = True
  decides: tuple = ()
  sections: tuple = ()

  def config(self, cfg):
    """The study's config, from that of a task."""
    arms, variants = self.arms(cfg) or cfg['arms'], self.variants(cfg)
    cfg = {**cfg, 'arms': arms, 'variants': variants}
    return overrides.changed(cfg, self.changes(cfg))

  def runs(self, cfg):
    """A list of Runs, see `lab.sweep`; [] where none are needed.

    Raises:
      ValueError: a claim compares an arm that the config does not have.
    """
    runs = sweep.sweep(self.config(cfg)) if self.trains else []
    compared = [arm for c in self.claims for arm in claims.compared(c.measure)]
    missing = sorted(set(compared) - {run.label for run in runs})
    if missing:
      named = ', '.join(missing)
      raise ValueError(f'arms: expected {named}, which claims compare')
    return runs

  def caveat_of(self, cfg):
    """The caveat, of the study's config."""
    return self.caveat(cfg) if callable(self.caveat) else self.caveat

  @property
  def rules(self):
    """The files whose code decides the verdicts."""
    own = pathlib.Path(self.file).resolve().relative_to(registration.ROOT)
    return *registration.RULES, *OWN_RULES, *self.decides, str(own)

  def rulings(self, points, cfg, workdir):
    """Pairs (Evidence, [Ruling])."""
    evidence = claims.Evidence(points, self.config(cfg), workdir)
    return evidence, [claims.rule(claim, evidence) for claim in self.claims]

  def report(self, points, cfg, workdir):
    """Writes the page and its tables. Returns the text for the terminal."""
    evidence, rulings = self.rulings(points, cfg, workdir)
    if points:
      table = matched.csv_table(evidence.gains, {})
      pages.write_tables(workdir, points, *table)
    found = [entry(ruling) for ruling in rulings]
    record = {
      'verdicts': found,
      'seconds': spent(workdir),
      'registered': registration.standing(cfg, workdir, self.rules),
    }
    write_record(workdir / NAME, record)
    page = Page(f'{self.key}. {self.title}')
    for ruling in rulings:
      add_ruling(page, ruling)
    for told in provenance.registered(cfg, workdir, self.rules):
      page.note(told)
    if points and self.frontier:
      add_frontier(page, evidence, workdir / 'figures', self.strong)
      add_measures(page, evidence)
    for section in self.sections:
      section(page, evidence, workdir / 'figures')
    page.heading('What the size of the task may have done')
    page.text(self.caveat_of(evidence.cfg))
    kept = provenance.used(cfg, self.runs, points) if points else {}
    provenance.finish(page, cfg, workdir, kept)
    return '\n'.join(text_of(r) for r in rulings)


def spent(workdir):
  """Seconds of one core that the finished runs took."""
  done = workdir.glob('**/done.json')
  return sum(read_record(path).get('seconds', 0) for path in done)


def value_of(ruling):
  """'+0.25 [+0.16, +0.33]', or '' without an estimate."""
  return show(ruling.estimate, True, None) if ruling.estimate else ''


def entry(ruling):
  """A Ruling as a record; `interval` is [value, low, high] or []."""
  claim, estimate = ruling.claim, ruling.estimate
  numbers = estimate.value, estimate.low, estimate.high
  interval = [round(x, 4) for x in numbers if np.isfinite(x)]
  return {
    'claim': claim.name,
    'says': claim.says,
    'source': claim.source,
    'number': claim.number,
    'equal': getattr(claim, 'equal', False),
    'word': ruling.word,
    'value': value_of(ruling),
    'interval': interval if len(interval) == 3 else [],
    'margin': ruling.margin,
    'seeds': len(estimate.by_seed),
    'why': ruling.why,
  }


def text_of(ruling):
  """A line for the terminal."""
  claim, value = ruling.claim, value_of(ruling)
  told = f': {value}' if value else ''
  why = f' ({ruling.why})' if ruling.why else ''
  return f'{ruling.word.upper()} {claim.says} {claim.number}{told}{why}'


def notes_of(ruling):
  """Sentences on what a verdict rests on."""
  claim, estimate = ruling.claim, ruling.estimate
  yield f'Claimed by {claim.source}.'
  if ruling.why:
    yield f'{ruling.why[0].upper()}{ruling.why[1:]}.'
  if len(estimate.by_seed) > 1:
    yield f'{by_seed_text(estimate.by_seed).capitalize()}.'
  if isinstance(claim, claims.Claim):
    side = 'Equal means' if claim.equal else 'No difference means'
    yield f'{side} a number within {ruling.margin:g} of 0.'
  if ruling.power:
    yield power_text(ruling.power)


def add_ruling(page, ruling):
  """Adds a claim's word, its number and what it rests on."""
  claim, value = ruling.claim, value_of(ruling)
  seeds = len(ruling.estimate.by_seed)
  sentence = f'{claim.says} {claim.number}'
  if value:
    sentence += f': {value} (95% interval over {seeds} seeds)'
  page.verdict(
    COLOURS.get(ruling.word, ''),
    f'{claim.name}:',
    ruling.word,
    '',
    f'{sentence}.',
    notes_of(ruling),
  )


def add_frontier(page, evidence, folder, strong):
  """Adds gold reward against KL: a figure and a table."""
  comparison = evidence.gains
  names = list(comparison.arms)
  references = pages.reweighed(evidence.cfg['arms'])
  lines = lines_of(comparison, strong, references)
  window = evidence.cfg['report']['window']
  page.heading('Gold reward at equal KL')
  page.figure(
    lambda width: figures.frontier_figure(
      width, lines, pages.KL_AXIS, pages.GAIN, window
    ),
    folder / 'gold_vs_kl.png',
    'gold reward against KL, by arm',
    f'{matched.key(comparison)} {pages.window_text(window)} {pages.SCALE}',
  )
  columns = matched.arm_columns(comparison, names)
  page.table(*matched.budget_rows(comparison, columns))
  page.note(matched.unreached(comparison))


def add_measures(page, evidence, folder=None):
  """Adds diversity and other metrics at equal KL, and gold on other prompts."""
  del folder  # no figure
  cfg = evidence.cfg
  budgets = tuple(dict.fromkeys(cfg['report']['window']))
  references = pages.reweighed(cfg['arms'])
  names = [name for name in evidence.gains.arms if name not in references]
  for table in measures.tables(evidence.points, cfg, budgets, names, ()):
    page.heading(table.title)
    page.table(table.header, table.last)
    page.note(table.note)


def main(study):
  """The command line of a study."""
  made = lambda cfg: [study.config(cfg)]
  common.main(study.runs, study.report, rules=study.rules, made=made)
