"""From files and data sets to token arrays.

Three stages, each of its own: `rows` reads any local file or hub data set, a
generator in `DATASETS` maps its rows to what a task asks for, and a tokenizer
turns texts into ids. Masks always come from lengths, never from token ids, so
pad and EOS may share an id, or occur in a text.
"""

import decimal
import gzip
import hashlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = ('.jsonl', '.json', '.jsonl.gz', '.json.gz')
SPECIAL_TOKENS = ('<pad>', '<s>', '</s>')  # of `train_tokenizer`: ids 0, 1, 2
NUMBER = re.compile(r'-?(\d+(\.\d+)?|\.\d+)', re.ASCII)


# --- Rows --------------------------------------------------------------------


class Row(dict):
  """A row that knows where it came from, for error messages."""

  def __init__(self, fields, where):
    super().__init__(fields)
    self.where = where


def place(row):
  """The row's file and number, as far as it knows."""
  return getattr(row, 'where', 'a row')


def row_error(row, message):
  """-> ValueError whose one line begins with the row's file and number."""
  return ValueError(f'{place(row)}: {message}')


def _as_row(value, where):
  if not isinstance(value, dict):
    raise ValueError(
      f'{where}: expected a JSON object, got {type(value).__name__}'
    )
  return Row(value, where)


def _parse(text, where):
  try:
    return json.loads(text)
  except json.JSONDecodeError as e:
    at = f'{where}: ' if text.count('\n') < 2 else f'{where} line {e.lineno}: '
    raise ValueError(f'{at}not JSON: {e.msg}') from None


def _file_rows(path):
  opener = gzip.open if path.suffix == '.gz' else open
  # Lines end at '\n' and nowhere else: texts contain U+0085, U+2028 and others,
  # at which str.splitlines would cut.
  with opener(path, 'rt', encoding='utf-8-sig', newline='\n') as file:
    if '.jsonl' in path.suffixes:
      for number, line in enumerate(file, 1):
        if line.strip():
          where = f'{path} row {number}'
          yield _as_row(_parse(line, where), where)
      return
    values = _parse(file.read(), path)
  if not isinstance(values, list):
    raise ValueError(f'{path}: a .json file holds one array of objects')
  for number, value in enumerate(values, 1):
    yield _as_row(value, f'{path} row {number}')


def _hub_rows(name, split):
  import datasets

  try:
    dataset = datasets.load_dataset(name, split=split)
  except Exception as e:  # many kinds: no network, no such set, no such split
    reason = (str(e).strip() or 'no reason given').split('\n')[0]
    raise ValueError(
      f'{name!r} is no local file, and could not be loaded as a Hugging Face '
      f'data set (split {split!r}): {type(e).__name__}: {reason} -- a local '
      'file ends in .jsonl, one JSON object such as {"text": "Great.", '
      '"label": 1} a line, or in .json, one array of them; .gz may follow'
    ) from e
  for number, row in enumerate(dataset, 1):
    yield _as_row(row, f'{name} [{split}] row {number}')


def local_path(path_or_id):
  """The path if this names a local file, None if it is a hub id.

  Raises:
    FileNotFoundError: it looks like a path, and there is none.
    ValueError: it is there, and not a file that `rows` reads.
  """
  text = str(path_or_id)
  path = pathlib.Path(text).expanduser()
  if path.is_file():
    if not path.name.endswith(SUFFIXES):
      raise ValueError(f'{path}: reads only {", ".join(SUFFIXES)}')
    return path
  if path.suffix in ('.json', '.jsonl', '.gz') or text.startswith(
    ('.', '/', '~')
  ):
    if path.is_dir():
      raise ValueError(f'{path}: is a folder, expected a file')
    raise FileNotFoundError(f'{path}: no such file')
  return None


def rows(path_or_id, split='train'):
  """Yields the rows of a local file or of a Hugging Face data set.

  Args:
    path_or_id: a .jsonl (an object per line; blank lines are skipped) or .json
      file (one array of objects), either also with .gz; or a hub id, such as
      'stanfordnlp/imdb'.
    split: of a hub data set; a local file has only itself.
  Raises:
    FileNotFoundError: what looks like a path is not there.
    ValueError: one line naming file and row: not UTF-8, not gzip, not JSON, not
      an object, no row at all; or a hub data set that cannot be loaded.
  """
  path = local_path(path_or_id)
  if path is None:
    yield from _hub_rows(str(path_or_id), split)
    return
  empty = True
  try:
    for row in _file_rows(path):
      empty = False
      yield row
  except UnicodeDecodeError as e:
    raise ValueError(f'{path}: not UTF-8: {e.reason}') from None
  except (EOFError, gzip.BadGzipFile) as e:
    raise ValueError(f'{path}: broken gzip file: {e}') from None
  if empty:
    raise ValueError(f'{path}: no rows, the file is empty')


def fingerprint(path_or_id):
  """What a cache made from this data remembers it by.

  A local file is its content, so that it may move; a hub data set is its id.
  """
  path = local_path(path_or_id)
  if path is None:
    return str(path_or_id)
  return 'sha256:' + hashlib.sha256(path.read_bytes()).hexdigest()


# --- Tokens ------------------------------------------------------------------


class Vocabulary(NamedTuple):
  """A tokenizer and the two special tokens that every text needs."""

  tokenizer: Any  # tokenizers.Tokenizer
  bos_id: int  # once, in front of a prompt
  eos_id: int  # the last token of a completion that has ended


