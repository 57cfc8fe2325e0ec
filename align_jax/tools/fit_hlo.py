"""Collectives of a compiled program, read off its text.

A loop's body is counted once per turn where the compiler knows how often it
runs. The loop over tokens ends when every row has ended, so nobody knows: what
lies in such a loop is counted per turn, apart from the rest.
"""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
BITS = dict(pred=8, bf16=16, f8e4m3fn=8, f8e5m2=8)
OPENS = re.compile(r'^(?:ENTRY )?%?([\w.-]+) .*\{$')
LINE = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(')
ARRAY = re.compile(r'\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\]')
CALLED = re.compile(
  r'(?:calls|body|to_apply|condition|called_computations|branch_computations)='
  r'\{?((?:%[\w.-]+(?:, )?)+)\}?'
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONDITION = re.compile(r'condition=%([\w.-]+)')
LESS = re.compile(r'ROOT .* compare\(.*%([\w.-]+)\), direction=LT')
GROUPS = re.compile(r'replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]<=)')
# The TPU compiler's name for the fusion of an all-reduce and a slice of it.
SCATTER = 'all-reduce-scatter'


class Op(NamedTuple):
  """A collective: what it moves, and how often."""

  kind: str
  arrays: tuple[str, ...]  # types of its results, such as 'bf16[2048,512]'
  bytes: int  # of the whole array that a device gets or gives away
  times: int  # it runs, if `per_token` in a turn of a loop of unknown length
  per_token: bool
  label: str  # of the line that it comes from, '' if none


def sizes(text: str) -> list[tuple[str, int]]:
  """The arrays that a type has: (as written, bytes)."""
  found = []
  for dtype, dims in ARRAY.findall(text):
    bits = BITS.get(dtype) or int(re.sub(r'\D', '', dtype) or 0)
    if bits:
      count = math.prod(int(n) for n in dims.split(',') if n)
      found.append((f'{dtype}[{dims}]', count * bits // 8))
  return found


def computations(text: str) -> dict[str, list[str]]:
  """{name: lines} of an HLO module; '' is its entry."""
  found, name = {}, None
  for line in text.splitlines():
    opened = OPENS.match(line)
    if opened:
      name = '' if line.startswith('ENTRY') else opened[1]
      found[name] = []
    elif line == '}':
      name = None
    elif name is not None:
      found[name].append(line)
  return found


def collectives(text: str) -> list[Op]:
  """All collectives of a compiled program, `compiled.as_text()`.

  The TPU compiler runs one beside the computations that do not need it. It is
  written down in each of them, of the same arrays and under the same channel:
  one, all the same. But JAX gives every `ppermute` channel 1.
  """
  found = {}
  for channel, op in _walk(computations(text), '', 1, False):
    once = channel and op.kind != 'collective-permute'
    found[(channel, op.kind, op.arrays) if once else len(found)] = op
  return list(found.values())


def _walk(known, name, times, per_token) -> Iterator[tuple[str, Op]]:
  for line in known.get(name, ()):
    found = LINE.match(line)
    if not found:
      continue
    kind = found[2].removesuffix('-start')
    if kind in KINDS:
      kind = 'reduce-scatter' if name.startswith(SCATTER) else kind
      channel = re.search(r'channel_id=\d+', line)
      op = _op(kind, found, line)
      yield (
        channel and channel[0],
        op._replace(times=times, per_token=per_token),
      )
    inner = times, per_token
    if kind == 'while':
      own = turns(line, known)
      inner = times * (own or 1), per_token or not own
    for called in CALLED.findall(line):
      for one in re.findall(r'%([\w.-]+)', called):
        yield from _walk(known, one, *inner)


def loops(text: str, table: Sequence[int] = ()) -> list[int]:
  """Of each loop of unknown length: the bytes that a turn reads.

  They are what it keeps between turns: weights, keys and values. Completions
  are sampled in several such loops, one after another.

  Args:
    table: the shape of an embedding that tokens are looked up in and nothing
      else, on a device. Rows of it are read, which are not counted.
  """
  known = computations(text)
  unread = f'[{",".join(map(str, table))}]'
  return [
    sum(
      size
      for name, size in sizes(match[1])
      if not (table and name.endswith(unread))
    )
    for line in known['']
    if (match := LINE.match(line)) and match[2] == 'while'
    if not turns(line, known)
  ]


def turns(line: str, known: dict[str, list[str]]) -> int:
  """How often a `while` runs its body; 0: not known."""
  if told := TRIPS.search(line):
    return int(told[1])
  lines = known.get(CONDITION.search(line)[1], [''])  # type: ignore[index]
  bound = LESS.search(lines[-1])
  limit = bound and re.search(
    rf'%{re.escape(bound[1])} = s32\[\]\S* constant\((\d+)\)',
    '\n'.join(lines),
  )
  return int(limit[1]) if limit else 0


def _op(kind, found, line):
  arrays = sizes(found[1])
  if found[2].endswith('-start') and len(arrays) > 1:
    # Operands come first, then as many results; an integer may follow.
    arrays = [x for x in arrays if not x[0].endswith('[]')]
    arrays = arrays[len(arrays) // 2 :]
  label = re.search(r'op_name="([^"]*)"', line)
  names, bytes_ = zip(*arrays) if arrays else ((), (0,))
  size = sum(bytes_)
  if kind == found[2] == 'reduce-scatter':
    size *= _group(line)
  return Op(kind, names, size, 1, False, label[1] if label else '')


def _group(line):
  """Devices that take part in a collective."""
  found = GROUPS.search(line)
  if not found:
    return 1
  return len(found[1].split(',')) if found[1] else int(found[2])


def moved(op: Op) -> int:
  """Bytes that a device receives for one run of it, at least.

  A ring's count, without the share that a device has already: an all-reduce is
  a reduce-scatter and an all-gather.
  """
  return 2 * op.bytes if op.kind == 'all-reduce' else op.bytes


class Count(NamedTuple):
  """How many collectives of a kind, and their bytes; fractions are averages."""

  count: float
  bytes: float


def summary(ops: list[Op], loops: int = 0) -> dict[str, Count]:
  """{kind: how many, and their bytes}.

  Args:
    loops: of unknown length, of which each token runs one: what a token takes,
      on average. 0: what runs outside of them.
  """
  found = collections.defaultdict(lambda: Count(0, 0))
  for op in ops:
    if op.per_token == bool(loops):
      n, times = found[op.kind], op.times / (loops or 1)
      found[op.kind] = Count(n.count + times, n.bytes + times * moved(op))
  return dict(found)
