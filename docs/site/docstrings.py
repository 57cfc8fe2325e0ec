"""Docstrings as reStructuredText: sections, indented blocks, stray marks."""

import dataclasses
import inspect
import re

SECTION = re.compile(r'(Args|Attributes|Returns|Yields|Raises):(.*)')
LISTS = 'Args', 'Attributes', 'Raises'  # of names and what they are
ITEM = re.compile(r'([\w*.]+(?:, [\w*.]+)*): +(.*)', re.DOTALL)
CODE = re.compile(r'`([^`]+)`(\w?)')
NAME = re.compile(r'[A-Za-z][\w.]*')


def rewrite(app, what, name, obj, options, lines):
  """Handles `autodoc-process-docstring`: changes `lines` in place."""
  del app, name, options
  rst = list(to_rst(lines))
  if what == 'class' and not any(line == ':Attributes:' for line in rst):
    rst += fields(obj)
  lines[:] = rst


def shorten(app, what, name, obj, options, signature, returns):
  """Handles `autodoc-process-signature`: fields are not said twice."""
  del app, name, options
  if what == 'class' and fields(obj):
    return '', None
  if signature and '<' in signature:  # no Python, and so shown as it is
    signature = re.sub(r'~[\w.]*\.', '', signature)
    signature = re.sub(r'<[^>]*>', '...', signature)
  return signature, returns


def skip(app, what, name, obj, skipped, options):
  """Handles `autodoc-skip-member`: what other packages add to a record."""
  del app, what, name, options
  of_flax = str(getattr(obj, '__module__', '')).startswith('flax.')
  of_tuple = str(getattr(obj, '__doc__', '')).startswith('Alias for field')
  return skipped or of_flax or of_tuple


def to_rst(lines):
  """Yields the lines of a docstring as reStructuredText."""
  section = None
  for indent, text in blocks(lines):
    found = SECTION.fullmatch(text) if not indent else None
    if found:
      section = found[1]
      yield from ('', f':{section}:', f'  {inline(found[2].strip())}', '')
    elif section and indent:
      item = ITEM.fullmatch(text) if section in LISTS else None
      name = f'* **{escape(item[1])}** – ' if item else ''
      yield from (f'  {name}{inline(item[2] if item else text)}', '')
    elif indent:
      yield from ('::', '', *(f'  {line}' for line in text.splitlines()), '')
    else:
      section = None
      yield from (inline(text), '')


def blocks(lines):
  """Yields (indent, text): sections' titles, their items, and paragraphs."""
  block, first, section = [], 0, False
  for line in [*lines, '']:
    indent = len(line) - len(line.lstrip())
    title = not indent and SECTION.fullmatch(line)
    starts = title or section and indent <= first
    if block and (not line.strip() or starts):
      yield first, join(block, first and not section)
      block = []
    if not line.strip():
      continue
    section = bool(title) or section and indent > 0
    if not block:
      first = indent
    block.append(line)
    if title:
      yield 0, line
      block, first = [], 2


def join(block, verbatim):
  """The text of a block: its lines as they are, or as one."""
  if verbatim:
    text = inspect.cleandoc('\n'.join(block))
    # Python has taken away the line's end after a backslash.
    return re.sub(r'(?<=\S) {5,}(?=--|\[|python)', ' \\\\\n  ', text)
  return ' '.join(line.strip() for line in block)


def inline(text):
  """Text with its code marked as such and every other mark escaped."""
  parts = CODE.split(text)
  done = [escape(parts[0])]
  for code, after, rest in zip(parts[1::3], parts[2::3], parts[3::3]):
    done.append(f':py:obj:`{code}`' if NAME.fullmatch(code) else f'``{code}``')
    done.append(('\\ ' if after else '') + escape(after + rest))
  return ''.join(done)


def escape(text):
  return re.sub(r'([\\*|`_])', r'\\\1', text)


def fields(cls):
  """A record's fields with their comments, as its file has them."""
  if not (dataclasses.is_dataclass(cls) or hasattr(cls, '_fields')):
    return []
  body, last = [], 0
  for line in inspect.getsource(cls).splitlines()[1:]:
    if re.match(r'  (@|def |class )', line):
      break
    body.append(line)
    last = len(body) if re.match(r'  \w+: ', line) else last
  first = next((i for i, x in enumerate(body) if re.match(r'  \w+: ', x)), 0)
  if not any('#' in line for line in body[first:]):
    return []
  return ['.. code-block:: python', '', *body[first:], '']
