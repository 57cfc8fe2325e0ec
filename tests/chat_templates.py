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

# Families that think, shortened; the tags are theirs, to the letter.
QWEN3 = (
  '{%- set ns = namespace(last=messages|length - 1) %}'
  '{%- for message in messages[::-1] %}'
  '{%- set index = (messages|length - 1) - loop.index0 %}'
  "{%- if ns.last == messages|length - 1 and message.role == 'user' and not "
  "(message.content.startswith('<tool_response>') and "
  "message.content.endswith('</tool_response>')) and not ns.found %}"
  '{%- set ns.last = index %}{%- set ns.found = true %}{%- endif %}'
  '{%- endfor %}'
  '{%- for message in messages %}'
  "{%- if message.role != 'assistant' %}"
  "{{- '<|im_start|>' + message.role + '\\n' + message.content"
  " + '<|im_end|>' + '\\n' }}"
  '{%- else %}'
  "{%- set content = message.content %}{%- set reasoning_content = '' %}"
  '{%- if message.reasoning_content is string %}'
  '{%- set reasoning_content = message.reasoning_content %}'
  "{%- elif '</think>' in content %}"
  "{%- set reasoning_content = content.split('</think>')[0].rstrip('\\n')"
  ".split('<think>')[-1].lstrip('\\n') %}"
  "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
  '{%- endif %}'
  '{%- if loop.index0 > ns.last and (loop.last or reasoning_content) %}'
  "{{- '<|im_start|>' + message.role + '\\n<think>\\n'"
  " + reasoning_content.strip('\\n') + '\\n</think>\\n\\n'"
  " + content.lstrip('\\n') }}"
  "{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}"
  "{%- endif %}{{- '<|im_end|>\\n' }}"
  '{%- endif %}{%- endfor %}'
  "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
  '{%- if enable_thinking is defined and enable_thinking is false %}'
  "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
R1 = (
  '{{ bos_token }}{% for message in messages %}'
  "{% if message['role'] == 'system' %}{{ message['content'] }}"
  "{% elif message['role'] == 'user' %}"
  "{{ '<｜User｜>' + message['content'] }}"
  "{% else %}{% set content = message['content'] %}"
  "{% if '</think>' in content %}"
  "{% set content = content.split('</think>')[-1] %}{% endif %}"
  "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}"
  '{% endif %}{% endfor %}'
  "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
QWQ = (
  '{%- for message in messages %}'
  "{%- if message.role != 'assistant' %}"
  "{{- '<|im_start|>' + message.role + '\\n' + message.content"
  " + '<|im_end|>\\n' }}"
  "{%- else %}{%- set content = message.content.split('</think>')[-1]"
  ".lstrip('\\n') %}"
  "{{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}"
  '{%- endif %}{%- endfor %}'
  "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}"
  '{%- endif %}'
)
GLM45 = (
  '[gMASK]<sop>'
  '{%- set ns = namespace(last_user_index=-1) %}'
  "{%- for m in messages %}{%- if m.role == 'user' %}"
  '{%- set ns.last_user_index = loop.index0 %}{%- endif %}{%- endfor %}'
  '{%- for m in messages %}'
  "{%- if m.role == 'user' %}{{- '<|user|>\\n' + m.content }}"
  "{%- elif m.role == 'system' %}{{- '<|system|>\\n' + m.content }}"
  "{%- else %}{{- '<|assistant|>' }}"
  "{%- set reasoning_content = '' %}{%- set content = m.content %}"
  '{%- if m.reasoning_content is string %}'
  '{%- set reasoning_content = m.reasoning_content %}'
  "{%- elif '</think>' in content %}"
  "{%- set reasoning_content = content.split('</think>')[0].rstrip('\\n')"
  ".split('<think>')[-1].lstrip('\\n') %}"
  "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
  '{%- endif %}'
  '{%- if loop.index0 > ns.last_user_index and reasoning_content %}'
  "{{- '\\n<think>' + reasoning_content.strip() + '</think>' }}"
  "{%- else %}{{- '\\n<think></think>' }}{%- endif %}"
  "{%- if content.strip() %}{{- '\\n' + content.strip() }}{%- endif %}"
  '{%- endif %}{%- endfor %}'
  "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
NEMOTRON = (
  '{{- bos_token }}{%- for message in messages %}'
  "{%- set content = message['content'] %}"
  "{%- if message['role'] == 'assistant' and '</think>' in content "
  'and not loop.last %}'
  "{%- set content = content.split('</think>')[-1].lstrip() %}{%- endif %}"
  "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
  " + content | trim + '<|eot_id|>' }}{%- endfor %}"
  '{%- if add_generation_prompt %}'
  "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n<think>\\n' }}"
  '{%- endif %}'
)
THINKING = {
  'qwen3': Style(QWEN3, None, IM[1], IM),
  'qwq': Style(QWQ, None, IM[1], IM),
  'r1': Style(
    R1,
    '<｜begin▁of▁sentence｜>',
    '<｜end▁of▁sentence｜>',
    (
      '<｜begin▁of▁sentence｜>',
      '<｜end▁of▁sentence｜>',
      '<｜User｜>',
      '<｜Assistant｜>',
    ),
  ),
  'glm45': Style(
    GLM45,
    None,
    '<|user|>',
    ('[gMASK]', '<sop>', '<|user|>', '<|system|>', '<|assistant|>'),
  ),
  'nemotron': Style(
    NEMOTRON, '<|begin_of_text|>', '<|eot_id|>', STYLES['llama3'].control
  ),
}
