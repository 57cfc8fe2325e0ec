"""How does gold reward rise and fall with KL, and what changes with the proxy?

  python -m experiments.suite.e08_overoptimisation --config=configs/toy.py \
    --workdir=runs/e08

Gao et al. 2022 (arXiv 2210.10760) fit one law of the KL to best-of-n and one to
policies. Every proxy of GRID, a variant of the config, judges a pool of the
reference's samples, and RLOO policies without a KL budget, one for each price
of KL. The last point of each is a point of the law: on its way to a KL a policy
has less than one that ends there.
"""

import numpy as np

from align_jax.compare.lines import (
  SOFT,
  WIDE,
  Line,
  colours_of,
  draw,
  kl_axis,
  margin_for,
  name_ends,
  new_figure,
)
from align_jax.compare.report import show, show_number
from experiments import derived, pages
from experiments.claims import Claim
from experiments.overoptimisation import (
  BEST,
  KINDS,
  POLICY,
  WITHIN,
  Differs,
  Fall,
  Gain,
  Predicts,
  Proxy,
  ProxyRise,
  Seen,
)
from experiments.study import Study, main

SHARES = 0.25, 1.0, 4.0
NOISE = 0.25
GRID = (
  *(Proxy(share=share) for share in SHARES),
  *(Proxy('transformer', share) for share in SHARES),
  Proxy(noise=NOISE),
)
FEW, OWN, MANY = GRID[:3]
WEAK = Proxy('transformer', SHARES[0])
NEEDED = FEW, OWN, MANY, WEAK  # by claims; texts have time for no more

PRICES = 0.5, 0.3, 0.2, 0.13, 0.08  # of a nat, in deviations of the reward
POOLS = 4  # pools of the config in one of best-of-n
NATS = 2.0  # where the least data are looked at


def arms(cfg):
  """Best-of-n, and the config's RLOO at several prices of KL."""
  rloo = {**derived.arm_of(cfg, POLICY, 'methods'), 'kl_budget': 0.0}
  first = rloo.pop('sweep', ({},))[0]
  rest = first.get('loss_kwargs', {})
  fixed = {k: v for k, v in first.items() if k != 'loss_kwargs'}
  rloo['loss_kwargs'] = {**rloo.get('loss_kwargs', {}), **rest}
  prices = PRICES if derived.is_quick(cfg) else PRICES[::2]
  prices = [{'loss_kwargs': {**rloo['loss_kwargs'], 'beta': b}} for b in prices]
  pool = dict(reweigh='best_of_n', pool=POOLS * cfg['arm']['pool'])
  return {
    BEST: dict(source='reference', **pool),
    POLICY: {**rloo, **fixed, 'sweep': tuple(prices)},
  }


def variants(cfg):
  grid = GRID if derived.is_quick(cfg) else NEEDED
  return {proxy.name(cfg): proxy.changes(cfg) for proxy in grid}


def changes(cfg):
  kls = 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0
  return {'report.budgets': kls}


def seen_of(evidence, arm):
  """{Proxy: Seen} of an arm, of those proxies that have a law."""
  found = {}
  for proxy in GRID:
    try:
      seen = Seen(evidence, proxy, arm)
      seen.law()
    except ValueError:
      continue
    found[proxy] = seen
  return found


def add_laws(page, evidence, folder):
  """Adds what was seen under each proxy, and the law of it."""
  every = {arm: seen_of(evidence, arm) for arm in KINDS}
  proxies = [proxy for proxy in GRID if all(proxy in x for x in every.values())]
  if not proxies:
    return
  page.heading('Gold reward under each proxy, and its law')
  page.figure(
    lambda width: laws_figure(width, every, proxies, evidence.cfg),
    folder / 'laws.png',
    'gold reward against KL under each proxy, with the fitted law',
    'Gold reward above the reference, by the golden pairs of the proxy. Lines: '
    'seeds together, by checkpoint or n; dashed: the law of the same colour.',
  )
  page.table(*table_of(every, proxies, evidence.cfg))
  page.note(
    "Accuracy: share of pairs of the reference's samples that the proxy ranks "
    'as gold does. Off: the distance of the law of the smaller KLs from the '
    'points of the largest, in units of the largest gain. Coefficients are of '
    'one fit to all seeds, with intervals by the jackknife over seeds.'
  )


