"""TL;DR by the settings of Rafailov et al. 2024: losses on the file's pairs.

  align reproduce --config=configs/rafailov_tldr.py --workdir=runs/rafailov \
    --only=E11

Of the paper (arXiv 2406.02900) are Pythia 1B and 2.8B, DPO, IPO and SLiC at
seven betas, one epoch of 92 thousand pairs at batch 128, RMSProp at 5e-7 with
150 warm-up steps, and 256 prompts to measure on at temperature 1.

What differs:
- The paper has 6.9B, too.
- Gold is a published reward model of 6.9B, whose mean is the score. The paper
  has win rates by GPT-4.
- SFT learns the chosen answers. The checkpoints are the deduplicated ones.

It fits a v6e-8 by
`align fit --config=configs/rafailov_tldr.py --topology=v6e-8
--config.mesh.fsdp=8`, which its run needs, too.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted. E11 has 126 runs for three seeds.
"""

from configs import pythia_1b_tldr


def get_config():
  c = pythia_1b_tldr.get_config()
  c.arm.optimizer = dict(name='rmsprop')
  c.arms.offline.source = 'file_pairs'
  del c.arms['file pairs']
  c.variants = {
    '1x': {},
    '2x': {'model': pythia_1b_tldr.other_size(c, 'pythia-2.8b-deduped')},
  }
  c.report.update(treatment='1x online', control='1x offline')
  return c
