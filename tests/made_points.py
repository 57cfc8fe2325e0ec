"""Points of an experiment that nobody trained, and the folder they lie in."""

import json

import numpy as np

PROMPTS, SAMPLES = 12, 2
STEPS = (0, 4, 8, 16, 32, 64)


def run(
  arm,
  seed,
  quality,
  speed=1.0,
  config='default',
  held=0.0,
  steps=STEPS,
  noise=0.05,
):
  """Points of one run, whose gold rises with sqrt(KL) and KL with steps.

  Args:
    quality: gold reward per sqrt(nat), the mean over seeds.
    speed: of the KL.
    held: nats at which the KL stops; 0: nowhere.
    noise: deviation of what each arm has of its own.
  """
  rng = np.random.default_rng([seed, 1])  # what all arms of a seed share
  own = np.random.default_rng([seed, *map(ord, arm + config)])
  start = rng.normal(size=PROMPTS)
  quality = quality + noise * own.normal() + 0.1 * rng.normal()
  for step in steps:
    kl = speed * 4 * step / (step + 30)
    kl = min(kl, held) if held else kl
    gold = start + quality * kl**0.5 + noise * own.normal(size=PROMPTS)
    gold = gold if step else start
    yield point(arm, config, seed, held, step, kl, gold)


def point(arm, config, seed, held, step, kl, gold):
  samples = np.stack([gold, gold], 1)
  shown = [
    {'prompt': f'prompt {i}', 'completion': f'{arm} said {i} after {step}'}
    for i in range(2)
  ]
  return dict(
    arm=arm,
    configuration=config,
    seed=seed,
    kl_budget=held,
    step=step,
    kl_seq_nats=kl,
    kl_seq_nats_se=0.01,
    gold=float(gold.mean()),
    proxy=float(gold.mean() + 0.3 * kl),
    proxy_accuracy=0.7,
    implicit_accuracy=0.5 + 0.05 * (step > 0),
    chosen_log_ratio=-0.5 * kl,
    rejected_log_ratio=-0.7 * kl,
    repeats=0.5 + 0.1 * kl,
    kl_by_prompt=[kl] * PROMPTS,
    gold_by_prompt=gold.tolist(),
    proxy_by_prompt=(gold + 0.3 * kl).tolist(),
    gold_samples=samples.tolist(),
    shown=shown,
  )


def reweighed(arm, seed, quality, kls=(0.0, 0.3, 0.8, 1.5, 2.2, 3.0)):
  """Points of an arm that trains nothing; they lack what only policies have."""
  trained = (
    'gold_samples shown implicit_accuracy proxy_accuracy repeats'.split()
  )
  start = np.random.default_rng([seed, 1]).normal(size=PROMPTS)
  for number, kl in enumerate(kls):
    gold = start + quality * kl**0.5
    p = point(arm, 'default', seed, 0.0, number, kl, gold)
    yield {k: v for k, v in p.items() if k not in trained}


def arms(seeds=8, **fields):
  """{name: dict of `run`'s arguments} -> points of all arms and seeds."""
  return [
    p
    for seed in range(seeds)
    for arm, of_run in fields.items()
    for p in run(arm, seed, **of_run)
  ]


def fill(workdir, seeds=8, proxy=0.7, command='python -m experiments.x'):
  """What a report reads beside points; `proxy`: accuracies, or one for all."""
  accuracies = [proxy] * seeds if isinstance(proxy, float) else proxy
  for seed, accuracy in enumerate(accuracies):
    folder = workdir / f'seed{seed}'
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({'held_out': accuracy, 'golden': 0.9})
    (folder / 'proxy.json').write_text(text)
  started = {'command': command, 'versions': 'python 3\nnumpy 2'}
  (workdir / 'experiment.json').write_text(json.dumps(started))
  return workdir
