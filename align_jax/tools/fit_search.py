"""Turns a config's knobs until its programs fit a slice.

Knobs are tried from the setting that should take least time: how sampling
splits the layers, what a backward pass computes anew, the parts of a batch. The
reference goes to the memory of its host where nothing else is enough.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from align_jax import sharding
from align_jax.lab import overrides, sweep
from align_jax.lab.labels import published_judges
from align_jax.lab.settings import Run
from align_jax.models import interface
from align_jax.tools import fit_slices, fit_table
from align_jax.tools.fit_measure import Measured, measure
from align_jax.tools.fit_programs import (
  PROGRAMS,
  SIZES,
  Programs,
  model_of,
  params_of,
)


def powers(limit: int) -> list[int]:
  """1, 2, 4 ... up to a limit."""
  return [2**i for i in range(limit.bit_length()) if 2**i <= limit]


def meshes(chips: int, rows: int, kv_heads: int) -> Iterator[dict[str, int]]:
  """Meshes of so many chips, the one that splits layers least first.

  Args:
    rows: prompts of a batch; more chips than that share layers.
    kv_heads: of the model, over which layers are split.
  """
  tensor = max(1, chips // math.gcd(chips, rows))
  for rollout in powers(kv_heads // tensor):
    if chips % (rollout * tensor) == 0 and kv_heads % (rollout * tensor) == 0:
      fsdp = chips // (rollout * tensor)
      yield dict(data=1, fsdp=fsdp, rollout=rollout, context=1, tensor=tensor)


def token_seconds(mesh: dict, model, rows: int, chip: fit_slices.Chip) -> float:
  """Seconds that weights and states of one sampled token take, at least.

  A chip reads its share of the weights. Twice in each layer it sums states with
  the chips that have the other shares. One follows the other, unlike in the
  bounds that are printed. What is alike on all meshes is left out.

  Args:
    mesh: sizes of its axes.
    model: a ModelConfig or an Adapter; without layers no states are counted.
    rows: completions of a batch.
  """
  ways = mesh['rollout'] * mesh['tensor']
  size = jnp.dtype(getattr(model, 'dtype', 'float32')).itemsize
  seconds = interface.size(model) * size / ways / chip.hbm
  if ways > 1:
    own = rows / (mesh['data'] * mesh['fsdp'])
    states = own * interface.of(model).width(model) * size
    sums = 2 * getattr(model, 'num_layers', 0)
    seconds += sums * 2 * states / chip.ici  # as `fit_hlo.moved` counts a sum
  return seconds


def trainings(rows: int, ways: int, remat: bool) -> Iterator[dict]:
  """Settings of an update, from the fastest to the smallest.

  Args:
    rows: prompts of a batch.
    ways: chips that share them.
    remat: whether the config says so already.
  """
  if not remat:
    yield {'model.remat': False, 'arm.num_microbatches': 1}
  for parts in powers(rows // ways):
    if rows // ways % parts == 0:
      yield {'model.remat': True, 'arm.num_microbatches': parts}


def changed(cfg: dict, changes: dict) -> dict:
  """The config with changes {dotted path: value}."""
  for path, value in changes.items():
    cfg = overrides.put(cfg, path.split('.'), value)
  return cfg


class NoneFits(ValueError):
  """No setting of the knobs makes a program fit."""


def first_run(cfg: dict, arm: str) -> Run:
  """The first run of a config's arm; others may be what its log is of."""
  return kinds(cfg, arm)[0]


# Fields whose numbers change no program. Words in `loss_kwargs` do.
TRACED = 'learning_rate', 'loss_kwargs', 'steps', 'points'


def kinds(cfg: dict, arm: str) -> list[Run]:
  """The runs of a config's arm that differ in more than numbers of programs.

  Args:
    arm: its name, of all variants, or `VARIANT ARM`, of one.
  """
  found: dict[str, Run] = {}
  for run in sweep.sweep({**cfg, 'seeds': 1}):
    if arm in (run.arm, run.label):
      fixed = {k: v for k, v in run.flat.items() if k not in TRACED}
      words = {k: v for k, v in run.loss.kwargs.items() if isinstance(v, str)}
      key = repr((fixed, words, _read(run)))
      found.setdefault(key, run)
  return list(found.values())


def name_of(run: Run) -> str:
  """Of one of several kinds of an arm."""
  return f'{run.label}/{run.configuration}'


