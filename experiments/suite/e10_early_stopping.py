"""Is a KL penalty more than stopping early?

  python -m experiments.suite.e10_early_stopping --config=configs/toy.py \
    --workdir=runs/e10

Gao et al. 2022 (arXiv 2210.10760), 3.6: PPO with a KL penalty has the same gold
reward at a KL as without one, and a higher proxy reward. Here RLOO, at one
learning rate, without a budget, and with prices of a nat from 0 up.
"""

from experiments import claims, derived, pages
from experiments.claims import Claim
from experiments.study import Study, main

NONE = 'no penalty'
# The price of a nat, in deviations of the proxy over the reference's samples.
PRICES = 0.1, 0.2, 0.4
PENALISED = {f'penalty {price:g}': price for price in PRICES}
GROUP = 4
SOURCE = 'Gao et al. 2022 (2210.10760), 3.6'


def arms(cfg):
  """RLOO at each price, from the arm `online`."""
  online = derived.arm_of(cfg, 'online')
  pairs = online.get('batch_size', cfg['arm']['batch_size'])
  group = dict(
    loss='rloo',
    group_size=GROUP,
    batch_size=max(1, 2 * pairs // GROUP),  # as many completions
    reward_scale='reference',
    kl_budget=0.0,
  )
  rate = derived.rate_of(cfg, online) / 2
  made = {
    name: {**online, **group, 'sweep': derived.at(rate, beta=price)}
    for name, price in PENALISED.items()
  }
  free = derived.at(rate, beta=0.0)
  return {NONE: {**online, **group, 'sweep': free}, **made}


def gold(name):
  """Measures a penalised arm less the free one, in shares of the best gain.

  Over all KLs that every run of both passed.
  """

  def measure(evidence):
    window = claims.overlap(evidence, name, NONE)
    best = max(peak.value for peak, *_ in evidence.gains.peaks().values())
    return evidence.gaps([(name, NONE)], window).of(lambda x: x[0] / best)

  return measure


def proxy(evidence):
  """Proxy reward at equal KL, the mean of penalised arms less the free one."""
  evidence.require(NONE, *PENALISED)
  rewards = evidence.compare(pages.proxy_by_prompt)
  differences = [
    rewards.gap(name, NONE, claims.overlap(evidence, name, NONE)).matrix
    for name in PENALISED
  ]
  return sum(differences) / len(differences)


STUDY = Study(
  __file__,
  'E10',
  'Is a KL penalty more than stopping early?',
  (
    *(
      Claim(
        f'gold at {name}',
        'A KL penalty does not change how much gold a KL buys.',
        SOURCE,
        f'Difference in gold reward at equal KL, {name} - {NONE}, in shares of '
        'the largest gain of any arm',
        gold(name),
        equal=True,
        margin=0.05,
      )
      for name in PENALISED
    ),
    Claim(
      'proxy',
      'With a KL penalty the proxy reward is higher at equal KL.',
      SOURCE,
      f'Difference in proxy reward at equal KL, penalties - {NONE}',
      proxy,
    ),
  ),
  'A run without a penalty only passes these KLs in few updates, and one with '
  'a large penalty stays at its own, where a small policy may still improve '
  'after its KL has settled. The window ends where the more penalised run '
  'does, so that the largest price is compared over the smallest KLs.',
  arms=arms,
  changes=derived.beyond,
  strong=(NONE, *PENALISED),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
