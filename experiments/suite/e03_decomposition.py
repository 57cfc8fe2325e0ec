"""What is the online-offline difference made of?

  python -m experiments.suite.e03_decomposition --config=configs/toy.py \
    --workdir=runs/e03

Tang et al. 2024 (arXiv 2405.08448) compare an arm that samples and is labelled
by a proxy without limit with one that has finite golden pairs. Two by three
cells take that apart: who samples (reference, policy) by labels (finite golden,
unlimited proxy, unlimited golden).
"""

from experiments import derived
from experiments.claims import Claim, Gap
from experiments.study import Study, main

FINITE = 'online, finite gold'
SOURCE = 'Tang et al. 2024 (2405.08448), fig. 1, taken apart'
EPOCHS = 4  # updates on every batch of the cell with finite golden labels


def arms(cfg):
  """The config's six arms, and on-policy samples under finite golden labels.

  It has as many golden labels as `offline`: batches of the policy's samples,
  each labelled once and learned from EPOCHS times.
  """
  online, golden = derived.arm_of(cfg, 'online'), cfg['golden']['pairs']
  size = max(1, cfg['arm']['batch_size'] // EPOCHS)
  finite = {
    **online,
    'labels': 'gold',
    'batch_size': size,
    'steps': golden // size,
    'num_epochs': EPOCHS,
  }
  return {**cfg['arms'], FINITE: finite}


def caveat(cfg):
  if derived.is_programmed(cfg):
    return (
      'The proxy is a bag of words, and gold is nearly one: amplification is '
      'large where the proxy is structurally simpler than the policy, and goes '
      'away with --config.proxy.verifier=transformer.'
    )
  return (
    'Gold is learned, and the proxy may be simpler or weaker than it. Runs are '
    'short and held within a small KL, where labels and samples differ least.'
  )


GAIN = 'Difference in gold reward at equal KL'

STUDY = Study(
  __file__,
  'E3',
  'What is the online-offline difference made of?',
  (
    Claim(
      'amplification',
      'A proxy that labels without limit beats the finite golden pairs it was '
      "trained on, on the reference's own samples.",
      SOURCE,
      f'{GAIN}, ref+proxy - offline',
      Gap('ref+proxy', 'offline'),
    ),
    Claim(
      'freshness under the proxy',
      "The policy's own samples are worth more than the reference's, under the "
      'same proxy.',
      SOURCE,
      f'{GAIN}, online - ref+proxy',
      Gap('online', 'ref+proxy'),
    ),
    Claim(
      'freshness under gold',
      "The policy's own samples are worth more than the reference's, under "
      'golden labels.',
      'Tajwar et al. 2024 (2404.14367)',
      f'{GAIN}, online+gold - ref+gold',
      Gap('online+gold', 'ref+gold'),
    ),
    Claim(
      'freshness at equal labels',
      "As many golden labels are worth more on the policy's own samples than "
      "on the reference's.",
      'Xiong et al. 2023 (2312.11456)',
      f'{GAIN}, {FINITE} - offline',
      Gap(FINITE, 'offline'),
    ),
  ),
  caveat,
  arms=arms,
  strong=('online', 'offline'),
  figure='gold_vs_kl.png',
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
