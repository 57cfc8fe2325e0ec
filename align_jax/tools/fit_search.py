"""Turns a config's knobs until its programs fit a slice.

Knobs are tried from the one that costs least time: how sampling splits the
layers, what a backward pass computes anew, the parts of a batch.
"""

import math
from collections.abc import Iterator

import jax

from align_jax import sharding
from align_jax.lab import overrides, sweep
from align_jax.tools import fit_slices, fit_table
from align_jax.tools.fit_measure import Measured, measure
from align_jax.tools.fit_programs import PROGRAMS, Programs, model_of


def powers(limit: int) -> list[int]:
  """1, 2, 4 ... up to a limit."""
  return [2**i for i in range(limit.bit_length()) if 2**i <= limit]


def meshes(chips: int, rows: int, kv_heads: int) -> Iterator[dict[str, int]]:
  """Meshes of so many chips, the one that moves least first.

  Args:
    rows: prompts of a batch; more chips than that share layers.
    kv_heads: of the model, over which layers are split.
  """
  tensor = max(1, chips // math.gcd(chips, rows))
  for rollout in powers(kv_heads // tensor):
    if chips % (rollout * tensor) == 0 and kv_heads % (rollout * tensor) == 0:
      fsdp = chips // (rollout * tensor)
      yield dict(data=1, fsdp=fsdp, rollout=rollout, context=1, tensor=tensor)


def trainings(rows: int, ways: int) -> Iterator[dict]:
  """Settings of an update, from the fastest to the smallest."""
  yield {'model.remat': False, 'arm.num_microbatches': 1}
  for parts in powers(rows // ways):
    if rows // ways % parts == 0:
      yield {'model.remat': True, 'arm.num_microbatches': parts}


def changed(cfg: dict, changes: dict) -> dict:
  """The config with changes {dotted path: value}."""
  for path, value in changes.items():
    cfg = overrides.put(cfg, path.split('.'), value)
  return cfg


def try_one(cfg, arm, found, limit, name) -> Measured:
  """One program of a config, compiled."""
  one = {**cfg, 'seeds': 1}
  run = next(r for r in sweep.sweep(one) if r.arm == arm)
  mesh = sharding.make_mesh(list(found.devices()), **cfg['mesh'])
  with jax.set_mesh(mesh):
    return measure(PROGRAMS[name](Programs(run, mesh)), found, limit)


def lines(cfg, run, found: fit_slices.Slice, names) -> Iterator[str]:
  """The tries, and the overrides with which all programs fit.

  Raises:
    ValueError: none does.
  """
  limit, done = fit_slices.limit(found.devices()), {}
  for group in (
    [n for n in names if 'sample' in n],
    [n for n in names if 'sample' not in n],
  ):
    for changes in _candidates(cfg, run, found, group, done):
      short = []
      for name in group:
        x = try_one(changed(cfg, changes), run.arm, found, limit, name)
        verdict = next(fit_table.lines(x, found, 'tries the next'))
        yield f'{_said(changes)}: {verdict}'
        short += [] if x.fits else [name]
        if short:
          break
      if not short:
        done = changes
        break
    else:
      raise ValueError(
        f'{found.name}: no knob makes {", ".join(group)} fit; a larger slice, '
        'or a smaller batch'
      )
  yield f'fits {found.name} with {_said(done)}'


def _candidates(cfg, run, found, group, done) -> Iterator[dict]:
  """{dotted path: value} to try, with what is settled already."""
  rows = run.updates.batch_size
  if not done:
    model = model_of(run.shared)
    heads = getattr(model, 'num_kv_heads', 1)
    for mesh in meshes(found.chips, rows, heads):
      yield {f'mesh.{axis}': size for axis, size in mesh.items()}
    return
  for settings in trainings(rows, done['mesh.fsdp'] * done['mesh.rollout']):
    yield {**done, **settings}


def _said(changes):
  return ' '.join(f'--config.{k}={v}' for k, v in changes.items()) or 'as it is'
