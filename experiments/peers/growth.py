"""How the cost of ours grows with the size of the work."""

import functools
import pathlib
import sys

import numpy as np

from experiments.pages import markdown
from experiments.peers import contest, page


def scaled(cfg, axis, value):
  """-> model and task with one axis at a value, the others at their first."""
  point = {k: v[0] for k, v in cfg['scaling']['axes'].items()}
  point[axis] = value
  model = dict(cfg['models'][cfg['scaling']['size']])
  grown = point['dim'] / model['dim']
  model.update(
    vocab_size=point['vocab_size'],
    dim=point['dim'],
    num_heads=point['dim'] // model['head_dim'],
    num_kv_heads=point['dim'] // model['head_dim'],
    mlp_dim=round(model['mlp_dim'] * grown),
  )
  lengths = {k: point[k] for k in ('prompts', 'group_size', 'completion_len')}
  prompt_len = cfg['scaling']['prompt_len']
  return model, {**lengths, 'prompt_len': prompt_len, 'microbatches': 1}


def exponent(values, seconds):
  """b of the least-squares fit of seconds = a * values**b."""
  return np.polyfit(np.log(values), np.log(seconds), 1)[0]


def scaling_rows(cfg, axis, kind, scratch):
  """A row of the table, what failed, and the answers."""
  values = sorted(cfg['scaling']['axes'][axis])
  entrants = [
    functools.partial(
      contest.worker,
      str(value),
      sys.executable,
      'ours',
      contest.spec_of(cfg, *scaled(cfg, axis, value), kind, scratch),
      pathlib.Path(scratch, f'{axis}-{value}-{kind}.log'),
    )
    for value in values
  ]
  answers, failures = contest.compete(entrants, cfg['rounds'])
  done = [value for value in values if str(value) in answers]
  seconds = []
  for value in done:
    given = answers[str(value)]
    clock = contest.clock_of(cfg, given[0]['platform'])
    seconds.append(contest.summary(given, clock)['seconds'])
  pairs = ', '.join(
    f'{v}: {page.number(s)}' for v, s in zip(done, seconds, strict=True)
  )
  power = f'{exponent(done, seconds):.2f}' if len(done) > 1 else ''
  return [axis, kind, pairs, power], failures, answers


def scaling(cfg, workdir):
  """Ours alone: seconds against the size of the work."""
  size = cfg['scaling']['size']
  if size not in cfg['models']:
    names = ', '.join(cfg['models'])
    raise ValueError(f'scaling.size={size}: no such name; models are {names}')
  rows, notes, versions, clock = [], [], {}, 'wall'
  scratch = contest.new_folder(workdir)
  title = f'Growth around {size} on {page.cores(cfg["cores"])}'
  for axis in cfg['scaling']['axes']:
    for kind in ('sample', 'update'):
      row, failures, answers = scaling_rows(cfg, axis, kind, scratch)
      rows.append(row)
      notes += failures
      for given in answers.values():
        versions |= given[0]['versions']
        clock = contest.clock_of(cfg, given[0]['platform'])
      print(' | '.join(row), flush=True)
      header = ['axis', 'work', 'value: seconds', 'exponent']
      page.publish(cfg, title, markdown(header, rows), notes, versions, clock)
