"""Pythia 1B on TL;DR comparisons: one device of 80 GB, or fsdp over several.

  python -m experiments.online_vs_offline --config=configs/pythia_1b_tldr.py \
    --workdir=runs/pythia_tldr

Reddit posts and 53 tokens of summary (Stiennon et al. 2020; Huang et al. 2024).
Batch 128, learning rate 5e-7 with 150 warm-up steps, one epoch of 92 thousand
pairs and 256 prompts to measure on are those of Rafailov et al. 2024
(arXiv 2406.02900); they sweep seven betas, three of them are here.

It fits a v5e-8 by
`align fit --config=configs/pythia_1b_tldr.py --topology=v5e-8
--config.mesh.fsdp=8`, which its run needs, too.

Expect: not run at this size by the project, so neither time nor result is
known; the tests run it in miniature.
"""

from configs import qwen2_5_0_5b_hh
from configs.base import sweep


def other_size(c, name):
  """The config's model with the checkpoint of another size."""
  return {**c.model, 'checkpoint': f'EleutherAI/{name}'}


def get_config():
  c = qwen2_5_0_5b_hh.get_config()
  c.task.update(
    data='openai/summarize_from_feedback',
    dataset='tldr_comparisons',
    subset='comparisons',
    revision='refs/convert/parquet',
    eos_token='',
    template='',  # the rows are texts
    prompt_len=512,
    completion_len=53,
    eval_prompts=256,
  )
  c.task.judge.checkpoint = (
    'cleanrl/EleutherAI_pythia-6.9b-deduped__reward__tldr'
  )
  c.model.checkpoint = 'EleutherAI/pythia-1b-deduped'
  c.sft.update(steps=1000, batch_size=128)
  c.golden.pairs = 32768
  c.proxy.update(steps=1024)
  c.arm.update(
    steps=720,
    batch_size=128,
    learning_rate=5e-7,
    warmup_steps=150,
    num_microbatches=8,
  )
  strengths = sweep((5e-7, 0.03), (5e-7, 0.1), (5e-7, 0.3))
  for arm in c.arms.values():
    arm.sweep = strengths
  return c
