"""Random chat templates and conversations: right, or refused; never wrong.

`python -m tests.fuzz_templates --number=200` tries that many templates.
What is right is found by transformers alone, from renderings of prefixes.
"""

import argparse
import collections
import json
import random
import re

try:
  import chat_templates
except ImportError:  # as `python -m tests.fuzz_templates`
  from tests import chat_templates
from transformers.utils.chat_template_utils import render_jinja_template

from align_jax import data
from align_jax.data import formats
from align_jax.data.examples import encode_example, make_encoder

CONTROL = ('<s>', '</s>', '<|im_start|>', '<|im_end|>', '<|user|>', '<|bot|>')
EOS = '<|im_end|>'
CONTENTS = (  # how a template shows what is said
  *['{0}'] * 6,
  '{0} | trim',
  '{0}.strip()',
  "{0}.lstrip('\\n')",
  "{0}.split('</think>')[-1]",
  "{0}.split('</think>')[-1].lstrip('\\n')",
  "{0}.split('</think>')[0]",
  "({0}.split('</think>') | last | trim)",
  "({0} | replace('<think>', ''))",
  "({0} | replace('</think>', '</think>\\n'))",
  "({0} | replace('user', 'person'))",
  "({0} | replace('<|im_end|>', ''))",
  "({0}.split() | join(' '))",
  '({0} | upper)',
  '({0} | tojson)',
  '{0}[:40]',
  "{0}.split('\\n')[0]",
  '({0} + {0})',
)
THOUGHTFUL = (
  "{% set c = m['content'] %}{% set r = '' %}"
  "{% if '</think>' in c %}"
  "{% set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1]"
  ".lstrip('\\n') %}"
  "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
)
FOUND_LAST = (
  '{% set ns = namespace(last=-1) %}{% for m in messages %}'
  "{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
  '{% endfor %}'
)
TOOLS = (
  "{% if tools %}{{ '<|user|>tools: ' }}{% for t in tools %}"
  '{{ t | tojson }}{% endfor %}{% endif %}'
)


def real():
  """Those of models that think, with the marks of here."""
  for name in ('qwen3', 'qwq', 'r1', 'nemotron'):
    style = chat_templates.THINKING[name]
    yield style.template.replace(style.eos, EOS)


def template(rng):
  """A template made of what real ones are made of."""
  header = rng.choice(
    (
      "'<|im_start|>' + {} + '\\n'",
      "'<|' + {} + '|>'",
      "{} + ': '",
      "'<s>' + {}",
    )
  )
  shown = lambda: rng.choice(CONTENTS).format("m['content']")
  end = rng.choice(
    [*["'<|im_end|>\\n'"] * 5, "'<|im_end|>'", "'\\n'", "''", "'</s>'"]
  )
  head = header.format("m['role']")
  generation = rng.choice(['{}', '{}', '{% generation %}{}{% endgeneration %}'])
  answer = '{{ ' + f'{shown()} + {end}' + ' }}'
  thoughtful = rng.random() < 0.4
  if thoughtful:
    when = rng.choice(
      (
        'loop.index0 > ns.last and (loop.last or r)',
        'loop.index0 > ns.last and r',
        'loop.last',
        'r',
      )
    )
    tags = rng.choice(
      (
        ("'<think>\\n'", "'\\n</think>\\n\\n'"),
        ("'<think>'", "'</think>'"),
        ("'<think>'", "'</think>\\n'"),
      )
    )
    answer = (
      f'{THOUGHTFUL}{{% if {when} %}}{{{{ {tags[0]} + r + {tags[1]} + c }}}}'
      f'{{% else %}}{{{{ {rng.choice(["c", shown()])} }}}}{{% endif %}}'
      f'{{{{ {end} }}}}'
    )
  answer = generation.replace('{}', answer, 1) if '{}' in generation else answer
  ask = rng.choice(('', '', "'<think>\\n'", "'<think>'", "'<think></think>'"))
  other = '{{ ' + shown() + f' + {end}' + ' }}'
  window = rng.choice([*['messages'] * 8, 'messages[-2:]', 'messages[1:]'])
  return ''.join(
    [
      rng.choice(('', '{{ bos_token }}', TOOLS)),
      FOUND_LAST,
      f'{{% for m in {window} %}}',
      rng.choice([*[''] * 8, "{{ 'Q' if loop.last else '' }}"]),
      '{{ ' + head + ' }}',
      "{% if m['role'] == 'assistant' %}",
      answer,
      '{% else %}',
      other,
      '{% endif %}{% endfor %}',
      '{% if add_generation_prompt %}{{ ',
      header.format("'assistant'") + (f' + {ask}' if ask else ''),
      ' }}{% endif %}',
    ]
  )


