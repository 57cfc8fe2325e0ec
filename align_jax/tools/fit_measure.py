"""One program compiled for a slice: memory, collectives, bounds on its time."""

import re
import time
from typing import NamedTuple

import jax

from align_jax.tools import fit_here, fit_hlo
from align_jax.tools.fit_flops import flops
from align_jax.tools.fit_programs import Program, bytes_on_device
from align_jax.tools.fit_slices import Slice


class Measured(NamedTuple):
  """A compiled program. Bytes are those of one chip, times are seconds."""

  name: str
  seconds: float  # that the compiler took
  limit: int
  beside: int  # what it does not read, and what stays on the chip meanwhile
  host: int  # in the memory of the chip's host
  arguments: int
  temporaries: int
  peak: int  # of the program, arguments included
  ops: list  # fit_hlo.Op of its collectives; [] if it does not fit
  flops: float  # of the products of all chips
  useful: float  # of them, without what `remat` computes anew
  attended: float  # with those of attention that a kernel computes; 0: not run
  compute: float  # least time of the products at the chip's peak
  memory: float  # least time in which it reads what it must, once
  network: float  # least time of the collectives over all links of a chip
  loops: int  # over tokens, one after another
  per_token: float  # bytes that a turn of such a loop reads
  tokens: int  # turns of all of them; 0: there is none
  rows: int
  taken: fit_here.Taken | None = None  # where it ran

  @property
  def total(self):
    """Bytes that the chip has to have."""
    return self.peak + self.beside

  @property
  def fits(self):
    """Whether the chip has them."""
    return self.total <= self.limit

  @property
  def compiled(self):
    """Whether the compiler finished."""
    return self.bound > 0

  @property
  def bound(self):
    """No run of the program is faster: seconds."""
    return max(self.compute, self.memory, self.network)


def measure(
  program: Program, found: Slice | fit_here.Here, limit: int, vocab: int = 0
) -> Measured:
  """Compiles a program and reads off what it takes.

  Args:
    vocab: runs the program too, on tokens below it. 0: it does not run.
  """
  least = bytes_on_device(program.arguments) + program.copies
  if least + program.beside > limit:
    return _too_large(program, limit, 0.0, least)
  traced = program.f.trace(*program.arguments)
  start = time.time()
  try:
    compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    peak = max(needed(str(error)), limit + 1)
    return _too_large(program, limit, time.time() - start, peak)
  seconds = time.time() - start
  memory, text = compiled.memory_analysis(), compiled.as_text()
  ops = fit_hlo.collectives(text)
  loops = fit_hlo.loops(text, program.table)
  per_token = sum(loops) / len(loops) if loops else 0.0
  each = program.tokens / len(loops) if loops else 0.0
  moved = sum(
    fit_hlo.moved(x) * x.times * (each if x.per_token else 1) for x in ops
  )
  once = memory.argument_size_in_bytes + memory.output_size_in_bytes
  read = once + program.tokens * per_token
  work = flops(traced.jaxpr.jaxpr, program.tokens)
  return Measured(
    name=program.name,
    seconds=seconds,
    limit=limit,
    beside=program.beside,
    host=program.host,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=_peak(memory),
    ops=ops,
    flops=work,
    useful=_of(program.plain, program),
    attended=_of(program.unfused, program) if vocab else 0.0,
    compute=work / found.chips / found.chip.flops,
    memory=read / found.chip.hbm,
    network=moved / found.chip.ici,
    loops=len(loops),
    per_token=per_token,
    tokens=program.tokens,
    rows=program.rows,
    taken=fit_here.take(program, compiled, vocab) if vocab else None,
  )


def _peak(memory):
  """Bytes; compilers for GPUs do not always say."""
  whole = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )
  return memory.peak_memory_in_bytes or whole


def _of(f, program):
  """FLOPs of a form of the program; 0 where it has none."""
  return flops(f.trace(*program.arguments).jaxpr.jaxpr) if f else 0.0


NEEDS = re.compile(r'Used ([\d.]+)([GM]) of|required [^(]*\(([\d.]+)([GM])\)')


def needed(message: str) -> int:
  """Bytes that a program that does not fit would take; 0: it does not say."""
  found = NEEDS.search(message)
  if not found:
    return 0
  size, unit = (x for x in found.groups() if x)
  return int(float(size) * 2 ** {'G': 30, 'M': 20}[unit])


def _too_large(program, limit, seconds, peak):
  return Measured(
    name=program.name,
    seconds=seconds,
    limit=limit,
    beside=program.beside,
    host=program.host,
    arguments=bytes_on_device(program.arguments),
    temporaries=0,
    peak=peak,
    ops=[],
    flops=0.0,
    useful=0.0,
    attended=0.0,
    compute=0.0,
    memory=0.0,
    network=0.0,
    loops=0,
    per_token=0.0,
    tokens=program.tokens,
    rows=program.rows,
  )
