"""Shared by the reports of experiments: scores, tables, the verdict."""

import csv
import io

import numpy as np

from align_jax import tasks
from align_jax.compare import frontier, readings, verdict
from align_jax.compare.points import (  # noqa: F401
  by_prompt,
  gain,
  last_points,
  proxy_by_prompt,
  references,
  run_of,
  save,
  trained,
)
from align_jax.compare.report import markdown  # noqa: F401
from align_jax.files import write_atomically

GAIN = 'gold reward gained over the reference'
KL_AXIS = 'KL from the reference (nats)'
SCALE = 'The KL is of whole completions, on a square-root scale.'
NOT_NEUTRAL = (
  'KL is not a neutral axis across methods (Gao et al. 2022), so the same '
  'budgets are drawn against the proxy as well.'
)


def compare(points, cfg, values, budgets=None):
  """Compares all arms on one value, each in its configuration of best gold.

  Args:
    values: point -> a number per prompt, such as `gain`.
    budgets: [K] nats. None: the config's.
  """
  return frontier.Comparison(
    readings.curves(points, values, merit=by_prompt),
    cfg['report']['budgets'] if budgets is None else budgets,
    tasks.shares_prompts(cfg['task']['name']),
  )


def metric(name):
  """Function point -> its metric per prompt, or nan without samples.

  Args:
    name: a name that `eval.metrics` may have.
  """

  def values(point):
    if 'gold_samples' not in point:
      return np.full(len(point['kl_by_prompt']), np.nan)
    found = point.get(f'{name}_by_prompt')
    if found is None:
      raise ValueError(
        f'points have no {name}_by_prompt: expected {name!r} in eval.metrics'
      )
    return np.array(found)

  return values


def reweighed(arms, *kinds):
  """Names of the arms that train nothing, of the given kinds or of all."""
  return [
    name
    for name, arm in arms.items()
    if arm.get('reweigh') and (not kinds or arm['reweigh'] in kinds)
  ]


def write_csv(path, rows):
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator='\n').writerows(rows)
  write_atomically(path, buffer.getvalue())


def write_tables(workdir, points, header, rows):
  """Writes table.csv and points.jsonl beside the page."""
  write_csv(workdir / 'table.csv', [header, *rows])
  save(workdir / 'points.jsonl', points)


def what_an_arm_is(comparison, noun='arm'):
  """One sentence: an arm is a configuration, or the best of several."""
  if all(len(arm.configurations) == 1 for arm in comparison.arms.values()):
    return f'Each {noun} is one configuration.'
  return (
    f'Each {noun} is the best of its configurations at each KL, chosen on one '
    'half of the prompts and scored on the other.'
  )


def window_text(window):
  """The label of the verdict's window in a figure."""
  if window[0] == window[1]:
    return 'Dotted: the KL of the verdict.'
  return 'Shaded: the window of the verdict.'


# --- The verdict at the top of a page -----------------------------------------

HEADLINES = {
  verdict.ABOVE: ('{0} is', 'above', '{1}'),
  verdict.BELOW: ('{0} is', 'below', '{1}'),
  verdict.EQUIVALENT: ('{0} and {1} are', 'equivalent', ''),
  verdict.UNDECIDED: ('{0} against {1}:', 'undecided', ''),
  verdict.NONE: ('{0} against {1}:', 'no verdict', ''),
}


def add_verdict(page, finding, names):
  """Adds the verdict's word, its sentence and its notes."""
  headline = (part.format(*names) for part in HEADLINES[finding.word])
  css = finding.word.replace(' ', '-')
  page.verdict(css, *headline, finding.sentence, finding.notes)
