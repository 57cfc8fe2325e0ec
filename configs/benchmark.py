"""A fixed workload at three sizes, for `python -m experiments.benchmark`.

Random weights, float32, every length full and no EOS unless a task says
otherwise: what is timed is the work and nothing else. Llama architecture, full
attention heads, tied embeddings.

Expect: docs/performance.md has the times and ratios, with the machine.
"""

import ml_collections

MODELS = {  # vocab, width, layers, heads, SwiGLU width
  'XS': (256, 64, 2, 4, 256),
  'S': (4096, 192, 4, 6, 768),
  'M': (8192, 512, 6, 8, 1536),
  'L': (32000, 768, 12, 12, 2048),
}


def model(vocab_size, dim, num_layers, num_heads, mlp_dim):
  return dict(
    vocab_size=vocab_size,
    dim=dim,
    num_layers=num_layers,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=dim // num_heads,
    mlp_dim=mlp_dim,
  )


def task(kind, prompts, group_size, prompt_len=64, completion_len=128, **more):
  """A kind is a function of experiments/peers: what a repetition does."""
  return dict(
    kind=kind,
    prompts=prompts,
    group_size=group_size,
    prompt_len=prompt_len,
    completion_len=completion_len,
    **{'microbatches': 1, **more},  # parts of an update, one at a time
  )


def get_config():
  c = ml_collections.ConfigDict()
  c.models = {name: model(*size) for name, size in MODELS.items()}
  c.sizes = 'S,M'  # which of `models`
  c.tasks = {
    'SAMPLE': task('sample', 32, 1),
    # Lengths geometric, of this mean and cut at completion_len.
    'REFILL': task('refill', 128, 1, slots=32, mean_len=40),
    'DPO pre': task('dpo', 16, 2),  # reference log-probs at hand
    'DPO +ref': task('dpo_ref', 16, 2),  # and computed in every step
    'GRPO': task('grpo', 8, 4),
    'RLOO': task('rloo', 8, 4),
    'GROUP': task(
      'grpo', 16, 8, prompt_len=256, completion_len=64, microbatches=4
    ),
    'LONG': task('dpo', 16, 2, prompt_len=512, completion_len=64),
  }
  c.only = ''  # names of `tasks`; '': all of them
  c.rounds = 5  # medians are over these
  # Cores that each contestant may use; 1: CPU seconds are compared, else wall
  # seconds. 0: all there are.
  c.cores = 1
  # Once its thread pools are sized, lets a contestant run on any core: the same
  # CPU seconds, and on a busy machine many times sooner.
  c.widen = False
  c.afresh = True  # compile times are those of a first run, nothing is cached
  # The interpreters that have them; '': this one, if they are installed in it.
  c.peers = dict(trl='', tunix='')
  c.page = 'docs/performance.md'  # '': prints only
  # How we train; the peers are told the same.
  c.train = dict(
    learning_rate=1e-6,
    warmup_steps=0,
    max_grad_norm=1.0,
    weight_decay=0.0,
    loss_kwargs=dict(
      dpo=dict(beta=0.1), grpo=dict(beta=0.04), rloo=dict(beta=0.04)
    ),
  )
  # What --scaling varies, an axis at a time, around the first of each.
  c.scaling = dict(
    size='S',
    prompt_len=64,
    axes=dict(
      prompts=(8, 4, 16, 32),
      group_size=(4, 2, 8, 16),
      completion_len=(64, 32, 128, 256),
      dim=(192, 96, 384, 768),
      vocab_size=(4096, 1024, 16384, 65536),
    ),
  )
  return c


def smoke(c):
  """The same at a size that takes seconds: for tests."""
  c.sizes, c.rounds, c.afresh = 'XS', 2, False
  for name in c.tasks:
    c.tasks[name].update(prompts=4, prompt_len=6, completion_len=4)
  c.tasks.REFILL.update(slots=2, mean_len=2)
  c.scaling.update(size='XS', prompt_len=6)
  c.scaling.axes.update(
    prompts=(2, 4),
    group_size=(2, 4),
    completion_len=(4, 8),
    dim=(64, 128),
    vocab_size=(256, 512),
  )
  return c