def laws_figure(width, every, proxies, cfg):
  """A panel per kind of proxy and arm; a colour for each number of pairs."""
  kinds = list(dict.fromkeys((x.verifier, x.noise) for x in proxies))
  columns = 2 if width == WIDE else 1
  names = [str(x.pairs(cfg)) for x in proxies]
  colours = colours_of(list(dict.fromkeys(names)))
  panels = [(kind, arm) for kind in kinds for arm in every]
  rows = -(-len(panels) // columns)
  right = margin_for(names)
  figure, grid = new_figure(width, 2.9, rows, columns, right)
  for axes, ((verifier, noise), arm) in zip(grid.flat, panels):
    lines = []
    for proxy in proxies:
      if (proxy.verifier, proxy.noise) == (verifier, noise):
        name = str(proxy.pairs(cfg))
        lines += lines_of(every[arm][proxy], name, colours[name])
    draw(axes, lines)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    top = max(line.x.max() for line in lines)
    ticks = [0.25, 1, 2, 4, 8, 16, 32, 64]
    kl_axis(axes, [x for x in ticks if x <= top], width / columns - right - 0.7)
    axes.set_xlim(0, 1.03 * top)
    flipped = f', {noise:.0%} flipped' if noise else ''
    axes.set_title(f'{arm}, {verifier}{flipped}', loc='left')
    axes.set_xlabel(pages.KL_AXIS)
    name_ends(axes, [line for line in lines if not line.dashed])
  return figure


def lines_of(seen, name, colour):
  """The mean points of an arm over seeds, and their law."""
  kls, gains = seen.means
  law = seen.law()
  x = np.linspace(min(kls), max(kls), 60)
  return [
    Line(name, np.r_[0.0, kls], np.r_[0.0, gains], colour),
    Line('', x, law(x), colour, dashed=True),
  ]


def table_of(every, proxies, cfg):
  """A row per proxy: accuracy, coefficients, peaks and errors."""
  header = ['proxy', 'accuracy']
  for arm in every:
    header += [f'{arm}: {x}' for x in ('alpha', 'beta', 'peak (nats)', 'off')]
  rows = []
  for proxy in proxies:
    row = [proxy.name(cfg), show_number(every[POLICY][proxy].accuracy)]
    for arm in every:
      seen = every[arm][proxy]
      row += [show(seen.estimate(x)) for x in ('alpha', 'beta')]
      row += [f'{seen.law().peak:.1f}', f'{seen.error:.0%}']
    rows.append(row)
  return header, rows


SOURCE = 'Gao et al. 2022 (2210.10760)'
FALLS_OFF = 'Gold reward lost between the best point and the last'
FOLLOWS = (
  'Gold follows d (alpha - beta {}), d the square root of the KL: fitted'
)

STUDY = Study(
  __file__,
  'E8',
  'How does gold reward rise and fall with KL, and what do proxies change?',
  (
    Claim(
      'hump',
      'Gold falls after its peak where a policy goes on to optimise a proxy.',
      f'{SOURCE}, fig. 1',
      FALLS_OFF,
      Fall(OWN, POLICY),
    ),
    Claim(
      'proxy',
      'The proxy itself goes on to rise.',
      f'{SOURCE}, fig. 1',
      'Proxy reward won between the point of best gold and the last',
      ProxyRise(OWN, POLICY),
    ),
    Claim(
      'law of best-of-n',
      f'{FOLLOWS.format("d")} to smaller KLs, it tells the largest.',
      f'{SOURCE}, sec. 3.1',
      f'Share of the largest gain that it is off, below {WITHIN:g}',
      Predicts(OWN, BEST),
      margin=0.02,
    ),
    Claim(
      'law of policies',
      f'{FOLLOWS.format("log d")} to smaller KLs, it tells the largest.',
      f'{SOURCE}, sec. 3.1',
      f'Share of the largest gain that it is off, below {WITHIN:g}',
      Predicts(OWN, POLICY),
      margin=0.02,
    ),
    Claim(
      'beta falls with data',
      'More comparisons make a proxy that is over-optimised more slowly.',
      f'{SOURCE}, sec. 3.3',
      f'beta of policies, {FEW.share:g} less {MANY.share:g} times the pairs',
      Differs('beta', POLICY, FEW, MANY),
      margin=0.02,
    ),
    Claim(
      'alpha rises with data',
      'More comparisons make a proxy of which best-of-n has more.',
      f'{SOURCE}, sec. 3.3',
      f'alpha of best-of-n, {MANY.share:g} less {FEW.share:g} times the pairs',
      Differs('alpha', BEST, MANY, FEW),
      margin=0.02,
    ),
    Claim(
      'threshold',
      'Below some number of comparisons a proxy is worth nothing.',
      f'{SOURCE}, fig. 4',
      f'Gold reward of best-of-n at {NATS:g} nats, by the weakest proxy',
      Gain(WEAK, NATS),
      equal=True,
    ),
    Claim(
      'more samples hurt',
      'Under a weak verifier the best of n rises with n, then falls.',
      'Cobbe et al. 2021 (2110.14168), sec. 4.3',
      'The smaller of the gold reward won up to the best n and lost after it',
      Fall(WEAK, BEST, rise=True),
    ),
  ),
  'Gold is nearly a bag of words, so that a bag of words with enough pairs is '
  'gold but for repeated tokens, and its hump is that of repetition alone. A '
  'completion has eight tokens: KLs above 10 nats leave the language that the '
  'laws were made for, and one price of KL or rate of learning is one path.',
  arms=arms,
  variants=variants,
  changes=changes,
  figure='laws.png',
  frontier=False,
  decides=('align_jax/compare/laws.py', 'experiments/overoptimisation.py'),
  sections=(add_laws,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
