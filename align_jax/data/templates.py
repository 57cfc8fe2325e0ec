"""Jinja chat templates, run as transformers runs them, but within bounds.

A template is someone else's program. It may use SECONDS of the processor and
make texts of SIZE characters. Its clock stands still: `strftime_now` shows the
date that it is given, or else that of the first rendering.
"""

import datetime
import functools
import json
import re
import threading
import time

SECONDS = 10.0  # of one rendering
SIZE = 2**24  # characters of a text, items of a list
LONG = 1000  # items from which a loop checks the time at each
WIDTH = re.compile(r'\d{6}|\*')  # of a format
THOUGHTS = ('reasoning_content', 'thinking', 'reasoning')  # names of one field
OPEN, CLOSE = '\U000dfffe', '\U000dffff'  # around what a template generates


class Unbounded(ValueError):
  """A template takes too long, or makes too much."""


@functools.cache
def today():
  """The date of the first call: one for all of a process."""
  return datetime.date.today()


def render(template, messages, variables, *, tools=None, generate=False):
  """The text of messages.

  Args:
    template: str, Jinja.
    messages: list of dicts of JSON values.
    variables: dict, of the template. With `marks=True` among them, OPEN and
      CLOSE are around what `generation` tags enclose.
    tools: list of JSON schemas.
    generate: whether the generation prompt follows.
  Raises:
    Unbounded: names the template.
    Exception: of any kind, whatever the template does.
  """
  program = compiled(template)
  environment = program.environment
  environment.thread.until = time.thread_time() + SECONDS
  parts = program.generate(
    messages=[_aliased(x) for x in messages],
    tools=tools,
    documents=None,
    add_generation_prompt=generate,
    **variables,
  )
  try:
    return environment.joined(*environment.items(parts))
  except Unbounded as e:
    raise Unbounded(f'the chat template {template!r:.60} {e}') from None


@functools.lru_cache(64)
def compiled(template):
  """A Jinja template, parsed once per text of it."""
  return _environment().from_string(template)


@functools.lru_cache(64)
def constants(template):
  """The texts that a template writes or looks for, stripped, longest first."""
  from jinja2 import nodes

  tree = _environment().parse(template)
  texts = [x.value for x in tree.find_all(nodes.Const)]
  texts += [x.data for x in tree.find_all(nodes.TemplateData)]
  texts = {x.strip() for x in texts if isinstance(x, str)} - {''}
  return tuple(sorted(texts, key=lambda x: (-len(x), x)))


def thought(message):
  """What a message has thought, in a field of its own, or None."""
  values = (message.get(k) for k in THOUGHTS)
  return next((x for x in values if x is not None), None)


def _aliased(message):
  """A message with its thought under the names that templates give it."""
  found = thought(message)
  if found is None:
    return message
  return {'thinking': found, **message, 'reasoning_content': found}


def _tojson(
  x, ensure_ascii=False, indent=None, separators=None, sort_keys=False
):
  return json.dumps(
    x,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )


def _fail(message):
  import jinja2

  raise jinja2.exceptions.TemplateError(message)


def _size(x):
  return len(x) if isinstance(x, (str, list, tuple)) else 1


def _grown(name, args):
  """About how large a text or list becomes by a call."""
  whole = [x for x in args if isinstance(x, int)]
  size = max(map(abs, whole), default=0)
  texts = [x for x in args if isinstance(x, str)]
  if name == 'replace' and len(texts) > 2:
    size = len(texts[0]) + len(texts[2]) * (texts[0].count(texts[1]))
  elif name == 'indent' and texts:
    width = len(texts[1]) if len(texts) > 1 else max([4, *map(abs, whole)])
    size = len(texts[0]) + width * (texts[0].count('\n') + 1)
  elif name == 'join' and any(isinstance(x, (list, tuple)) for x in args):
    items = next(x for x in args if isinstance(x, (list, tuple)))
    size = sum(map(_size, items)) + sum(map(len, texts)) * len(items)
  elif name == 'join' and len(texts) == 2:
    size = (len(texts[0]) + 1) * (len(texts[1]) + 1)
  elif name in ('format', '%') and texts and WIDTH.search(texts[0]):
    size = SIZE + 1
  elif name == 'expandtabs' and texts:
    size = len(texts[0]) + size * texts[0].count('\t')
  elif name == 'tojson' and whole and size > 100:
    size = SIZE + 1
  return size


