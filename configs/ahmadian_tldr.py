"""TL;DR by the settings of Ahmadian et al. 2024: policy gradients and others.

  align reproduce --config=configs/ahmadian_tldr.py --workdir=runs/ahmadian \
    --only=E16,E17

Of the paper (arXiv 2402.14740) are Pythia, 600 updates of 512 samples each, in
two parts by policy gradients, 1e-6 with 3% of warm-up, and a price of 0.03 for
a nat. The third of each method's strengths is its paper's, or near it; E16
reads that one, E17 the second of RLOO.

What differs:
- The paper has 6.9B. Policy and proxy are 1B here, gold is a published reward
  model of 6.9B.
- The arms that E17 shows beside RLOO have the batch, the rate and the strengths
  of configs/pythia_1b_tldr.py.
- Prices are in standard deviations of the reference's rewards.

It fits a v5e-8 by
`align fit --config=configs/ahmadian_tldr.py --topology=v5e-8
--config.mesh.fsdp=8`, which its run needs, too.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted.
"""

from configs import pythia_1b_tldr
from configs.methods import betas

RATE = 1e-6
PRICES = 0.3, 0.1, 0.03, 0.01
BETAS = 0.5, 0.2, 0.1, 0.05  # of DPO, and of IPO
SAMPLES = 512


def get_config():
  c = pythia_1b_tldr.get_config()
  c.arm.update(
    steps=600, learning_rate=RATE, warmup_steps=18, num_microbatches=8
  )
  group = dict(
    group_size=4,
    batch_size=SAMPLES // 4,
    num_minibatches=2,
    reward_scale='reference',
    sweep=betas(*PRICES, lr=RATE),
  )
  pair = dict(batch_size=SAMPLES // 2, sweep=betas(*BETAS, lr=RATE))
  c.methods = {
    **{
      name: dict(loss=name, **group)
      for name in ('rloo', 'ppo', 'grpo', 'reinforce_pp')
    },
    **{loss: dict(loss=loss, **pair) for loss in ('dpo', 'ipo')},
    **{
      f'{loss}-ref': dict(loss=loss, source='reference', **pair)
      for loss in ('dpo', 'ipo')
    },
    'best_of_n': dict(source='reference', reweigh='best_of_n'),
  }
  return c
