"""Chat templates: messages as text, and which part of it is whose.

A template is Jinja, as in tokenizer_config.json. The text of a conversation is
cut where a rollout would begin and end. A completion begins where the rendered
prompt ends, generation prompt included. Every answer ends with the EOS that the
template writes after it. Control tokens are those of the template. The same
characters within a message are text.
"""

import itertools
import json
import pathlib
import re
from typing import NamedTuple

from align_jax.data.row import RowError

CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content']"
  " + '<|im_end|>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Bai et al. 2022: plain text, for any tokenizer.
HH = (
  "{% for m in messages %}{{ '\\n\\nAssistant: ' if m['role'] == 'assistant' "
  "else '\\n\\nHuman: ' }}{{ m['content'] }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
# Taori et al. 2023: one question, one answer.
ALPACA = (
  "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}"
  "{% else %}{{ '### Instruction:\\n' + m['content'] + "
  "'\\n\\n### Response:\\n' }}{% endif %}{% endfor %}"
)
GENERATION = re.compile(r'\{%-?\s*generation\s*-?%\}')


class Span(NamedTuple):
  """A stretch of a rendered text."""

  start: int
  end: int


class Rendered(NamedTuple):
  """A conversation as text."""

  text: str
  contents: list[Span]  # what messages say; control tokens here are text
  answers: list[Span]  # what a rollout would write, up to its EOS
  prompt: str  # text[: answers[0].start]; all of text without answers


def load_template(name_or_file):
  """A template by its name in TEMPLATES, a Jinja file, or a tokenizer's folder.

  Returns:
    str, or None if the folder has none.
  Raises:
    FileNotFoundError: there is nothing of that name.
    ValueError: a tokenizer_config.json whose template cannot be read.
  """
  if str(name_or_file) in TEMPLATES:
    return TEMPLATES[str(name_or_file)]
  path = pathlib.Path(name_or_file).expanduser()
  if path.is_dir():
    return _of_folder(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'{path}: no such file, and none of the templates {sorted(TEMPLATES)}'
    )
  if path.suffix == '.json':  # a tokenizer.json
    return _of_folder(path.parent)
  return path.read_text(encoding='utf-8')


def _of_folder(folder):
  file = folder / 'chat_template.jinja'
  if file.is_file():
    return file.read_text(encoding='utf-8')
  file = folder / 'tokenizer_config.json'
  if not file.is_file():
    return None
  try:
    found = json.loads(file.read_text(encoding='utf-8')).get('chat_template')
    if isinstance(found, list):  # several, by name
      found = {x['name']: x['template'] for x in found}['default']
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f'{file}: no chat template named default: {e!r}') from None
  return found


def _render(
  template, conversation, tools, tokens, *, generate=False, marks=False
):
  """-> text, spans of `generation` tags (with `marks`)."""
  from transformers.utils import chat_template_utils

  try:
    texts, spans = chat_template_utils.render_jinja_template(
      [conversation],
      tools=tools,
      chat_template=template,
      return_assistant_tokens_mask=marks,
      add_generation_prompt=generate,
      **tokens,
    )
    texts[0].encode()  # half a surrogate pair within a tool
  except ImportError:
    raise
  except Exception as e:  # a template is someone else's program
    raise ChatError(f'the chat template fails: {e}', 'template fails') from None
  return texts[0], spans[0] if marks else []


class ChatError(Exception):
  """What a template cannot do with a row, before its place is known."""

  def __init__(self, message, reason):
    super().__init__(message)
    self.reason = reason

  def at(self, where):
    message = ' '.join(str(self).split())
    return RowError(f'{where}: {message}', self.reason)


def _contents(show, conversation, text, control):
  """The spans of message contents, found by rendering them with marks."""
  said = [m['content'] for m in conversation]
  everything = ''.join([text, *said])
  mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in everything)

  def marked(content):
    core = content.strip()  # templates strip it, too
    return content.replace(core, f'{mark}{core}{mark}', 1) if core else content

  copies = [{**m, 'content': marked(m['content'])} for m in conversation]
  pieces = show(copies).split(mark)
  plain = not any(token in x for token in control for x in said)
  exact = ''.join(pieces) == text
  shown = set(pieces[1::2]) if exact else ()
  for i, content in enumerate(said, 1):
    core = content.strip()
    if core and core not in shown and not (plain and core in text):
      raise ChatError(
        f'the chat template leaves out or rewrites message {i}, {core!r:.40}',
        'template leaves out or rewrites a message',
      )
  if not exact:
    return []  # the template edits messages; these have no control tokens
  ends = list(itertools.accumulate(map(len, pieces)))
  return [Span(*x) for x in zip(ends[::2], ends[1::2])]


def _prefixes(ask, conversation, first, text):
  """The start of each answer: after its history and the generation prompt."""
  starts = []
  for i in _answers(conversation, first):
    before = ask(conversation[:i])
    if not text.startswith(before):
      raise ChatError(
        f'the chat template writes what comes before message {i + 1} in '
        'another way once it is answered',
        'template rewrites the prompt',
      )
    starts.append(len(before))
  return starts


def _answers(conversation, first):
  index = range(first, len(conversation))
  return [i for i in index if conversation[i]['role'] == 'assistant']