def _binary(operator, left, right):
  """About how large the value of an operator is."""
  if operator == '+':
    return _size(left) + _size(right)
  if operator == '%' and isinstance(left, str):
    return _grown('%', (left,)) + len(left)
  numbers = [x for x in (left, right) if isinstance(x, int)]
  if operator == '*' and len(numbers) == 1:
    return max(_size(left), _size(right)) * max(0, *numbers)
  if len(numbers) == 2 and operator == '*':
    return left.bit_length() + right.bit_length()
  if len(numbers) == 2 and operator == '**':
    return left.bit_length() * max(0, right)
  return 0


def _checked(name, function):
  """A filter that refuses to make too much."""

  @functools.wraps(function)
  def checked(*args, **named):
    shown = [x for x in (*args, *named.values()) if not hasattr(x, 'filters')]
    _check(_grown(name, shown))
    return function(*args, **named)

  return checked


def _check(size):
  if size > SIZE:
    raise Unbounded(f'makes more than {SIZE} characters or items at once')


@functools.cache
def _environment():
  import jinja2
  from jinja2 import ext, nodes, sandbox, visitor

  class Generation(ext.Extension):
    """{% generation %}: what the model would write."""

    tags = {'generation'}

    def parse(self, parser):
      line = next(parser.stream).lineno
      body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
      call = self.call_method('_generated', [nodes.ContextReference()])
      return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _generated(self, context, caller):
      text = caller()
      return f'{OPEN}{text}{CLOSE}' if context.get('marks') is True else text

  class Bounds(visitor.NodeTransformer):
    """Has loops and `~` checked by the environment."""

    def visit_For(self, node):
      self.generic_visit(node)
      node.iter = self._asked('items', [node.iter], node)
      return node

    def visit_Concat(self, node):
      self.generic_visit(node)
      return self._asked('joined', node.nodes, node)

    def _asked(self, name, args, node):
      asked = nodes.EnvironmentAttribute(name)
      call = nodes.Call(asked, args, [], None, None)
      return call.set_lineno(node.lineno).set_environment(node.environment)

  class Bounded(sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(('+', '*', '**', '%'))

    def _parse(self, *source):
      return Bounds().visit(super()._parse(*source))

    def in_time(self):
      if time.thread_time() > getattr(self.thread, 'until', float('inf')):
        raise Unbounded(f'takes more than {SECONDS:g} s')

    def items(self, iterable):
      """What a loop goes through."""
      self.in_time()
      short = isinstance(iterable, (list, tuple, str, dict, jinja2.Undefined))
      if short and len(iterable) <= LONG:
        return iterable
      return self._timed(iterable)

    def _timed(self, iterable):
      for i, item in enumerate(iterable):
        if i % 16 == 0:
          self.in_time()
        _check(i)
        yield item

    def joined(self, *parts):
      texts = [str(x) for x in parts]
      _check(sum(map(len, texts)))
      return ''.join(texts)

    def call_binop(self, context, operator, left, right):
      _check(_binary(operator, left, right))
      return super().call_binop(context, operator, left, right)

    def call(self, context, function, *args, **named):
      self.in_time()
      method = getattr(function, '__wrapped__', function)
      owner = getattr(method, '__self__', None)
      if isinstance(owner, str):
        name = method.__name__
        given = *args, *named.values()
        _check(_grown(name, (owner, *given)))
      return super().call(context, function, *args, **named)

  class Namespace(jinja2.utils.Namespace):
    """One whose names cannot be private."""

    def __init__(*args, **named):
      self, *args = args
      given = dict(*args, **named)
      for name in given:
        Namespace._check_name(name)
      jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name, value):
      Namespace._check_name(name)
      jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check_name(name):
      if isinstance(name, str) and name.startswith('_'):
        raise jinja2.exceptions.SecurityError(f'a private name: {name!r}')

  made = Bounded(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, ext.loopcontrols],
  )
  made.thread = threading.local()
  made.filters['tojson'] = _tojson
  for name in 'batch center format indent join replace slice tojson'.split():
    made.filters[name] = _checked(name, made.filters[name])
  del made.globals['lipsum']  # random words, without end
  made.globals['raise_exception'] = _fail
  made.globals['strftime_now'] = lambda form: today().strftime(form)
  made.globals['namespace'] = Namespace
  return made
