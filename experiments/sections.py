"""Sections of a page beside the comparison: accuracies, samples, training."""

import math

import numpy as np

from align_jax.compare.lines import Line, colours_of
from align_jax.compare.report import MISSING
from align_jax.files import read_record
from experiments import resume
from experiments.pages import last_points, references, trained

PANELS = {
  'gold': 'gold reward',
  'kl_seq_nats': 'KL from the reference (nats)',
  'proxy': 'proxy reward',
  'implicit_accuracy': "policy's implicit accuracy, held-out pairs",
  'proxy_accuracy': "proxy's accuracy on the policy's samples",
  'chosen_log_ratio': 'log-ratio of chosen (nats)',
  'rejected_log_ratio': 'log-ratio of rejected (nats)',
  'repeats': 'repeated tokens per completion',
}


def accuracies(points, workdir, seeds, arm):
  """Accuracy of the proxy and of an arm's last policies on pairs, by seed.

  Returns:
    {seed: (float, float, [float])}: the proxy's accuracy on held-out pairs and
    on its training pairs, None where gold ties them all, and that of each
    configuration's policy. A seed whose record is gone or damaged is left out,
    with a note.
  """
  last = last_points([p for p in trained(points) if p['arm'] == arm])
  result = {}
  for seed in seeds:
    path = workdir / f'seed{seed}' / 'proxy.json'
    try:
      proxy = read_record(path)
    except (ValueError, OSError):
      resume.say([f'{path}: gone or damaged, its seed has no accuracies'])
      continue
    own = [p for k, p in last.items() if k[2] == seed]
    known = [x for p in own if (x := p.get('implicit_accuracy')) is not None]
    result[seed] = proxy['held_out'], proxy['golden'], known
  return result


def accuracy_table(by_seed, arm):
  rows = []
  for seed, (held_out, golden, policies) in by_seed.items():
    span = sorted({f'{x:.3f}' for x in policies})
    span = ' to '.join(dict.fromkeys(span[:1] + span[-1:])) or MISSING
    shown = (MISSING if x is None else f'{x:.3f}' for x in (held_out, golden))
    rows.append([str(seed), *shown, span])
  header = [
    'seed',
    'proxy, held-out pairs',
    'proxy, its training pairs',
    f'{arm} policies as classifiers, held-out pairs',
  ]
  return header, rows


def accuracy_sentence(by_seed, gaps, names):
  """A sentence on how often the proxy ranks better and the gap is positive.

  It counts seeds and claims no cause.

  Args:
    by_seed: see `accuracies`.
    gaps: the gap of each seed, in the same order. (): none.
    names: names of the treatment and of the control. The control has the
      policies.
  """
  treatment, control = names
  rows = list(by_seed.values())
  known = [
    i for i, (own, _, them) in enumerate(rows) if own is not None and them
  ]
  if not known:
    return (
      f'{control} has no policy to compare the proxy with, or gold ties all '
      'held-out pairs.'
    )
  better = [i for i in known if rows[i][0] > np.mean(rows[i][2])]
  worse = [i for i in known if i not in better]
  seeds = 'seed' if len(known) == 1 else 'seeds'
  text = (
    f'In {len(better)} of {len(known)} {seeds} the proxy ranks held-out pairs '
    f'better than the {control} policies do as classifiers'
  )
  if not gaps:
    return f'{text}.'
  ahead = lambda at: sum(gaps[i] > 0 for i in at)
  told = [f'{ahead(better)} of these {len(better)}'] if better else []
  if worse:
    told.append(f'{ahead(worse)} of the {len(worse)} where it does not')
  return (
    f'{text}; {treatment} is ahead at equal KL in {" and in ".join(told)}. '
    'These are counts over seeds, and say nothing of the cause.'
  )


def policy_at(points, budget):
  """The point that represents an arm at a KL.

  It is the last point of a run held there. Without one it is the nearest point.
  """
  held = [p for p in points if math.isclose(p['kl_budget'], budget)]
  ends = list(last_points(held).values())
  return min(ends or points, key=lambda p: abs(p['kl_seq_nats'] - budget))


def samples(points, seed, arms, budget):
  """Completions of the same prompts by the reference and by arms at one KL.

  Returns:
    [who answers], and per prompt (prompt, [(completion, gold)]).
  """
  mine = [p for p in trained(points) if p['seed'] == seed]
  answering, who = references(mine)[:1], ['reference']
  for arm in arms:
    policy = policy_at([p for p in mine if p['arm'] == arm], budget)
    answering.append(policy)
    who.append(f'{arm} at {policy["kl_seq_nats"]:.2f} nats')
  prompts = [s['prompt'] for s in answering[0]['shown']]
  said = [
    [(p['shown'][i]['completion'], p['gold_samples'][i][0]) for p in answering]
    for i in range(len(prompts))
  ]
  return who, list(zip(prompts, said))


def trajectory(runs, field):
  """The mean over runs as a function of updates, as far as all runs go.

  Args:
    runs: points of each run, in order of step.
  Returns:
    steps, means. Runs are linear between points.
  """
  last = min(run[-1]['step'] for run in runs)
  steps = sorted({p['step'] for run in runs for p in run if p['step'] <= last})
  of_run = lambda run, name: [p[name] for p in run]
  rows = [
    np.interp(steps, of_run(run, 'step'), of_run(run, field)) for run in runs
  ]
  return np.array(steps, float), np.mean(rows, 0)


def training_lines(points, strong=()):
  """{label: a Line per arm}, means over its configurations and seeds."""
  by_arm = {}
  for p in trained(points):
    runs = by_arm.setdefault(p['arm'], {})
    runs.setdefault((p['configuration'], p['seed']), []).append(p)
  colours = colours_of(list(by_arm), strong)
  return {
    label: [
      Line(
        arm,
        *trajectory(list(runs.values()), field),
        colours[arm],
        strong=arm in strong,
      )
      for arm, runs in by_arm.items()
    ]
    for field, label in PANELS.items()
    if all(field in p for p in trained(points))
  }
