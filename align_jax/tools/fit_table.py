"""What `align fit` prints of a program, and the knob that it says to turn."""

from collections.abc import Iterator

from align_jax.tools import fit_hlo
from align_jax.tools.fit_measure import Measured
from align_jax.tools.fit_slices import Slice


def gib(size: float) -> str:
  """Bytes as GiB."""
  return f'{size / 2**30:.2f}'


def megabytes(size: float) -> str:
  """Bytes as MB."""
  return f'{size / 1e6:,.1f} MB'


def lines(x: Measured, found: Slice, knob: str) -> Iterator[str]:
  """A program's lines, of which the first is the verdict.

  Args:
    knob: what to turn if it does not fit.
  """
  verdict = 'fits' if x.fits else f'DOES NOT FIT: {knob}'
  beside = f' and {gib(x.beside)} beside it' if x.beside else ''
  host = f', {gib(x.host)} a chip on its host' if x.host else ''
  yield (
    f'{x.name}: {gib(x.peak)} GiB{beside} of {gib(x.limit)}{host}: {verdict}'
  )
  yield (
    f'  arguments {gib(x.arguments)}, temporaries {gib(x.temporaries)} GiB; '
    f'{x.seconds:.0f} s to compile'
  )
  if not x.compiled:
    return
  yield f'  collectives once: {_moved(fit_hlo.summary(x.ops))}'
  if x.loops:
    moved = _moved(fit_hlo.summary(x.ops, x.loops))
    yield f'  collectives per token: {moved}'
  parts = dict(products=x.compute, memory=x.memory, network=x.network)
  most = max(parts, key=parts.__getitem__)
  each = ', '.join(f'{k} {v:.3g}' for k, v in parts.items())
  yield f'  at least {x.bound:.3g} s, by its {most} ({each})'
  if x.tokens:
    rate = x.rows * x.tokens / x.bound
    yield (
      f'  {megabytes(x.per_token)} of HBM a token and chip: at most '
      f'{rate:,.0f} tokens/s in all'
    )
  elif x.useful:
    share = _share(x.useful, found, x.bound)
    yield f'  {x.flops:.3g} FLOPs of products: MFU at most {share:.0%}'
  if x.taken:
    yield f'  measured: {_measured(x, found)}'


def _share(flops, found, seconds):
  """Of the chips' peak in these seconds."""
  return flops / found.chips / found.chip.flops / seconds


def _measured(x, found):
  """What it took where it ran, beside what it would at best."""
  seconds, peak = x.taken
  told = [f'{seconds:.3g} s, {seconds / x.bound:.2f} times the least']
  if x.tokens:
    told.append(f'{x.rows * x.tokens / seconds:,.0f} tokens/s')
    told.append(f'{x.memory / seconds:.0%} of the bandwidth of HBM')
  if x.useful:
    told.append(f'MFU {_share(x.useful, found, seconds):.0%}')
  if x.attended > x.useful:
    share = _share(x.attended, found, seconds)
    told.append(f'{share:.0%} with the products of attention')
  told.append(f'at most {gib(peak)} GiB in use since the start')
  return ', '.join(told)


def _moved(counts):
  each = (
    f'{n.count:.0f} {kind} {megabytes(n.bytes)}'
    for kind, n in sorted(counts.items())
  )
  return ', '.join(each) or 'none'


def knob(name: str, cfg: dict, arm: dict, kv_heads: int) -> str:
  """The next override to try for a program that does not fit.

  Args:
    name: of the program.
    arm: the run's fields.
    kv_heads: of the model; they bound what sampling can split.
  """
  mesh = cfg['mesh']
  if name == 'train':
    return _training(cfg, arm)
  if 'sample' in name:
    split = 2 * mesh['rollout'] * mesh['context'] * mesh['tensor']
    if mesh['fsdp'] % 2 == 0 and kv_heads % split == 0:
      return (
        f'--config.mesh.fsdp={mesh["fsdp"] // 2} '
        f'--config.mesh.rollout={2 * mesh["rollout"]}'
      )
    if _may_leave(cfg, arm):
      return LEAVE
    if name == 'sample':
      return _fewer_prompts(arm)
    return 'fewer eval.samples or eval prompts'
  if _may_leave(cfg, arm):
    return LEAVE
  if name == 'evaluate':
    return 'fewer eval.samples or eval prompts'
  return _fewer_prompts(arm)


def _fewer_prompts(arm):
  size = arm['batch_size'] // 2
  return f'--config.arm.batch_size={size}' if size else 'a larger slice'


def _training(cfg, arm):
  mesh = cfg['mesh']
  ways = mesh['data'] * mesh['fsdp'] * mesh['rollout']
  if not cfg['model'].get('remat'):
    return '--config.model.remat=True'
  if arm['batch_size'] // arm['num_microbatches'] >= 2 * ways:
    return f'--config.arm.num_microbatches={2 * arm["num_microbatches"]}'
  return LEAVE if _may_leave(cfg, arm) else 'a larger slice, or mesh.tensor'


LEAVE = '--config.reference_memory=host'


def _may_leave(cfg, arm):
  """Whether the reference is on the devices, and no adapters' base."""
  return cfg['reference_memory'] == 'device' and not arm['lora']['rank']
