"""What do the size of a proxy and its data change, under a larger gold judge?

  python -m experiments.suite.e08_proxy_sizes \
    --config=configs/toy_learned_gold.py --workdir=runs/e08s

Gao et al. 2022 (arXiv 2210.10760), sec. 3.2 and 3.3: gold is a large reward
model, and proxies are smaller ones that learn from its labels. Here proxies of
three widths learn from three numbers of golden pairs. Each judges best-of-n and
RLOO policies, as in `e08_overoptimisation`.
"""

from experiments import derived, laws_page
from experiments.claims import Claim
from experiments.overoptimisation import (
  BEST,
  FEW_PRICES,
  POLICY,
  RULES,
  Differs,
  Gain,
  Proxy,
  arms_of,
  changes,
)
from experiments.study import Study, main

PARTS = 16, 4, 1  # the gold judge is so many times as wide, and has more layers
SHARES = 1.0, 4.0, 16.0
GRID = tuple(
  Proxy('sized', share, part=part) for part in PARTS for share in SHARES
)
SMALL, LARGE = GRID[2], GRID[-1]  # with the most data
POOR_SMALL, POOR_LARGE = GRID[0], GRID[-3]  # with the least
CORNERS = POOR_SMALL, SMALL, POOR_LARGE, LARGE  # texts have time for no more
NATS = 2.0  # where best-of-n is compared


def arms(cfg):
  return arms_of(cfg, FEW_PRICES)


def variants(cfg):
  grid = GRID if derived.is_whole(cfg) else CORNERS
  return {proxy.name(cfg): proxy.changes(cfg) for proxy in grid}


def caveat(cfg):
  generated = (
    ' All proxies have one layer, a completion has eight tokens, and the '
    'widest proxy is as wide as the gold judge, though not as deep.'
  )
  return (
    'All proxies have the same number of updates and one rate of learning, '
    'which was chosen where data are many: with few they may learn the pairs '
    'by heart.'
    f'{generated if cfg["task"]["name"] == "toy" else ""}'
  )


SOURCE = 'Gao et al. 2022 (2210.10760)'
SIZES = f'{PARTS[0]} times the width'

STUDY = Study(
  __file__,
  'E8+',
  'What do the size of a proxy and its data change?',
  (
    Claim(
      'larger is better',
      'A larger proxy makes better policies at equal KL.',
      f'{SOURCE}, sec. 3.2',
      f'Gold reward of best-of-n at {NATS:g} nats, with {SIZES} less without',
      Gain(LARGE, NATS, SMALL),
    ),
    Claim(
      'more data is better',
      'More comparisons make better policies at equal KL.',
      f'{SOURCE}, sec. 3.3',
      f'Gold reward of best-of-n at {NATS:g} nats, by the largest proxy: with '
      f'{SHARES[-1]:g} times the pairs less without',
      Gain(LARGE, NATS, POOR_LARGE),
    ),
    Claim(
      'size needs data',
      'With few comparisons proxies of all sizes are equally weak.',
      f'{SOURCE}, sec. 3.3',
      f'Gold reward of best-of-n at {NATS:g} nats from the fewest pairs, with '
      f'{SIZES} less without',
      Gain(POOR_LARGE, NATS, POOR_SMALL),
      equal=True,
    ),
    Claim(
      'alpha rises with size',
      'Best-of-n has more of a larger proxy.',
      f'{SOURCE}, fig. 3',
      f'alpha of best-of-n, with {SIZES} less without',
      Differs('alpha', BEST, LARGE, SMALL),
      margin=0.02,
    ),
    Claim(
      'beta falls with size',
      'A larger proxy is over-optimised more slowly.',
      f'{SOURCE}, fig. 3',
      f'beta of policies, without less with {SIZES}',
      Differs('beta', POLICY, SMALL, LARGE),
      margin=0.02,
    ),
  ),
  caveat,
  arms=arms,
  variants=variants,
  changes=changes,
  figure='laws.png',
  frontier=False,
  decides=RULES,
  sections=(laws_page.section(GRID),),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
