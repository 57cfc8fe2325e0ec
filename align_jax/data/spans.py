"""Which characters of a rendered conversation are whose.

The conversation is rendered a second time, with a code in place of every
character of its messages: code point FIRST + its place. What templates look at
stays: white space, then their own constants. If the second text with its codes
replaced is the first text, each code in it is where that character went.
"""

import bisect
import functools
import json
import re
from typing import NamedTuple

from align_jax.data import templates
from align_jax.data.row import RowError

FIRST, AFTER = 0x40000, 0xDFFF0  # planes in which Unicode has no characters
CODE = re.compile(f'[{chr(FIRST)}-{chr(AFTER - 1)}]')
TAG = re.compile(r'[<\[◁][^<>\[\]◁▷\s]+[>\]▷]')
CLOSES = re.compile('/|end', re.I)
THOUGHT = re.compile('think|thought|reason', re.I)
REWRITES = 'template leaves out or rewrites a message'
OUTER = r'\A\s+|\s+\Z'
SPACE = r'\s'
ESCAPED = r'[\s"\\\x00-\x1f]'  # by JSON, too
SINGLE = re.compile(ESCAPED)


class Span(NamedTuple):
  """A stretch of a rendered text."""

  start: int
  end: int


class Piece(NamedTuple):
  """Characters of the messages, as they are in a rendered text."""

  at: int  # in the text
  source: int  # in the messages, one after the other
  size: int


class Said(NamedTuple):
  """Where a message is: from its first character shown to its last."""

  start: int
  end: int
  hidden: str  # its beginning that is not shown: a thought, with its tags


class Traced(NamedTuple):
  """A rendered conversation."""

  text: str
  contents: list[Span]  # in order; control tokens here are text
  said: list[Said | None]  # per message; None: it has no content


class ChatError(Exception):
  """What a template cannot do with a row, before its place is known."""

  def __init__(self, message, reason):
    super().__init__(message)
    self.reason = reason

  def at(self, where):
    """The RowError of this, with the row's place in front."""
    message = ' '.join(str(self).split())
    return RowError(f'{where}: {message}', self.reason)


def trace(show, messages, template, control=()):
  """Renders messages and finds their characters.

  Args:
    show: messages -> text.
    messages: list of dicts. All their texts but role and calls are followed.
    template: str, whose constants may be looked for in messages.
    control: the texts of all control tokens.
  Returns:
    Traced.
  Raises:
    ChatError: a message is left out, rewritten or cannot be followed.
  """
  text, source, fields = show(messages), *_fields(messages)
  thoughts = thoughts_of(template, control)
  for keep, names in _kept(template, control):
    pieces = _pieces(show(_coded(messages, keep, source)), source, text)
    if pieces is None:
      continue
    found = _by_field(text, source, pieces, fields, names)
    contents = {
      span
      for (i, _), part in found.items()
      for first, last, _ in part
      for span in _split(
        text, first, last, thoughts * (messages[i]['role'] == 'assistant')
      )
    }
    finder = _Finder(text, source, _readable(template, control))
    said = [
      finder.said(i, m, found[i, 'content'], *fields[i, 'content'])
      if isinstance(m.get('content'), str) and m['content'].strip()
      else None
      for i, m in enumerate(messages)
    ]
    return Traced(text, sorted(contents), said)
  raise ChatError(
    'the chat template rewrites messages, or looks for what they say, so that '
    'they cannot be followed',
    REWRITES,
  )


@functools.lru_cache(64)
def tags_of(template):
  """The tags, such as </think>, in what a template writes or looks for."""
  texts = templates.constants(template)
  tags = {tag for text in texts for tag in TAG.findall(text)}
  return tuple(sorted(tags, key=lambda x: (-len(x), x)))


def thoughts_of(template, control):
  """The tags of thoughts that are control tokens."""
  return [x for x in tags_of(template) if x in control and THOUGHT.search(x)]


def _fields(messages):
  """-> all texts but roles, each after a zero; {(message, name): its place}."""
  parts, fields, at = [], {}, 0
  for i, m in enumerate(messages):
    for k, v in m.items():
      if isinstance(v, str) and k != 'role':
        parts.append(v)
        fields[i, k] = at + 1, at + 1 + len(v)
        at += 1 + len(v)
  return ''.join(f'\0{x}' for x in parts), fields


