"""Does the difference outlive a loss without a rejected completion?

  python -m experiments.suite.e06_best_of_two --config=configs/toy.py \
    --workdir=runs/e06

Tang et al. 2024 (arXiv 2405.08448), fig. 9: best-of-2 fits the better row of a
pair and nothing else. Online stays above offline on two of three tasks, and a
shuffled replay of the online run comes near it: what is left of the difference
is coverage, not order.
"""

from experiments import derived
from experiments.claims import Claim, Gap, Sum
from experiments.study import Study, main

ONLINE, OFFLINE, SHUFFLED = 'Bo2 online', 'Bo2 offline', 'Bo2 shuffled'
# Of the learning rate of the config's arm `online`, for small models; chosen on
# pilot seeds, each by its own arm's score, out of those that get to the budget.
# Online at half of this scores a little more, and a replay of its log stays
# below the budget. Published checkpoints have the config's own rate.
RATES = {ONLINE: 0.3, OFFLINE: 1.2, SHUFFLED: 0.45}
SOURCE = 'Tang et al. 2024 (2405.08448), fig. 9'


def arms(cfg):
  """Best-of-2 on the policy's own pairs, golden pairs, and a replay.

  Offline has as many updates as the others: it needs them for the budget.
  """
  online, offline = (derived.arm_of(cfg, n) for n in ('online', 'offline'))
  rate = derived.rate_of(cfg, online)
  loss = dict(loss='raft', loss_kwargs={})
  times = lambda name: 1 if derived.is_published(cfg) else RATES[name]
  at = {name: (dict(learning_rate=times(name) * rate),) for name in RATES}
  online = {**online, **loss, 'sweep': at[ONLINE]}
  return {
    ONLINE: online,
    OFFLINE: {
      **derived.without(offline, *derived.LENGTH),
      **loss,
      'sweep': at[OFFLINE],
    },
    SHUFFLED: derived.replayed(ONLINE, online, at[SHUFFLED]),
  }


STUDY = Study(
  __file__,
  'E6',
  'Does the difference outlive a loss without a rejected completion?',
  (
    Claim(
      'online above offline',
      'With best-of-2, too, online is above offline at equal KL.',
      SOURCE,
      f'Difference in gold reward at equal KL, {ONLINE} - {OFFLINE}',
      Gap(ONLINE, OFFLINE),
    ),
    Claim(
      'coverage explains it',
      'A shuffled replay of the online run is nearer to it than to offline.',
      SOURCE,
      'Difference in gold reward at equal KL, shuffled - offline, less that of '
      'online - shuffled',
      Sum(((1, Gap(SHUFFLED, OFFLINE)), (-1, Gap(ONLINE, SHUFFLED)))),
    ),
  ),
  'Nothing but the budget holds best-of-2, and few golden pairs give it little '
  'to go by: offline reaches the budget only after many passes over them, and '
  'at the highest learning rate of the three. A replay learns the mean of '
  'policies that were on their way to the budget, and may end below it.',
  arms=arms,
  strong=(ONLINE, OFFLINE, SHUFFLED),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
