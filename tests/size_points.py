"""Points for the claims on sizes, betas and reuse that are no Gaps."""

import numpy as np

from configs import toy
from experiments.suite import e07_policy_size as e07
from experiments.suite import e11_direct_alignment as e11
from experiments.suite import e12_peak_location as e12
from tests import made_points
from tests.suite_points import SEEDS, runs_of

ALIKE = np.ones(SEEDS)
CFG = toy.get_config()
BETAS = e11.names(CFG)
NARROW = dict(peak=2.0, height=5.0)  # of `humped`
KLS = np.linspace(0, 3, 13) ** 2  # nats, of the runs of `humped`


def humped(arm, seed, peak, height=1.0, config='default'):
  """A run whose gold reward is largest at a KL in nats."""
  d, best = np.sqrt(KLS), peak**0.5
  for step, (kl, x) in enumerate(zip(KLS, d)):
    gold = height * (1 - ((x - best) / best) ** 2)
    shown = np.full(made_points.PROMPTS, gold)
    yield made_points.point(arm, config, seed, 0.0, step, kl, shown)


def both(wide):
  """Runs `online` of both widths: `wide` has arguments by seed."""
  return [
    p
    for seed in range(SEEDS)
    for name, of in ((e07.NARROW, NARROW), (e07.WIDE, wide(seed)))
    for p in humped(f'{name} online', seed, **of)
  ]


def peaks(study, claim, effects, folder):
  return both(lambda seed: dict(peak=2 * np.exp(effects[seed] / 2)))


def heights(study, claim, effects, folder):
  return both(lambda seed: dict(peak=2.0, height=5 + effects[seed]))


def bent(points, effects):
  """The points, with the last of each run below the best by the effect."""
  runs = {}
  for p in points:
    key = p['arm'], p['configuration'], p['seed']
    runs.setdefault(key, []).append(p)
  for (_, _, seed), run in runs.items():
    best = np.array(run[-2]['gold_by_prompt'])
    run[-1]['gold_by_prompt'] = (best - effects[seed]).tolist()
  return points


def falls(study, claim, effects, folder):
  arm = f'{e07.WIDE} online'
  return bent(runs_of({arm: ALIKE}, held=0.0), effects)


def falls_of_losses(study, claim, effects, folder):
  arms = {f'{w} {x}': ALIKE for w in e11.WIDTHS for x in e11.LOSSES}
  return bent(runs_of(arms, held=0.0, config=e11.WEAKEST), effects)


def early(study, claim, effects, folder):
  """Runs that are best early, after about an epoch, or at their end."""
  del study, claim, folder
  epoch = CFG.golden.pairs / CFG.arm.batch_size  # updates
  best = {1: 4, 0: epoch, -1: 64}
  arms = {f'{w} {x}': ALIKE for w in e11.WIDTHS for x in e11.LOSSES}
  points = runs_of(arms, held=0.0, config=e11.WEAKEST)
  for p in points:
    p['step'] = epoch if p['step'] == 32 else p['step']
    p['gold'] = -abs(p['step'] - best[np.sign(effects[p['seed']])])
  return points


def nearer_ipo(study, claim, effects, folder):
  points = []
  for width in e11.WIDTHS:
    for loss in e11.LOSSES:
      for name in BETAS.values():
        for seed in range(SEEDS):
          speed = np.exp(effects[seed] / 4) if loss != 'ipo' else 1.0
          arm = f'{width} {loss}'
          points += made_points.run(arm, seed, 1.0, speed=speed, config=name)
  return points


def accuracies(study, claim, effects, folder):
  """Accuracies that go along with gold by the effect of the seed."""
  rng, points = np.random.default_rng(0), []
  for width in e11.WIDTHS:
    for loss in e11.LOSSES:
      for name in BETAS.values():
        for seed in range(SEEDS):
          quality, other = rng.normal(size=2)
          arm = f'{width} {loss}'
          run = made_points.run(arm, seed, quality, config=name, noise=0.0)
          for p in run:
            seen = effects[seed] * quality + (not effects[seed]) * other
            points.append({**p, 'implicit_accuracy': seen})
  return points


def reused(study, claim, effects, folder):
  often = e12.reused(min(e12.PASSES))
  arms = {}
  for name in e12.SUPPORT:
    arms |= {f'{name} online': 3 * ALIKE, f'{name} {often}': 3 + effects}
  return runs_of(arms)


MADE = {
  ('E7', 'overoptimisation stays'): falls,
  ('E7', 'the peak stays'): peaks,
  ('E7', 'a higher peak'): heights,
  ('E11', 'a hump'): falls_of_losses,
  ('E11', 'peaks within an epoch'): early,
  ('E11', 'IPO stays nearest'): nearer_ipo,
  ('E11', 'accuracy predicts nothing'): accuracies,
  ('E12', 'samples may be reused'): reused,
}
