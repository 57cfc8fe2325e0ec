"""What does a sampler cost that is not the trained policy?

  python -m experiments.suite.e20_mismatch --config=configs/toy.py \
    --workdir=runs/e20

An engine that samples at another precision, truncated or with older weights
makes policy gradients off-policy without saying so. Zhong et al. 2026
(arXiv 2605.14220) hold that small differences can end a training by themselves;
Yao et al. 2025 truncate the importance weights of tokens (TIS), Liu et al. 2025
drop completions of large weight (MIS). Here sampler and policy are the same to
the bit, and each difference is planted.
"""

from experiments import derived
from experiments.claims import Claim, Gap, mean_of
from experiments.study import Study, main

CLEAN = 'clean'
AGE = 64  # updates between renewals of the stale sampler
TOP_P = 0.9
SAMPLERS = {
  'bfloat16': {'sampling': {'dtype': 'bfloat16'}},
  f'top-p {TOP_P:g}': {'sampling': {'top_p': TOP_P}},
  'stale': {'source': 'sampler', 'refresh_every': {'sampler': AGE}},
}
CORRECTIONS = {'TIS': 'token_truncate', 'MIS': 'sequence_mask'}


def arms(cfg):
  """RLOO under gold with each sampler, and with each correction of it.

  None has a KL term: of truncated samples there is none. The budget alone
  holds them.
  """
  clean = derived.rloo(cfg, loss_kwargs={'kl': 'none'})

  def arm(fields, **correction):
    sampling = {**cfg['arm']['sampling'], **fields.get('sampling', {})}
    return {**clean, **fields, 'sampling': sampling, **correction}

  found = {CLEAN: clean}
  for name, fields in SAMPLERS.items():
    found[name] = arm(fields)
    for short, how in CORRECTIONS.items():
      found[f'{name}, {short}'] = arm(fields, correction=how)
  return found


NUMBER = 'Difference in gold reward at equal KL'
SOURCES = {
  'bfloat16': 'Zhong et al. 2026 (2605.14220), Yao et al. 2025',
  f'top-p {TOP_P:g}': 'Liu et al. 2025 (2512.02556), keep sampling mask',
  'stale': 'Liu et al. 2025, When speed kills stability',
}
TOLD = {
  'bfloat16': 'A sampler of lower precision costs gold reward.',
  f'top-p {TOP_P:g}': 'A sampler that leaves out unlikely tokens costs gold '
  'reward.',
  'stale': f'A sampler that is up to {AGE} updates old costs gold reward.',
}


def costs(name):
  return Claim(
    name,
    TOLD[name],
    SOURCES[name],
    f'{NUMBER}, {CLEAN} - {name}',
    Gap(CLEAN, name),
  )


def restores(short, says, source):
  return Claim(
    short,
    says,
    source,
    f'{NUMBER}, {CLEAN} - {short}, mean of all samplers',
    mean_of(*(Gap(CLEAN, f'{name}, {short}') for name in SAMPLERS)),
    equal=True,
  )


def caveat(cfg):
  small = (
    f'Completions have {cfg["task"]["completion_len"]} tokens and models are '
    'small, so bfloat16 moves a log-prob by little and nothing adds up over '
    'thousands of tokens. '
  )
  return (
    f'{"" if derived.is_published(cfg) else small}A budget holds every run, so '
    'that none can collapse. A correction is also "reproduced" where there is '
    'nothing to correct.'
  )


STUDY = Study(
  __file__,
  'E20',
  'What does a sampler cost that is not the trained policy?',
  (
    *map(costs, SAMPLERS),
    restores(
      'TIS',
      'Truncated importance weights of tokens restore what a clean sampler '
      'gains.',
      'Yao et al. 2025, Your efficient RL framework secretly brings you '
      'off-policy RL training',
    ),
    restores(
      'MIS',
      'Importance weights of completions, those of large weight dropped, '
      'restore it.',
      'Liu et al. 2025, When speed kills stability',
    ),
  ),
  caveat,
  arms=arms,
  strong=(CLEAN, 'stale'),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
