"""Chat templates in the style of well-known models, for tests."""

from typing import NamedTuple


class Style(NamedTuple):
  template: str
  bos: str | None  # None: the tokenizer's own, which the template leaves out
  eos: str
  control: tuple  # all control tokens
  system: bool = True  # whether there may be a system message


LLAMA3 = (
  '{{ bos_token }}{% for m in messages %}'
  "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n'"
  " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
  '{% if add_generation_prompt %}'
  "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
  '{{ bos_token }}{% for m in messages %}'
  "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('roles must alternate') }}{% endif %}"
  "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
  "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
  '{{ bos_token }}{% for m in messages %}'
  "{% if m['role'] == 'system' %}"
  "{{ raise_exception('no system role') }}{% endif %}"
  "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
  "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim"
  " + '<end_of_turn>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
ZEPHYR = (
  "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content']"
  " + eos_token + '\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
  "{% if m['role'] == 'assistant' %}"
  "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
  "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
  '{% endfor %}'
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN_CHATML = CHATML.replace('{% generation %}', '').replace(
  '{% endgeneration %}', ''
)
IM = ('<|im_start|>', '<|im_end|>')

STYLES = {
  'chatml': Style(PLAIN_CHATML, None, IM[1], IM),
  'chatml_generation': Style(CHATML, None, IM[1], IM),
  'llama3': Style(
    LLAMA3,
    '<|begin_of_text|>',
    '<|eot_id|>',
    (
      '<|begin_of_text|>',
      '<|start_header_id|>',
      '<|end_header_id|>',
      '<|eot_id|>',
    ),
  ),
  'mistral': Style(MISTRAL, '<s>', '</s>', ('<s>', '</s>'), system=False),
  'gemma': Style(
    GEMMA,
    '<bos>',
    '<end_of_turn>',
    ('<bos>', '<start_of_turn>', '<end_of_turn>'),
    system=False,
  ),
  'zephyr': Style(ZEPHYR, '<s>', '</s>', ('<s>', '</s>')),
}
