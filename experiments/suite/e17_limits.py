"""How much reward is there to have at a KL, and who has how much of it?

  python -m experiments.suite.e17_limits --config=configs/toy.py \
    --workdir=runs/e17

No policy has more reward at its KL than ref * exp(r / beta) / Z. The limit of a
reward is that optimum's own reward, by samples of it (align_jax.compare.
tempering); a method's share is its gain over the limit's at the same KL.
"""

import dataclasses
import functools

import numpy as np

from align_jax.compare import figures, tempering
from align_jax.compare.intervals import estimate
from align_jax.compare.lines import lines_of
from align_jax.compare.report import MISSING, show
from experiments import derived, matched, pages
from experiments.claims import Claim, Exact
from experiments.enumerable import Language, best_of_n, kl, optimum
from experiments.study import Study, add_measures, main

LIMIT, GOLD_LIMIT, BEST = 'limit', 'limit of gold', 'best_of_n'
POLICY = 'rloo'
PARTICLES = 64
NATS = 2.0  # where shares are compared
NEAR = 0.9  # a share of the limit that is near it
KLS = 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0


def arms(cfg):
  """The arms of the config, RLOO and best-of-n, and the limits."""
  kept = {k: v for k, v in cfg['arms'].items() if not v.get('reweigh')}
  rloo = derived.arm_of(cfg, POLICY, 'methods')
  tempered = dict(source='reference', reweigh=tempering.TEMPERED)
  tempered['pool'] = PARTICLES
  return {
    **kept,
    POLICY: derived.single(rloo, 1),  # one strength, as other arms have
    BEST: dict(source='reference', reweigh='best_of_n', pool=4096),
    LIMIT: tempered,
    GOLD_LIMIT: {**tempered, 'labels': 'gold'},
  }


def changes(cfg):
  return {'report.budgets': KLS}


# --- On a language that is enumerated -----------------------------------------

WORLDS = 32  # populations of particles
WORLD_PARTICLES = 4096
EXACT = 1e-3  # reward, in deviations of it, and nats
FAR = 6.0  # nats, to which the estimate is asked
MOST_ERROR = 0.02  # the same


@dataclasses.dataclass(frozen=True)
class World:
  """A reference on all completions of a language, and a reward: f64 [N]."""

  language: Language
  law: np.ndarray
  rewards: np.ndarray

  def drawn(self, shape, rng):
    """Indices of completions of the reference."""
    return self.redrawn(np.zeros(shape, int), 0, rng)

  def redrawn(self, index, cut, rng):
    """Others with the same first `cut` tokens, as the reference goes on."""
    prefix = self.language.prefixes[:, cut] if cut else 0 * self.law.astype(int)
    order = np.argsort(prefix, kind='stable')
    upto = np.cumsum(self.law[order])
    first = np.searchsorted(prefix[order], prefix[index], 'left')
    last = np.searchsorted(prefix[order], prefix[index], 'right')
    low = np.where(first > 0, upto[first - 1], 0)
    u = low + rng.random(index.shape) * (upto[last - 1] - low)
    place = np.searchsorted(upto, u, 'right')
    return order[np.clip(place, first, last - 1)]

  def optimum(self, tilt):
    """Its KL, nats, and its reward."""
    p = optimum(self.law, tilt * self.rewards)
    return kl(p, self.law), float(p @ self.rewards)


@functools.cache
def world():
  language = Language(4, 4)
  law = language.probs(language.tables(0))
  rewards = np.random.default_rng(1).normal(size=language.size)
  law = law / law.sum()
  rewards = rewards - law @ rewards
  return World(language, law, rewards / (law @ rewards**2) ** 0.5)


