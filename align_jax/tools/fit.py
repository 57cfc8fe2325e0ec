"""Does a config fit a TPU slice? Its programs, compiled for chips not here.

  align fit --config=configs/llama3_8b_ultrafeedback.py --topology=v5e-64

compiles a run's update, sampler, scorer and evaluation for the slice, and says
what each takes of a chip's memory, what moves between chips, and what that and
the arithmetic leave of a chip's peak. Nothing runs, and nothing is downloaded
for the checkpoints in `fit_models`. It needs libtpu, and no TPU.
"""

import sys
from collections.abc import Iterator, Sequence

import jax

from align_jax import sharding
from align_jax.lab import (
  checks,
  config_file,
  effects,
  groups,
  overrides,
  stage_checks,
  sweep,
)
from align_jax.lab.settings import Run
from align_jax.models import ring
from align_jax.tools import fit_all, fit_here, fit_search, fit_slices, fit_table
from align_jax.tools.cli import Parser, show, with_config
from align_jax.tools.fit_here import HERE
from align_jax.tools.fit_measure import measure
from align_jax.tools.fit_programs import PROGRAMS, Programs, fields_of


def find(name: str) -> fit_slices.Slice | fit_here.Here:
  """The slice of that name, or this machine.

  Raises:
    ValueError: there is none.
  """
  return fit_here.find() if name == HERE else fit_slices.find(name)


def runs_of(cfg: dict, arm: str) -> list[Run]:
  """The runs of an arm, one of those that execute the same programs.

  Raises:
    ValueError: there is no such arm, or runs would train together.
  """
  groups.check(cfg)
  if cfg['together']:
    raise ValueError('together=True: expected False, one run is compiled')
  arms = list(cfg['arms'])
  if not arms:
    raise ValueError('arms: expected one or more, found none')
  names = arms + [f'{v} {name}' for v in cfg['variants'] for name in arms]
  if (arm or arms[0]) not in names:
    raise ValueError(f'--only={arm}: no such arm; arms are {", ".join(names)}')
  runs = fit_search.kinds(cfg, arm or arms[0])
  for run in runs:
    stage_checks.check_shared(run.shared)
    checks.check_run(run, run.shared, fields_of)
  return runs


def mesh_of(cfg: dict, found: fit_slices.Slice) -> jax.sharding.Mesh:
  """The config's mesh over the chips of a slice.

  Raises:
    ValueError: it has another number of devices.
  """
  try:
    return sharding.make_mesh(list(found.devices()), **cfg['mesh'])
  except ValueError as error:
    if 'libtpu' in str(error):
      raise
    raise ValueError(
      f'--topology={found.name}: {error}: give --config.mesh.fsdp and the '
      'others, or --search'
    ) from None


def report(cfg: dict, runs: Sequence[Run], found, names) -> Iterator[str]:
  """The lines that are printed, as programs get compiled.

  Raises:
    ValueError: after all lines, if a program does not fit.
  """
  mesh = mesh_of(cfg, found)
  split = ' '.join(f'{k}={v}' for k, v in cfg['mesh'].items() if v > 1)
  limit = found.limit()
  hosts = len({device.process_index for device in found.devices()})
  large: list[str] = []
  for run in runs:
    who = fit_search.name_of(run) if runs[1:] else run.label
    yield (
      f'{found.name}: {found.chips} chips, {hosts} hosts, '
      f'{limit / 2**30:.2f} GiB of HBM each; mesh {split or "of one chip"}; '
      f'arm {who!r}'
    )
    with jax.set_mesh(mesh):
      large += yield from _programs(cfg, run, mesh, found, limit, names)
  if large:
    told = ', '.join(dict.fromkeys(large))
    raise ValueError(f'{found.name} is too small for {told}')


