"""Negative control: does the difference go where the verifier is no simpler?

  python -m experiments.suite.e01_verifiers --config=configs/toy.py \
    --workdir=runs/e01n

Swamy et al. 2025 (arXiv 2503.01067): online wins where a verifier is easier to
learn than a policy, and by nothing else. Six proxies, two kinds by three
numbers of golden pairs, are ahead of the offline policies as classifiers by
different amounts, or behind them.
"""

import numpy as np
from scipy import stats

from align_jax.compare import figures, intervals
from align_jax.compare.lines import Line, colours_of
from align_jax.compare.report import show
from experiments import claims, derived
from experiments.claims import Claim, Gap, Sum, mean_of
from experiments.study import Study, main

VERIFIERS = 'bow', 'transformer'
SHARES = 0.25, 1, 4  # of the config's golden pairs
SOURCE = 'Swamy et al. 2025 (2503.01067)'


def setting(verifier, share):
  return f'{verifier} {share:g}x'


SETTINGS = {
  setting(verifier, share): (verifier, share)
  for verifier in VERIFIERS
  for share in SHARES
}


def arms(cfg):
  return {n: derived.arm_of(cfg, n) for n in ('offline', 'online')}


def variants(cfg):
  """A verifier and a number of golden pairs each."""
  return {
    name: {
      'golden.pairs': int(share * cfg['golden']['pairs']),
      **derived.proxy_of(cfg, verifier),
    }
    for name, (verifier, share) in SETTINGS.items()
  }


def gap_of(name):
  """The Gap of a setting, online - offline."""
  return Gap(f'{name} online', f'{name} offline')


def ahead(evidence, name):
  """Accuracy of a setting's proxy less its offline policies': [S].

  The proxy's is on pairs of the reference's samples, for held-out prompts, as
  the policies' is.
  """
  start = lambda run: claims.number_of(run[0], 'proxy_accuracy')
  proxy = evidence.each_run(f'{name} offline', start)
  return proxy - evidence.last(f'{name} offline', 'implicit_accuracy')


def both(evidence):
  """How far proxies are ahead, [V, S], and the gaps, Measured: by setting."""
  pairs = [(gap.first, gap.second) for gap in map(gap_of, SETTINGS)]
  gaps = evidence.gaps(pairs).of(lambda matrix: matrix.mean(2))
  return np.stack([ahead(evidence, n) for n in SETTINGS]), gaps


def correlation(evidence):
  """Pseudo-values of Pearson's correlation of the settings' means: [S]."""
  x, gaps = both(evidence)

  def of(seeds):
    y = gaps.matrix[:, seeds].mean(1)
    return claims.correlation(x[:, seeds].mean(1), y)

  return gaps.of(lambda _: claims.jackknife(of, x.shape[1]))


def rank_correlation(evidence):
  """Spearman's correlation over the settings in each seed: [S].

  Not of the means: ranks of six settings hardly change without one seed, so a
  jackknife of their correlation would know no error.
  """
  x, gaps = both(evidence)
  of = lambda a, b: stats.spearmanr(a, b).statistic
  return gaps.of(lambda y: np.array([*map(of, x.T, y.T)]))


SIMPLER = Sum(
  tuple(
    (sign / len(SHARES), gap_of(setting(verifier, share)))
    for verifier, sign in (('bow', 1), ('transformer', -1))
    for share in SHARES
  )
)


def add_settings(page, evidence, folder):
  """Adds a figure and a table of both accuracies and the gap, by setting."""
  try:
    x, gaps = both(evidence)
  except ValueError as error:
    page.note(f'No figure of the settings: {error}.')
    return
  y = gaps.matrix
  lines = lines_of(*(dict(zip(SETTINGS, z.mean(1))) for z in (x, y)))
  page.heading('The difference and the accuracies')
  page.figure(
    lambda width: figures.frontier_figure(
      width,
      lines,
      'accuracy of the proxy less that of the offline policies',
      'gold reward at equal KL, online - offline',
      kl=False,
    ),
    folder / 'verifiers.png',
    'the difference in gold reward against how far the proxy is ahead',
    'A marker is a verifier and a number of golden pairs, from '
    f'{SHARES[0]:g} to {SHARES[-1]:g} times those of the config; a line joins '
    'the numbers of a verifier.',
  )
  shown = lambda z: show(intervals.estimate(z[:, None], False), sign=True)
  rows = [[name, *map(shown, of)] for name, *of in zip(SETTINGS, x, y)]
  page.table(['setting', 'proxy ahead by', 'online - offline'], rows)
  ranks = stats.spearmanr(x.mean(1), y.mean(1)).statistic
  page.note(f'Rank correlation of the means: {ranks:+.2f}.')


def lines_of(x, y):
  """A Line per verifier through its settings' x and y: {setting: number}."""
  lines = []
  for verifier, colour in colours_of(list(VERIFIERS)).items():
    names = [setting(verifier, share) for share in SHARES]
    own = (np.array([z[name] for name in names]) for z in (x, y))
    lines.append(Line(verifier, *own, colour, ('held',) * len(names)))
  return lines


STUDY = Study(
  __file__,
  'E1-',
  'Does the difference go where the verifier is no simpler?',
  (
    Claim(
      'accuracy decides',
      'The further the proxy ranks pairs better than offline policies do, the '
      'larger is the difference between online and offline.',
      SOURCE,
      'Correlation of the two over six settings',
      correlation,
    ),
    Claim(
      'their ranks agree',
      'Settings in which the proxy is further ahead rank higher in the '
      'difference, too.',
      SOURCE,
      'Rank correlation of the two over six settings, mean of seeds',
      rank_correlation,
    ),
    Claim(
      'a simpler verifier',
      'The difference is larger with a verifier that is simpler than the '
      'policy.',
      SOURCE,
      'Difference in gold reward at equal KL, online - offline, with a bag of '
      'words less that with a transformer, mean of three numbers of pairs',
      SIMPLER,
    ),
    Claim(
      'no difference without',
      "There is none where the verifier is of the policy's own kind.",
      SOURCE,
      'Difference in gold reward at equal KL, online - offline, with a '
      'transformer, mean of three numbers of pairs',
      mean_of(*(gap_of(setting('transformer', share)) for share in SHARES)),
      equal=True,
    ),
  ),
  'Gold is nearly a bag of words, so that one verifier is simpler by '
  'construction. Six settings are two kinds of proxies, and their correlation '
  'may be that of the two kinds alone. Each kind has one learning rate, '
  'whatever the number of pairs.',
  arms=arms,
  variants=variants,
  sections=(add_settings,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