def content(rng):
  """What is said: words, marks, and what looks like a template's own."""
  words = (
    *('yes', 'no', 'Lima', 'user', 'assistant', '"a"', '\\', 'ü', 'A B', '.'),
    *(' ', '\n', '\n\n', ' \n'),
    *('<think>', '</think>', '<|im_', 'end|>', '<|', '|>', *CONTROL),
  )
  weights = [5] * 10 + [6] * 4 + [2] * (len(words) - 14)
  text = ''.join(rng.choices(words, weights, k=rng.randrange(1, 8)))
  return text if text.strip() else f'{text}x'


def answer(rng):
  said = content(rng)
  if rng.random() < 0.5:
    gap = rng.choice(('', '\n'))
    thought = rng.choice(('hm', 'a\nb', ' a\n', content(rng)))
    return f'<think>{gap}{thought}{gap}</think>{gap * 2}{said}'
  return said


def conversation(rng):
  turns = [dict(role='system', content=content(rng))] * (rng.random() < 0.2)
  for _ in range(rng.randrange(1, 4)):
    turns.append(dict(role='user', content=content(rng)))
    turns.append(dict(role='assistant', content=answer(rng)))
  return turns


def vocabulary():
  tokenizer = data.train_tokenizer((), 259)
  tokenizer.add_special_tokens(list(CONTROL))
  find = tokenizer.token_to_id
  return data.Vocabulary(tokenizer, find('<s>'), find(EOS))


class Oracle:
  """Texts by transformers; the control tokens of messages are hidden in it."""

  def __init__(self, template):
    self.template = template

  def __call__(self, messages, **how):
    (text,), _ = render_jinja_template(
      [messages],
      chat_template=self.template,
      bos_token='<s>',
      eos_token=EOS,
      **how,
    )
    return text


def squeezed(text):
  """Without white space; templates write a repeated tag once."""
  return re.sub(r'(</?think>)\1+', r'\1', re.sub(r'\s+', '', text))


def wrong(encoder, turns, encoded, single):
  """What is wrong with an example, or None."""
  oracle = Oracle(encoder.template)
  decode = lambda ids: encoder.vocabulary.tokenizer.decode(
    ids, skip_special_tokens=False
  )
  (ids,), (mask,) = encoded.completions, encoded.masks
  bos, eos = encoder.vocabulary.bos_id, encoder.vocabulary.eos_id
  before, runs, start = encoded.prompt, [], None
  for i, ours in enumerate([*mask, False]):
    if ours and start is None:
      start = i
    if start is not None and (not ours or ids[i - 1] == eos and i > start):
      runs.append((start, i))
      start = i if ours else None
  answers = [i for i, m in enumerate(turns) if m['role'] == 'assistant']
  if not runs or not mask[-1] or ids[-1] != eos:
    return 'the last answer does not end in EOS'
  if single and not all(mask):
    return 'a part of the only answer is not in the loss'
  for start, end in runs:
    text = decode([*before, *ids[:start]])
    options = {text, text.removeprefix('<s>')}
    run = decode(ids[start:end])
    if end != len(ids) and ids[end - 1] != eos:
      return 'an answer does not end in EOS'
    if control_ids(encoder, ids[start:end])[:-1]:
      told = [x for x in run_controls(encoder, ids[start:end])]
      if eos in told or bos in told:
        return f'control tokens within an answer: {run!r}'
    if not any(
      fits(oracle, turns, i, options, run, '{% generation' in encoder.template)
      for i in answers
    ):
      return f'no rollout would write {run!r} after {text!r}'
  return None


