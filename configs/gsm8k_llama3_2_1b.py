"""GSM8K and Llama 3.2 1B: forgetting, distillation, other samplers; v5e-8.

  align reproduce --config=configs/gsm8k_llama3_2_1b.py --workdir=runs/gsm8k \
    --config.task.data=train.jsonl --only=E18,E19,E20

`train.jsonl` is that of github.com/openai/grade-school-math. Gold is whether
the number after '####' is right. SFT teaches that form for two epochs, in E18
for four times as many.

Yao et al. 2025 show truncated importance sampling on GSM8K. 1024 samples to an
iteration in four minibatches, 1e-6 and lengths of 512 are those of verl's
examples for GSM8K. Llama 3.2 1B is one of the models of Chen et al. 2025
(arXiv 2510.18874). It fits a v5e-8 by
`align fit --config=configs/gsm8k_llama3_2_1b.py --topology=v5e-8`.

What differs:
- RLOO of four samples stands for PPO and GRPO.
- E18's second task is differences of two numbers. Its papers have benchmarks.
- E19's teacher is the policy after RLOO, and no larger model.
- Runs are held at 5 nats, which was chosen. They end after 105 iterations,
  verl's after 15 epochs.
- Activations are float32, not bfloat16.

Expect: not run at this size by the project, so neither time nor result is
known; the tests check that it is accepted.
"""

from configs import llama3_2_1b_ultrafeedback
from configs.base import sweep

RATE = 1e-6  # of RLOO, half of the pairs'
PAIRS = 512  # per update, which are 1024 samples
BUDGET = 5.0  # nats


def get_config():
  c = llama3_2_1b_ultrafeedback.get_config()
  c.task = dict(
    name='arithmetic',
    data='train.jsonl',
    dataset='gsm8k',
    tokenizer='',  # the checkpoint's
    prompts=7217,
    eval_prompts=256,
    prompt_len=512,
    completion_len=512,
    wrong_share=0.0,
    old_data='',  # differences of two numbers
    old_prompts=0,  # E18 sets it
  )
  c.model.dtype = 'float32'  # so that E20's sampler of bfloat16 is another
  c.seeds = 3
  c.sft.update(steps=226, batch_size=64, learning_rate=1e-5, warmup_steps=20)
  c.golden.pairs = 4096
  c.proxy.update(steps=128, batch_size=32)
  c.arm.update(
    steps=105,
    batch_size=PAIRS,
    num_minibatches=4,
    num_microbatches=2,
    warmup_steps=0,
    kl_budget=BUDGET,
    kl_every=5,
    kl_samples=1,
  )
  strength = sweep((2 * RATE, 0.1))
  c.arms = {
    'offline': dict(source='golden_pairs', sweep=strength),
    'online': dict(labels='gold', sweep=strength),
  }
  c.eval.update(samples=4, first_step=5, points=8)
  c.report.update(
    budgets=(0.5, 1.0, 2.0, BUDGET), window=(BUDGET, BUDGET), margin=0.02
  )
  return c