def _tagged(spans, conversation, least):
  """The starts from a template's `generation` tags, checked against `least`."""
  count = len(_answers(conversation, 0))
  if len(spans) != count:
    raise ChatError(
      f'the chat template marks {len(spans)} of {count} answers as generated',
      'template marks other answers',
    )
  starts = [span[0] for span in spans[count - len(least) :]]
  if any(start < before for start, before in zip(starts, least)):
    raise ChatError(
      'the chat template marks its generation prompt as generated',
      'template marks its prompt',
    )
  return starts


def _limit(start, contents, size):
  """The latest place where the text after an answer may begin."""
  later = [span.start for span in contents if span.end > start]
  return later[1] if len(later) > 1 else size


def _ends(text, starts, contents, eos):
  """-> where each answer's EOS ends. The last answer may have none."""
  ends = []
  for start, following in itertools.zip_longest(starts, starts[1:]):
    limit = min(_limit(start, contents, len(text)), following or len(text))
    at = text.find(eos, start, limit)
    while at >= 0 and any(s.start <= at < s.end for s in contents):
      at = text.find(eos, at + 1, limit)
    if at < 0 and following is not None:
      raise ChatError(
        f'the chat template does not end an answer with the EOS {eos!r}: a '
        'rollout would not stop there',
        'template ends an answer without EOS',
      )
    ends.append(at + len(eos) if at >= 0 else len(text))
  return ends


def _check_tools(template, conversation, tools, tokens, control):
  """Raises ChatError if tools or calls are not shown or have control tokens."""
  calls = [m['tool_calls'] for m in conversation if m.get('tool_calls')]
  written = json.dumps([tools, calls], ensure_ascii=False)
  if any(token in written for token in control):
    raise ChatError('a tool has a control token', 'a tool has a control token')
  bare = [
    {k: v for k, v in m.items() if k != 'tool_calls'} for m in conversation
  ]
  text, _ = _render(template, conversation, tools, tokens)
  for there, others in ((tools, (conversation, None)), (calls, (bare, tools))):
    if there and _render(template, *others, tokens)[0] == text:
      raise ChatError(
        'the chat template shows no tools or no calls of them',
        'template without tools',
      )


def render(template, prompt, completion, tokens, control=(), tools=None):
  """A conversation as text, cut where rollouts begin and end.

  Args:
    template: str, Jinja.
    prompt: list of messages. If the last one is by the assistant, the
      completion continues it.
    completion: list of messages, the first by the assistant. Empty for a prompt
      alone.
    tokens: dict with the names of the special tokens, `eos_token` among them,
      and `bos_token` if there is one.
    control: the texts of all control tokens.
    tools: list of JSON schemas.
  Returns:
    Rendered.
  Raises:
    ChatError: the template fails, drops a message, or cannot be cut there.
  """
  show = lambda messages: _render(template, messages, tools, tokens)[0]
  ask = lambda messages: _render(
    template, messages, tools, tokens, generate=True
  )[0]
  if tools or any('tool_calls' in m for m in (*prompt, *completion)):
    _check_tools(template, [*prompt, *completion], tools, tokens, control)
  started = ''
  if prompt[-1]['role'] == 'assistant':
    started = _started(show, prompt, control)
    if not completion:
      return _prompt_alone(started, prompt, show, control)
    prompt, completion = _joined(prompt, completion)
  elif not completion:
    text = ask(prompt)
    return Rendered(text, _contents(ask, prompt, text, control), [], text)
  conversation = [*prompt, *completion]
  text = show(conversation)
  contents = _contents(show, conversation, text, control)
  starts = _prefixes(ask, conversation, len(prompt), text)
  if GENERATION.search(template):
    _, spans = _render(template, conversation, tools, tokens, marks=True)
    answers = _tagged(spans, conversation, starts)
  else:
    answers = list(starts)
  if started:
    if not text.startswith(started):
      raise ChatError(
        'the chat template rewrites the answer that is continued',
        'template rewrites the prompt',
      )
    starts[0] = answers[0] = len(started)
  ends = _ends(text, answers, contents, tokens['eos_token'])
  return Rendered(
    text[: ends[-1]],
    contents,
    [Span(*x) for x in zip(answers, ends)],
    text[: starts[0]],
  )


def whole(template, conversation, tokens, control=()):
  """All that the template writes, including what follows the last answer.

  Args: as in `render`.
  Returns:
    text, spans of message contents.
  Raises:
    ChatError: the template fails or drops a message.
  """
  show = lambda messages: _render(template, messages, None, tokens)[0]
  text = show(conversation)
  return text, _contents(show, conversation, text, control)


def _started(show, prompt, control):
  """The text up to the end of the last message, which is to be continued."""
  text = show(prompt)
  content = prompt[-1]['content']
  contents = _contents(show, prompt, text, control)
  if not contents or text[slice(*contents[-1])] != content.strip():
    raise ChatError(
      'the chat template does not show where the last answer ends',
      'template rewrites the prompt',
    )
  end = contents[-1].end
  rest = content[len(content.rstrip()) :]
  return text[: end + len(rest)] if text.startswith(rest, end) else text[:end]


def _prompt_alone(started, prompt, show, control):
  contents = _contents(show, prompt, show(prompt), control)
  return Rendered(started, contents, [], started)


def _joined(prompt, completion):
  """Moves the continued message into the completion, joined with the next."""
  whole = prompt[-1]['content'] + completion[0]['content']
  return prompt[:-1], [{**completion[0], 'content': whole}, *completion[1:]]


TEMPLATES = {  # by name, for tokenizers without one
  'alpaca': ALPACA,
  'chatml': CHATML,
  'hh': HH,
}
