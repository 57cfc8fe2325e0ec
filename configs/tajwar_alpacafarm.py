"""AlpacaFarm by the settings of Tajwar et al. 2024: gold is a length.

  align reproduce --config=configs/tajwar_alpacafarm.py --workdir=runs/tajwar \
    --only=E12

Of the paper (arXiv 2404.14367, and its repository) are Pythia 1.4B, the
instructions of AlpacaFarm, batch 64, DPO at 5e-7 and beta 0.1, and a gold
reward of length alone: 'min length', whose best answers the reference hardly
ever writes, and 'mode length', whose best ones it writes often. They are the
variants `off` and `on`.

What differs:
- The policy's samples have golden labels. The paper's have those of a reward
  model that was trained on golden pairs.
- 200 tokens stand for the mode. It was chosen, not measured.
- SFT is on the preferred answers of the same file.

It fits a v6e-8 by
`align fit --config=configs/tajwar_alpacafarm.py --topology=v6e-8
--config.mesh.fsdp=8`, which its run needs, too.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted.
"""

from configs import pythia_1b_tldr
from configs.base import sweep


def nearness(target):
  """A gold judge that wants answers of `target` tokens."""
  return {'task': {'judge': dict(kind='length', target=target)}}


def get_config():
  c = pythia_1b_tldr.get_config()
  c.task.update(
    data='tatsu-lab/alpaca_farm',
    dataset='alpaca_pairs',
    subset='alpaca_human_preference',
    split='preference',
    template='alpaca',
    prompt_len=512,
    completion_len=256,
    heldout_prompts=1000.0,
  )
  c.task.judge = dict(kind='length', target=0)
  c.model.checkpoint = 'EleutherAI/pythia-1.4b'
  c.arm.update(steps=600, batch_size=64, num_microbatches=4)
  strength = sweep((5e-7, 0.1))
  c.arms = {
    'offline': dict(source='golden_pairs', sweep=strength),
    'online': dict(sweep=strength),
    'ref+gold': dict(source='reference', labels='gold', sweep=strength),
    'online+gold': dict(labels='gold', sweep=strength),
  }
  c.variants = {'off': nearness(0), 'on': nearness(200)}
  c.report.update(
    treatment='off online+gold',
    control='off ref+gold',
    golden_policy='off online+gold',
    margin=5.0,  # tokens, as are all numbers of gold reward
    half_width=5.0,
  )
  return c
