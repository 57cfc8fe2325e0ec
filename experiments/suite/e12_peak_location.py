"""Do the policy's own samples help only where the best ones are rare?

  python -m experiments.suite.e12_peak_location --config=configs/toy.py \
    --workdir=runs/e12

Tajwar et al. 2024 (arXiv 2404.14367): under golden labels, the policy's samples
against the reference's, where the reference knows the best completions (on
support) and where it does not (off support). And how often a batch of the
policy's samples may be learned from.
"""

import numpy as np

from experiments import derived
from experiments.claims import Claim, Gap, Sum
from experiments.study import Study, main

SUPPORT = {'on': 0.0, 'off': 1.0}  # `task.peak_shift`: equal, or unrelated
PASSES = 4, 16, 64  # over each batch
# The rate of runs that reuse their batches is divided by this. Chosen on a
# pilot seed by their own gain at 2 nats.
SLOWER = 4
WITHIN = 0.05  # of the gain


def reused(passes):
  return f'{passes} passes'


def variants(cfg):
  """Where the best completions are, of the generated task or of the config.

  Raises:
    ValueError: neither says so.
  """
  if 'peak_shift' in cfg['task']:
    return {k: {'task.peak_shift': shift} for k, shift in SUPPORT.items()}
  if cfg['variants'].keys() >= SUPPORT.keys():
    return {name: cfg['variants'][name] for name in SUPPORT}
  raise ValueError(
    f'task.peak_shift is no field of task {cfg["task"]["name"]!r}, and '
    f'{" and ".join(map(repr, SUPPORT))} are no variants of the config: '
    'expected one of the two, which this study compares'
  )


def arms(cfg):
  """The config's arms under golden labels, and one for each reuse.

  Runs that reuse their batches have fewer of them, and as many updates.
  """
  online = derived.single(derived.arm_of(cfg, 'online+gold'))
  reference = derived.single(derived.arm_of(cfg, 'ref+gold'))
  own = {**cfg['arm'], **online}
  fewer = lambda passes: {
    name: max(own[name] // passes, 1)
    for name in ('steps', 'kl_every', 'save_every')
  }
  slower = {'learning_rate': derived.rate_of(cfg, online) / SLOWER}
  sweep = tuple({**x, **slower} for x in derived.strengths(online))
  again = {
    reused(n): {
      **online,
      **fewer(n),
      'sweep': sweep,
      'num_epochs': n,
      'warmup_steps': own['warmup_steps'] // n,
    }
    for n in PASSES
  }
  return {'online': online, 'reference': reference, **again}


def changes(cfg):
  first = max(cfg['eval']['first_step'] // min(PASSES), 1)
  return {'eval.first_step': first}


def loss_of_reuse(evidence):
  """Gain of few passes over that of one, less 1, mean of variants: [S]."""
  nats = evidence.cfg['report']['window'][1]
  shares = []
  for name in SUPPORT:
    at = lambda arm: evidence.at(f'{name} {arm}', nats).mean(1)
    once, often = at('online'), at(reused(min(PASSES)))
    shares.append((often - once) / once.mean())
  return np.mean(shares, 0)


def gap(name):
  return Gap(f'{name} online', f'{name} reference')


SOURCE = 'Tajwar et al. 2024 (2404.14367)'
NUMBER = 'Difference in gold reward at equal KL'

STUDY = Study(
  __file__,
  'E12',
  "When do the policy's own samples help?",
  (
    Claim(
      'off support',
      "Where the best completions are rare under the reference, the policy's "
      "samples are worth more than the reference's.",
      SOURCE,
      f'{NUMBER}, online - reference, off support',
      gap('off'),
    ),
    Claim(
      'on support',
      "Where the reference knows the best completions, the policy's samples "
      "are worth no more than the reference's.",
      SOURCE,
      f'{NUMBER}, online - reference, on support',
      gap('on'),
      equal=True,
    ),
    Claim(
      'the peak decides',
      "The policy's own samples are worth more the rarer the best completions "
      'are under the reference.',
      SOURCE,
      f'{NUMBER}, online - reference, off - on support',
      Sum(((1, gap('off')), (-1, gap('on')))),
    ),
    Claim(
      'samples may be reused',
      'Several passes over the same samples do no harm.',
      SOURCE,
      f'Gain of {min(PASSES)} passes over that of one at equal KL, less 1',
      loss_of_reuse,
      equal=True,
      margin=WITHIN,
    ),
  ),
  'Off support means that the reference prefers unrelated tokens. It still '
  'samples every token, so that its pairs show the best ones now and then. '
  'Runs that reuse their batches have as many updates, at a lower rate, and so '
  'fewer samples; with as many batches they would have more updates.',
  arms=arms,
  variants=variants,
  changes=changes,
  strong=('off online', 'off reference'),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
