"""Qwen2.5 0.5B on HH-RLHF, from the hub to a frontier: one GPU or a TPU host.

  python -m experiments.online_vs_offline --config=configs/qwen2_5_0_5b_hh.py \
    --workdir=runs/qwen_hh

SFT of the base model on the chosen answers, in ChatML; the gold judge is a
published reward model, the proxy one trained on its labels. Batch 64, learning
rate 1e-6 with 150 warm-up steps and beta 0.1 are those of DPO (Rafailov et al.
2023); the other strengths are the sweep.

It fits a v5e-8 by
`align fit --config=configs/qwen2_5_0_5b_hh.py --topology=v5e-8
--config.mesh.fsdp=8`, which its run needs, too.

Expect: not run at this size by the project, so neither time nor result is
known; the tests run it in miniature.
"""

from configs import base
from configs.base import sweep


def get_config():
  c = base.get_config()
  c.task = dict(
    name='preferences',
    data='Anthropic/hh-rlhf',
    dataset='hh',
    subset='',
    split='train',
    revision='',
    tokenizer='',  # the checkpoint's
    eos_token='<|im_end|>',  # what its template ends a turn with
    template='',  # the tokenizer's
    prompt_len=256,
    completion_len=128,
    long_prompt='drop',
    long_completion='drop',
    on_bad_row='skip',
    heldout_prompts=2000.0,  # a share of all, if below 1
    eval_prompts=256,
    pretrain_steps=0,
    judge=dict(
      kind='reward_model', checkpoint='Skywork/Skywork-Reward-V2-Qwen3-0.6B'
    ),
    judge_share=0.0,
    judge_model={},
    judge_steps=0,
    judge_batch_size=0,
    judge_learning_rate=0.0,
  )
  c.model = dict(
    checkpoint='Qwen/Qwen2.5-0.5B',  # and no sizes: it has its own
    revision='',
    param_dtype='float32',
    dtype='bfloat16',  # of activations
  )
  c.seeds = 3
  c.sft.update(steps=1500, batch_size=64, learning_rate=1e-5, warmup_steps=150)
  c.golden.pairs = 16384
  c.proxy.update(
    verifier='transformer',
    steps=512,
    batch_size=32,
    learning_rate=1e-5,
    warmup_steps=50,
    weight_decay=0.0,
  )
  c.arm.update(
    loss='dpo',
    loss_kwargs=dict(beta=0.1),
    steps=1000,
    batch_size=64,
    learning_rate=1e-6,
    warmup_steps=150,
    num_microbatches=4,
  )
  c.eval.update(samples=4, first_step=20, points=10, pairs=512)
  strengths = sweep((1e-6, 0.05), (1e-6, 0.1), (1e-6, 0.3))
  c.arms = {
    'offline': dict(source='golden_pairs', sweep=strengths),
    'file pairs': dict(source='file_pairs', sweep=strengths),
    'online': dict(sweep=strengths),
  }
  return c
