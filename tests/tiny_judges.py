"""Tiny random checkpoints with a tokenizer and a chat template, for tests."""

import dataclasses
import functools
import json

import jax

from align_jax import data
from align_jax.judges.pairwise import TIES_PROMPT
from align_jax.models import hf_export, transformer

TEXTS = ['the red cat sat', 'a dog ran', 'one two three four five six', '']
PROMPTS = ['What is 10 + 11?', 'Say a word', 'Count to six', 'Be silent']
OTHERS = ['a blue cat stood up', 'no dog', 'six five four', 'I will not']
PAIRS = PROMPTS, TEXTS, OTHERS
VOCAB = 400
CONFIG = transformer.ModelConfig(
  vocab_size=VOCAB,
  dim=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_dim=24,
  tie_embeddings=False,
)
SCALAR = dataclasses.replace(CONFIG, head='scalar')
# It writes BOS, and a line break after the last answer.
TEMPLATE = (
  "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '> ' + "
  "m['content'] + eos_token + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


@functools.partial(jax.jit, static_argnums=1)
def random_params(seed, config):
  """Far from what a model is at first: answers differ from text to text."""
  params = transformer.init(jax.random.key(seed, impl='unsafe_rbg'), config)
  key = jax.random.key(seed + 1)
  head = jax.random.normal(key, params['head'].shape)
  loud = dict(qkv=4, o=2, down=8)
  loud = {name: by * params['layers'][name] for name, by in loud.items()}
  layers = {**params['layers'], **loud}
  embed = 50 * params['embed']
  return {**params, 'embed': embed, 'head': head, 'layers': layers}


def write(folder, params, config, template=TEMPLATE):
  """A checkpoint with a tokenizer of its own."""
  hf_export.export(folder, params, config)
  texts = [TIES_PROMPT, *PROMPTS, *TEXTS, *OTHERS] * 3
  tokenizer = data.train_tokenizer(texts, VOCAB)
  tokenizer.save(str(folder / 'tokenizer.json'))
  settings = dict(bos_token='<s>', eos_token='</s>', pad_token='<pad>')
  settings |= dict(tokenizer_class='PreTrainedTokenizerFast')
  settings |= dict(chat_template=template) if template else {}
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return folder
