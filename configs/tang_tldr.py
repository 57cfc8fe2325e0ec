"""TL;DR by the settings of Tang et al. 2024, with a decoder of 1B parameters.

  align reproduce --config=configs/tang_tldr.py --workdir=runs/tang \
    --only=E1,E2,E3,E4,E5,E6

Of the paper (arXiv 2405.08448, section 3 and appendix) are IPO, SFT of 4000
steps at batch 128 and 3e-5, a pairwise proxy at batch 32 and 1e-4 with 1000
warm-up steps, updates at batch 32, three learning rates and three betas, 4000
updates online and 20,000 offline, contexts of 1024 tokens and answers of 128,
and the exact KL of one sample on each of 256 prompts.

What differs:
- The paper has encoder-decoders: 770M policy and proxy, 11B gold. Here the
  policy and the proxy are Pythia 1B, and gold is a published reward model of
  6.9B.
- One task of the paper's four. It pools their data for SFT, which learns both
  answers of a pair; here SFT learns the chosen ones of this task.
- Golden pairs are 32,768 samples of the reference, not the 92 thousand of the
  data set's own answers.
- The score is mean gold reward of the 256 samples, not a win rate on 2048
  prompts against a policy trained on gold. Prompts are held out.
- The paper's loss has a factor of beta squared, which Adam hides, but not the
  clipping of gradients at a norm of 1 here.
- The paper's online runs have one of the nine strengths, 1e-5 and 0.1.
- The paper holds no run at a KL. Here the pair is held at 10 nats; E1's two
  arms without a budget are the paper's. E1 has 108 runs for three seeds.
- E7, on larger policies under one proxy, is in configs/gao_tldr.py.

It fits a v5e-8 by
`align fit --config=configs/tang_tldr.py --topology=v5e-8
--config.mesh.fsdp=8`, which its run needs, too.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted.
"""

from configs import pythia_1b_tldr
from configs.base import sweep

RATES = 3e-6, 1e-5, 3e-5
BETAS = 0.1, 0.5, 1.0


def get_config():
  c = pythia_1b_tldr.get_config()
  c.task.update(prompt_len=1024, completion_len=128)
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
    kl_budget=10.0,
    kl_every=100,
    kl_samples=1,
  )
  c.report.update(budgets=(0.5, 1.0, 2.0, 5.0, 10.0), window=(10.0, 10.0))
  c.eval.update(samples=1, metrics=('length', 'repeats'))
  del c.arms['file pairs']
  c.arms['shuffled'] = dict(source='log', log_of='online/lr1e-05-beta0.1')
  c.arms['online+gold'] = dict(labels='gold')
  c.arms['ref+proxy'] = dict(source='reference')
  c.arms['ref+gold'] = dict(source='reference', labels='gold')
  # Studies that need one strength take the first: that of the online baseline.
  baseline = (1e-5, 0.1)
  every = [(lr, beta) for lr in RATES for beta in BETAS]
  every.sort(key=lambda x: x != baseline)
  for arm in c.arms.values():
    arm.sweep = sweep(*every)
  c.arms.offline.steps = 20000
  return c