def _kept(template, control):
  """Yields what stays as it is, from the least to the most.

  Control tokens are kept only if they are tags of thoughts.

  Returns:
    a pattern, the names in it.
  """
  yield OUTER, ()
  tags, known = tags_of(template), templates.constants(template)
  plain = [x for x in tags if x not in control]
  thoughts = _readable(template, control)
  known = [*plain, *(x for x in known if x not in control)]
  for names, spaces in (
    *((x, SPACE) for x in (plain, known, thoughts)),
    (plain, ESCAPED),
  ):
    keep = [f'{spaces}+', *map(re.escape, names)]
    yield '|'.join(keep), names


def _readable(template, control):
  """The tags that a template may look for: no marks of turns."""
  plain = [x for x in tags_of(template) if x not in control]
  return [*thoughts_of(template, control), *plain]


def _split(text, first, last, tags):
  """Yields the spans of text[first:last] without the tags."""
  for tag in re.finditer('|'.join(map(re.escape, tags)) or '$^', text[:last]):
    if tag.start() >= first:
      yield Span(first, tag.start())
      first = tag.end()
  yield Span(first, last)


@functools.cache
def _codes():
  return ''.join(map(chr, range(FIRST, AFTER)))


def _first(source):
  """The first code that is above all characters of the messages."""
  found = CODE.findall(source)
  return ord(max(found)) + 1 if found else FIRST


def _coded(messages, keep, source):
  """The messages in codes, but for matches of `keep`."""
  base, at, keep = _first(source), 0, re.compile(keep)
  if base + len(source) > AFTER:
    raise ChatError(
      f'messages of {len(source)} characters, more than the {AFTER - base} '
      'that can be followed through a chat template',
      'messages too long to follow',
    )
  coded = []
  for m in messages:
    coded.append(dict(m))
    for k, v in m.items():
      if isinstance(v, str) and k != 'role':
        first = base - FIRST + at + 1
        coded[-1][k] = _replaced(v, _codes()[first : first + len(v)], keep)
        at += 1 + len(v)
  return coded


def _replaced(text, codes, keep):
  parts, end = [], 0
  for match in keep.finditer(text):
    parts += [codes[end : match.start()], match.group()]
    end = match.end()
  return ''.join([*parts, codes[end:]])


def _pieces(coded, source, text):
  """The pieces of the text; None if it is another one without its codes."""
  if len(coded) != len(text):
    return None
  base, pieces, plain, end = _first(source), [], [], 0
  for match in re.finditer(f'[{chr(base)}-{chr(AFTER)}]+', coded):
    plain.append(coded[end : match.start()])
    at, end = match.span()
    while at < end:
      place = ord(coded[at]) - base
      size = _run(coded, at, end)
      if place + size > len(source):
        return None
      plain.append(source[place : place + size])
      pieces.append(Piece(at, place, size))
      at += size
  return pieces if ''.join([*plain, coded[end:]]) == text else None


def _run(coded, at, end):
  """How many codes follow each other from `at`."""
  first = ord(coded[at]) - FIRST
  if coded[at:end] == _codes()[first : first + end - at]:
    return end - at
  size = 1
  while ord(coded[at + size]) - FIRST == first + size:
    size += 1
  return size


def _by_field(text, source, pieces, fields, names):
  """{field: [(from, to, place)]}, what is shown of it in the order shown.

  Pieces are joined, and widened at the ends, where both texts agree.
  """
  found = {name: [] for name in fields}
  starts, order = [start for start, _ in fields.values()], list(fields)
  for at, place, size in pieces:
    known = found[order[bisect.bisect(starts, place) - 1]]
    if known:
      first, last, origin = known[-1]
      reached = origin + last - first
      if reached <= place and source[reached:place] == text[last:at]:
        known[-1] = first, at + size, origin
        continue
    known.append((at, at + size, place))
  for name, place in fields.items():
    if known := found[name]:
      low, high = _core(source, *place)
      known[0] = _widened_left(text, source, known[0], low, names)
      known[-1] = _widened_right(text, source, known[-1], high, names)
  return found


