"""Thoughts of models: tags around them, and where a prompt opens one."""

import re

from align_jax.data.spans import ChatError

OPENER = re.compile(  # the beginning of a thought
  r'([<\[◁]\|?)(?!/)([^<>\[\]◁▷|]*(?:think|thought|reason)[^<>\[\]◁▷|]*)(\|?[>\]▷])',
  re.I,
)


def lead(tags, hidden, thought, content, body, opener, number):
  """What stands between a generation prompt and what is shown of an answer.

  Args:
    tags: of thoughts, which are control tokens.
    hidden: the beginning of the message that is not shown.
    thought: of the message, in a field of its own; or None.
    content: of the message.
    body: what is shown.
    opener: the end of the generation prompt that the text has not.
    number: of the message.
  Returns:
    [(text, whether it is the message's)], how much of the body goes.
  """
  tag = opener.strip()
  if not tag:
    return _parted(hidden, tags), 0
  closing = closing_tag(tag)
  if closing is None or hidden.count(tag) > 1:
    raise another_way(number)
  if tag.endswith(closing):  # the prompt has a thought that is over
    if hidden or thought or closing in content:
      raise another_way(number)
    return [], 0
  if hidden:
    return _parted(_without(hidden, opener), tags), 0
  if body.startswith(tag):
    return [], len(body) - len(_without(body, opener))
  if closing in content:  # it begins within the thought
    return [], 0
  return [((thought or '').strip(), True), (f'\n{closing}\n\n', False)], 0


def _without(text, opener):
  if text.startswith(opener):
    return text[len(opener) :]
  tag = opener.strip()
  return text[len(tag) :].lstrip() if text.startswith(tag) else text


def _parted(text, tags):
  """-> [(part, whether it is text)]; the tags are not."""
  if not text or not tags:
    return [(text, True)]
  parts = re.split(f'({"|".join(map(re.escape, tags))})', text)
  return [(part, i % 2 == 0) for i, part in enumerate(parts)]


def closing_tag(opener):
  """</think> of <think>, or of <think> and more up to it. None: it is no tag.

  Also [/THINK], <|END_THINKING|> and the like.
  """
  found = OPENER.match(opener)
  if not found:
    return None
  first, name, last = found.groups()
  slashed = f'{first}/{name}{last}'
  closings = [slashed]
  for start, end in (('start', 'end'), ('begin', 'end')):
    for one, other in ((start, end), (start.upper(), end.upper())):
      if one in name:
        closings.insert(0, f'{first}{name.replace(one, other, 1)}{last}')
  rest = opener[found.end() :].strip()
  if rest:
    return next((x for x in closings if rest == x), None)
  return closings[0]


def another_way(number):
  """The ChatError of a template that changes a prompt after its answer."""
  return ChatError(
    f'the chat template writes what comes before message {number} in another '
    'way once it is answered',
    'template rewrites the prompt',
  )
