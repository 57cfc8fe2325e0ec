"""How does gold reward rise and fall with KL, and what changes with the proxy?

  python -m experiments.suite.e08_overoptimisation --config=configs/toy.py \
    --workdir=runs/e08

Gao et al. 2022 (arXiv 2210.10760) fit one law of the KL to best-of-n and one to
policies. Every proxy of GRID, a variant of the config, judges a pool of the
reference's samples, and RLOO policies without a KL budget, one for each price
of KL. The last point of each is a point of the law: on its way to a KL a policy
has less than one that ends there.
"""

from experiments import derived, laws_page
from experiments.claims import Claim
from experiments.overoptimisation import (
  BEST,
  FEW_PRICES,
  POLICY,
  PRICES,
  RULES,
  WITHIN,
  Differs,
  Fall,
  Gain,
  Predicts,
  Proxy,
  ProxyRise,
  arms_of,
  changes,
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
WEAK, NOISY = Proxy('transformer', SHARES[0]), GRID[-1]
# By claims; texts have time for no more.
NEEDED = FEW, OWN, MANY, WEAK, NOISY

NATS = 2.0  # where the least data are looked at
PAPERS = 1000  # n of best-of-n, at most


def arms(cfg):
  return arms_of(cfg, PRICES if derived.is_whole(cfg) else FEW_PRICES)


def variants(cfg):
  grid = GRID if derived.is_whole(cfg) else NEEDED
  return {proxy.name(cfg): proxy.changes(cfg) for proxy in grid}


def caveat(cfg):
  simple = (
    'Gold is nearly a bag of words, so that a bag of words with enough pairs '
    'is gold but for repeated tokens, and its hump is that of repetition '
    'alone. '
  )
  pool = cfg['arm']['pool']
  few = f' Best-of-n ends at n = {pool}.' if pool < PAPERS else ''
  return (
    f'{simple if derived.is_programmed(cfg) else ""}Completions are short: '
    'large KLs leave the language that the laws were made for, and one price '
    f'of KL or rate of learning is one path.{few}'
  )


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
      'alpha falls with noise',
      'Flipped labels make a proxy of which best-of-n has less.',
      'Coste et al. 2023 (2310.02743), which flip as many',
      f'alpha of best-of-n, without less with {NOISE:.0%} of labels flipped',
      Differs('alpha', BEST, OWN, NOISY),
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
