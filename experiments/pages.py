"""What the reports of experiments share: scores, tables, the verdict."""

import csv
import io
import json

import numpy as np

from align_jax import tasks
from align_jax.compare import frontier, readings, verdict
from align_jax.files import write_atomically

GAIN = 'gold reward gained over the reference'
KL_AXIS = 'KL from the reference (nats)'
SCALE = 'The KL is of whole completions, on a square-root scale.'
NOT_NEUTRAL = (
  'KL is not a neutral axis across methods (Gao et al. 2022), so the same '
  'budgets are drawn against the proxy as well.'
)


def compare(points, cfg, score):
  """All arms on one score, at the config's budgets."""
  return frontier.Comparison(
    readings.curves(points, score),
    cfg['report']['budgets'],
    tasks.shares_prompts(cfg['task']['name']),
  )


def trained(points):
  """The points of policies; the others are of a pool of samples, reweighed."""
  return [p for p in points if 'gold_samples' in p]


def references(points):
  """The reference's point of each seed, once."""
  start = (p for p in trained(points) if p['step'] == 0)
  return list({p['seed']: p for p in start}.values())


def by_prompt(point):
  return np.array(point['gold_by_prompt'])


def gain(points):
  """point -> gold reward per prompt above its own first point's.

  Trained arms of a seed share theirs, the reference as evaluated; reweighed
  ones start from their own, larger pool of the reference's samples, at n = 1
  or beta = inf.
  """
  start = {p['seed']: by_prompt(p) for p in references(points)}
  pools = {
    (p['arm'], p['config'], p['seed']): by_prompt(p)
    for p in points
    if 'gold_samples' not in p and p['step'] == 0
  }

  def score(point):
    if 'gold_samples' in point:
      return by_prompt(point) - start[point['seed']]
    return by_prompt(point) - pools[run_of(point)]

  return score


def run_of(point):
  return point['arm'], point['config'], point['seed']


def proxy_by_prompt(point):
  return point['proxy_by_prompt']


def last_points(points):
  """The last point of each run: {(arm, config, seed): point}."""
  last = {}
  for p in points:
    if p['step'] >= last.get(run_of(p), p)['step']:
      last[run_of(p)] = p
  return last


def reweighed(arms, *kinds):
  """Names of the arms that train nothing, of all kinds or of those named."""
  return [
    name
    for name, arm in arms.items()
    if arm.get('reweigh') and (not kinds or arm['reweigh'] in kinds)
  ]


def markdown(header, rows):
  lines = [header, ['--:'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def write_tables(workdir, points, header, rows):
  """table.csv and points.jsonl, beside the page."""
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator='\n').writerows([header, *rows])
  write_atomically(workdir / 'table.csv', buffer.getvalue())
  lines = ''.join(json.dumps(p) + '\n' for p in points)
  write_atomically(workdir / 'points.jsonl', lines)


def what_an_arm_is(comparison, noun='arm'):
  """One sentence: a configuration, or the best of several."""
  if all(len(arm.configs) == 1 for arm in comparison.arms.values()):
    return f'Each {noun} is one configuration.'
  return (
    f'Each {noun} is the best of its configurations at each KL, chosen on one '
    'half of the prompts and scored on the other.'
  )


def window_text(window):
  """What a figure marks of a verdict."""
  if window[0] == window[1]:
    return 'Dotted: the KL of the verdict.'
  return 'Shaded: the window of the verdict.'


# --- What a page says first ---------------------------------------------------

HEADLINES = {
  verdict.ABOVE: ('{0} is', 'above', '{1}'),
  verdict.BELOW: ('{0} is', 'below', '{1}'),
  verdict.EQUIVALENT: ('{0} and {1} are', 'equivalent', ''),
  verdict.UNDECIDED: ('{0} against {1}:', 'undecided', ''),
  verdict.NONE: ('{0} against {1}:', 'no verdict', ''),
}


def add_verdict(page, finding, names):
  """The word, large; its sentence; what it rests on."""
  headline = (part.format(*names) for part in HEADLINES[finding.word])
  css = finding.word.replace(' ', '-')
  page.verdict(css, *headline, finding.sentence, finding.notes)