def _programs(cfg, run, mesh, found, limit, names):
  """Yields the lines of one run. Returns names of programs that do not fit."""
  programs, large = Programs(run, mesh, cfg['reference_memory']), []
  own = sweep.varied(cfg, run.variant)
  for field, size in programs.judges.items():
    told = (
      f'{fit_table.gib(size)} GiB' if size else 'of unknown size, not counted'
    )
    yield f'{field}, beside each program: {told}'
  for name in names:
    model = programs.task.model
    vocab = model.vocab_size if found.name == HERE else 0
    measured = measure(PROGRAMS[name](programs), found, limit, vocab)
    heads = getattr(model, 'num_kv_heads', 1)
    knob = fit_table.knob(name, own, run.flat, heads)
    yield from fit_table.lines(measured, found, knob)
    if not measured.fits:
      large.append(name)
  return large


def make_parser() -> Parser:
  """The command line of `align fit`."""
  parser = Parser(prog='align fit', description=__doc__.split('\n')[0])
  parser.add_argument('--config', help='a file of configs/')
  parser.add_argument(
    '--topology',
    help=f"one of {', '.join(fit_slices.SLICES)}; or {HERE}: this machine's "
    'own chips, on which the programs run',
  )
  parser.add_argument('--only', default='', help='an arm; default: the first')
  parser.add_argument(
    '--programs',
    default=','.join(PROGRAMS),
    help='which of them; default: %(default)s',
  )
  parser.add_argument(
    '--search',
    action='store_true',
    help='turn knobs until all programs fit, and print which',
  )
  parser.add_argument(
    '--all',
    action='store_true',
    help='a table of shipped configs on several slices',
  )
  return parser


def names_of(text: str) -> list[str]:
  """Names of programs.

  Raises:
    ValueError: one of them is unknown.
  """
  names = text.split(',')
  for name in names:
    if name not in PROGRAMS:
      raise ValueError(
        f'--programs={text}: {name!r} is none of {", ".join(PROGRAMS)}'
      )
  return names


def lines(argv: Sequence[str]) -> Iterator[str]:
  """Yields what is printed for a command line.

  Raises:
    ValueError: a wrong flag, config or slice.
  """
  plain, given = config_file.split(with_config(argv))
  args = make_parser().parse_args(plain)
  names = names_of(args.programs)
  if args.all:
    if given or plain != ['--all']:
      raise ValueError('--all is given alone: it has its own configs')
    yield from fit_all.lines()
    return
  for flag in ('config', 'topology'):
    if not getattr(args, flag):
      raise ValueError(f'--{flag} is required')
  if args.search and args.topology == HERE:
    raise ValueError(f'--search runs no program: expected a slice, got {HERE}')
  for path, _ in given if args.search else ():
    if path.split('.')[0] == 'mesh':
      raise ValueError(f'--config.{path}: --search has meshes of its own')
  file = config_file.load(args.config)
  cfg = overrides.apply(file, given)
  (run, *others), found = runs_of(cfg, args.only), find(args.topology)
  told = [effects.Override(path, text, file, given) for path, text in given]
  runs = lambda c: [r for r in sweep.sweep(c) if r.arm == run.arm]
  effects.check(runs, cfg, told)
  if run.pool.how and 'train' in names:
    raise ValueError(
      f'--only={run.arm}: reweigh={run.pool.how!r} trains nothing, expected '
      '--programs without train'
    )
  # A search splits no row.
  context = 1 if args.search else cfg['mesh'].get('context', 1)
  ring.check(cfg['model'].get('attention', ''), context)
  if args.search:
    if others:
      told = ' and '.join(map(fit_search.name_of, (run, others[0])))
      raise ValueError(
        f'--search: {told} execute other programs, expected one of them'
      )
    asked = [(run.arm, name) for name in names]
    own = {**sweep.varied(cfg, run.variant), 'variants': {}}
    done, _ = fit_search.search(own, found, asked, print)
    yield f'fits {found.name} with {fit_search.said(done)}'
  else:
    yield from report(cfg, [run, *others], found, names)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line; a mistake is one line, and exit status 1."""
  # What is compiled for a TPU cannot be read back from the cache on a CPU.
  cached = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    show(lines(sys.argv[1:] if argv is None else argv))
  finally:
    jax.config.update('jax_enable_compilation_cache', cached)


if __name__ == '__main__':
  main()