def estimates(shape, rng, moved=True):
  """Yields 1 / beta, KLs [W] and rewards [W] of W populations of particles.

  Args:
    shape: W, and particles of each.
    moved: Without moves all particles are samples of the reference, and only
      the last of the betas is told.
  """
  of = world()
  of_index = lambda i: {'index': i, 'rewards': of.rewards[i]}
  move = lambda cut, old: of_index(of.redrawn(old['index'], cut, rng))
  cuts = range(of.language.length if moved else 0)
  moves = [functools.partial(move, cut) for cut in cuts]
  start = of_index(of.drawn(shape, rng))
  tilts = [t for t in tempering.TILTS if of.optimum(t)[0] < FAR]
  tilts = tilts if moved else tilts[-1:]
  for tilt, particles, log_z in tempering.temper(start, moves, tilts, rng):
    sampled = tempering.kl_of(tilt, particles, log_z)
    yield tilt, sampled, particles['rewards'].mean(1)


@dataclasses.dataclass(frozen=True)
class Sampled:
  """{case: distance of the sampled limit from the enumerated one, over EXACT}.

  Three standard errors are allowed beside, and these have to be small as well.
  `experiments.limit_proof` draws so many that they are next to nothing.
  """

  moved: bool = True

  def __call__(self, evidence):
    found, rng = {}, np.random.default_rng(0)
    shape = WORLDS, WORLD_PARTICLES
    for tilt, *sampled in estimates(shape, rng, self.moved):
      wanted = world().optimum(tilt)
      for name, x, want in zip(('KL', 'reward'), sampled, wanted):
        error = x.std(ddof=1) / WORLDS**0.5
        case = f'{name}, 1 / beta = {tilt:g}'
        found[case] = abs(x.mean() - want) - EXACT - 3 * error
        found[f'standard error of {case}'] = error - MOST_ERROR
    return found


@dataclasses.dataclass(frozen=True)
class Above:
  """{policy: reward above the limit at its KL}.

  Attributes:
    share: of the limit, 1 for the limit itself.
  """

  share: float = 1.0

  def __call__(self, evidence):
    of, rng = world(), np.random.default_rng(2)
    policies = {
      f'best of {n}': best_of_n(of.law, of.rewards, n) for n in (2, 4, 16, 64)
    }
    for number in range(20):
      p = of.law * np.exp(rng.normal(size=len(of.law)) * rng.uniform(0, 2))
      p = p * np.exp(rng.uniform(0, 2) * of.rewards)
      policies[f'random policy {number}'] = p / p.sum()
    tilts = np.linspace(1e-3, 12, 2000)
    kls, rewards = np.array([of.optimum(tilt) for tilt in tilts]).T
    limit = lambda p: self.share * np.interp(kl(p, of.law), kls, rewards)
    return {name: p @ of.rewards - limit(p) for name, p in policies.items()}


# --- Shares of the limit ------------------------------------------------------


def proxy_gain(evidence):
  """point -> proxy reward per prompt above the reference's."""
  return pages.gain(
    [{**p, 'gold_by_prompt': p['proxy_by_prompt']} for p in evidence.points]
  )


@functools.lru_cache(maxsize=2)
def compared(evidence, proxy):
  """Arms on the gain in proxy, or in gold: a Comparison."""
  if not proxy:
    return evidence.gains
  gain = proxy_gain(evidence)
  return evidence.compare(
    lambda p: gain({**p, 'gold_by_prompt': p['proxy_by_prompt']})
  )


def shares(evidence, arm, nats, proxy=True):
  """Gain of an arm over that of the limit at a KL: [S].

  Raises:
    ValueError: one of them was not there with every seed.
  """
  limit = LIMIT if proxy else GOLD_LIMIT
  evidence.require(arm, limit)
  comparison = compared(evidence, proxy)
  gained, most = (
    comparison.arms[name].at([nats]).values[:, :, 0].mean(1)
    for name in (arm, limit)
  )
  if not np.isfinite(gained + most).all():
    raise ValueError(f'{arm!r} or {limit!r} was not at {nats:g} nats')
  return gained / most


