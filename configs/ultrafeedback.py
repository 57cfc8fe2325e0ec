"""Online against offline DPO on UltraFeedback: configs/hh.py on its rows.

  python -m experiments.online_vs_offline --config=configs/ultrafeedback.py \
    --workdir=runs/ultrafeedback [--config.task.data=train.jsonl.gz]

One question, two answers (Cui et al. 2023). Most questions and nearly all
answers are longer than a laptop trains on: the former are left out and counted,
of the latter the beginning is kept, though the labels are about the whole.

Expect: run on 1000 rows (docs/pipelines.md); the whole data set was not run.
"""

from configs import hh


def get_config():
  c = hh.get_config()
  c.task.update(
    data='HuggingFaceH4/ultrafeedback_binarized',
    dataset='ultrafeedback',
    split='train_prefs',
    template='alpaca',
    prompt_len=64,
    completion_len=32,
    long_prompt='drop',  # the beginning says what is asked
    heldout_prompts=256.0,  # a share of all, if below 1
    eval_prompts=64,
  )
  return c
