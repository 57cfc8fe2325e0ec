"""Online against offline on a generated task, in minutes on a laptop.

  python -m experiments.online_vs_offline --config=configs/toy.py \
    --workdir=runs/toy

A protocol of Tang et al. 2024 (arXiv 2405.08448) in miniature. The gap appears
because a bag-of-words verifier learns the gold reward from 1000 pairs better
than the policy can; --config.proxy.verifier=transformer takes that away.

Every run is held at 2 nats, so that arms are compared where they stay: a run
that only passes a budget scores less there than one that ends there. Strengths
were chosen on pilot seeds by each arm's own score, docs/results.md has the log.

--config.eval.sets="('ood',)" adds prompts with a token that no training has.

Expect: five minutes on two cores, installing included, and online above offline
at 2 nats; the README has the numbers.
"""

from configs import base, methods
from configs.base import sweep


def get_config():
  c = base.get_config()
  c.task = dict(
    name='toy',
    prompts=744,
    eval_prompts=256,  # held out; 0: the training prompts, as Tang et al. do
    prompt_len=3,
    completion_len=8,
    peak_shift=0.7,  # how far the best tokens are from the demonstrations
    repeat_penalty=0.6,
    old_prompts=0,  # of a second task that only demonstrations teach
    uncovered=0,  # tokens that no golden pair contains
  )
  c.model.update(
    vocab_size=32,
    dim=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    mlp_dim=64,
  )
  c.seeds = 16
  c.sft.update(steps=500, learning_rate=3e-3)
  c.arm.update(
    steps=800,
    save_every=800,
    warmup_steps=50,
    kl_budget=2.0,
    kl_every=40,
    kl_samples=2,
    pool=1024,
  )
  c.eval.update(samples=4, first_step=25, points=11, pairs=256)
  mild, strong = sweep((1e-3, 0.1)), sweep((2e-3, 0.1))
  c.arms = {
    'offline': dict(
      source='golden_pairs',
      steps=200,  # it scores less the longer it learns from the same pairs
      points=7,  # after the same numbers of updates as the others
      kl_samples=4,  # few measurements, so each by itself has to be right
      sweep=sweep((2e-3, 0.05)),
    ),
    'online': dict(sweep=strong),
    'ref+proxy': dict(source='reference', sweep=mild),
    'shuffled': dict(source='log', log_of='online/lr0.002-beta0.1', sweep=mild),
    'ref+gold': dict(source='reference', labels='gold', sweep=strong),
    'online+gold': dict(labels='gold', sweep=strong),
    'optimum': dict(source='reference', reweigh='optimum'),
  }
  c.report.update(budgets=(0.25, 0.5, 1.0, 1.5, 2.0), window=(2.0, 2.0))
  c.methods = methods.zoo(steps=400, points=7, save_every=400)
  c.families = methods.families()
  return c
