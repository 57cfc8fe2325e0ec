"""The generated task under a learned gold judge, as Gao et al. and Tang et al.

  python -m experiments.online_vs_offline --config=configs/toy_learned_gold.py \
    --workdir=runs/toy_learned_gold

Gold is a transformer larger than the policy. It has learned the programmed
reward of configs/toy.py from preferences, with other weights in every seed;
task/judgeN/judge.json says how far it agrees with that reward. All else is
as in configs/toy.py, and was chosen under the programmed reward.

Expect: the cost of configs/toy.py, and half a minute of one core more for each
seed.
"""

from configs import toy


def get_config():
  c = toy.get_config()
  c.task.update(
    judge_model=dict(
      dim=64,
      num_layers=2,
      num_heads=4,
      num_kv_heads=4,
      head_dim=16,
      mlp_dim=128,
    ),
    judge_steps=600,
    judge_batch_size=32,  # prompts, with 8 completions each
    judge_learning_rate=1e-3,
  )
  return c
