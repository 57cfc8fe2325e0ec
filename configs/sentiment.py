"""Online against offline on film reviews: a policy taught to speak well.

  python -m experiments.online_vs_offline --config=configs/sentiment.py \
    --workdir=runs/sentiment [--config.task.data=reviews.jsonl.gz]

SFT on reviews; prompts are the first tokens of reviews, those that policies
are measured on of held-out ones. The gold judge is a sentiment classifier,
larger than the policy and trained on the labels; golden pairs and the proxy
come from it.

Every run is held at 2 nats, as on the toy, so that arms are compared where they
stay. A strong weight decay takes the random start of the bag of words away: it
drowned what the pairs teach.

Expect: about a quarter of an hour on two cores. The proxy ranks 0.71 of the
held-out pairs as gold does, on each of three pilot seeds; docs/results.md has
the command and the search.
"""

from configs import base, methods
from configs.base import sweep


def get_config():
  c = base.get_config()
  c.task = dict(
    name='sentiment',
    data='stanfordnlp/imdb',  # or a local .jsonl[.gz] with `text` and `label`
    dataset='text_label',  # how to read its rows: align_jax.data.DATASETS
    tokenizer='',  # a tokenizer.json; '': a BPE trained on the reviews
    prompts=4096,
    eval_prompts=128,
    heldout_reviews=1000,  # that nothing is trained on
    prompt_len=8,  # tokens, BOS included
    completion_len=24,
    sft_len=64,  # completion tokens of a demonstration
    judge_model=dict(
      dim=192,
      num_layers=2,
      num_heads=6,
      num_kv_heads=6,
      head_dim=32,
      mlp_dim=512,
    ),
    judge_len=56,
    judge_steps=600,
    judge_batch_size=32,
    judge_learning_rate=1e-3,
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
  c.sft.update(steps=800, batch_size=32, learning_rate=2e-3, warmup_steps=50)
  c.golden.pairs = 4000
  c.proxy.weight_decay = 3.0
  c.arm.update(
    steps=240,
    batch_size=16,
    save_every=80,
    kl_budget=2.0,
    kl_every=40,
    kl_samples=4,
    pool=128,
  )
  c.eval.update(samples=4, first_step=10, points=7, pairs=256)
  strengths = sweep((3e-4, 0.1))
  c.arms = {
    'offline': dict(source='golden_pairs', sweep=strengths),
    'online': dict(sweep=strengths),
    'ref+proxy': dict(source='reference', sweep=strengths),
    'shuffled': dict(
      source='log', log_of='online/lr0.0003-beta0.1', sweep=strengths
    ),
    'ref+gold': dict(source='reference', labels='gold', sweep=strengths),
    'online+gold': dict(labels='gold', sweep=strengths),
  }
  c.report.update(budgets=(0.25, 0.5, 1.0, 1.5, 2.0), window=(2.0, 2.0))
  c.methods = {
    'rloo': dict(
      loss='rloo',
      group_size=4,
      batch_size=8,
      reward_scale='reference',
      sweep=methods.betas(0.35, 0.25, lr=3e-4),
    )
  }
  return c
