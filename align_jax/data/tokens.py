"""Tokenizers, and token lists as padded arrays.

Masks always come from lengths, never from token ids. So pad and EOS may share
an id, or occur in a text.
"""

import json
from typing import Any, NamedTuple

import numpy as np

from align_jax import paths
from align_jax.data.row import RowError

SPECIAL_TOKENS = ('<pad>', '<s>', '</s>')  # of `train_tokenizer`: ids 0, 1, 2


class _Vocabulary(NamedTuple):
  tokenizer: Any  # tokenizers.Tokenizer
  bos_id: int | None  # once, in front of a prompt. None: it has no BOS
  eos_id: int  # the last token of a completion that has ended


class Vocabulary(_Vocabulary):
  """A tokenizer and the two special tokens that every text needs.

  Attributes:
    ends: ids that end a completion where a chat template writes them: EOS, and
      `further` ones. No field, so that it unpacks as three.
  """

  def __new__(cls, tokenizer, bos_id, eos_id, further=()):
    made = super().__new__(cls, tokenizer, bos_id, eos_id)
    made.ends = tuple(dict.fromkeys([eos_id, *further]))
    return made


def train_tokenizer(texts, vocab_size):
  """Byte-level BPE (Radford et al. 2019): any text can be encoded.

  Args:
    texts: iterable of str.
    vocab_size: an upper bound, reached if the texts are long enough.
  Returns:
    tokenizers.Tokenizer with <pad> (id 0), <s> and </s>. It adds none of them
    by itself, and reads them in a text as plain characters.
  Raises:
    ValueError: `vocab_size` has no room for all bytes and special tokens.
  """
  import tokenizers

  least = 256 + len(SPECIAL_TOKENS)
  if vocab_size < least:
    raise ValueError(f'vocab_size={vocab_size} is below {least}')
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(SPECIAL_TOKENS),
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  tokenizer.encode_special_tokens = True
  return tokenizer


def make_vocabulary(tokenizer, texts, vocab_size, *, size=None, **how):
  """The vocabulary of a task: a given one, or one trained on its texts.

  Args:
    tokenizer: see `load_tokenizer`. '' trains one of `size` on the texts.
    texts: iterable of str.
    vocab_size: of the model.
    size: of a tokenizer that is trained. None: all of `vocab_size`.
    how: arguments of `load_tokenizer`.
  Raises:
    ValueError: one that is trained has more tokens than the model. A given one
      may: `check_ids` refuses the rows of text that need them.
  """
  if tokenizer:
    return load_tokenizer(tokenizer, **how)
  trained = train_tokenizer(texts, size or vocab_size)
  size = trained.get_vocab_size()
  if size > vocab_size:
    raise ValueError(
      f'task.tokenizer={str(tokenizer)!r} has {size} tokens, more than '
      f'model.vocab_size={vocab_size}'
    )
  return Vocabulary(trained, *map(trained.token_to_id, SPECIAL_TOKENS[1:]))


def check_ids(tokenizer, ids, size, where):
  """Refuses a text with a token that the model has no row of numbers for.

  Args:
    ids: of the text.
    size: the model's vocab_size. None: any.
    where: the text's file and row.
  Raises:
    RowError: names the token.
  """
  largest = int(max(ids, default=0))
  if size is not None and largest >= size:
    raise RowError(
      f'{where}: token {tokenizer.id_to_token(largest)!r} has id {largest}, '
      f'expected one below vocab_size={size} of the model',
      'a token that the model lacks',
    )


def save_vocabulary(folder, vocabulary):
  """Writes it for `load_tokenizer` and transformers to read.

  transformers, unlike `encode`, then puts BOS in front of a text by itself.
  """
  import tokenizers

  tokenizer, *ids = vocabulary
  names = [None if i is None else tokenizer.id_to_token(i) for i in ids]
  config = dict(zip(('bos_token', 'eos_token'), names))
  config['tokenizer_class'] = 'PreTrainedTokenizerFast'
  config['padding_side'] = 'left'
  pad = SPECIAL_TOKENS[0]
  has_pad = tokenizer.token_to_id(pad) is not None
  config['pad_token'] = pad if has_pad else config['eos_token']
  if ids[0] is not None:
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single=f'{names[0]} $A', special_tokens=[(names[0], ids[0])]
    )
  tokenizer.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(config, indent=1), encoding='utf-8'
  )


