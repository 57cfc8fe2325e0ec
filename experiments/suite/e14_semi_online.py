"""How often must the sampling policy be renewed?

  python -m experiments.suite.e14_semi_online --config=configs/toy.py \
    --workdir=runs/e14

Lanchantin et al. 2025 (arXiv 2506.21495): with a sampler renewed every s
updates, DPO is as good for s = 10 and 100 as online, for s = 1, and worse
offline, where the reference samples. The same for IPO. An arm that is one
update behind need not wait for the update (Noukhovitch et al. 2024,
arXiv 2410.18252).
"""

import numpy as np

from align_jax.compare import figures, intervals
from align_jax.compare.lines import Line, colours_of, values
from experiments import derived
from experiments.claims import Claim, Gap, mean_of
from experiments.study import Study, main

# {loss: beta} of small models, the zoo's at two nats.
LOSSES = {'dpo': 0.3, 'ipo': 0.1}
ONE_STEP, NEVER = 'one update behind', 'never'
PERIODS = 1, 10, 100, 500  # updates between renewals
PLATEAU = 10, 100  # those that are claimed to be as good as 1
SOURCE = 'Lanchantin et al. 2025 (2506.21495)'


def named(loss, period):
  if period in (NEVER, ONE_STEP):
    return f'{loss}, {period}'
  return f'{loss}, every {period}'


def sampler(period):
  """Fields of an arm whose sampler is renewed that often."""
  sources = {1: 'policy', ONE_STEP: 'one_step_stale', NEVER: 'reference'}
  if period in sources:
    return {'source': sources[period]}
  return {'source': 'sampler', 'refresh_every': {'sampler': period}}


def strength(cfg, loss):
  """The sweep of a loss; of a published checkpoint it is the config's."""
  if cfg['model'].get('checkpoint'):
    return derived.single(derived.arm_of(cfg, loss, 'methods'))['sweep']
  rate = derived.rate_of(cfg, derived.arm_of(cfg, 'online'))
  return derived.at(rate, beta=LOSSES[loss])


def arms(cfg):
  """The config's `online` under both losses, with each of the samplers."""
  online = derived.arm_of(cfg, 'online')
  return {
    named(loss, period): {
      **online,
      'loss': loss,
      'sweep': strength(cfg, loss),
      **sampler(period),
    }
    for loss in LOSSES
    for period in (ONE_STEP, *PERIODS, NEVER)
  }


COSTS = 'Difference in gold reward at equal KL'


def claims_on(loss):
  fresh, never = named(loss, 1), named(loss, NEVER)
  old = [named(loss, period) for period in PLATEAU]
  return (
    Claim(
      f'plateau of {loss}',
      f'{loss.upper()} with a sampler that is up to 100 updates old does as '
      'well as online.',
      SOURCE,
      f'{COSTS}, renewed every 10 and 100 updates - every update',
      mean_of(*(Gap(name, fresh) for name in old)),
      equal=True,
    ),
    Claim(
      f'fall of {loss}',
      f'{loss.upper()} is worse if the sampler is never renewed.',
      SOURCE,
      f'{COSTS}, renewed up to every 100 updates - never',
      mean_of(*(Gap(name, never) for name in (fresh, *old))),
    ),
  )


def add_periods(page, evidence, folder):
  """Adds a figure of what age costs, against the updates between renewals."""
  lines = [
    line_of(evidence, loss, colour)
    for loss, colour in colours_of(list(LOSSES)).items()
  ]
  page.heading('What the age of the sampler costs')
  page.figure(
    lambda width: figures.frontier_figure(
      width,
      lines,
      'log10 of the updates between renewals',
      'gold reward at equal KL, less that of a sampler renewed every update',
      kl=False,
    ),
    folder / 'periods.png',
    'gold reward against the updates between renewals of the sampler',
    f'The last point of a line is a sampler that is {NEVER} renewed.',
  )


def line_of(evidence, loss, colour):
  """A loss's gaps to its online arm, a Line over the periods."""
  steps = evidence.cfg['arm']['steps']
  x = np.log10([*PERIODS, steps])
  row = [cost(evidence, loss, period) for period in (*PERIODS, NEVER)]
  ends = (values(row, end) for end in ('low', 'high'))
  held = ('held',) * len(row)
  return Line(loss, x, values(row), colour, held, *ends, strong=True)


def cost(evidence, loss, period):
  """An arm's gap to the online one: an Estimate, maybe MISSING."""
  window = evidence.cfg['report']['window']
  try:
    evidence.require(named(loss, period), named(loss, 1))
    gap = evidence.gains.gap(named(loss, period), named(loss, 1), window)
  except ValueError:
    return intervals.MISSING
  return gap.estimate


STUDY = Study(
  __file__,
  'E14',
  'How often must the sampling policy be renewed?',
  (
    *(claim for loss in LOSSES for claim in claims_on(loss)),
    Claim(
      'one update behind',
      'DPO on samples of the policy before the last update does as well.',
      'Noukhovitch et al. 2024 (2410.18252)',
      f'{COSTS}, one update behind - none',
      Gap(named('dpo', ONE_STEP), named('dpo', 1)),
      equal=True,
    ),
  ),
  'Runs are short, and held within a small KL: the reference is never far from '
  'the policy, so that its samples may serve as well as any. The papers '
  'measure policies that go as far as they get.',
  arms=arms,
  strong=tuple(named(loss, p) for loss in LOSSES for p in (1, NEVER)),
  figure='periods.png',
  sections=(add_periods,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
