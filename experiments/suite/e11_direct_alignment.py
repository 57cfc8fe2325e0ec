"""Do losses on fixed pairs overoptimise, without any reward model?

  python -m experiments.suite.e11_direct_alignment --config=configs/toy.py \
    --workdir=runs/e11

Rafailov et al. 2024 (arXiv 2406.02900): DPO, IPO and SLiC on the same pairs, at
several betas and widths, without a KL budget.
"""

import numpy as np

from experiments import derived, widths
from experiments.claims import (
  Claim,
  Gap,
  correlation,
  fall,
  mean_of,
  number_of,
)
from experiments.study import Study, main

LOSSES = {'dpo': 'dpo', 'ipo': 'ipo', 'slic': 'slic_norm'}
BETAS = 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0  # as many as in the paper
WEAKEST = f'beta{min(BETAS):g}'
NARROW, WIDE = WIDTHS = tuple(map(widths.named, (1, 2)))


def names(cfg):
  """{beta: its configuration}; texts have time for the ends and the middle."""
  betas = BETAS if derived.is_whole(cfg) else BETAS[::3]
  return {beta: f'beta{beta:g}' for beta in betas}


def variants(cfg):
  return widths.variants(cfg, (1, 2))


def arms(cfg):
  """The config's `offline` by three losses."""
  offline = derived.arm_of(cfg, 'offline')
  fixed = {
    **derived.without(offline, 'sweep', 'loss_kwargs'),
    'learning_rate': derived.rate_of(cfg, offline),
    'kl_budget': 0.0,
    'points': POINTS,
    'sweep': tuple({'loss_kwargs': {'beta': beta}} for beta in names(cfg)),
  }
  return {name: {**fixed, 'loss': loss} for name, loss in LOSSES.items()}


POINTS = 12  # measurements of a run


def changes(cfg):
  kls = 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0
  return {
    'eval.first_step': 4,
    'report.budgets': kls,
    'report.window': (0.5, 2.0),
  }


def each_loss(evidence, f, configuration):
  """The mean over widths of f(run), by loss: [S, losses]."""
  of = lambda loss: [
    evidence.each_run(f'{width} {loss}', f, configuration) for width in WIDTHS
  ]
  return np.stack([np.mean(of(loss), 0) for loss in LOSSES], 1)


def second_fall(evidence):
  """The second largest of the losses' falls at the weakest beta: [S]."""
  return np.sort(each_loss(evidence, fall, WEAKEST), 1)[:, -2]


def kl_beyond_ipo(evidence):
  """log of the other losses' smaller KL over IPO's, mean of betas: [S]."""
  last = lambda run: np.log(max(run[-1]['kl_seq_nats'], 1e-6))
  apart = []
  for name in names(evidence.cfg).values():
    dpo, ipo, slic = each_loss(evidence, last, name).T
    apart.append(np.minimum(dpo, slic) - ipo)
  return np.mean(apart, 0)


def early_peak(evidence):
  """1 less the epochs until the best checkpoint at the weakest beta: [S].

  Raises:
    ValueError: runs end within an epoch, or it is not known how long one is.
  """
  cfg = evidence.cfg
  passes = max(derived.passes(cfg, loss) for loss in LOSSES)
  if not passes:
    raise ValueError('how many pairs a file has is not in the config')
  if passes <= 1:
    raise ValueError('runs end within an epoch')
  each = cfg['golden']['pairs'] / cfg['arm']['batch_size']
  best = lambda run: max(run, key=lambda p: p['gold'])['step'] / each
  return 1 - each_loss(evidence, best, WEAKEST).mean(1)


def accuracy_and_gold(evidence):
  """Correlation of both over the last policies, mean of widths: [S]."""
  found = []
  for seed in evidence.seeds:
    of_width = []
    for width in WIDTHS:
      runs = [evidence.runs_of(f'{width} {x}')[seed] for x in LOSSES]
      last = [run[-1] for own in runs for run in own]
      of = lambda field: [number_of(p, field) for p in last]
      of_width.append(correlation(of('implicit_accuracy'), of('gold')))
    found.append(np.mean(of_width))
  return np.array(found)


def add_runs(page, evidence, folder):
  """Adds where the runs of each loss and beta end."""
  arms = [f'{w} {x}' for w in WIDTHS for x in LOSSES]
  arms = [arm for arm in arms if arm in evidence.gains.arms]
  fields = 'kl_seq_nats', 'gold', 'implicit_accuracy'
  rows = []
  for arm in arms:
    for beta, name in names(evidence.cfg).items():
      last = [
        np.mean(
          evidence.each_run(arm, lambda run: run[-1].get(field, np.nan), name)
        )
        for field in fields
      ]
      lost = np.mean(evidence.each_run(arm, fall, name))
      rows.append([arm, f'{beta:g}', *(f'{x:.2f}' for x in (*last, lost))])
  page.heading('Where runs end')
  header = 'arm', 'beta', 'KL (nats)', 'gold', 'implicit accuracy'
  size = len(names(evidence.cfg))
  breaks = list(range(size, len(rows), size))
  page.table([*header, 'gold lost since the peak'], rows, breaks=breaks)


def caveat(cfg):
  often, told = derived.passes(cfg, 'dpo'), []
  if often >= 2:
    told.append(
      f'Runs learn from each pair {often:.0f} times, those of the paper once.'
    )
  if len(names(cfg)) < len(BETAS):
    told.append(f'They have {len(names(cfg))} of the betas of the paper.')
  sizes = 'Two sizes' if derived.is_published(cfg) else 'Two small widths'
  told.append(f'{sizes} stand for models of one to seven billion parameters.')
  return ' '.join(told)


SOURCE = 'Rafailov et al. 2024 (2406.02900)'

STUDY = Study(
  __file__,
  'E11',
  'Do losses on fixed pairs overoptimise?',
  (
    Claim(
      'a hump',
      'Gold reward rises and falls with the KL under two losses or more.',
      f'{SOURCE}, sec. 3.1',
      f'Gold reward lost since the peak, by the second of three losses, at '
      f'beta = {min(BETAS):g}',
      second_fall,
    ),
    Claim(
      'peaks within an epoch',
      'Without much of a penalty gold is best before every pair was seen once.',
      f'{SOURCE}, sec. 3.1',
      f'1 less the epochs until the best checkpoint, at beta = {min(BETAS):g}, '
      'mean of losses and widths',
      early_peak,
    ),
    Claim(
      'IPO stays nearest',
      'IPO uses less KL than DPO and SLiC at the same beta.',
      f'{SOURCE}, sec. 3.1',
      "log of the smaller KL of DPO and SLiC over IPO's, mean of betas",
      kl_beyond_ipo,
    ),
    Claim(
      'small models lose more',
      'A smaller model gains less from the same KL.',
      f'{SOURCE}, sec. 3.1',
      f'Difference in gold reward gained at equal KL, {WIDE} - {NARROW} width, '
      'mean of losses',
      mean_of(*(Gap(f'{WIDE} {x}', f'{NARROW} {x}') for x in LOSSES)),
    ),
    Claim(
      'accuracy predicts nothing',
      'How well a policy classifies pairs says nothing of its gold reward.',
      f'{SOURCE}, sec. 3.3',
      'Correlation of implicit accuracy and gold reward over last policies',
      accuracy_and_gold,
      equal=True,
      margin=0.3,
    ),
  ),
  caveat,
  arms=arms,
  variants=variants,
  changes=changes,
  strong=(f'{NARROW} dpo', f'{NARROW} ipo'),
  sections=(add_runs,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
