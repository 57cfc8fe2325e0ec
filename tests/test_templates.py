"""Templates run as in transformers, in bounded time, on a fixed day."""

import datetime
import time

import pytest
from chat_templates import STYLES, THINKING
from transformers.utils import chat_template_utils

from align_jax import data
from align_jax.data import examples, named_templates, templates
from align_jax.data.formats import Example

NAMES = dict(bos_token='<s>', eos_token='</s>')
TURNS = [
  dict(role='user', content=' Q\n'),
  dict(role='assistant', content='<think>\nhm\n</think>\n\n A \n'),
  dict(role='user', content='"R" & <b>'),
  dict(role='assistant', content='B', thinking='oh'),
]
# Older releases of transformers leave a message's other names to the caller.
GIVEN = TURNS
if not hasattr(chat_template_utils, '_REASONING_FIELDS'):
  thoughts = {'thinking': 'oh', **TURNS[-1], 'reasoning_content': 'oh'}
  GIVEN = [*TURNS[:-1], thoughts]
TOOLS = [dict(type='function', function=dict(name='f', parameters={'ü': 1}))]
PROGRAMS = {
  **{k: v.template for k, v in {**STYLES, **THINKING}.items()},
  **named_templates.TEMPLATES,
  'json': '{{ messages | tojson(indent=2) }}{{ tools | tojson }}',
  'blocks': '{% for m in messages %}\n  {% if loop.last %}\n x{% break %}'
  '{% endif %}\n{{ loop.length ~ m.role }}\n{% endfor %}\n',
  'macro': '{% macro f(x) %}[{{ x | upper }}]{% endmacro %}'
  "{{ f('a' ~ 1) }}{% set x %}{{ f('b') }}{% endset %}{{ x + x }}",
  'recursive': '{% for m in messages recursive %}{{ m.role if m.role else m }}'
  '{% if m.role %}{{ loop([1, 2]) }}{% endif %}{% endfor %}',
  'namespace': '{% set ns = namespace(a=1) %}{% for m in messages %}'
  '{% set ns.a = ns.a * 2 %}{% endfor %}{{ ns.a ** 2 % 7 }}',
  'dict': "{% for k, v in dict(a=1).items() %}{{ '%s=%d' % (k, v) }}"
  '{% endfor %}{{ messages[::-1] | length }}{{ range(3) | list }}',
}


@pytest.mark.parametrize('template', PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize('ask', [False, True])
def test_they_write_what_they_write_in_transformers(template, ask):
  how = dict(chat_template=template, add_generation_prompt=ask, tools=TOOLS)
  (text,), _ = chat_template_utils.render_jinja_template(
    [GIVEN], **how, **NAMES
  )
  assert text == templates.render(
    template, TURNS, NAMES, tools=TOOLS, generate=ask
  )


ENDLESS = {
  'loops': '{% for a in range(99999) %}{% for b in range(99999) %}'
  '{% endfor %}{% endfor %}',
  'loops over texts': "{% for a in 'x' * 900 %}{% for b in 'x' * 900 %}"
  "{% for c in 'x' * 900 %}{% endfor %}{% endfor %}{% endfor %}",
  'output': "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
  'calls': '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}'
  '{% endmacro %}{{ f(60) }}',
  'times': "{{ 'x' * 10 ** 10 }}",
  'list times': '{{ [1] * 10 ** 10 }}',
  'power': '{{ 7 ** (10 ** 8) }}',
  'doubled': "{% set n = namespace(x='a') %}{% for i in range(60) %}"
  '{% set n.x = n.x + n.x %}{% endfor %}',
  'joined': "{% set n = namespace(x='a') %}{% for i in range(60) %}"
  '{% set n.x = n.x ~ n.x %}{% endfor %}',
  'doubled list': '{% set n = namespace(x=[1]) %}{% for i in range(60) %}'
  '{% set n.x = n.x + n.x %}{% endfor %}',
  'center': "{{ 'x' | center(10 ** 10) }}{{ 1 }}",
  'ljust': "{{ 'x'.ljust(10 ** 10) }}",
  'width': "{{ '%09999999999d' % 1 }}",
  'format': "{{ '{:>9999999999}'.format(1) }}",
  'format filter': "{{ '%9999999999d' | format(1) }}",
  'replace': "{% set x = 'x' * 99999 %}{{ x.replace('x', x) }}",
  'replace filter': "{% set x = 'x' * 99999 %}{{ x | replace('x', x) }}",
  'join': "{{ ('x' * 99999).join('y' * 99999) }}{{ 0 }}",
  'join filter': "{{ range(9999) | list | join('x' * 99999) }}",
  'tabs': "{{ ('\\t' * 999).expandtabs(10 ** 6) }}",
  'indent': "{{ ('a\\n' * 9999) | indent(10 ** 6) }}",
  'json': '{{ messages | tojson(indent=10 ** 9) }}',
  'batch': "{{ messages | batch(10 ** 10, 'x') | list }}",
}


@pytest.mark.parametrize('template', ENDLESS.values(), ids=ENDLESS)
def test_no_template_runs_for_ever(monkeypatch, template):
  monkeypatch.setattr(templates, 'SECONDS', 0.2)
  start = time.monotonic()
  with pytest.raises(
    templates.Unbounded, match='the chat template .* (takes|m)'
  ):
    templates.render(template, TURNS, NAMES)
  assert time.monotonic() - start < 30


def test_one_that_runs_for_ever_is_no_bad_row(monkeypatch, tmp_path):
  """It stops the reading: each row would take as long."""
  monkeypatch.setattr(templates, 'SECONDS', 0.2)
  file = tmp_path / 'x.jsonl'
  row = '{"messages": [{"role": "user", "content": "a"}, '
  row += '{"role": "assistant", "content": "b"}]}\n'
  file.write_text(row * 3)
  vocabulary = data.Vocabulary(data.train_tokenizer((), 259), 1, 2)
  encoder = data.make_encoder(vocabulary, ENDLESS['loops'])
  counts = data.Counts(on_bad_row='skip')
  with pytest.raises(templates.Unbounded, match='takes more than 0.2 s'):
    list(data.read(file, encoder, counts=counts))


DATED = (
  "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
  "{% for m in messages %}{{ '\\n' + m.role + ': ' + m.content }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '\\nassistant: ' }}{% endif %}"
)


def test_the_clock_of_an_encoder_stands_still(monkeypatch):
  vocabulary = data.Vocabulary(data.train_tokenizer((), 259), 1, 2)
  day = datetime.date(2024, 7, 26)
  encoder = data.make_encoder(vocabulary, DATED, date=day)
  prompt = [dict(role='user', content='Hi.')]
  shown = lambda x: vocabulary.tokenizer.decode(
    examples.encode_example(x, Example('prompt', prompt, [], [], 'x')).prompt
  )
  assert '26 Jul 2024' in shown(encoder)
  usual = data.make_encoder(vocabulary, DATED)

  class Later(datetime.date):
    @classmethod
    def today(cls):
      return cls(2099, 1, 1)

  before = shown(usual)
  monkeypatch.setattr(datetime, 'date', Later)
  assert shown(usual) == before == shown(data.make_encoder(vocabulary, DATED))
  assert '2099' not in before
