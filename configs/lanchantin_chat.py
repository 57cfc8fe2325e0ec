"""Chat by the settings of Lanchantin et al. 2025: how old a sampler may be.

  python -m experiments.suite.e14_semi_online \
    --config=configs/lanchantin_chat.py --workdir=gs://BUCKET/chat

on every host of a v5e-64. It fits that by
`align fit --config=configs/lanchantin_chat.py --topology=v5e-64`.

Of the paper (arXiv 2506.21495) are Llama 3.1 8B Instruct, which is its own
reference, labels by a published reward model of 8B, and a sampler that is
renewed after 1, 10 or 100 updates or never.

What differs:
- The questions are UltraFeedback's, not WildChat's, and the reward model is
  another one.
- Pairs are two samples, not the best and the worst of several.
- Batch, rate and beta are those of Dong et al. 2024 (arXiv 2405.07863).
- The paper's other half, questions of mathematics, is left out.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted.
"""

from configs import llama3_8b_ultrafeedback
from configs.base import sweep

RATE = 5e-7


def get_config():
  c = llama3_8b_ultrafeedback.get_config()
  c.model.checkpoint = 'meta-llama/Llama-3.1-8B-Instruct'
  c.seeds = 3
  c.arm.steps = 1000  # so that a sampler renewed every 500 is renewed
  strength = sweep((RATE, 0.1))
  c.arms = {
    'offline': dict(source='golden_pairs', sweep=strength),
    'online': dict(labels='gold', sweep=strength),
  }
  c.methods = {
    'dpo': dict(loss='dpo', sweep=strength),
    'ipo': dict(loss='ipo', sweep=strength),
  }
  return c
