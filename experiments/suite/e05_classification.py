"""Is a policy that ranks pairs well one that writes well?

  python -m experiments.suite.e05_classification --config=configs/toy.py \
    --workdir=runs/e05

Tang et al. 2024 (arXiv 2405.08448), figs. 6 to 8: the proxy is less accurate on
the samples of a policy the longer that is trained; offline policies rank
held-out pairs better than online ones; the log-probs of chosen completions fall
in both arms, offline most; and how well policies rank says nothing of how well
they write. Lambert and Calandra 2023 (arXiv 2311.00168) say the same of a
reward model: neither its accuracy nor the reward it gives is what policies are
good for.
"""

import numpy as np

from align_jax.compare import figures
from align_jax.compare.lines import Line, colours_of
from experiments import claims, pages, sections
from experiments.claims import Claim, number_of
from experiments.study import Study, main
from experiments.suite import e01_online_offline as e01

# A correlation below this is of no use. Chosen, not measured.
USEFUL = 0.3
SOURCE = 'Tang et al. 2024 (2405.08448)'


def arms(cfg):
  """The config's arms, and online and offline without a budget."""
  trained = {n: x for n, x in cfg['arms'].items() if not x.get('reweigh')}
  return {**trained, **e01.arms(cfg)}


def decay(evidence):
  """Fall of the proxy's accuracy on online's samples: [S]."""
  of = lambda point: number_of(point, 'proxy_accuracy')
  fall = lambda run: of(run[0]) - of(run[-1])
  return evidence.each_run(e01.FREE['online'], fall)


def at_equal_kl(evidence, field, first, second):
  """first - second in a number of the policies, at equal KL: Measured, [S]."""
  evidence.require(first, second)
  comparison = evidence.of_policies(field)
  measured = claims.at_common(comparison, [(first, second)], evidence.window)
  return measured.of(lambda matrix: matrix[0].mean(1))


def better_ranking(evidence):
  return at_equal_kl(evidence, 'implicit_accuracy', 'offline', 'online')


def least_fall(evidence):
  """The fall of the chosen completions' log-ratio, where it is less: [S]."""
  falls = [evidence.last(name, 'chosen_log_ratio') for name in e01.PAIR]
  return -np.maximum(*falls)


def offline_falls_most(evidence):
  return at_equal_kl(evidence, 'chosen_log_ratio', 'online', 'offline')


def lasts(evidence):
  """The last policies of each seed: {seed: [point]}."""
  found = {seed: [] for seed in evidence.seeds}
  for run in evidence.policies.values():
    found[run[-1]['seed']].append(run[-1])
  if any(len(points) < 3 for points in found.values()):
    raise ValueError('a seed has fewer than three runs to correlate over')
  return found


def ranking_and_gold(evidence):
  """USEFUL less the correlation of accuracy and gold over policies: [S]."""
  fields = 'implicit_accuracy', 'gold'
  of = lambda points: ([number_of(p, x) for p in points] for x in fields)
  each = [claims.correlation(*of(x)) for x in lasts(evidence).values()]
  return USEFUL - np.array(each)


def reward_and_gold(evidence):
  """USEFUL less the correlation of what a reward model promises and gold.

  It promises its gain of reward times its accuracy on the reference's samples.
  Over all points after a run's start; pseudo-values by seed: [S].
  """
  promised, gold = ({seed: [] for seed in evidence.seeds} for _ in range(2))
  for run in evidence.policies.values():
    start = run[0]
    for p in run[1:]:
      gain = p['proxy'] - start['proxy']
      promised[p['seed']].append(number_of(start, 'proxy_accuracy') * gain)
      gold[p['seed']].append(p['gold'] - start['gold'])

  def of(seeds):
    pool = lambda by: np.concatenate([by[evidence.seeds[i]] for i in seeds])
    return claims.correlation(pool(promised), pool(gold))

  return USEFUL - claims.jackknife(of, len(evidence.seeds))


def add_scatter(page, evidence, folder):
  """Adds a figure of the last policies' accuracy and gold, a marker an arm."""
  ends = {}
  for run in evidence.policies.values():
    rise = run[-1]['gold'] - run[0]['gold']
    if 'implicit_accuracy' not in run[-1]:
      continue
    both = run[-1]['implicit_accuracy'], rise
    ends.setdefault(run[-1]['arm'], []).append(both)
  colours = colours_of(list(ends))
  lines = [
    Line(arm, *np.mean(rows, 0)[:, None], colours[arm], ('held',))
    for arm, rows in ends.items()
  ]
  page.heading('Ranking and gold of the last policies')
  page.figure(
    lambda width: figures.frontier_figure(
      width, lines, 'implicit accuracy', pages.GAIN, kl=False
    ),
    folder / 'accuracy_and_gold.png',
    'gold reward against implicit accuracy, by arm',
    'Means over the seeds, whatever the KL.',
  )


def add_training(page, evidence, folder):
  """Adds what training does to accuracies and log-ratios."""
  mine = [p for p in evidence.points if p['arm'] in e01.arms(evidence.cfg)]
  panels = sections.training_lines(mine, e01.PAIR)
  page.heading('Accuracies and log-ratios during training')
  page.figure(
    lambda width: figures.training_figure(width, panels),
    folder / 'training.png',
    'accuracies and log-ratios against updates',
    'Means over the seeds.',
  )


STUDY = Study(
  __file__,
  'E5',
  'Is a policy that ranks pairs well one that writes well?',
  (
    Claim(
      'the proxy decays',
      "The proxy ranks the online policy's samples worse after training than "
      'before.',
      f'{SOURCE}, fig. 6',
      f'Its accuracy on them before training less that after, '
      f'{e01.FREE["online"]}',
      decay,
      margin=0.01,
    ),
    Claim(
      'offline ranks better',
      'At equal KL offline policies rank held-out pairs better than online '
      'ones.',
      f'{SOURCE}, fig. 7 and 8',
      'Difference in implicit accuracy at equal KL, offline - online',
      better_ranking,
      margin=0.01,
    ),
    Claim(
      'chosen falls',
      'The log-probs of chosen completions fall in both arms.',
      f'{SOURCE}, fig. 8',
      'Their fall from the reference to the last policy in nats, of the arm '
      'where it is less',
      least_fall,
    ),
    Claim(
      'chosen falls most offline',
      'At equal KL they fall more offline.',
      f'{SOURCE}, fig. 8',
      'Difference in the log-ratio of chosen completions at equal KL in nats, '
      'online - offline',
      offline_falls_most,
    ),
    Claim(
      'ranking does not predict gold',
      'How well policies rank pairs does not predict their gold reward.',
      f'{SOURCE}, fig. 7',
      f'{USEFUL:g} less the correlation of both over the last policies of all '
      'arms',
      ranking_and_gold,
    ),
    Claim(
      'reward does not predict gold',
      'What a reward model promises of policies does not predict their gold '
      'reward.',
      'Lambert and Calandra 2023 (2311.00168)',
      f'{USEFUL:g} less the correlation of its accuracy times its reward with '
      'gold over all points',
      reward_and_gold,
    ),
  ),
  'Completions are short, and most runs end at the same small KL: a policy has '
  'hardly left the samples of the reference that accuracies and log-ratios are '
  'of. Arms differ in what labels them, and golden labels may teach to rank '
  'and to write alike. Which arms there are decides the correlations, and runs '
  'without a budget, far past their peaks, weigh most in the last.',
  arms=arms,
  strong=e01.PAIR,
  decides=('experiments/suite/e01_online_offline.py',),
  sections=(add_scatter, add_training),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