def train_tokenizer(texts, vocab_size):
  """Byte-level BPE (Radford et al. 2019): any text can be encoded.

  Args:
    texts: iterable of str.
    vocab_size: an upper bound, reached if the texts are long enough.
  Returns:
    tokenizers.Tokenizer with <pad> (id 0), <s> and </s>; it adds neither by
    itself, and reads these three in a text as plain characters.
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


def _special_tokens(folder):
  """The names that tokenizer_config.json gives to BOS and EOS, if any."""
  path = folder / 'tokenizer_config.json'
  config = json.loads(path.read_text()) if path.exists() else {}
  names = (config.get('bos_token'), config.get('eos_token'))
  return [n['content'] if isinstance(n, dict) else n for n in names]


def load_tokenizer(folder_or_file):
  """A tokenizer.json, with its BOS and EOS.

  Their names are `bos_token` and `eos_token` of the tokenizer_config.json
  beside it, <s> and </s> without one; both may be the same token.

  Returns:
    Vocabulary.
  Raises:
    FileNotFoundError: no tokenizer.json there.
    ValueError: not a tokenizer, or one without BOS or EOS.
  """
  import tokenizers

  path = pathlib.Path(folder_or_file).expanduser()
  path = path / 'tokenizer.json' if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file')
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as e:  # the bindings raise nothing narrower
    raise ValueError(f'{path}: not a tokenizer: {e}') from None
  tokenizer.encode_special_tokens = True
  tokenizer.no_truncation()
  tokenizer.no_padding()
  ids = []
  for kind, name, usual in zip(
    ('bos_token', 'eos_token'), _special_tokens(path.parent), SPECIAL_TOKENS[1:]
  ):
    token = tokenizer.token_to_id(name or usual)
    if token is None:
      raise ValueError(
        f'{path}: no {name or usual!r} in the vocabulary; name its {kind} in a '
        'tokenizer_config.json beside it'
      )
    ids.append(token)
  return Vocabulary(tokenizer, *ids)


def encode(tokenizer, texts):
  """Texts -> list of id lists, without special tokens."""
  encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
  return [encoding.ids for encoding in encodings]


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
  """Prompts: their last tokens share the last slot.

  Args:
    id_lists: N lists of 1 to `size` ids.
  Returns:
    tokens int32 [N, size], valid bool [N, size].
  Raises:
    ValueError: a prompt is empty or too long; names its index and length.
      Nothing is ever cut off.
  """
  lengths = _lengths(id_lists, size, least=1)
  return _fill(id_lists, np.arange(size) >= size - lengths)


def right_pad(id_lists, size):
  """Completions: as `left_pad`, from the first slot on; may be empty."""
  lengths = _lengths(id_lists, size, least=0)
  return _fill(id_lists, np.arange(size) < lengths)


# --- Answers that can be checked ---------------------------------------------


def final_answer(text):
  """The number after the last '####', as GSM8K marks it (Cobbe et al. 2021).

  Returns:
    str, without ',', '$' and a closing '.'; None if there is no '####', or if
    anything but one number follows it.
  """
  _, mark, rest = text.rpartition('####')
  number = rest.replace(',', '').replace('$', '').strip().removesuffix('.')
  return number if mark and NUMBER.fullmatch(number) else None


def correct(completion, answer):
  """Whether the completion's final answer is that number; '5.0' is '5'.

  Args:
    completion: str.
    answer: str, a number as `final_answer` returns it.
  """
  found = final_answer(completion)
  # Decimals of any length are read and compared exactly.
  return found is not None and decimal.Decimal(found) == decimal.Decimal(answer)


# --- Data sets: a generator each, from rows to what a task asks for ----------


def field(row, name, kind):
  """row[name], which must be a `kind` and nothing that only acts like one.

  Raises:
    ValueError: one line naming file, row and field.
  """
  if name not in row:
    raise row_error(row, f'no field {name!r}; it has {sorted(row)}')
  if type(row[name]) is not kind:  # isinstance would take True for a number
    raise row_error(
      row, f'field {name!r} is {row[name]!r:.40}, expected {kind.__name__}'
    )
  return row[name]


def gsm8k(rows):
  """Questions with worked solutions: `question`, `answer` str, not blank.

  `answer` ends in '#### NUMBER'; that number is the `answer` of what is
  yielded, the whole text its `completion`.
  """
  for row in rows:
    question = field(row, 'question', str)
    solution = field(row, 'answer', str)
    if not question.strip():
      raise row_error(row, "field 'question' is empty")
    number = final_answer(solution)
    if number is None:
      raise row_error(
        row,
        f"field 'answer' ends in {solution[-20:]!r}, expected '#### NUMBER'",
      )
    # Still a Row: whether it is too long is for its reader to say.
    yield Row(
      dict(prompt=question, completion=solution, answer=number), place(row)
    )


def text_label(rows):
  """Labelled texts: `text` str, not blank; `label` 1 (good) or 0 (bad).

  Line breaks in HTML, of which film reviews are full, become spaces.
  """
  for row in rows:
    text = field(row, 'text', str).replace('<br />', ' ')
    label = field(row, 'label', int)
    if not text.strip():
      raise row_error(row, "field 'text' is empty")
    if label not in (0, 1):
      raise row_error(row, f"field 'label' is {label}, expected 0 or 1")
    yield dict(text=text, label=label)


DATASETS = {  # by the name configs use
  'gsm8k': gsm8k,
  'text_label': text_label,
}
