"""How fast are sampling and training, and how far from the machine's limit?

  python -m experiments.benchmark --config=configs/benchmark.py \
    [--only=DPO,GRPO] [--config.sizes=S] [--write=docs/performance.md]

Times the fixed workload of the config with the functions that experiments use:
medians over interleaved rounds, in CPU seconds of this process and in wall
seconds. The limit is the work of the matrix products alone at the speed of the
machine's best one, measured in the same run. Pin the process to measure a core:
`taskset -c 1 python -m experiments.benchmark ...`.
"""

import functools
import pathlib
import platform
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from align_jax import sampling, scoring, step
from align_jax.losses import LOSSES
from align_jax.models import transformer
from align_jax.types import Batch
from experiments.common import as_dict, versions
from experiments.online_vs_offline import markdown

CONFIG = config_flags.DEFINE_config_file('config', None, 'configs/benchmark.py')
ONLY = flags.DEFINE_list('only', [], 'Time these tasks only.')
WRITE = flags.DEFINE_string('write', None, 'A file for the tables as well.')


# --- The machine --------


def timed(f):
  """-> CPU and wall seconds of one call."""
  cpu, wall = time.process_time(), time.perf_counter()
  f()
  return time.process_time() - cpu, time.perf_counter() - wall


def gemm_flops(size=2048, repeats=7):
  """Floating-point operations per CPU second of a square product, the best."""
  x = jax.random.normal(jax.random.key(0), (size, size))
  product = jax.jit(lambda x: x @ x)
  run = lambda: product(x).block_until_ready()
  run()
  return 2 * size**3 / min(timed(run)[0] for _ in range(repeats))


def matmul_flops(config, tokens, heads):
  """Of a forward pass: 2 per weight and token, the LM head where it is read."""
  c = config
  body = c.num_layers * (4 * c.dim**2 + 3 * c.dim * c.mlp_dim)
  return 2 * (body * tokens + c.dim * c.vocab_size * heads)


def forward_flops(config, task):
  """Prompts once, completions each, logits at completion tokens alone."""
  rows = task['prompts'] * task['group_size']
  completions = rows * task['completion_len']
  tokens = task['prompts'] * task['prompt_len'] + completions
  return matmul_flops(config, tokens, completions)


# --- The work --------


def prompts_of(config, task):
  shape = task['prompts'], task['prompt_len']
  tokens = jax.random.randint(jax.random.key(1), shape, 0, config.vocab_size)
  return tokens, jnp.ones(shape, bool)


