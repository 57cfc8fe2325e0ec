"""Distillation: whose prefixes, and which direction of the KL?

  python -m experiments.suite.e19_prefixes --config=configs/toy.py \
    --workdir=runs/e19

Zhao et al. 2026 (arXiv 2605.16826): who writes the prefixes and which way the
KL of each next token goes are two choices, and all four pairs of them are
objectives. By their abstract the direction trades accuracy for entropy, and
the source trades quality for compute. One teacher, and a student for each pair.
"""

from experiments import claims, derived, pages
from experiments.claims import Claim, Gap, Sum, mean_of
from experiments.study import Study, main

SOURCES = {'student': 'policy', 'teacher': 'teacher'}
LOSSES = {'forward': 'forward_kl', 'reverse': 'reverse_kl'}
TEACHER = 'teacher'
AHEAD = 2.0  # the teacher is held at so many times the students' KL
# Hundredths of a nat of entropy that count as none; the toy's reference has
# about 340. Chosen.
LITTLE = 5.0


def named(loss, source):
  return f'{loss} KL, {source} prefixes'


def arms(cfg):
  """RLOO under gold as the teacher, and four students of its last policy."""
  budget, rate = cfg['arm']['kl_budget'], derived.rloo(cfg)['learning_rate']
  students = {
    named(loss, source): {
      'loss': LOSSES[loss],
      'loss_kwargs': {},
      'source': SOURCES[source],
      'labels': 'gold',
      'teacher_of': f'{TEACHER}/default',
      'learning_rate': rate,
    }
    for loss in LOSSES
    for source in SOURCES
  }
  return {TEACHER: derived.rloo(cfg, kl_budget=AHEAD * budget), **students}


def changes(cfg):
  names = dict.fromkeys((*cfg['eval']['metrics'], 'entropy'))
  return {'eval.metrics': tuple(names)}


# {what is the same in both students: a Gap of the other choice}
DIRECTION = {
  source: Gap(named('reverse', source), named('forward', source))
  for source in SOURCES
}
PREFIXES = {
  loss: Gap(named(loss, 'student'), named(loss, 'teacher')) for loss in LOSSES
}


def entropy(evidence):
  """Entropy of the next token, forward - reverse, hundredths of a nat: [S, E].

  At equal KL, the mean of both sources.
  """
  evidence.require(*(named(x, y) for x in LOSSES for y in SOURCES))
  compared = evidence.compare(pages.metric('entropy'))
  pairs = [(gap.second, gap.first) for gap in DIRECTION.values()]
  measured = claims.at_common(compared, pairs, evidence.window)
  return measured.of(lambda matrix: 100 * matrix.mean(0))


SOURCE = 'Zhao et al. 2026 (2605.16826), abstract'
NUMBER = 'Difference in gold reward at equal KL'


def caveat(cfg):
  size = cfg['task']['completion_len']
  few = (
    f' Completions have {size} tokens, so a teacher is asked about few '
    'prefixes that it would never write.'
  )
  return (
    'Student and teacher are equally large and start from one reference, so '
    'all four objectives end at the teacher if they are let; held at half of '
    "the teacher's KL they differ in what is learned first."
    f'{few if cfg["task"]["name"] == "toy" else ""}'
  )


STUDY = Study(
  __file__,
  'E19',
  'Distillation: whose prefixes, and which direction of the KL?',
  (
    Claim(
      'prefixes of the student',
      'A student learns more from its own prefixes than from the '
      "teacher's, whichever the direction of the KL.",
      SOURCE,
      f'{NUMBER}, student prefixes - teacher prefixes, mean of both directions',
      mean_of(*PREFIXES.values()),
    ),
    Claim(
      'accuracy of the reverse KL',
      'The reverse KL gives more accurate students, whoever writes the '
      'prefixes.',
      SOURCE,
      f'{NUMBER}, reverse - forward, mean of both sources',
      mean_of(*DIRECTION.values()),
    ),
    Claim(
      'entropy of the forward KL',
      'The forward KL leaves students more entropy.',
      SOURCE,
      'Difference in entropy of the next token at equal KL, hundredths of a '
      'nat, forward - reverse, mean of both sources',
      entropy,
      margin=LITTLE,
    ),
    Claim(
      'no interaction',
      'The two choices are orthogonal: the direction has the same effect under '
      'both sources.',
      SOURCE,
      f'{NUMBER}, (reverse - forward) on student prefixes - the same on '
      'teacher prefixes',
      Sum(((1.0, DIRECTION['student']), (-1.0, DIRECTION['teacher']))),
      equal=True,
    ),
  ),
  caveat,
  arms=arms,
  changes=changes,
  strong=(named('forward', 'teacher'), named('reverse', 'student')),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
