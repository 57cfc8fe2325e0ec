"""Examples as token lists: what the model sees, and what it is trained on."""

import datetime
import re
from typing import Any, NamedTuple

from align_jax.data import chat, named_templates, spans, templates
from align_jax.data.row import RowError
from align_jax.data.tokens import Vocabulary, check_ids

ANCHORS = ('\n', 'a', '.')
ALTERED = 'the tokenizer changes the text'
EARLIER = (
  'an earlier answer is not in the loss: a rollout would write it otherwise'
)
BOUNDARY = 'prompt and completion, joined, would be tokenised otherwise'


class Encoder(NamedTuple):
  """How texts and messages become ids; see `make_encoder`."""

  vocabulary: Vocabulary
  template: str | None
  control: dict  # of each control token's text: (id, lstrip, rstrip)
  pattern: Any  # re.Pattern of control tokens, None if there are none
  prefix: str  # which texts get a space in front: 'none' | 'first' | 'every'
  date: datetime.date  # what a template takes for today
  size: int | None = None  # vocab_size of the model; see `tokens.check_ids`


class Encoded(NamedTuple):
  """An example as ids."""

  format: str
  prompt: list[int]  # BOS in front
  completions: list[list[int]]  # G, each with the EOS at its end
  masks: list[list[bool]]  # per completion: the tokens that a loss may touch
  rewards: list[float]  # G
  where: str
  notes: tuple = ()  # what is worth counting: ALTERED, BOUNDARY, EARLIER


def make_encoder(vocabulary, template=None, *, date=None, size=None):
  """The encoder of a vocabulary, with a chat template for messages.

  Args:
    vocabulary: tokens.Vocabulary.
    template: str, Jinja.
    date: datetime.date that a template takes for today. None: that of the
      first one made without it.
    size: vocab_size of the model. None: a token may have any id.
  """
  tokenizer = vocabulary.tokenizer
  control = {
    token.content: (i, token.lstrip, token.rstrip)
    for i, token in tokenizer.get_added_tokens_decoder().items()
    if token.special
  }
  names = sorted(control, key=len, reverse=True)
  pattern = re.compile('|'.join(map(re.escape, names))) if names else None
  date = date or templates.today()
  encoder = Encoder(vocabulary, template, control, pattern, 'none', date, size)
  return encoder._replace(prefix=_prefix(encoder))


def _ids(encoder, text):
  tokenizer = encoder.vocabulary.tokenizer
  return tokenizer.encode(text, add_special_tokens=False).ids


def _prefix(encoder):
  """Finds whether the tokenizer adds a space in front of texts, as Llama's."""
  plain = _ids(encoder, 'a')
  if plain == _continuation(encoder, 'a')[0]:
    return 'none'
  tokenizer = encoder.vocabulary.tokenizer
  eos_id = encoder.vocabulary.eos_id
  tokenizer.encode_special_tokens = False
  try:
    after = _ids(encoder, tokenizer.id_to_token(eos_id) + 'a')
  finally:
    tokenizer.encode_special_tokens = True
  return 'every' if after == [eos_id, *plain] else 'first'


def _continuation(encoder, text):
  """-> ids of a text that continues plain text, whether they decode to it."""
  decode = encoder.vocabulary.tokenizer.decode
  for anchor in ANCHORS:
    start, ids = _ids(encoder, anchor), _ids(encoder, anchor + text)
    if ids[: len(start)] == start:
      same = decode(ids, skip_special_tokens=False) == anchor + text
      return ids[len(start) :], same
  return _ids(encoder, text), False


def _plain(encoder, text, after):
  """-> ids of a text without control tokens, whether they decode to it.

  Args:
    after: 'start' | 'control' | 'text', what precedes it.
  """
  prefixed = {'none': (), 'first': ('text', 'control'), 'every': ('text',)}
  if after in prefixed[encoder.prefix]:
    return _continuation(encoder, text)
  ids = _ids(encoder, text)
  decode = encoder.vocabulary.tokenizer.decode
  return ids, decode(ids, skip_special_tokens=False) == text


def _pieces(encoder, text, contents, offset):
  """Yields (text, control token or None after it), in order."""
  position, strip = 0, False
  matches = encoder.pattern.finditer(text) if encoder.pattern else ()
  for match in matches:
    start, end = match.start() + offset, match.end() + offset
    if any(s.start < end and start < s.end for s in contents):
      continue
    token = match.group()
    _, lstrip, rstrip = encoder.control[token]
    piece = text[position : match.start()]
    piece = piece.lstrip() if strip else piece
    yield piece.rstrip() if lstrip else piece, token
    position, strip = match.end(), rstrip
  yield text[position:].lstrip() if strip else text[position:], None


def encode_text(encoder, text, contents=(), offset=0, after='start'):
  """-> ids, whether they decode to the same text.

  Args:
    encoder: Encoder.
    text: str.
    contents: spans in which control tokens are text. None: everywhere.
    offset: of `text` within the text that the spans refer to.
    after: see `_plain`.
  """
  if contents is None:
    return _plain(encoder, text, after) if text else ([], True)
  ids, same = [], True
  for piece, token in _pieces(encoder, text, contents, offset):
    if piece:
      found, exact = _plain(encoder, piece, after)
      ids, same, after = ids + found, same and exact, 'text'
    if token:
      ids.append(encoder.control[token][0])
      after = 'control'
  return ids, same