def pairs_of(config, task):
  """Full-length completions with rewards 1, 0, 1, 0, ..."""
  rows = task['prompts'] * task['group_size']
  shape = rows, task['completion_len']
  tokens, valid = prompts_of(config, task)
  full = jnp.ones(shape, bool)
  return Batch(
    prompts=tokens,
    prompt_valid=valid,
    completions=jax.random.randint(
      jax.random.key(2), shape, 0, config.vocab_size
    ),
    valid=full,
    mask=full,
    rewards=jnp.tile(jnp.array([1.0, 0.0]), rows // 2),
    ref_logps=jnp.full(shape, -jnp.log(float(config.vocab_size))),
    group_size=task['group_size'],
  )


def sampler(config, task):
  return jax.jit(
    functools.partial(
      sampling.sample,
      config=config,
      group_size=task['group_size'],
      max_new_tokens=task['completion_len'],
    )
  )


def trainer(config, loss, params, learning_rate):
  """-> train(batch), which keeps its state, and annotate(batch)."""
  logps = functools.partial(scoring.token_logps, config=config)
  tx = step.make_optimizer()
  train_step = step.make_train_step(logps, LOSSES[loss], tx)
  annotate = step.make_annotate(jax.jit(logps))
  state = [step.init_state(params, tx)]

  def train(batch):
    state[0], metrics = train_step(
      state[0], batch, {'learning_rate': learning_rate}
    )
    jax.block_until_ready(metrics)

  return train, lambda batch: annotate(params, batch)


def sample_variants(config, task, params, settings):
  """{variant: (call, forward passes of work, rows)}."""
  draw, prompts = sampler(config, task), prompts_of(config, task)
  run = lambda: jax.block_until_ready(draw(params, *prompts, jax.random.key(0)))
  return {'SAMPLE': (run, 1)}


def dpo_variants(config, task, params, settings):
  """With reference log-probs at hand, and computed in every step."""
  batch = pairs_of(config, task)
  train, annotate = trainer(config, 'dpo', params, settings['learning_rate'])
  return {
    'stored ref': (lambda: train(batch), 3),
    'with ref': (lambda: train(annotate(batch)), 4),
  }


def online_variants(loss, config, task, params, settings):
  """Sample, a reward on the host, reference log-probs, one update."""
  draw, prompts = sampler(config, task), prompts_of(config, task)
  train, annotate = trainer(config, loss, params, settings['learning_rate'])

  def run():
    batch = draw(params, *prompts, jax.random.key(0))
    rewards = [len(set(row)) for row in np.asarray(batch.completions).tolist()]
    train(annotate(batch.replace(rewards=jnp.float32(rewards))))

  return {'whole loop': (run, 5)}


TASKS = {
  'SAMPLE': sample_variants,
  'DPO': dpo_variants,
  'GRPO': functools.partial(online_variants, 'grpo'),
  'RLOO': functools.partial(online_variants, 'rloo'),
  'GROUP': functools.partial(online_variants, 'rloo'),
  'LONG': dpo_variants,
}


# --- The tables --------


def measure(calls, repeats):
  """Interleaved rounds: {name: (first wall, median CPU, median wall)}."""
  first = {name: timed(f)[1] for name, f in calls.items()}
  rounds = [{n: timed(f) for n, f in calls.items()} for _ in range(repeats)]
  median = lambda name, i: statistics.median(r[name][i] for r in rounds)
  return {n: (first[n], median(n, 0), median(n, 1)) for n in calls}


def peak_memory():
  """MB: of the accelerator, or of this process."""
  stats = jax.devices()[0].memory_stats()
  if stats:
    return stats['peak_bytes_in_use'] / 2**20
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows_of(size, name, settings, flops):
  """A table row per variant of one task at one size."""
  config = transformer.ModelConfig(**settings['models'][size])
  task = settings['tasks'][name]
  params = jax.jit(transformer.init, static_argnums=1)(
    jax.random.key(0, impl='unsafe_rbg'), config
  )
  variants = TASKS[name](config, task, params, settings)
  calls = {variant: call for variant, (call, _) in variants.items()}
  measured = measure(calls, settings['repeats'])
  tokens = task['prompts'] * task['group_size'] * task['completion_len']
  for variant, (first, cpu, wall) in measured.items():
    passes = variants[variant][1]
    limit = passes * forward_flops(config, task) / flops
    yield [
      f'{name} {size}',
      variant,
      f'{cpu:.3f}',
      f'{wall:.3f}',
      f'{tokens / wall:,.0f}',
      f'{limit:.3f}',
      f'{cpu / limit:.2f}',
      f'{first - wall:.1f}',
      f'{peak_memory():,.0f}',
    ]


HEADER = [
  'work',
  'variant',
  'CPU s',
  'wall s',
  'completion tokens / s',
  'limit s',
  'CPU / limit',
  'compile s',
  'peak MB so far',
]


def run(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  settings = as_dict(CONFIG.value)
  names = ONLY.value or list(settings['tasks'])
  unknown = sorted(set(names) - set(settings['tasks']))
  if unknown:
    raise app.UsageError(
      f'--only={",".join(unknown)}: tasks are {", ".join(settings["tasks"])}'
    )
  flops = gemm_flops()
  rows = []
  for size in settings['sizes']:
    for name in names:
      for row in rows_of(size, name, settings, flops):
        rows.append(row)
        print(' | '.join(row), flush=True)
  text = (
    f'{markdown(HEADER, rows)}\n\nMedians of {settings["repeats"]} rounds on '
    f'{platform.machine()}, {jax.devices()[0].device_kind}; its best matrix '
    f'product does {flops / 1e9:.0f} GFLOP per CPU second.\n\n'
    f'```text\n{versions()}\n```\n'
  )
  print(f'\n{text}')
  if WRITE.value:
    pathlib.Path(WRITE.value).write_text(text)


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(run)