@dataclasses.dataclass(frozen=True)
class Share:
  """What an arm's share of the proxy's limit is over NEAR, or under: [S]."""

  arm: str
  sign: int = 1

  def __call__(self, evidence):
    return self.sign * (shares(evidence, self.arm, NATS) - NEAR)


def add_shares(page, evidence, folder):
  """Adds the limit under the proxy and under gold, and everybody's share."""
  for proxy, limit in ((True, LIMIT), (False, GOLD_LIMIT)):
    comparison = compared(evidence, proxy)
    if limit not in comparison.arms:
      continue
    of = 'the proxy' if proxy else 'gold'
    page.heading(f'What there is to have of {of}')
    names = [n for n in comparison.arms if n not in (LIMIT, GOLD_LIMIT)]
    lines = [
      line
      for line in lines_of(comparison, dashed=(limit,))
      if line.name in (limit, *names)
    ]
    page.figure(
      lambda width, lines=lines, of=of: figures.frontier_figure(
        width, lines, pages.KL_AXIS, f'gain in {of}'
      ),
      folder / f'limit_{"proxy" if proxy else "gold"}.png',
      f'gain in {of} against KL, beside the most that there is',
      f'Dashed: the most that any policy has. {pages.SCALE}',
    )
    page.table(*share_table(evidence, names, limit, proxy))
  page.note(
    'A share is the gain over that of the limit at the same KL, by seed, with '
    f'95% intervals over seeds. {MISSING} not every seed was there. Policies '
    'learn from other prompts than these, and the limit is that of these.'
  )


def share_table(evidence, names, limit, proxy):
  """A row per KL: the limit, and each arm's share of it."""
  comparison, rows = compared(evidence, proxy), []
  digits = matched.decimals_of(comparison)
  for k, nats in enumerate(comparison.budgets):
    row = [f'{nats:g}', show(comparison.table[limit][k], digits=digits)]
    for name in names:
      try:
        found = estimate(shares(evidence, name, nats, proxy)[:, None], False)
      except ValueError:
        row.append(MISSING)
        continue
      row.append(show(found))
    rows.append(row)
  return ['KL (nats)', limit, *names], rows


SOURCE = 'Theoretical limits of LM alignment (2605.07105)'
TITLE = 'Share of the attainable proxy reward at 2 nats'

STUDY = Study(
  __file__,
  'E17',
  'How much reward is there to have at a KL, and who has how much of it?',
  (
    Exact(
      'limit',
      'No policy has more reward at its KL than ref exp(r / beta) / Z.',
      SOURCE,
      'Reward above it, on a language that is enumerated',
      Above(),
    ),
    Exact(
      'estimate',
      'Reward and KL of that optimum are known from samples alone.',
      f'{SOURCE} estimate it from samples of the base model; here they are '
      'tempered',
      f'Distance of {WORLDS} times {WORLD_PARTICLES} particles from '
      f'enumeration, over {EXACT:g} and 3 standard errors of at most '
      f'{MOST_ERROR:g}',
      Sampled(),
    ),
    Claim(
      'best-of-n',
      'Best-of-n is near the limit.',
      SOURCE,
      f'{TITLE}, above {NEAR:g}',
      Share(BEST),
      margin=0.02,
    ),
    Claim(
      'policy gradient',
      'Policy gradients are far from it.',
      SOURCE,
      f'{TITLE} that RLOO has, below {NEAR:g}',
      Share(POLICY, -1),
      margin=0.02,
    ),
  ),
  'Policies learn from other prompts than they are measured on, so that their '
  'share lacks what does not generalise beside what optimisation leaves, and '
  'the toy has a few hundred prompts. Best-of-n and the limit ask the proxy on '
  'the very prompts that are measured.',
  arms=arms,
  changes=changes,
  figure='limit_gold.png',
  frontier=False,
  decides=('align_jax/compare/tempering.py',),
  sections=(add_shares, add_measures),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