def markers(encoder):
  """The marks of turns that are no tokens: {text: how many tokens it is}.

  They are those that the chat template writes in a plain conversation.
  """
  if encoder.template is None:
    return {}
  turns = [dict(role=x, content='a') for x in ('user', 'assistant')]
  try:
    text = templates.render(
      encoder.template, turns, variables(encoder), generate=True
    )
  except templates.Unbounded:
    raise
  except Exception:  # what it cannot do, a row will tell
    return {}
  found = dict.fromkeys(spans.TAG.findall(text))
  sizes = {
    x: len(_continuation(encoder, x)[0])
    for x in found
    if x not in encoder.control
  }
  return {tag: size for tag, size in sizes.items() if size > 1}


def marker_lines(encoder):
  """Yields what each of `markers` costs."""
  for tag, size in markers(encoder).items():
    yield (
      f'{tag!r} of the chat template is {size} tokens each time, not one '
      'control token: the tokenizer has none of that name'
    )


def token_names(vocabulary):
  """A chat template's variables: the texts of EOS, and of BOS if any."""
  names = dict(eos_token=vocabulary.tokenizer.id_to_token(vocabulary.eos_id))
  if vocabulary.bos_id is not None:
    names['bos_token'] = vocabulary.tokenizer.id_to_token(vocabulary.bos_id)
  return names


def variables(encoder):
  """A chat template's variables: `token_names`, and its clock."""
  clock = encoder.date.strftime
  return {**token_names(encoder.vocabulary), 'strftime_now': clock}


def _with_bos(encoder, ids, where):
  bos_id = encoder.vocabulary.bos_id
  if bos_id is None:
    if not ids:
      raise RowError(f'{where}: a text needs a BOS before it', 'no BOS')
    return ids
  if ids[:2] == [bos_id, bos_id]:
    raise RowError(f'{where}: BOS twice', 'BOS twice')
  return ids if ids[:1] == [bos_id] else [bos_id, *ids]


def _after(encoder, text, contents):
  """What precedes the next text, see `_plain`."""
  if not text:
    return 'start'
  if contents is None:
    return 'text'
  *_, (last, _) = _pieces(encoder, text, contents, 0)
  return 'text' if last else 'control'


def _of_texts(encoder, example):
  """-> prompt ids, per completion (ids, mask, joined ids), whether same."""
  prompt, same = encode_text(encoder, example.prompt, None)
  after = 'text' if example.prompt else 'start'
  sides = []
  for text in example.completions:
    ids, exact = encode_text(encoder, text, None, after=after)
    ids = [*ids, encoder.vocabulary.eos_id]
    joint, _ = encode_text(encoder, example.prompt + text, None)
    sides.append((ids, [True] * len(ids), joint))
    same = same and exact
  return prompt, sides, same


def _of_messages(encoder, example):
  names, left = variables(encoder), 0
  find = encoder.vocabulary.tokenizer.id_to_token
  ends = [find(i) for i in encoder.vocabulary.ends]
  prompt, sides, same = None, [], True
  for completion in example.completions or [[]]:
    try:
      rendered = chat.render(
        encoder.template,
        example.prompt,
        completion,
        names,
        encoder.control,
        example.tools,
        ends,
      )
    except chat.ChatError as e:
      raise e.at(example.where) from None
    ids, exact = encode_text(encoder, rendered.prompt, rendered.contents)
    if prompt is not None and ids != prompt:
      raise RowError(
        f'{example.where}: the chat template writes the prompt in another way '
        'for another completion',
        'template rewrites the prompt',
      )
    prompt, same, left = ids, same and exact, left + rendered.left
    if completion:
      *side, exact = _answers(encoder, rendered)
      sides.append(side)
      same = same and exact
  return prompt, sides, same, left


def _answers(encoder, rendered):
  """-> ids, mask, joined ids of prompt and completion, whether same."""
  text, contents = rendered.text, rendered.contents
  ids, mask, same, position = [], [], True, len(rendered.prompt)
  for answer in rendered.answers:
    for end, ours in ((answer.start, False), (answer.end, True)):
      found, exact = encode_text(
        encoder,
        text[position:end],
        contents,
        position,
        _after(encoder, text[:position], contents),
      )
      ids, mask = ids + found, mask + [ours] * len(found)
      same, position = same and exact, end
  if not ids or ids[-1] not in encoder.vocabulary.ends:
    ids, mask = [*ids, encoder.vocabulary.eos_id], [*mask, True]
  joint, _ = encode_text(encoder, text, contents)
  return ids, mask, joint, same


def encode_example(encoder, example):
  """An example's ids.

  Prompt and completion are tokenised separately, as in a rollout. BOUNDARY is
  noted where the joined text would have other tokens.

  Args:
    encoder: Encoder.
    example: formats.Example.
  Returns:
    Encoded.
  Raises:
    RowError: the chat template cannot be used, or writes BOS twice, or a token
      has no row in the model.
    ValueError: messages, and there is no template.
  """
  left = 0
  if isinstance(example.prompt, str):
    prompt, sides, same = _of_texts(encoder, example)
  elif encoder.template is None:
    raise ValueError(
      f'{example.where}: messages need a chat template; this tokenizer has '
      f'none; some by name: {sorted(named_templates.TEMPLATES)}'
    )
  else:
    prompt, sides, same, left = _of_messages(encoder, example)
  eos = [encoder.vocabulary.eos_id]
  for ids in (prompt, *(ids for ids, _, _ in sides)):
    check_ids(encoder.vocabulary.tokenizer, ids, encoder.size, example.where)
  apart = any(prompt + ids not in (x, x + eos) for ids, _, x in sides)
  found = (ALTERED, not same), (BOUNDARY, apart), (EARLIER, left > 0)
  notes = [note for note, on in found if on]
  return Encoded(
    example.format,
    _with_bos(encoder, prompt, example.where),
    [ids for ids, _, _ in sides],
    [mask for _, mask, _ in sides],
    example.rewards,
    example.where,
    tuple(notes),
  )