def _core(source, start, end):
  """The place of a field without the white space around it."""
  field = source[start:end]
  return end - len(field.lstrip()), start + len(field.rstrip())


def _widened_left(text, source, stretch, low, names):
  """A stretch with what was kept before it: white space, or all up to `low`."""
  first, last, origin = stretch
  while size := _kept_before(text, source, first, origin, low, names):
    first, origin = first - size, origin - size
  if origin > low and names:  # the rest is hidden, with its tags
    return _widened_left(text, source, stretch, low, ())
  return first, last, origin


def _widened_right(text, source, stretch, high, names):
  first, last, origin = stretch
  reached = origin + last - first
  while size := _kept_after(text, source, last, reached, high, names):
    last, reached = last + size, reached + size
  return first, last, origin


def _kept_before(text, source, at, origin, low, names):
  """How many characters before both places are the same, and were kept."""
  if origin > low and at and SINGLE.match(source, origin - 1):
    return int(text[at - 1] == source[origin - 1])
  for name in names:
    if source.endswith(name, low, origin) and text.endswith(name, 0, at):
      return len(name)
  return 0


def _kept_after(text, source, at, reached, high, names):
  if reached < high and SINGLE.match(source, reached):
    return int(text.startswith(source[reached], at))
  for name in names:
    if source.startswith(name, reached, high) and text.startswith(name, at):
      return len(name)
  return 0


class _Finder:
  """Finds messages in a text, and whether all of them is there."""

  def __init__(self, text, source, tags):
    self.text, self.source, self.tags = text, source, tags
    self.closing = tuple(x for x in tags if CLOSES.search(x))
    self.only_tags = re.compile('|'.join([r'\s', *map(re.escape, tags)]))

  def said(self, i, message, stretches, start, end):
    """-> Said."""
    low, high = _core(self.source, start, end)
    for first, last, origin in reversed(stretches):
      if (origin, origin + last - first) == (low, high):
        return Said(first, last, '')
    thinks = message['role'] == 'assistant'
    hidden, reached, shown = '', low, None
    for first, last, origin in stretches:
      gap = self.source[reached:origin] if origin >= reached else None
      between = self.text[shown or 0 : first]
      if gap is None or not self._may_go(gap, between, thinks, shown is None):
        break
      if shown is None and thinks and self._hides(gap, between):
        hidden = gap
      reached, shown = origin + last - first, last
    else:
      rest = self.source[reached:high]
      after = self.text[shown:] if shown else ''
      if shown and self._may_end(rest, after, thinks):
        return Said(stretches[0][0], shown, hidden)
    raise ChatError(
      f'the chat template leaves out or rewrites message {i + 1}, '
      f'{self.source[low:high]!r:.40}',
      REWRITES,
    )

  def _may_go(self, gap, between, thinks, first):
    """Whether a template may write `between` where a message has `gap`."""
    written = _json(gap)
    if between.endswith(written) if first else between == written:
      return True
    if not thinks or not gap.strip():
      return False
    return (first and gap.rstrip().endswith(self.closing)) or self._rewritten(
      gap, between
    )

  def _may_end(self, gap, after, thinks):
    if after.startswith(_json(gap)):
      return True
    ours = self._tags(gap)
    return thinks and ours is not None and after.lstrip().startswith(ours[0])

  def _tags(self, gap):
    """The tags in a gap of nothing else, repeated ones once; None otherwise."""
    if self.only_tags.sub('', gap):
      return None
    tags = [x for x in self.only_tags.findall(gap) if x.strip()]
    return [x for i, x in enumerate(tags) if i == 0 or x != tags[i - 1]]

  def _rewritten(self, gap, before):
    """Whether the gap is tags which are written again before what follows."""
    ours = self._tags(gap)
    if not ours or not before.rstrip().endswith(ours[-1]):
      return False
    theirs = [x for x in self.only_tags.findall(before) if x.strip()]
    return theirs[-len(ours) :] == ours

  def _hides(self, gap, before):
    """Whether the gap is a thought that is not written again before."""
    ends = gap.rstrip().endswith(self.closing)
    return ends and not self._rewritten(gap, before)


def _json(text):
  return json.dumps(text, ensure_ascii=False)[1:-1]