def run_controls(encoder, ids):
  return control_ids(encoder, ids)[:-1]


def control_ids(encoder, ids):
  known = {i for i, *_ in encoder.control.values()}
  return [i for i in ids if i in known]


def fits(oracle, turns, i, options, run, tagged):
  """Whether a rollout of answer i could be given and write it."""
  asked = oracle(turns[:i], add_generation_prompt=True)
  shown = oracle(turns[: i + 1])
  for text in options:
    if tagged and text.startswith(asked) and shown.startswith(asked):
      if any(shown.startswith(text + x) for x in (run, run[: -len(EOS)])):
        return True
    if text != asked:
      continue
    if shown.startswith(asked + run) or shown == asked + run[: -len(EOS)]:
      return is_said(turns[i]['content'], run, asked)
    # The thought is put back, or closed at once.
    said, written = squeezed(turns[i]['content']), squeezed(run)
    opened = asked.rstrip().endswith('<think>')
    whole = said.removeprefix('<think>') if opened else said
    if opened and '</think>' not in said and not said.startswith('<think>'):
      whole = f'</think>{said}'
    if written.startswith(whole) or whole in written:
      return True
  return False


def is_said(content, run, asked):
  """Whether what follows the last thought is in the run."""
  said = content.split('</think>')[-1]
  if asked.rstrip().endswith('<think>'):
    said = said.strip().removeprefix('<think>')
  forms = said, json.dumps(said, ensure_ascii=False)[1:-1]
  return any(squeezed(x) in squeezed(run) for x in forms)


def harmless(turns):
  """The same without control tokens in what is said."""
  names = '|'.join(map(re.escape, CONTROL))
  hide = lambda x: re.sub(names, lambda m: '\ue000' * len(m.group()), x)
  return [{**m, 'content': hide(m['content'])} for m in turns]


def example(turns, multi):
  if multi:
    return formats.conversation(data.Row({'messages': turns}, 'x row 1'))
  row = dict(prompt=turns[:-1], completion=turns[-1:])
  return formats.demonstration(data.Row(row, 'x row 1'))


def check(number, seed=0, conversations=20):
  """Tries templates. -> Counter of outcomes; raises AssertionError."""
  rng, found = random.Random(seed), collections.Counter()
  known = vocabulary()
  programs = [*real(), *(template(rng) for _ in range(number))]
  for program in programs[:number]:
    encoder = make_encoder(known, program)
    for _ in range(conversations):
      turns, multi = conversation(rng), rng.random() < 0.5
      try:
        encoded = encode_example(encoder, example(turns, multi))
      except data.RowError as e:
        found[f'refused: {e.reason}'] += 1
        continue
      about = f'{encoder.template}\n{turns}\n'
      fault = wrong(encoder, turns, encoded, not multi)
      assert fault is None, f'{fault}\n{about}'
      try:
        other = encode_example(encoder, example(harmless(turns), multi))
      except data.RowError:
        found['kept, but not without control tokens'] += 1
        continue
      seen = [
        control_ids(encoder, x.prompt + x.completions[0])
        for x in (encoded, other)
      ]
      assert seen[0] == seen[1], f'{seen}\n{about}'
      found['kept'] += 1
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--number', type=int, default=200)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  for what, count in check(args.number, args.seed).most_common():
    print(f'{count:6d}  {what}')


if __name__ == '__main__':
  main()
