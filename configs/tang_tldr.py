"""TL;DR by the settings of Tang et al. 2024, with a decoder of 1B parameters.

  align reproduce --config=configs/tang_tldr.py --workdir=runs/tang --only=E1

Of the paper (arXiv 2405.08448, section 3 and appendix) are IPO, SFT of 4000
steps at batch 128 and 3e-5, a pairwise proxy at batch 32 and 1e-4 with 1000
warm-up steps, updates at batch 32, offline at three learning rates and three
betas, and the exact KL on 256 prompts. An offline run of 20,000 updates passes
the 4000 at which the paper ends others, at the same rate. Online has the same
nine strengths, the paper one of them (1e-5, 0.1).

The paper has encoder-decoders: 770M policy and proxy, 11B gold. Here the policy
and the proxy are Pythia 1B, and gold is a published reward model of 6.9B. SFT
learns the chosen answers, the paper's both. Prompts that are measured on are
held out, the paper's are trained on.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted.
"""

from configs import pythia_1b_tldr
from configs.base import sweep

RATES = 3e-6, 1e-5, 3e-5
BETAS = 0.1, 0.5, 1.0


def get_config():
  c = pythia_1b_tldr.get_config()
  c.task.update(prompt_len=896, completion_len=128)  # 1024 in all
  c.sft.update(steps=4000, batch_size=128, learning_rate=3e-5, warmup_steps=0)
  c.proxy.update(
    loss='preference_model',
    steps=4000,
    batch_size=32,
    learning_rate=1e-4,
    warmup_steps=1000,
  )
  c.arm.update(
    loss='ipo',
    reward_scale='preference',  # its sign labels the pair, over both orders
    steps=4000,
    batch_size=32,
    learning_rate=1e-5,
    warmup_steps=0,
  )
  c.eval.update(samples=1, metrics=('length', 'repeats'))
  del c.arms['file pairs']
  for arm in c.arms.values():
    arm.sweep = sweep(*((lr, beta) for lr in RATES for beta in BETAS))
  c.arms.offline.steps = 20000
  return c
