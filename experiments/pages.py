"""What the reports of experiments share: scores of points, tables, footers."""

import csv
import io
import json

import numpy as np

from align_jax import frontier, tasks
from align_jax.metrics import write_atomically

GAIN = 'gold reward gained over the reference'
KL_AXIS = 'KL(policy || reference), nats per completion'
NOT_NEUTRAL = (
  'KL is not a neutral axis across methods (Gao et al. 2022), so the same '
  'budgets are drawn against the proxy as well.'
)


def compare(points, cfg, score):
  """All arms on one score, at the config's budgets."""
  return frontier.Comparison(
    frontier.curves(points, score),
    cfg['report']['budgets'],
    tasks.shares_prompts(cfg['task']['name']),
  )


def references(points):
  """The reference's point of each seed, once."""
  return list({p['seed']: p for p in points if p['step'] == 0}.values())


def by_prompt(point):
  return np.array(point['gold_by_prompt'])


def gain(points):
  """point -> gold reward per prompt above that of the seed's reference."""
  start = {p['seed']: by_prompt(p) for p in references(points)}
  return lambda point: by_prompt(point) - start[point['seed']]


def proxy_by_prompt(point):
  return point['proxy_by_prompt']


def last_points(points):
  """The last point of each run: {(arm, config, seed): point}."""
  last = {}
  for p in points:
    run = p['arm'], p['config'], p['seed']
    if p['step'] >= last.get(run, p)['step']:
      last[run] = p
  return last


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


def finish(page, cfg, workdir):
  """How to make the page, below everything; writes it."""
  page.heading('How to make this page')
  started = json.loads((workdir / 'experiment.json').read_text())
  page.code(started['command'])
  page.code(started['versions'])
  page.code(json.dumps(cfg, indent=1))
  page.write(workdir / 'report.html')
