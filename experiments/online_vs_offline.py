"""Is online better than offline at the same KL budget, from where on, and why?

  python -m experiments.online_vs_offline --config=configs/toy.py \
    --workdir=runs/toy [--only=ARM,...] [--report]

Tang et al. 2024 (arXiv 2405.08448) with its confound taken apart: their two
arms differ in who samples, in who labels, and in how many pairs there are. The
arms in between (`ref+proxy`, `ref+gold`, `online+gold`, `shuffled`) take these
apart. Writes report.html, figures/, table.csv, points.jsonl.
"""

from align_jax.lab import sweep
from experiments import common, comparing

EFFECTS = {  # title: (arm, minus arm); Tang et al.'s two arms differ in three
  'online - offline': ('online', 'offline'),
  'amplification': ('ref+proxy', 'offline'),
  'freshness': ('online', 'ref+proxy'),
  'order': ('online', 'shuffled'),
  'pure on-policy': ('online+gold', 'ref+gold'),
}

EXPLAINED = {
  'online - offline': 'the two arms themselves',
  'amplification': (
    "unlimited proxy labels on the reference's samples instead of the finite "
    'golden pairs'
  ),
  'freshness': "the policy's own samples instead of the reference's",
  'order': 'the online log in order instead of shuffled',
  'pure on-policy': 'freshness under golden labels',
}

ABOUT = comparing.About(
  'Online against offline at equal KL', effects=EFFECTS, explained=EXPLAINED
)


def runs(cfg):
  """A run per arm, configuration and seed; see `comparing.checked`."""
  return comparing.checked(sweep.sweep(cfg), cfg, ABOUT)


report = comparing.reporter(sweep.sweep, ABOUT)

if __name__ == '__main__':
  common.main(runs, report)
