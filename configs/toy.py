"""Online against offline on a generated task, in minutes on a laptop.

  python -m experiments.online_vs_offline --config=configs/toy.py \
    --workdir=runs/toy

A protocol of Tang et al. 2024 (arXiv 2405.08448) in miniature. The gap appears
because a bag-of-words verifier learns the gold reward from 1000 pairs better
than the policy can; --config.proxy.verifier=transformer takes that away.
"""

from configs import base, methods


def sweep(*pairs):
  return tuple(
    dict(learning_rate=lr, loss_kwargs=dict(beta=beta)) for lr, beta in pairs
  )


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
  )
  c.model.update(vocab_size=32, dim=32, num_heads=2, num_kv_heads=2, mlp_dim=64)
  c.sft.update(steps=500, learning_rate=3e-3)
  c.arm.update(steps=800, save_every=800)
  c.eval.update(samples=4, first_step=48, points=8, pairs=256)
  milder, middle, stronger = (4e-4, 0.1), (4e-4, 0.08), (4e-4, 0.07)
  c.arms = {
    'offline': dict(
      source='golden_pairs',
      labels='golden',
      sweep=sweep((3e-4, 0.1), (3e-4, 0.05), (1e-4, 0.03)),
    ),
    'online': dict(sweep=sweep(milder, middle, stronger)),
    'ref+proxy': dict(source='reference', sweep=sweep(milder, stronger)),
    'shuffled': dict(
      source='log',
      log_of='online/lr0.0004-beta0.1',
      sweep=sweep(milder),
    ),
    'ref+gold': dict(
      source='reference', labels='gold', sweep=sweep((4e-4, 0.05))
    ),
    'online+gold': dict(labels='gold', sweep=sweep((4e-4, 0.05))),
  }
  c.methods = methods.zoo(steps=400, points=7, save_every=400)
  c.families = methods.families()
  return c
