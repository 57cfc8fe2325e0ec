"""Sums of two numbers of two digits, and a judge that only checks the result.

  python -m experiments.method_zoo --config=configs/arithmetic.py \
    --workdir=runs/arithmetic

The policy reads and writes characters. SFT on worked solutions, some of which
belong to other questions, leaves it right on some of the questions; then it
learns from its own samples, each right or wrong.
`--config.task.data=train.jsonl.gz` asks the questions of GSM8K, or of any file
of its format; they need a larger `task.prompt_len`, `task.completion_len` and
model.

Expect: not run at this size with the present protocol, so neither time nor
result is known; the tests run it in miniature.
"""

from configs import base
from configs.methods import betas


def get_config():
  c = base.get_config()
  c.task = dict(
    name='arithmetic',
    data='',  # or a .jsonl[.gz] with `question` and `answer`; '': sums
    dataset='gsm8k',  # how to read its rows: align_jax.data.DATASETS
    tokenizer='',  # a tokenizer.json; '': a token per byte
    prompts=4096,
    eval_prompts=128,
    prompt_len=18,  # tokens, BOS included
    completion_len=23,  # EOS included
    wrong_share=0.3,  # of the demonstrations show another question's solution
  )
  c.model.update(
    vocab_size=259,
    dim=64,
    num_layers=1,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    mlp_dim=256,
  )
  c.sft.update(steps=2500, batch_size=32, learning_rate=2e-3, warmup_steps=50)
  c.golden.pairs = 256
  c.proxy.update(steps=60, batch_size=32)
  c.arm.update(
    labels='gold', steps=300, batch_size=32, group_size=4, save_every=100
  )
  c.eval.update(samples=4, first_step=10, points=7, pairs=128)
  c.methods = {
    'rloo': dict(loss='rloo', sweep=betas(0.05, lr=3e-4)),
    'max_rl': dict(loss='max_rl', sweep=betas(0.05, lr=3e-4)),
    'grpo': dict(loss='grpo', sweep=betas(0.05, lr=3e-4)),
    'ppo': dict(
      loss='ppo',
      num_epochs=2,
      num_minibatches=2,
      sweep=betas(0.05, lr=3e-4, gamma=1.0),
    ),
  }
  c.report.shown = (0.05, 0.1, 0.25, 0.5)
  c.report.budgets = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
  return c
