"""Chat templates by name, and those of files and folders."""

import json

from align_jax import paths

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
TEMPLATES = {  # by name, for tokenizers without one
  'alpaca': ALPACA,
  'chatml': CHATML,
  'hh': HH,
}


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
  path = paths.path(name_or_file).expanduser()
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
