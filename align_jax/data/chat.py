"""Chat templates: messages as text, and which part of it is whose.

A template is Jinja, as in tokenizer_config.json. The text of a conversation is
cut where a rollout would begin and end. A completion begins where the rendered
prompt ends, generation prompt included, which may be within a thought. Every
answer ends with the EOS that the template writes after it. Control tokens are
those of the template. The same characters within a message are text.
"""

import itertools
import json
import os
import re
from typing import NamedTuple

from align_jax.data import spans, templates, thoughts
from align_jax.data.spans import ChatError, Span
from align_jax.data.thoughts import another_way

GENERATION = re.compile(r'\{%-?\s*generation\s*-?%\}')


class Rendered(NamedTuple):
  """A conversation as text."""

  text: str
  contents: list[Span]  # what messages say; control tokens here are text
  answers: list[Span]  # what a rollout would write, up to its EOS
  prompt: str  # the text before what is rolled out; all of it without answers
  left: int = 0  # earlier answers that are not what a rollout would write


class _Form(NamedTuple):
  """How conversations are rendered."""

  template: str
  variables: dict
  control: tuple
  ends: tuple  # the texts of the tokens that end a turn
  tools: list | None

  def show(self, messages, **how):
    return self.read(messages, **how)[0]

  def read(self, messages, **how):
    return _render(self.template, messages, self.tools, self.variables, **how)

  def ask(self, messages):
    return self.show(messages, generate=True)

  def trace(self, messages, show=None):
    return spans.trace(show or self.show, messages, self.template, self.control)


def _render(
  template, conversation, tools, variables, *, generate=False, marks=False
):
  """-> text, spans of `generation` tags (with `marks`)."""
  variables = {**variables, 'marks': True} if marks else variables
  try:
    text = templates.render(
      template, conversation, variables, tools=tools, generate=generate
    )
    text.encode()  # half a surrogate pair within a tool
  except (ImportError, templates.Unbounded):
    raise
  except Exception as e:  # a template is someone else's program
    raise ChatError(f'the chat template fails: {e}', 'template fails') from None
  parts = re.split(f'[{templates.OPEN}{templates.CLOSE}]', text)
  ends = list(itertools.accumulate(map(len, parts)))
  found = [Span(*x) for x in zip(ends[::2], ends[1::2])]
  return (''.join(parts), found) if marks else (text, [])


def _answers(conversation, first):
  index = range(first, len(conversation))
  return [i for i in index if conversation[i]['role'] == 'assistant']


def _tagged(form, conversation, text):
  """The start of each answer by a template's `generation` tags; None: none."""
  if not GENERATION.search(form.template):
    return None
  written, found = form.read(conversation, marks=True)
  if written != text:
    raise ChatError(
      'the chat template rewrites what it marks as generated',
      'template marks other answers',
    )
  starts = [span.start for span in found]
  count = len(_answers(conversation, 0))
  if len(starts) != count:
    raise ChatError(
      f'the chat template marks {len(starts)} of {count} answers as generated',
      'template marks other answers',
    )
  return starts


def _check_start(start, least):
  if start < least:
    raise ChatError(
      'the chat template marks its generation prompt as generated',
      'template marks its prompt',
    )
  return start


def _find(text, tokens, start, limit, contents):
  """-> where the first of the tokens that is no message's text ends, or -1."""
  if not tokens:
    return -1
  pattern = re.compile('|'.join(map(re.escape, tokens)))
  for match in pattern.finditer(text, start, limit):
    if not any(
      s.start < match.end() and match.start() < s.end for s in contents
    ):
      return match.end()
  return -1


def _check_tools(form, conversation):
  """Raises ChatError if tools or calls are not shown or have control tokens."""
  calls = [m['tool_calls'] for m in conversation if m.get('tool_calls')]
  others = [
    v for m in conversation for v in m.values() if not isinstance(v, str)
  ]
  written = json.dumps([form.tools, others], ensure_ascii=False)
  if any(token in written for token in form.control):
    raise ChatError('a tool has a control token', 'a tool has a control token')
  if not form.tools and not calls:
    return
  bare = [
    {k: v for k, v in m.items() if k != 'tool_calls'} for m in conversation
  ]
  text, without = form.show(conversation), form._replace(tools=None)
  if (form.tools and without.show(conversation) == text) or (
    calls and form.show(bare) == text
  ):
    raise ChatError(
      'the chat template shows no tools or no calls of them',
      'template without tools',
    )


