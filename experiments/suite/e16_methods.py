"""Which kinds of methods make more of a KL budget?

  python -m experiments.suite.e16_methods --config=configs/toy.py \
    --workdir=runs/e16

Orders that papers report, under one proxy and at one budget: best-of-n, policy
gradients (Ahmadian et al. 2024, Hu et al. 2025), direct preference losses
online and on the reference's samples. Methods are those of configs/methods.py,
each with one strength, and held at the budget. `experiments.method_zoo`
compares all of them at four strengths.
"""

from experiments import derived, ranking
from experiments.claims import Claim, Gap, mean_of
from experiments.study import Study, main

GRADIENT = 'rloo', 'ppo'
ONLINE = 'dpo', 'ipo'
REFERENCE = 'dpo-ref', 'ipo-ref'
OTHERS = 'grpo', 'reinforce_pp', 'best_of_n'
SHOWN = 'kto', 'orpo', 'raft'  # beside them, where the config has them
STRENGTH = 2  # which of the four, counted from 0; the same for all
GAIN = 'Difference in gold reward at equal KL'


def arms(cfg):
  """The compared methods of the config and more, one strength each."""
  more = [name for name in SHOWN if name in cfg['methods']]
  names = *GRADIENT, *ONLINE, *REFERENCE, *OTHERS, *more
  methods = {name: derived.arm_of(cfg, name, 'methods') for name in names}
  return {
    name: arm if arm.get('reweigh') else derived.single(arm, STRENGTH)
    for name, arm in methods.items()
  }


def versus(firsts, seconds):
  """The mean of the Gaps of each of the first to each of the second."""
  return mean_of(*(Gap(a, b) for a in firsts for b in seconds))


def add_groups(page, evidence, folder):
  """Adds which methods cannot be told apart from the best."""
  del folder  # no figure
  comparison = evidence.gains
  names = [n for n in arms(evidence.cfg) if n in comparison.arms]
  k = ranking.main_budget(comparison, names, range(len(comparison.budgets)))
  grouped = ranking.groups(comparison, names, k)
  budget, seeds = comparison.budgets[k], len(evidence.seeds)
  page.heading('Groups of methods')
  page.text(ranking.sentence(grouped, budget, seeds))
  page.table(
    ['group', 'methods, the best first'],
    [[str(i), ', '.join(own)] for i, own in enumerate(grouped, 1)],
    text_columns=2,
  )


STUDY = Study(
  __file__,
  'E16',
  'Which kinds of methods make more of a KL budget?',
  (
    Claim(
      'best-of-n above policy gradients',
      'Best-of-n buys more gold per nat than RLOO.',
      'Gao et al. 2022 (2210.10760), 3.5',
      f'{GAIN}, best_of_n - rloo',
      Gap('best_of_n', 'rloo'),
    ),
    Claim(
      'RLOO like PPO',
      'RLOO does as well as PPO, without a critic.',
      'Ahmadian et al. 2024 (2402.14740)',
      f'{GAIN}, rloo - ppo',
      Gap('rloo', 'ppo'),
      equal=True,
    ),
    Claim(
      'policy gradients above preference losses',
      'Policy gradients are above online preference losses.',
      'Xu et al. 2024 (2404.10719)',
      f'{GAIN}, the mean of rloo and ppo - that of dpo and ipo',
      versus(GRADIENT, ONLINE),
    ),
    Claim(
      'own samples above those of the reference',
      "Preference losses are better on the policy's own samples than on the "
      "reference's.",
      'Guo et al. 2024 (2402.04792)',
      f'{GAIN}, the mean of dpo and ipo - that of dpo-ref and ipo-ref',
      mean_of(*map(Gap, ONLINE, REFERENCE)),
    ),
    Claim(
      'REINFORCE++ above GRPO',
      'GRPO needs more KL than REINFORCE++ for the same reward.',
      'Hu et al. 2025 (2501.03262)',
      f'{GAIN}, reinforce_pp - grpo',
      Gap('reinforce_pp', 'grpo'),
    ),
  ),
  'Runs are short, and best-of-n has no updates to run out of, nor a small '
  'policy that limits it. All methods have the same proxy, so that what '
  'differs between them is how they are optimised, and with one strength each.',
  arms=arms,
  strong=('rloo', 'dpo'),
  sections=(add_groups,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
