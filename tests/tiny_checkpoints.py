"""Random checkpoints of published families, a few thousand parameters each."""

import json
import pathlib

import chat_templates
import jax

from align_jax import data
from align_jax.models import hf_config, hf_export, transformer

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'hf'
LAYERS = 2  # of the golden ones' three: compiling takes the time
FAMILIES = {  # special tokens, BOS, EOS, chat template
  'gpt_neox': (['<|endoftext|>'], '<|endoftext|>', '<|endoftext|>', None),
  'qwen2': (
    ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
    None,
    '<|endoftext|>',
    data.named_templates.CHATML,
  ),
  'llama': (
    [
      '<|begin_of_text|>',
      '<|end_of_text|>',
      '<|start_header_id|>',
      '<|end_header_id|>',
      '<|eot_id|>',
    ],
    '<|begin_of_text|>',
    '<|end_of_text|>',
    chat_templates.LLAMA3,
  ),
}


def make_tokenizer(folder, special, bos, eos, template):
  """-> how many tokens it has; bytes, and the special ones."""
  tokenizer = data.train_tokenizer((), 259)
  tokenizer.encode_special_tokens = False
  tokenizer.add_special_tokens(special)
  tokenizer.save(str(folder / 'tokenizer.json'))
  config = dict(
    tokenizer_class='PreTrainedTokenizerFast', bos_token=bos, eos_token=eos
  )
  if template:
    config['chat_template'] = template
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  return tokenizer.get_vocab_size()


def make(folder, family, more_rows=0, head='lm', **changes):
  """A folder as it could have come from the hub, of that model_type.

  Args:
    more_rows: of the embedding than there are tokens.
    head: of the model; that of a 'scalar' one is random.
    changes: of config.json.
  """
  folder.mkdir()
  size = make_tokenizer(folder, *FAMILIES[family]) + more_rows
  fields = json.loads((GOLDEN / family / 'config.json').read_text())
  fields |= dict(vocab_size=size, bos_token_id=None, eos_token_id=None)
  kept = dict(num_hidden_layers=LAYERS)
  if 'layer_types' in fields:
    kept['layer_types'] = fields['layer_types'][:LAYERS]
  fields |= kept | changes
  fields['max_position_embeddings'] = 512
  config = hf_config.from_hf(fields, head=head)
  key = jax.random.key(0, impl='unsafe_rbg')
  params = transformer.init(key, config)
  if head == 'scalar':
    params['head'] = jax.random.normal(key, params['head'].shape)
  hf_export.export(folder, params, config, fields, source=folder)
  return folder