def render(
  template, prompt, completion, tokens, control=(), tools=None, ends=()
):
  """A conversation as text, cut where rollouts begin and end.

  Args:
    template: str, Jinja.
    prompt: list of messages. If the last one is by the assistant, the
      completion continues it.
    completion: list of messages, the first by the assistant. Empty for a prompt
      alone.
    tokens: dict with the names of the special tokens, `eos_token` among them,
      and `bos_token` if there is one, and other variables of the template.
    control: the texts of all control tokens.
    tools: list of JSON schemas.
    ends: the texts of further tokens that end a turn as EOS does.
  Returns:
    Rendered. Answers before the last are among its answers where a rollout
    would have written them so, else they are counted as `left`.
  Raises:
    ChatError: the template fails, drops a message, or cannot be cut there.
    templates.Unbounded: it runs too long.
  """
  ends = tuple(dict.fromkeys([tokens['eos_token'], *ends]))
  form = _Form(template, tokens, tuple(control), ends, tools)
  _check_tools(form, [*prompt, *completion])
  if prompt[-1]['role'] == 'assistant':
    before, contents = _started(form, prompt)
    if not completion:
      return Rendered(before, contents, [], before)
    prompt, completion = _joined(prompt, completion)
  elif not completion:
    traced = form.trace(prompt, form.ask)
    return Rendered(traced.text, traced.contents, [], traced.text)
  else:
    before = None
  return _answered(form, [*prompt, *completion], len(prompt), before)


def _answered(form, conversation, first, before):
  """Rendered. `before`: the text before the first answer, None: by asking."""
  *earlier, last = _answers(conversation, first)
  traced = form.trace(conversation)
  tagged = _tagged(form, conversation, traced.text)
  end = _last(form, conversation, traced, None if earlier else before)
  start, kept = len(end.before), []
  if tagged and end.written and (earlier or before is None):
    start = _check_start(tagged[-1], start)
  prompt = end.before
  for n, i in enumerate(earlier):
    known = before if n == 0 else None
    found = _earlier(form, conversation, traced, end.text, i, known)
    if found is None:
      continue
    if not kept:
      prompt = end.text[: found.start]
    if tagged and known is None:
      place = _check_start(tagged[n - 1 - len(earlier)], found.start)
      found = found._replace(start=place)
    kept.append(found)
  answers = [*kept, Span(start, len(end.text))]
  left = len(earlier) - len(kept)
  return Rendered(end.text, end.contents, answers, prompt, left)


def _earlier(form, conversation, traced, text, i, before):
  """The Span of answer i, or None if a rollout would not have written it so."""
  before = form.ask(conversation[:i]) if before is None else before
  said = traced.said[i]
  if not text.startswith(before) or (said and said.hidden):
    return None
  own = form.show(conversation[: i + 1])
  start = max(len(before), said.end if said else 0)
  after = (x.start for x in traced.said[i + 1 :] if x and x.start >= start)
  limit = min(next(after, len(text)), len(text))
  end = _find(text, form.ends, start, limit, traced.contents)
  size = min(len(own), end if end >= 0 else limit)
  if size < start or own[:size] != text[:size]:
    return None
  if end < 0:
    raise _endless(form, own[start:])
  return Span(len(before), end)


class _Last(NamedTuple):
  """The text that ends with the last answer."""

  text: str
  contents: list[Span]
  before: str  # what a rollout of that answer is given
  written: bool  # whether the template writes all of the text


def _last(form, conversation, traced, started):
  """-> _Last. What the template hides of the answer is put back in its place.

  Args:
    started: the text that the answer continues, or None.
  """
  text, said, number = traced.text, traced.said[-1], len(conversation)
  before = form.ask(conversation[:-1]) if started is None else started
  end, ending = _end(form, conversation, traced, before)
  hides = bool(said and said.hidden)
  thought = templates.thought(conversation[-1])
  if text.startswith(before) and not hides and len(before) <= end:
    if thought and thought.strip() not in text:
      raise ChatError(
        f'the chat template does not show the thought of message {number}',
        spans.REWRITES,
      )
    return _Last(text[:end] + ending, traced.contents, before, True)
  if started is not None:
    raise ChatError(
      'the chat template rewrites the answer that is continued',
      'template rewrites the prompt',
    )
  start, hidden = _start(text, said, before)
  if not before.startswith(text[:start]):
    raise another_way(number)
  opener = before[start:]
  content = conversation[-1].get('content') or ''
  tags = spans.thoughts_of(form.template, form.control)
  lead, drop = thoughts.lead(
    tags, hidden, thought, content, text[start:end], opener, number
  )
  return _put_back(before, lead, text[:end] + ending, traced, start, drop)


