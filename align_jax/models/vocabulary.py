"""Which ids of a model's logits are tokens, and which of them end a text.

A published embedding often has more rows than there are tokens, and a tokenizer
may have holes. No text has such an id, so the model's logits forbid it: in
sampling, scoring and exact KLs alike.
"""

import dataclasses

import numpy as np

from align_jax import values
from align_jax.files import read_object

FILE = 'tokenizer.json'
# Families whose config.json has a pad_token_id if it does not say so.
PADS = {'gemma2': 0, 'gemma3_text': 0, 'phi3': 32000}


def gaps(ids, size):
  """The ids below `size` that are not among `ids`: ((first, after), ...)."""
  unused = np.ones(size, bool)
  unused[[i for i in ids if i < size]] = False
  edges = np.flatnonzero(np.diff(unused, prepend=False, append=False))
  return tuple(map(tuple, edges.reshape(-1, 2).tolist()))


def only_tokens(config, tokenizer):
  """The model, which gives no other id than the tokenizer's a chance.

  Args:
    config: a ModelConfig or an Adapter, whose own `no_tokens` stay. A record of
      another kind, without them, is returned as it is.
    tokenizer: tokenizers.Tokenizer. Its tokens may be more than the rows.
  """
  if not hasattr(config, 'no_tokens'):
    return config
  ids = {*tokenizer.get_vocab(with_added_tokens=True).values()}
  for gap in config.no_tokens:
    ids -= {*range(*gap)}
  return dataclasses.replace(config, no_tokens=gaps(ids, config.vocab_size))


def num_ids(config):
  """One more than the largest id that is a token of the model."""
  size = config.vocab_size
  for first, after in reversed(getattr(config, 'no_tokens', ())):
    size = first if after == size else size
  return size


def with_rows(params, config, size):
  """A model with fewer rows for ids, of which those that go are no tokens.

  Args:
    params: its parameters, with `embed` and, if it is not tied, `head`.
    size: `num_ids(config)` or more.
  Returns:
    parameters and ModelConfig.
  """
  cut = {'embed': params['embed'][:size]}
  if 'head' in params:
    cut['head'] = params['head'][:, :size]
  kept = ((a, min(b, size)) for a, b in config.no_tokens if a < size)
  own = {'vocab_size': size, 'no_tokens': tuple(kept)}
  return params | cut, dataclasses.replace(config, **own)


def read(folder):
  """The tokenizer.json of a folder: a tokenizers.Tokenizer; None without it.

  Raises:
    ValueError: it is no tokenizer.
  """
  path = folder / FILE
  if not path.is_file():
    return None
  import tokenizers

  try:
    return tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the bindings raise nothing narrower
    raise ValueError(f'{path}: not a tokenizer: {error}') from None


def of_folder(config, folder):
  """The model, with the tokenizer of its folder if there is a tokenizer.json.

  Raises:
    ValueError: it is no tokenizer.
  """
  tokenizer = read(folder) if config.head == 'lm' else None
  return only_tokens(config, tokenizer) if tokenizer else config


def check_same(first, second, where):
  """Raises ValueError if two tokenizers give a token different ids.

  Args:
    first, second: tokenizers.Tokenizer.
    where: what has them, for the error.
  """
  ids = [x.get_vocab(with_added_tokens=True).items() for x in (first, second)]
  odd = sorted(ids[0] ^ ids[1], key=str)
  if odd:
    raise ValueError(
      f'{where}: expected one tokenizer, and {len(odd)} tokens or ids differ, '
      f'such as {odd[0]}'
    )


def ends(folder):
  """Ids that end a text, as transformers' `generate` has them: a tuple.

  They are the `eos_token_id` of generation_config.json, or else of config.json.

  Raises:
    ValueError: they are no ids. Names the file.
  """
  for name in ('generation_config.json', 'config.json'):
    path = folder / name
    found = read_object(path).get('eos_token_id') if path.is_file() else None
    if found is None:
      continue
    ids = tuple(found) if isinstance(found, list) else (found,)
    if not all(values.is_whole(i) and i >= 0 for i in ids):
      raise ValueError(
        f'{path}: eos_token_id={found!r}, expected a token id or a list of them'
      )
    return ids
  return ()


def all_ends(eos_id, more):
  """A task's ends with further ones: an id, or a tuple of several.

  Args:
    eos_id: its own, which come first: an id, a tuple of several, or None for a
      task whose texts do not end.
    more: ids.
  """
  if eos_id is None:
    return None
  own = eos_id if isinstance(eos_id, tuple) else (eos_id,)
  found = tuple(dict.fromkeys((*own, *more)))
  return found if len(found) > 1 else found[0]


def pad_token_id(fields):
  """What transformers takes for padding, given a config.json; None: nothing.

  Raises:
    ValueError: it is no whole number.
  """
  found = fields.get('pad_token_id', PADS.get(fields.get('model_type')))
  if found is not None and not values.is_whole(found):
    raise ValueError(
      f'config.json: pad_token_id={found!r}, expected a token id or null'
    )
  return found


def scored_at(ids, pad_id):
  """Where transformers' ForSequenceClassification reads a row's score.

  It is the last token that is no padding, even if padding is also the EOS and
  ends the text; the first, if there is no other.

  Args:
    ids: of one row.
    pad_id: as `pad_token_id` has it.
  Returns:
    the index.
  """
  return max((i for i, x in enumerate(ids) if x != pad_id), default=0)
