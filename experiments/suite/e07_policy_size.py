"""Does a larger policy overoptimise a proxy less?

  python -m experiments.suite.e07_policy_size --config=configs/toy.py \
    --workdir=runs/e07

Tang et al. 2024 (arXiv 2405.08448), fig. 10 and 11, and Gao et al. 2022 (arXiv
2210.10760), sec. 3.4: policies of several widths under one proxy, that of the
narrowest. They have no KL budget, so that they pass their peak.
"""

import numpy as np

from experiments import derived, pages, widths
from experiments.claims import Claim, Gap, Sum, fall, peak_kl
from experiments.study import Study, main

FACTORS = 1, 2, 4  # widths, of the config's
NARROW, *_, WIDE = map(widths.named, FACTORS)
WEAKER = 0.25  # of the config's beta, so that runs go on past their peak
WITHIN = 0.25  # share by which two KLs may differ and count as equal


def variants(cfg):
  """Widths, all under the proxy of the first."""
  made = widths.variants(cfg, FACTORS)
  lent = {'proxy.variant': NARROW}
  return {k: v if k == NARROW else {**v, **lent} for k, v in made.items()}


def weakened(cfg, name):
  """The sweep of an arm's first strength, with a lower beta."""
  arm = derived.arm_of(cfg, name)
  fields = {**cfg['arm'], **arm, **derived.strengths(arm)[0]}
  both = {k: fields[k] for k in ('learning_rate', 'loss_kwargs')}
  return (derived.with_beta(both, WEAKER),)


def arms(cfg):
  """The config's `online`, and its log shuffled, without a KL budget."""
  free = {'kl_budget': 0.0}
  online = {**derived.arm_of(cfg, 'online'), **free}
  online['sweep'] = weakened(cfg, 'online')
  replay = derived.replayed(
    'online', online, weakened(cfg, 'shuffled'), shuffle=0
  )
  return {'online': online, 'shuffled': replay}


def caveat(cfg):
  told = ['Each size of policy has a reference of its own.']
  if not derived.is_published(cfg):
    told.append(
      'The widths differ by four where the papers differ by sixteen and more.'
    )
  if cfg['proxy']['verifier'] == 'bow':
    told.append(
      'A bag of words does not see repeats, so that every policy, however '
      'wide, can gain from them.'
    )
  return ' '.join(told)


def changes(cfg):
  kls = 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0
  return {
    'eval.points': 15,
    'report.budgets': kls,
    'report.window': (1.0, 4.0),
  }


def peaks_apart(evidence):
  """log of the ratio of the KLs of the peaks, widest to narrowest: [S].

  Raises:
    ValueError: a width's gold only falls.
  """
  of = lambda width: evidence.each_run(f'{width} online', peak_kl)
  kls = np.stack([of(WIDE), of(NARROW)])
  if not kls.all():
    raise ValueError('gold of a seed only falls, from the reference on')
  return np.log(kls[0] / kls[1])


def higher_peak(evidence):
  """Gold reward at the peak, widest - narrowest: [S, E]."""
  gold = evidence.compare(pages.by_prompt)
  wide, narrow = (f'{x} online' for x in (WIDE, NARROW))
  evidence.require(wide, narrow)
  return gold.arms[wide].peak()[0] - gold.arms[narrow].peak()[0]


def widest_falls(evidence):
  """Gold reward that the widest policy loses after its peak: [S]."""
  return evidence.each_run(f'{WIDE} online', fall)


def add_peaks(page, evidence, folder):
  """Adds the peak of every width."""
  rows = []
  for name in map(widths.named, FACTORS):
    arm = f'{name} online'
    if arm not in evidence.gains.arms:
      continue
    runs = [run for own in evidence.runs_of(arm).values() for run in own]
    golds = [[p['gold'] for p in run] for run in runs]
    row = [max(x) for x in golds], [peak_kl(run) for run in runs]
    shown = [f'{np.mean(x):.2f} ({min(x):.2f} to {max(x):.2f})' for x in row]
    past = sum(x.index(max(x)) < len(x) - 1 for x in golds)
    start = np.mean([x[0] for x in golds])
    rows.append([arm, f'{start:.2f}', *shown, f'{past} of {len(golds)}'])
  if rows:
    page.heading('The peak at each width')
    header = 'arm', 'gold at start', 'best gold', 'KL of the peak (nats)'
    page.table([*header, 'runs past their peak'], rows)
    page.note(
      'Means over the runs, with the least and the largest. The KL of the peak '
      'is that of the law d (a - b log d), d = sqrt(KL), fitted to each run.'
    )


TANG = 'Tang et al. 2024 (2405.08448)'
GAP = 'Difference in gold reward at equal KL'

STUDY = Study(
  __file__,
  'E7',
  'Does a larger policy overoptimise less?',
  (
    Claim(
      'overoptimisation stays',
      'A larger policy overoptimises the same proxy, too.',
      f'{TANG}, fig. 10',
      f'Gold reward that online at {WIDE} width loses after its peak',
      widest_falls,
    ),
    Claim(
      'the peak stays',
      'Policies of all sizes peak at the same KL under one proxy.',
      'Gao et al. 2022 (2210.10760), sec. 3.4',
      f'log of the KL of the fitted peak, online at {WIDE} - at {NARROW} width',
      peaks_apart,
      equal=True,
      margin=float(np.log(1 + WITHIN)),
    ),
    Claim(
      'a higher peak',
      'A larger policy reaches more gold reward under the same proxy.',
      f'{TANG}, fig. 10',
      f'Gold reward at the peak, online at {WIDE} - at {NARROW} width',
      higher_peak,
    ),
    Claim(
      'order matters less',
      'A larger policy learns more from a shuffled log, as online does.',
      f'{TANG}, fig. 11',
      f'{GAP}, online - shuffled, at {NARROW} - at {WIDE} width',
      Sum(
        (
          (1, Gap(f'{NARROW} online', f'{NARROW} shuffled')),
          (-1, Gap(f'{WIDE} online', f'{WIDE} shuffled')),
        )
      ),
    ),
  ),
  caveat,
  arms=arms,
  variants=variants,
  changes=changes,
  strong=(f'{NARROW} online', f'{WIDE} online'),
  decides=('align_jax/compare/laws.py',),
  sections=(add_peaks,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
