"""Is online above offline at equal KL, and do both over-optimise?

  python -m experiments.suite.e01_online_offline --config=configs/toy.py \
    --workdir=runs/e01

Tang et al. 2024 (arXiv 2405.08448), fig. 1: at equal KL online is above
offline, both humps fall again, and online's is the higher one. The pair of arms
is compared at the config's budget. Two more have no budget, and run past their
peaks: small models with a weak penalty and as many updates online as offline,
published checkpoints as the config says. `experiments.online_vs_offline` takes
the difference apart.
"""

import dataclasses

import numpy as np

from align_jax.compare import readings
from experiments import derived
from experiments.claims import Claim, Gap, lost_since_best
from experiments.study import Study, main

PAIR = 'online', 'offline'
FREE = {name: f'{name}, no budget' for name in PAIR}
WEAKER = 0.2  # of the config's beta
SOURCE = 'Tang et al. 2024 (2405.08448), fig. 1'


def arms(cfg):
  """Both arms, and each without a budget."""
  pair = {name: derived.arm_of(cfg, name) for name in PAIR}
  return pair | {FREE[name]: unheld(cfg, arm) for name, arm in pair.items()}


def unheld(cfg, arm):
  """An arm without a budget, see above."""
  free = {**arm, 'kl_budget': 0.0}
  if derived.is_published(cfg):
    return free
  weak = tuple(derived.with_beta(x, WEAKER) for x in derived.strengths(arm))
  return {**derived.without(free, *derived.LENGTH), 'sweep': weak}


def changes(cfg):
  return derived.beyond(cfg) | derived.wider(cfg)


def caveat(cfg):
  simple = (
    'The verifier is a bag of words and gold is nearly one: with '
    '--config.proxy.verifier=transformer the difference at equal KL goes away.'
  )
  often = derived.passes(cfg, 'offline')
  told = [simple] if derived.is_programmed(cfg) else []
  if often >= 2:
    told.append(f'Offline learns from each of its pairs {often:.0f} times.')
  if derived.is_published(cfg):
    told.append('One task and one size stand for those of the paper.')
  else:
    told.append(
      'Runs without a budget have a fifth of the beta of the others, and how '
      'far they fall depends on it.'
    )
  return ' '.join(told)


def fall(name):
  """Measures an arm's `lost_since_best` in gold: [S, E]."""

  def measure(evidence):
    evidence.require(name)
    arm = evidence.gains.arms[name]
    scores = lambda seed: [run.score for run in arm.runs_of(seed)]
    return np.stack([lost_since_best(scores(seed)) for seed in arm.seeds])

  return measure


def higher_peak(evidence):
  """Gold of online's best checkpoint less that of offline's: [S, E]."""
  evidence.require(*PAIR, *FREE.values())
  online, offline = (best(evidence.gains.arms, name) for name in PAIR)
  return online - offline


def best(arms, name):
  """Gold of the best checkpoint of an arm's runs, held or not: [S, E]."""
  every = [
    dataclasses.replace(run, configuration=f'{arm.name} {run.configuration}')
    for arm in (arms[name], arms[FREE[name]])
    for seed in arm.seeds
    for run in arm.runs_of(seed)
  ]
  return readings.Arm(name, every).peak()[0]


def falls(name):
  return Claim(
    f'{name} over-optimises',
    f'Gold rises and falls again in {name} runs that nothing holds.',
    SOURCE,
    'Gold reward of the best checkpoint less that of the last one',
    fall(FREE[name]),
  )


STUDY = Study(
  __file__,
  'E1',
  'Is online above offline at equal KL, and do both over-optimise?',
  (
    Claim(
      'online above offline',
      'At equal KL online is above offline, where both are held.',
      SOURCE,
      'Difference in gold reward at equal KL, online - offline',
      Gap('online', 'offline'),
    ),
    Claim(
      'online above offline in passing',
      'At equal KL online is above offline, where both are on their way to '
      'larger KL.',
      SOURCE,
      'Difference in gold reward at equal KL, online - offline, no budget',
      Gap(FREE['online'], FREE['offline']),
    ),
    falls('online'),
    falls('offline'),
    Claim(
      'higher peak',
      "Online's best policy is better than offline's, whatever their KL.",
      SOURCE,
      'Difference in gold reward between the best checkpoints of runs with and '
      'without a budget, online - offline',
      higher_peak,
    ),
  ),
  caveat,
  arms=arms,
  changes=changes,
  strong=PAIR,
  figure='gold_vs_kl.png',
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