def _config(folder, name='tokenizer_config.json'):
  """The object of a file of the folder, {} without one."""
  path = folder / name
  try:
    text = path.read_text(encoding='utf-8') if path.exists() else '{}'
    config = json.loads(text)
  except ValueError as e:
    raise ValueError(f'{path}: not JSON: {e}') from None
  if not isinstance(config, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return config


def _from_transformers(folder):
  """The tokenizer of a folder without a tokenizer.json."""
  import transformers

  try:
    loaded = transformers.AutoTokenizer.from_pretrained(
      folder, local_files_only=True
    )
  except Exception as e:  # of any kind: what is missing depends on the class
    reason = ' '.join(str(e).split())
    raise ValueError(f'{folder}: not a tokenizer: {reason:.200}') from None
  if not loaded.is_fast:
    raise ValueError(f'{folder}: {type(loaded).__name__} is no fast tokenizer')
  return loaded.backend_tokenizer


def _open(path):
  """-> tokenizers.Tokenizer of a tokenizer.json or of a folder."""
  import tokenizers

  file = path / 'tokenizer.json' if path.is_dir() else path
  if (path / 'tokenizer_config.json').is_file() and not file.is_file():
    return _from_transformers(path)
  if not file.is_file():
    raise FileNotFoundError(f'{file}: no such file')
  try:
    return tokenizers.Tokenizer.from_file(str(file))
  except Exception as e:  # the bindings raise nothing narrower
    raise ValueError(f'{file}: not a tokenizer: {e}') from None


def load_tokenizer(
  folder_or_file, *, bos_token=None, eos_token=None, needs_bos=True
):
  """Any fast tokenizer, with its BOS and EOS.

  It is a tokenizer.json, alone or in a folder, or a folder that
  `transformers.AutoTokenizer` reads as a fast tokenizer. `bos_token` and
  `eos_token` of the tokenizer_config.json beside it are the names of BOS and
  EOS. Without one they are <s> and </s>. Both may be the same token. A
  generation_config.json beside it may name further tokens that end a turn.

  Args:
    folder_or_file: where it is.
    bos_token, eos_token: override the names of the configuration.
    needs_bos: whether `"bos_token": null` in the configuration is an error. If
      not, bos_id is None.
  Returns:
    Vocabulary.
  Raises:
    FileNotFoundError: no tokenizer there.
    ValueError: not a tokenizer, or one without BOS or EOS.
  """
  path = paths.local(paths.path(folder_or_file).expanduser())
  tokenizer = _open(path)
  tokenizer.encode_special_tokens = True
  tokenizer.no_truncation()
  tokenizer.no_padding()
  folder = path if path.is_dir() else path.parent
  config = _config(folder)
  names = dict(bos_token=bos_token, eos_token=eos_token)
  ids = []
  for (kind, given), usual in zip(names.items(), SPECIAL_TOKENS[1:]):
    name = given or _token_name(config, kind)
    stated = kind == 'bos_token' and kind in config
    if name is None and stated and not needs_bos:
      ids.append(None)
      continue
    token = tokenizer.token_to_id(name or usual)
    if token is None:
      raise ValueError(
        f'{path}: no {name or usual!r} in the vocabulary; name its {kind} in a '
        'tokenizer_config.json beside it'
      )
    ids.append(token)
  return Vocabulary(tokenizer, *ids, _further_ends(folder, tokenizer))


def _further_ends(folder, tokenizer):
  """The ids of eos_token_id in generation_config.json that are tokens."""
  name = 'generation_config.json'
  stated = _config(folder, name).get('eos_token_id')
  ids = stated if isinstance(stated, list) else [stated]
  if not all(x is None or type(x) is int for x in ids):
    raise ValueError(
      f'{folder / name}: eos_token_id={stated!r}, expected an id or ids'
    )
  return [i for i in ids if i is not None and tokenizer.id_to_token(i)]


def _token_name(config, kind):
  name = config.get(kind)
  return name.get('content') if isinstance(name, dict) else name


def encode(tokenizer, texts):
  """Texts -> list of id lists, without special tokens."""
  encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
  return [encoding.ids for encoding in encodings]


def texts_of(tokenizer, tokens, valid):
  """One text per row, without special tokens."""
  rows = zip(np.asarray(tokens), np.asarray(valid), strict=True)
  return tokenizer.decode_batch([t[v].tolist() for t, v in rows])


def decoder(tokenizer):
  """-> f(Batch) -> (prompts, completions), a text per row of the batch."""

  def decode(batch):
    prompts = texts_of(tokenizer, batch.prompts, batch.prompt_valid)
    prompts = [text for text in prompts for _ in range(batch.group_size)]
    return prompts, texts_of(tokenizer, batch.completions, batch.valid)

  return decode


def _lengths(id_lists, size, least):
  lengths = np.array([len(ids) for ids in id_lists], np.int64)
  for row in np.flatnonzero((lengths > size) | (lengths < least)):
    raise ValueError(
      f'row {row} has {lengths[row]} tokens; {least} to {size} are allowed'
    )
  return lengths[:, None]


def _fill(id_lists, valid):
  tokens = np.zeros(valid.shape, np.int32)
  tokens[valid] = np.concatenate([*id_lists, []]).astype(np.int32)
  return tokens, valid


def left_pad(id_lists, size):
  """Pads prompts so that their last tokens are in the last slot.

  Args:
    id_lists: N lists of 1 to `size` ids.
  Returns:
    tokens int32 [N, size], valid bool [N, size].
  Raises:
    ValueError: a prompt is empty or too long. Names its index and length.
      Nothing is ever cut off.
  """
  lengths = _lengths(id_lists, size, least=1)
  return _fill(id_lists, np.arange(size) >= size - lengths)


def right_pad(id_lists, size):
  """Pads completions, as `left_pad`, on the right. They may be empty."""
  lengths = _lengths(id_lists, size, least=0)
  return _fill(id_lists, np.arange(size) < lengths)
