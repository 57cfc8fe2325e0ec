"""Online against offline DPO on HH-RLHF, with a policy trained on it alone.

  python -m experiments.online_vs_offline --config=configs/hh.py \
    --workdir=runs/hh [--config.task.data=harmless-base.jsonl.gz]

Transcripts (Bai et al. 2022): SFT on the chosen answers, a reward model of half
of the pairs as the gold judge, offline DPO on golden pairs and on the human
labels of the other half, online DPO under the proxy. Tokenizer, policy and
judge are small, and know no English but that of the file.

Expect: six minutes of processor time on 1745 transcripts, see
docs/pipelines.md; the whole data set was not run.
"""

from configs import base
from configs.base import sweep


def get_config():
  c = base.get_config()
  c.task = dict(
    name='preferences',
    data='Anthropic/hh-rlhf',  # or a local .jsonl[.gz]
    dataset='hh',  # how to read its rows: align_jax.data.DATASETS
    subset='',
    split='train',
    revision='',
    tokenizer='',  # a folder or hub id; '': a BPE trained on the chosen answers
    eos_token='',
    template='hh',
    prompt_len=64,  # tokens, BOS included
    completion_len=32,  # EOS included
    long_prompt='left',  # the end of a conversation is kept
    long_completion='right',  # the beginning of an answer is kept
    on_bad_row='skip',
    heldout_prompts=256.0,  # a share of all, if below 1
    eval_prompts=64,
    pretrain_steps=180,  # of sft.steps, on stretches of whole transcripts
    judge=dict(kind='pairs', checkpoint=''),
    judge_share=0.5,
    judge_model=dict(
      dim=192,
      num_layers=3,
      num_heads=6,
      num_kv_heads=6,
      head_dim=32,
      mlp_dim=512,
    ),
    judge_steps=80,
    judge_batch_size=16,
    judge_learning_rate=3e-4,
  )
  c.model.update(
    vocab_size=2048,
    dim=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=344,
  )
  c.seeds = 2
  c.sft.update(steps=260, batch_size=16, learning_rate=2e-3, warmup_steps=20)
  c.golden.pairs = 384
  c.proxy.update(steps=100, batch_size=32)
  c.arm.update(
    loss='dpo',
    loss_kwargs=dict(beta=0.1),
    steps=48,
    batch_size=16,
    warmup_steps=4,
    save_every=48,
  )
  c.eval.update(samples=4, first_step=6, points=5, pairs=128)
  c.arms = {
    'offline': dict(source='golden_pairs', sweep=sweep((5e-4, 0.1))),
    'file pairs': dict(source='file_pairs', sweep=sweep((5e-4, 0.1))),
    'online': dict(sweep=sweep((5e-4, 0.1))),
  }
  c.report.update(
    budgets=(0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), window=(0.25, 2.0)
  )
  return c
