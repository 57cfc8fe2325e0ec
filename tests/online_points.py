"""Points for the claims on online and offline arms that are no Gaps."""

import numpy as np

from experiments.suite import (
  e01_online_offline,
  e01_verifiers,
  e02_order,
  e05_classification,
  e10_early_stopping,
)
from tests.suite_points import SEEDS, runs_of

FREE = e01_online_offline.FREE
PAIR = e01_online_offline.PAIR
ALIKE = np.ones(SEEDS)


def ends(points):
  """{(arm, seed): its points}."""
  runs = {}
  for p in points:
    runs.setdefault((p['arm'], p['seed']), []).append(p)
  return runs


def falls(name):
  def make(study, claim, effects, folder):
    """Runs whose last checkpoint is below the one before by the effect."""
    points = runs_of({FREE[name]: ALIKE}, held=0.0)
    for (_, seed), run in ends(points).items():
      before = np.array(run[-2]['gold_by_prompt'])
      run[-1]['gold_by_prompt'] = (before - effects[seed]).tolist()
    return points

  return make


def peaks(study, claim, effects, folder):
  better = {'online': 1 + effects, 'offline': ALIKE}
  free = {FREE[name]: quality for name, quality in better.items()}
  apart = runs_of(free, held=0.0, config='free')
  return runs_of(better) + apart


def settings(study, claim, effects, folder):
  """Gaps that grow with the proxy's accuracy, by the effect of the seed.

  Without an effect they are largest at both ends.
  """
  points, rng = [], np.random.default_rng(0)
  for number, name in enumerate(e01_verifiers.SETTINGS):
    noise = rng.normal(size=SEEDS) if effects.any() else (number - 2.5) ** 2
    arms = {
      f'{name} online': 1 + number * effects + noise,
      f'{name} offline': ALIKE,
    }
    for p in runs_of(arms):
      points.append({**p, 'proxy_accuracy': 0.5 + 0.05 * number})
  return points


def replays(study, claim, effects, folder):
  """A replay that is the same, or lacks the last bit of one number."""
  points = runs_of({'online': ALIKE})
  replay = runs_of({'online': ALIKE})
  for p in replay:
    p['arm'] = e02_order.IN_ORDER
  if effects[0] < 0:
    replay[-1]['gold'] = float(np.nextafter(replay[-1]['gold'], 9.0))
  return points + replay


def with_field(field, arm, change):
  def make(study, claim, effects, folder):
    """Runs of both arms; a number of one arm's last points has an effect."""
    points = runs_of({name: ALIKE for name in (*PAIR, FREE['online'])})
    for (name, seed), run in ends(points).items():
      if name == arm:
        run[-1][field] = change(run[-1][field], effects[seed])
    return points

  return make


def both_fall(study, claim, effects, folder):
  points = runs_of({name: ALIKE for name in PAIR})
  for (_, seed), run in ends(points).items():
    run[-1]['chosen_log_ratio'] = -effects[seed]
  return points


def ranked(study, claim, effects, folder):
  """Arms whose accuracy goes along with gold, see `related`."""
  qualities = {name: ALIKE * i for i, name in enumerate(('a', 'b', 'c'))}
  points = runs_of(qualities)
  for p in points:
    of = related(np.arange(3.0), effects[p['seed']])
    p['implicit_accuracy'] = 0.5 + 0.1 * of[int(qualities[p['arm']][0])]
    p['gold'] = qualities[p['arm']][0]
  return points


def related(x, effect):
  """Numbers whose correlation with x is -1, 1, or that which is still useful.

  The first for an effect above 0, the second for one below.
  """
  if effect:
    return -np.sign(effect) * x
  z = (x - x.mean()) / x.std()
  rest = z**2 - 1 - (z**3).mean() * z
  share = e05_classification.USEFUL
  return share * z + np.sqrt(1 - share**2) * rest / rest.std()


def promised(study, claim, effects, folder):
  """Proxy rewards that go along with gold, see `related`."""
  points = runs_of({'a': ALIKE, 'b': 2 * ALIKE})
  for run in ends(points).values():
    moved = run[1:]
    gold = np.array([p['kl_seq_nats'] for p in moved])
    for p, x, y in zip(moved, gold, related(gold, effects[run[0]['seed']])):
      p['gold'], p['proxy'] = float(x), float(y)
    run[0]['gold'] = run[0]['proxy'] = 0.0
  return points


def penalised(name):
  def make(study, claim, effects, folder):
    arms = {e10_early_stopping.NONE: ALIKE, name: 1 + effects}
    return runs_of(arms, held=0.0)

  return make


def proxies(study, claim, effects, folder):
  """Penalised arms with more proxy reward, or less."""
  names = e10_early_stopping.NONE, *e10_early_stopping.PENALISED
  points = runs_of(dict.fromkeys(names, ALIKE), held=0.0)
  for p in points:
    if p['arm'] in e10_early_stopping.PENALISED:
      more = effects[p['seed']] * p['kl_seq_nats']
      p['proxy_by_prompt'] = (np.array(p['proxy_by_prompt']) + more).tolist()
  return points


add = lambda x, effect: x + 0.1 * effect

MADE = {
  ('E1', 'online over-optimises'): falls('online'),
  ('E1', 'offline over-optimises'): falls('offline'),
  ('E1', 'higher peak'): peaks,
  ('E1-', 'accuracy decides'): settings,
  ('E1-', 'their ranks agree'): settings,
  ('E2', 'the same in order'): replays,
  ('E5', 'the proxy decays'): with_field(
    'proxy_accuracy', FREE['online'], lambda x, effect: x - 0.1 * effect
  ),
  ('E5', 'offline ranks better'): with_field(
    'implicit_accuracy', 'offline', add
  ),
  ('E5', 'chosen falls'): both_fall,
  ('E5', 'chosen falls most offline'): with_field(
    'chosen_log_ratio', 'online', add
  ),
  ('E5', 'ranking does not predict gold'): ranked,
  ('E5', 'reward does not predict gold'): promised,
  **{
    ('E10', f'gold at {name}'): penalised(name)
    for name in e10_early_stopping.PENALISED
  },
  ('E10', 'proxy'): proxies,
}
