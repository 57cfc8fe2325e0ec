"""Llama 3 8B on UltraFeedback: 64 TPU chips, v5e-64 or v5p-128.

  python -m experiments.online_vs_offline \
    --config=configs/llama3_8b_ultrafeedback.py --workdir=runs/llama_uf

It fits either slice by `align fit --config=configs/llama3_8b_ultrafeedback.py
--topology=v5e-64`.

The instructed checkpoint itself is the reference: no SFT. The arm `rloo` draws
four completions a prompt; `--only` leaves it out. Batch 128, learning
rate 5e-7, beta 0.1 and the questions of UltraFeedback are those of the online
iterative DPO of Dong et al. 2024 (arXiv 2405.07863); 0.01 is Zephyr's beta
(Tunstall et al. 2023).

Expect: not run at this size by the project, so neither time nor result is
known; the tests run it in miniature.
"""

from configs import qwen2_5_0_5b_hh
from configs.base import sweep


def get_config():
  c = qwen2_5_0_5b_hh.get_config()
  c.task.update(
    data='HuggingFaceH4/ultrafeedback_binarized',
    dataset='ultrafeedback',
    split='train_prefs',
    eos_token='<|eot_id|>',
    prompt_len=512,
    completion_len=512,
    long_completion='right',
  )
  c.task.judge.update(
    checkpoint='Skywork/Skywork-Reward-Llama-3.1-8B-v0.2',
    dtype='bfloat16',  # as it was published
    batch_size=64,
  )
  c.model.checkpoint = 'meta-llama/Meta-Llama-3-8B-Instruct'
  c.model.remat = True
  c.mesh.update(fsdp=8, rollout=8)
  c.seeds = 1
  c.sft.steps = 0
  c.golden.pairs = 20000
  c.sft.batch_size = 64
  c.proxy.update(steps=313, batch_size=64, learning_rate=2e-6)
  c.proxy.num_microbatches = 1
  c.arm.update(steps=470, batch_size=128, learning_rate=5e-7)
  c.arm.num_microbatches = 1
  c.eval.update(samples=2, points=6)
  strengths = sweep((5e-7, 0.01), (5e-7, 0.1))
  c.arms.rloo = dict(loss='rloo', group_size=4)
  for arm in c.arms.values():
    arm.sweep = strengths
  return c
