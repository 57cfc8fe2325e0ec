"""Points for the studies of limits and laws, see `suite_points`.

Claims of exact numbers have no points: OTHERWISE is what they would measure if
the world were otherwise.
"""

import numpy as np

from align_jax.compare import laws, readings, reweigh
from align_jax.files import write_record
from configs import toy_learned_gold
from experiments import overoptimisation as over
from experiments.suite import e09_best_of_n_kl as e09
from experiments.suite import e13_coverage as e13
from experiments.suite import e15_kl_estimators as e15
from experiments.suite import e17_limits as e17
from tests import made_points

CFG = toy_learned_gold.get_config().to_dict()
LAW_KLS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0)
ALPHA, BETA = 0.8, 0.2
# Between prompts, so that a gain has a standard error.
SPREAD = 0.05 * np.tile([1.0, -1.0], made_points.PROMPTS // 2)
SPREAD = np.sqrt(LAW_KLS)[:, None] * SPREAD

# {(key of a study, name of a claim): measure}.
OTHERWISE = {
  ('E9', 'bound'): e09.bounded(e09.over, lambda n: 0.9 * np.log(n) - 1),
  ('E9', 'tight'): e09.Tight('two arms'),
  ('E9', 'saturation'): e09.Saturates((e09.MANY,)),
  ('E9', 'win rate'): e09.bounded(e09.above_win_rate, lambda n: n / (n + 2)),
  ('E9', 'estimate'): e09.bounded(
    e09.misses, lambda world, n: (reweigh.best_of_n_bound(n), 0)
  ),
  ('E17', 'limit'): e17.Above(share=0.5),
  ('E17', 'estimate'): e17.Sampled(moved=False),
  ('E15', 'values'): e15.Means(('k2',)),
  ('E15', 'samples'): e15.Sampled(('k2',)),
  ('E15', 'losses'): e15.Losses({'k1': 'reverse'}),
  ('E15', 'penalties'): e15.Terms(()),
  ('E15', 'variance'): e15.Variances(with_counterexample=False),
  ('E15', 'small KL'): e15.Ratios(100.0),
}


def of_arm(proxy, arm, seed, gains, proxies=None):
  """Points of a seed of an arm under a proxy, at LAW_KLS.

  Args:
    gains: [C] or [C, E], gold above the reference's.
  """
  gains = np.reshape(gains, (len(LAW_KLS), -1)) + SPREAD
  name = f'{proxy.name(CFG)} {arm}'
  for number, (kl, gold) in enumerate(zip(LAW_KLS, gains)):
    if arm == over.POLICY and not number:
      continue  # each price has a reference of its own
    point = made_points.point
    one = name, 'default' if arm == over.BEST else f'price {number}', seed, 0.0
    p = point(*one, number, kl, gold)
    if proxies is not None:
      p['proxy'] = float(proxies[number])
    if arm == over.BEST:
      del p['gold_samples']
    else:
      yield point(*one, 0, 0.0, 0 * gold)
    yield p


def each(effects, f):
  return [p for seed, x in enumerate(effects) for p in f(seed, x)]


def of_falls(study, claim, effects, folder):
  """A peak on all prompts, or none that another half of them confirms."""
  measure = claim.measure
  first, _ = readings.halves_of(made_points.PROMPTS)

  def run(seed, x):
    gains = np.zeros((len(LAW_KLS), made_points.PROMPTS))
    gains[3] = gains[5] = x if x > 0 else -x
    if x < 0:
      gains[3, first] = gains[5] = x
      gains[5, first] = -x
    return of_arm(measure.proxy, measure.arm, seed, gains)

  return each(effects, run)


def of_proxies(study, claim, effects, folder):
  """Gold peaks in the middle; the proxy goes on from there by an effect."""
  peak = -np.square(np.arange(len(LAW_KLS)) - 5.0)
  after = np.maximum(np.arange(len(LAW_KLS)) - 5, 0) / 5

  def run(seed, x):
    return of_arm(claim.measure.proxy, claim.measure.arm, seed, peak, x * after)

  return each(effects, run)


def lawful(arm, alpha=ALPHA, beta=BETA):
  """Gains at LAW_KLS by the arm's law."""
  law = laws.Law(over.KINDS[arm], alpha, beta)
  return np.r_[0.0, law(np.array(LAW_KLS[1:]))]


def of_predictions(study, claim, effects, folder):
  """Points that follow the law, but for the largest KLs."""
  arm = claim.measure.arm

  def run(seed, x):
    gains = lawful(arm)
    gains[-2:] += over.WITHIN * (1 - x / 2) * gains[:-2].max()
    return of_arm(claim.measure.proxy, arm, seed, gains)

  return each(effects, run)


def of_coefficients(study, claim, effects, folder):
  """Laws whose coefficients differ by an effect."""
  measure = claim.measure
  own = {'alpha': ALPHA, 'beta': BETA}[measure.coefficient]

  def run(seed, x):
    for proxy, more in ((measure.first, x), (measure.second, 0 * x)):
      gains = lawful(measure.arm, **{measure.coefficient: own + more})
      yield from of_arm(proxy, measure.arm, seed, gains)

  return each(effects, run)


def of_gains(study, claim, effects, folder):
  """Best-of-n that gains an effect per sqrt(nat), or more than another one."""
  measure = claim.measure

  def run(seed, x):
    for proxy, quality in ((measure.proxy, 1 + x), (measure.less, 1.0)):
      if proxy:
        own = quality if measure.less else x
        name = f'{proxy.name(CFG)} {over.BEST}'
        yield from made_points.reweighed(name, seed, own)

  return each(effects, run)


def of_shares(study, claim, effects, folder):
  """An arm that has more or less than its share of the proxy's limit."""
  measure = claim.measure

  def run(seed, x):
    share = e17.NEAR + measure.sign * x / 20
    for arm, quality in ((e17.LIMIT, 1.0), (measure.arm, share)):
      for p in made_points.reweighed(arm, seed, quality):
        if arm == e17.POLICY:
          p['gold_samples'] = []
        yield {**p, 'proxy_by_prompt': p['gold_by_prompt']}

  return each(effects, run)


def of_masses(study, claim, effects, folder):
  """Uncovered mass on one side of its bound, in tables and on the task."""
  measure = claim.measure
  ratios = measure.bound + measure.sign * effects / 4
  if measure.tables:
    kept = dict.fromkeys(measure.methods, ratios.tolist())
    write_record(folder / e13.TABLES, kept)
    return []

  def run(seed, ratio):
    for arm in measure.methods:
      points = list(made_points.run(arm, seed, 1.0))
      for number, p in enumerate(points):
        share = number / (len(points) - 1)
        yield {**p, 'uncovered': 0.4 * (1 + share * (ratio - 1))}

  return each(ratios, run)


MADE = {
  ('E13', 'leak in tables'): of_masses,
  ('E13', 'hold in tables'): of_masses,
  ('E13', 'leak'): of_masses,
  ('E13', 'hold'): of_masses,
  ('E17', 'best-of-n'): of_shares,
  ('E17', 'policy gradient'): of_shares,
  ('E8', 'hump'): of_falls,
  ('E8', 'proxy'): of_proxies,
  ('E8', 'law of best-of-n'): of_predictions,
  ('E8', 'law of policies'): of_predictions,
  ('E8', 'beta falls with data'): of_coefficients,
  ('E8', 'alpha rises with data'): of_coefficients,
  ('E8', 'alpha falls with noise'): of_coefficients,
  ('E8', 'threshold'): of_gains,
  ('E8+', 'larger is better'): of_gains,
  ('E8+', 'more data is better'): of_gains,
  ('E8+', 'size needs data'): of_gains,
  ('E8+', 'alpha rises with size'): of_coefficients,
  ('E8+', 'beta falls with size'): of_coefficients,
  ('E8', 'more samples hurt'): of_falls,
}
