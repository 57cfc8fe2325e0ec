"""TL;DR by the settings of Gao et al. 2022: what policies do to their proxies.

  align reproduce --config=configs/gao_tldr.py --workdir=runs/gao \
    --only=E7,E8,E8+,E10

Of the paper (arXiv 2210.10760) are a gold reward model of 6.9B, policies of 1B
and up under no KL budget, proxies that are 16 times as narrow as gold, 4 times
and as wide, up to 90 thousand comparisons of the reference's samples with hard
labels, and best-of-n of up to 1000 and more.
The paper does not print its optimizers'. They are those of its open replication
(Coste et al. 2023, arXiv 2310.02743, and its repository): proxies at 1e-5 and
batch 32 with 50 warm-up steps and five epochs, policies at 1e-6 for 3000
updates.

What differs:
- RLOO stands for PPO. E7's policies learn from pairs by DPO, at twice its rate.
- The paper has its own models, and instructions instead of posts to sum up.
- All proxies have as many updates, whatever their number of comparisons.
- 1x, 2x and 4x are policies of 1B, 2.8B and 6.9B, under one proxy.

It fits a v6e-8 by
`align fit --config=configs/gao_tldr.py --topology=v6e-8`.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted. E8 has 126 runs for three seeds.
"""

from configs import methods, pythia_1b_tldr
from configs.base import sweep

RATE = 1e-6


def get_config():
  c = pythia_1b_tldr.get_config()
  c.mesh.update(fsdp=1, rollout=8)
  c.model.remat = True  # for the policy of 6.9B
  c.golden.pairs = 5625
  c.proxy.update(
    verifier='sized',
    model=pythia_1b_tldr.other_size(c, 'pythia-31m'),
    steps=880,
    batch_size=32,
    learning_rate=1e-5,
    warmup_steps=50,
  )
  c.arm.update(steps=3000, learning_rate=RATE, warmup_steps=0)
  strength = sweep((2 * RATE, 0.1))
  del c.arms['file pairs']
  c.arms.offline.sweep = strength
  c.arms.online.sweep = strength
  c.arms.shuffled = dict(
    source='log', log_of='online/lr2e-06-beta0.1', sweep=strength
  )
  c.methods = {
    'rloo': dict(
      loss='rloo',
      group_size=4,
      batch_size=64,
      reward_scale='reference',
      sweep=methods.betas(0.1, lr=RATE),
    )
  }
  c.variants = {
    '1x': {},
    '2x': {'model': pythia_1b_tldr.other_size(c, 'pythia-2.8b-deduped')},
    '4x': {'model': pythia_1b_tldr.other_size(c, 'pythia-6.9b-deduped')},
    'proxy 16x narrower': {
      'proxy': {'model': pythia_1b_tldr.other_size(c, 'pythia-31m')}
    },
    'proxy 4x narrower': {
      'proxy': {'model': pythia_1b_tldr.other_size(c, 'pythia-410m-deduped')}
    },
    'proxy as wide': {
      'proxy': {'model': pythia_1b_tldr.other_size(c, 'pythia-6.9b-deduped')}
    },
  }
  c.report.update(treatment='1x online', control='1x offline')
  return c
