"""The stage of a seed, shared by its runs: SFT, golden labels, a proxy.

Each function reads what an earlier call has finished in the same `workdir`, and
continues from the last checkpoint of what it has not.
"""

import dataclasses
from collections.abc import Callable

from align_jax import hosts, paths, sharding, tasks
from align_jax.files import write_record
from align_jax.lab.pairs import flip, sample_pairs
from align_jax.lab.placing import on_mesh, start_state
from align_jax.lab.proxies import (
  check_proxy_of,
  check_tokens,
  make_proxy,
  pair_accuracy,
)
from align_jax.lab.settings import Loss
from align_jax.lab.setups import make_task
from align_jax.lab.steps import numbers, optimizer, train_step_of
from align_jax.lab.streams import EVAL_PAIRS, INIT, PAIRS, SFT, silent, stream
from align_jax.learn import batches
from align_jax.learn.train import Schedule, train
from align_jax.models import initial
from align_jax.models.interface import of
from align_jax.policy.programs import (
  policy_programs,
)
from align_jax.types import Batch, Params


@dataclasses.dataclass(frozen=True)
class Stage:
  """What the runs of one seed share.

  Attributes:
    folder: folder of the runs.
    seed: an int.
    reference: parameters of the SFT policy.
    pairs: Batch, golden pairs of the reference, annotated.
    held_out: Batch, gold-labelled pairs on the eval prompts, annotated.
    proxy: Batch -> f32 [B].
    preferences: Batch -> f32 [B], the proxy's preferences within a group.
    proxy_params: params of the proxy's first member.
  """

  folder: paths.Path
  seed: int
  task: tasks.Task
  reference: Params
  pairs: Batch
  held_out: Batch
  proxy: Callable
  preferences: Callable
  proxy_params: Params


def train_sft(setup, task, seed, report):
  """The reference: SFT of a random model or a checkpoint; see `initial`."""
  sft, model = setup.shared.sft, setup.shared.model
  params = initial.params(model, task.model, stream(seed, INIT))
  tx = optimizer(sft.optimizer, sft.steps, task.model)
  state = start_state(params, tx, of(task.model).axes(task.model))
  logps, _, _ = policy_programs(task.model)
  loss = Loss('sft', {})
  return train(
    setup.folder('sft', seed) / 'sft',
    state=state,
    source=on_mesh(task.demonstrations),
    key=stream(seed, SFT),
    schedule=Schedule(num_steps=sft.steps, save_every=sft.steps),
    report=report,
    train_step=train_step_of(logps, loss, tx, state),
    hparams=numbers(loss, sft.optimizer),
  ).params


def prepare(setup, seed, report=silent):
  """The Stage of a seed. The process keeps it for the next call."""
  key = repr(setup), seed
  if key not in _prepared:
    _prepared.clear()  # stages are large, so keep only one
    _prepared[key] = _prepare(setup, seed, report)
  return _prepared[key]


_prepared = {}


def _prepare(setup, seed, report):
  shared = setup.shared
  task = make_task(setup, seed)
  tasks.check_sets(task, shared.eval.sets)
  tasks.check_demonstrations(task, shared.eval.metrics)
  check_proxy_of(task, shared.proxy)
  lending = lending_task(setup, task, seed)
  reference = train_sft(setup, task, seed, report)
  if setup.reference_memory == 'host':
    reference = sharding.to_host(reference)
  pairs, held_out = golden_pairs(setup, task, seed, reference)
  later = lambda done, info: report(shared.sft.steps + done, info)
  if lending:
    proxy = lent_proxy(setup.lender, lending, seed, later)
  else:
    proxy = own_proxy(setup, task, seed, reference, pairs, held_out, later)
  folder = setup.workdir / setup.variant / f'seed{seed}'
  return Stage(folder, seed, task, reference, pairs, held_out, *proxy)


def own_proxy(setup, task, seed, reference, pairs, held_out, report):
  """The proxy of a variant's own pairs, as `make_proxy`, and its accuracy."""
  proxy = make_proxy(setup, task, seed, reference, pairs, report)
  path = setup.folder('proxy', seed) / 'proxy.json'
  if not hosts.agree(path.exists()):
    both = {'golden': pairs, 'held_out': held_out}
    accuracy = {k: pair_accuracy(proxy[0], x) for k, x in both.items()}
    if hosts.first():
      write_record(path, accuracy)
  return proxy


def lending_task(setup, task, seed):
  """The task of the variant whose proxy this one uses; None: its own.

  Raises:
    ValueError: the tokenizers of the two policies differ.
  """
  if not setup.lender:
    return None
  lending = make_task(setup.lender, seed)
  if task.tokenizer and lending.tokenizer:
    check_tokens(lending.tokenizer, task.tokenizer, 'proxy.variant')
  return lending


def lent_proxy(setup, task, seed, report):
  """The proxy of another variant, from that variant's reference and pairs."""
  reference = train_sft(setup, task, seed, report)
  both = golden_pairs(setup, task, seed, reference)
  return own_proxy(setup, task, seed, reference, *both, report)


def golden_pairs(setup, task, seed, reference):
  """Gold-labelled pairs of the reference: for training, and held out."""
  shared = setup.shared

  def sampled(prompts, which, num):
    size = shared.batch_size
    return sample_pairs(task, reference, prompts, seed, which, size, num)

  golden = shared.golden
  pairs = batches.cached(
    setup.folder('pairs', seed) / 'pairs.npz',
    lambda: flip(
      sampled(task.train_prompts, PAIRS, golden.pairs), golden.label_noise, seed
    ),
  )
  held_out = batches.cached(
    setup.folder('held_out', seed) / 'held_out.npz',
    lambda: sampled(task.eval_prompts, EVAL_PAIRS, shared.eval.pairs),
  )
  return pairs, held_out
