"""Does better data, or data nearer to the reference, help offline learning?

  python -m experiments.suite.e04_data_quality --config=configs/toy.py \
    --workdir=runs/e04

Tang et al. 2024 (arXiv 2405.08448), fig. 5 and 12: offline arms on golden pairs
of two writers, policies of an online run against gold: the SFT policy (sft),
one early in training (mid) and the last (end).
"""

from experiments.claims import Claim, Gap
from experiments.derived import arm_of
from experiments.study import Study, main

WRITER = 'writer'
MIDDLE = 5  # of an online run's updates one in so many are done at `mid`


def names_of(steps):
  """{short name: policy}."""
  run = f'{WRITER}/default'
  kept = f'{run}@{steps // MIDDLE}'
  return {'sft': 'reference', 'mid': kept, 'end': run}


PAIRS = ('sft', 'sft'), ('sft', 'mid'), ('mid', 'end'), ('end', 'end')


def arms(cfg):
  """The writer, and an offline arm for each pair of its policies."""
  online = {**arm_of(cfg, 'online+gold')}
  first, *_ = online.pop('sweep', ({},))
  online |= first
  steps = online.get('steps', cfg['arm']['steps'])
  offline, writers = arm_of(cfg, 'offline'), names_of(steps)
  keep = dict(steps=(steps // MIDDLE,), kls=())
  pair = lambda a, b: {
    **offline,
    'source': 'written_pairs',
    'writers': (writers[a], writers[b]),
  }
  return {
    WRITER: {**online, 'keep': keep},
    **{f'{a}-vs-{b}': pair(a, b) for a, b in PAIRS},
  }


SOURCE = 'Tang et al. 2024 (2405.08448)'
NUMBER = 'Difference in gold reward at equal KL'

STUDY = Study(
  __file__,
  'E4',
  'Does better offline data close the gap?',
  (
    Claim(
      'quality alone',
      'Pairs of the best policy are worth no more to offline learning than '
      "pairs of the reference: the reference's are better.",
      f'{SOURCE}, fig. 5',
      f'{NUMBER}, sft-vs-sft - end-vs-end',
      Gap('sft-vs-sft', 'end-vs-end'),
    ),
    Claim(
      'nearness to the reference',
      'One completion of the reference in each pair helps: a middle policy '
      'against the reference teaches more than against the best.',
      f'{SOURCE}, fig. 12',
      f'{NUMBER}, sft-vs-mid - mid-vs-end',
      Gap('sft-vs-mid', 'mid-vs-end'),
    ),
    Claim(
      'contrast',
      'A better second writer helps where the first is the reference.',
      f'{SOURCE}, fig. 12',
      f'{NUMBER}, sft-vs-mid - sft-vs-sft',
      Gap('sft-vs-mid', 'sft-vs-sft'),
    ),
  ),
  'All writers know the same few tokens, so the best policy has not left the '
  'support of the reference as a large one does. Its pairs also have many ties '
  'in gold, which teach nothing.',
  arms=arms,
  strong=('sft-vs-sft', 'end-vs-end'),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