def _read(run):
  """What programs read of the settings that the runs of a variant share."""
  shared, proxy = run.shared, run.shared.proxy
  task = shared.task
  if task.keys() >= set(SIZES):
    task = [task[name] for name in SIZES]
  judges = {
    field: (judge['checkpoint'], judge.get('dtype'))
    for field, judge in published_judges(run).items()
  }
  scorer = proxy.verifier, proxy.members, proxy.model
  return task, judges, shared.model, scorer, shared.eval.samples


def compiled(cfg, arm, name, found, limit) -> Measured:
  """One program of a config's arm."""
  run = first_run(cfg, arm)
  mesh = sharding.make_mesh(list(found.devices()), **cfg['mesh'])
  with jax.set_mesh(mesh):
    programs = Programs(run, mesh, cfg['reference_memory'])
    return measure(PROGRAMS[name](programs), found, limit)


def search(
  cfg: dict,
  found: fit_slices.Slice,
  asked: Sequence[tuple[str, str]],
  say: Callable[[str], None] = lambda line: None,
) -> tuple[dict, list[Measured]]:
  """The first knobs with which all programs fit.

  Sampling decides the mesh, and the others the rest.

  Args:
    asked: (arm, program) each.
    say: is told of every program that was tried.
  Returns:
    {dotted path: value}, and the programs in the order of `asked`.
  Raises:
    NoneFits: names the program.
  """
  limit, done, known = found.limit(), {}, {}
  samples = [x for x in asked if 'sample' in x[1]]
  for group in (samples, [x for x in asked if x not in samples]):
    large = []
    for changes in _candidates(cfg, found, asked[0][0], done, large):
      for arm, name in group:
        x = compiled(changed(cfg, changes), arm, name, found, limit)
        known[arm, name] = x
        verdict = next(fit_table.lines(x, found, 'the next'))
        say(f'{said(changes)}: {arm}: {verdict}')
        if not x.fits:
          large.append(x)
          break
      else:
        done = changes
        break
    else:
      raise NoneFits(_least(large))
  return done, [known[x] for x in asked]


def _least(large):
  """What the smallest of the programs that do not fit takes."""
  if not large:
    return 'no mesh of this slice splits both the prompts and the heads'
  x = min(large, key=lambda x: x.total)
  return (
    f'{x.name} takes {fit_table.gib(x.total)} GiB of {fit_table.gib(x.limit)}'
  )


def _candidates(cfg, found, arm, done, large) -> Iterator[dict]:
  """{dotted path: value} to try, with what is settled already.

  Args:
    large: the programs so far that were too large.
  """
  run = first_run(cfg, arm)
  every = list(_on_device(cfg, found, run, done))
  yield from every
  field = 'reference_memory'
  if done.get(field, cfg[field]) == 'host':
    return
  own = reference_bytes(run) / found.chips
  if any(x.total - own <= x.limit for x in large):
    for changes in every:
      yield {**changes, field: 'host'}


def reference_bytes(run: Run) -> int:
  """Of the parameters of a run's reference, on all chips together."""
  params = params_of(run.shared, model_of(run.shared))
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def _on_device(cfg, found, run, done):
  """The same, wherever the reference lies."""
  rows = run.updates.batch_size
  if done:
    ways = done['mesh.fsdp'] * done['mesh.rollout']
    for more in trainings(rows, ways, cfg['model'].get('remat', False)):
      yield {**done, **{_path(cfg, run.arm, k): v for k, v in more.items()}}
    return
  model = model_of(run.shared)
  known = meshes(found.chips, rows, getattr(model, 'num_kv_heads', 1))
  completions = rows * run.sampling.group_size
  for mesh in sorted(
    known, key=lambda mesh: token_seconds(mesh, model, completions, found.chip)
  ):
    yield {f'mesh.{axis}': size for axis, size in mesh.items()}


def _path(cfg, arm, path):
  """The arm's own field, where it has one that shadows `arm`'s."""
  group, _, field = path.partition('.')
  own = group == 'arm' and field in cfg['arms'][arm]
  return f'arms.{arm}.{field}' if own else path


def said(changes: dict) -> str:
  """Overrides as they are typed."""
  return ' '.join(f'--config.{k}={v}' for k, v in changes.items())


def short(changes: dict) -> str:
  """The same for a table: without what is 1 or off."""
  own = {
    k.split('.')[-1]: v
    for k, v in changes.items()
    if v is True or v not in (1, False, 'device')
  }
  return ', '.join(k if v is True else f'{k} {v}' for k, v in own.items())