def _put_back(before, lead, text, traced, start, drop):
  """-> _Last of `before`, the parts of `lead` and text[start + drop :]."""
  contents = [x for x in traced.contents if x.end <= start]
  made = before
  for part, is_said in lead:
    if part and is_said:
      contents.append(Span(len(made), len(made) + len(part)))
    made += part
  shift, first = len(made) - start - drop, start + drop
  contents += [
    Span(max(x.start, first) + shift, x.end + shift)
    for x in traced.contents
    if x.end > first
  ]
  return _Last(made + text[first:], contents, before, False)


def _start(text, said, before):
  """-> where the shown part of the last answer starts, what is hidden of it."""
  common = len(os.path.commonprefix([text, before]))
  if said is None:
    return common, ''
  start, hidden = said.start, said.hidden
  while start < common and text[start].isspace():
    hidden, start = hidden + text[start], start + 1
  if not text[common:start].strip():  # white space before what is shown
    start = min(start, common)
  return start, hidden


def _end(form, conversation, traced, before):
  """-> where the last answer ends in the text, and what ends it after that."""
  text, said = traced.text, traced.said[-1]
  least = len(before) if text.startswith(before) else 0
  start = max(least, said.end) if said else least
  start = start or len(os.path.commonprefix([text, before]))
  end = _find(text, form.ends, start, len(text), traced.contents)
  if end >= 0:
    return end, ''
  following = _following(form, conversation, text, said)
  if following:
    return (said.end if said else len(text)), following
  if any(x in text[start:] for x in form.control):
    raise _endless(form, text[start:])
  return len(text), ''


def _following(form, conversation, text, said):
  """The token that begins the next turn and ends this one, or ''."""
  calls = bool(conversation[-1].get('tool_calls'))
  if said and not calls and text[said.end :].strip():
    return ''
  if not any(x in form.template for x in ('eos_token', *form.ends)):
    return ''
  role = 'tool' if calls else 'user'
  try:
    traced = form.trace([*conversation, dict(role=role, content='a')])
  except ChatError:
    return ''
  if said and not calls:
    at = traced.said[-2].end
  elif traced.text.startswith(text):
    at = len(text)
  else:
    return ''
  pattern = '|'.join(map(re.escape, form.ends))
  found = re.compile(rf'\s*(?:{pattern})').match(traced.text, at)
  return found.group() if found else ''


def _endless(form, tail):
  """The error of a turn that another token ends, named if it is known."""
  found = [x for x in form.control if x in tail]
  first = min(found, key=tail.index, default=None)
  hint = f'; if {first!r} ends it: --eos-token {first!r}' if first else ''
  return ChatError(
    'the chat template does not end an answer with the EOS '
    f'{form.ends[0]!r}: a rollout would not stop there{hint}',
    'template ends an answer without EOS',
  )


def whole(template, conversation, tokens, control=()):
  """All that the template writes, including what follows the last answer.

  Args: as in `render`.
  Returns:
    text, spans of message contents.
  Raises:
    ChatError: the template fails or drops a message.
  """
  form = _Form(template, tokens, tuple(control), (), None)
  traced = form.trace(conversation)
  return traced.text, traced.contents


def _started(form, prompt):
  """The text up to the end of the last message, which is to be continued.

  Returns:
    text, spans of message contents.
  """
  text, contents, said = form.trace(prompt)
  content = prompt[-1]['content']
  last = said[-1]
  if last is None or text[last.start : last.end] != content.strip():
    raise ChatError(
      'the chat template does not show where the last answer ends',
      'template rewrites the prompt',
    )
  rest = content[len(content.rstrip()) :]
  end = last.end + len(rest) * text.startswith(rest, last.end)
  return text[:end], contents


def _joined(prompt, completion):
  """Moves the continued message into the completion, joined with the next."""
  whole = prompt[-1]['content'] + completion[0]['content']
  return prompt[:-1], [{**completion[0], 'content': whole}, *completion[1:]]
