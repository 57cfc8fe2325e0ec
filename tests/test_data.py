"""Rows, tokenizers and padding: what is read, and how mistakes are told."""

import gzip
import json
import sys
import types

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from align_jax import data
from align_jax.data import files


def write(path, text):
  opener = gzip.open if path.suffix == '.gz' else open
  with opener(path, 'wt', encoding='utf-8', newline='\n') as file:
    file.write(text)
  return path


def lines(*values):
  return ''.join(
    json.dumps(value, ensure_ascii=False) + '\n' for value in values
  )


def labelled(path):
  return list(data.text_label(data.rows(path)))


@pytest.fixture(scope='module')
def tokenizer():
  return data.train_tokenizer(['a good film, a good cast'] * 3, 280)


@pytest.mark.parametrize(
  'name', ['x.jsonl', 'x.json', 'x.jsonl.gz', 'x.json.gz']
)
def test_rows_of_every_kind_of_file(tmp_path, name):
  values = [{'n': 1}, {'n': 2, 'text': 'ü'}]
  text = lines(*values) if 'jsonl' in name else json.dumps(values)
  path = write(tmp_path / name, text)
  assert list(data.rows(path)) == list(data.rows(str(path))) == values


def test_only_newline_ends_a_line(tmp_path):
  text = 'one\x85two\u2028three\x0bfour\x1cfive'
  path = write(tmp_path / 'x.jsonl', lines({'text': text}, {'text': 'b'}))
  assert len(path.read_text(encoding='utf-8').splitlines()) > 2
  assert [row['text'] for row in data.rows(path)] == [text, 'b']


def test_blank_lines_carriage_returns_and_byte_order_mark(tmp_path):
  path = write(tmp_path / 'x.jsonl', '\ufeff{"n": 1}\r\n\n  \n{"n": 2}')
  assert [row['n'] for row in data.rows(path)] == [1, 2]


@pytest.mark.parametrize(
  'name, text, said',
  [
    ('x.jsonl', '', 'x.jsonl: no rows'),
    ('x.jsonl', '\n\n', 'x.jsonl: no rows'),
    ('x.json', '[]', 'x.json: no rows'),
    ('x.jsonl', '{"n": 1}\n\n{"n": 2\n', 'x.jsonl row 3: not JSON'),
    ('x.jsonl', '{"n": 1}\n[2]\n', 'x.jsonl row 2: expected a JSON object'),
    ('x.json', '[{"n": 1}, 2]', 'x.json row 2: expected a JSON object'),
    ('x.json', '[\n{"n": 1},\n{"n": 2\n', 'x.json line 4: not JSON'),
    ('x.json', '{"n": 1}', 'x.json: .* one array of objects'),
    ('x.tsv', 'n\n1\n', 'x.tsv: reads only .jsonl'),
  ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, name, text, said):
  path = write(tmp_path / name, text)
  with pytest.raises(ValueError, match=said) as error:
    list(data.rows(path))
  assert '\n' not in str(error.value)


def test_broken_bytes_are_told_by_file(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'{"text": "\xff"}\n')
  with pytest.raises(ValueError, match='x.jsonl row 1: not UTF-8'):
    list(data.rows(path))
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(b'{"text": "no gzip"}\n')
  with pytest.raises(ValueError, match='x.jsonl.gz: broken gzip'):
    list(data.rows(path))
  path.write_bytes(gzip.compress(b'{"n": 1}\n' * 9)[:-9])
  with pytest.raises(ValueError, match='x.jsonl.gz: broken gzip'):
    list(data.rows(path))


@pytest.mark.parametrize(
  'name', ['no.jsonl', 'a/no.json', 'no.jsonl.gz', './no', '~/no', '/no/no']
)
def test_what_looks_like_a_path_is_never_looked_up(monkeypatch, name):
  monkeypatch.setattr(
    files, '_hub_rows', lambda *_, **__: pytest.fail('looked up')
  )
  with pytest.raises(FileNotFoundError, match='no such file'):
    list(data.rows(name))


def hub(monkeypatch, load):
  """Puts a stand-in for the package, whose import takes seconds."""
  fake = types.SimpleNamespace(load_dataset=load)
  monkeypatch.setitem(sys.modules, 'datasets', fake)


def test_a_data_set_out_of_reach_is_told_in_one_line(monkeypatch):
  def load(name, split):
    raise ConnectionError(f"Couldn't reach '{name}'\non the Hub")

  hub(monkeypatch, load)
  with pytest.raises(ValueError, match="'some/set' is no local file") as error:
    list(data.rows('some/set'))
  assert "Couldn't reach" in str(error.value) and '.jsonl' in str(error.value)
  assert '\n' not in str(error.value)


def test_a_data_set_of_the_hub(monkeypatch):
  hub(monkeypatch, lambda name, split: [{'name': name, 'split': split}])
  row = {'name': 'some/set', 'split': 'test'}
  assert list(data.rows('some/set', 'test')) == [row]


def test_text_label_reads_what_it_needs(tmp_path):
  row = {'text': 'Good.<br /><br />Very.', 'label': 1, 'rating': 9}
  path = write(tmp_path / 'x.jsonl', lines(row))
  assert labelled(path) == [{'text': 'Good.  Very.', 'label': 1}]


@pytest.mark.parametrize(
  'row, said',
  [
    ({'label': 1}, "no field 'text'"),
    ({'text': 'a'}, "no field 'label'"),
    ({'text': None, 'label': 1}, "field 'text' is None, expected str"),
    ({'text': ' <br />', 'label': 1}, "field 'text' is empty"),
    ({'text': 'a', 'label': 2}, "field 'label' is 2, expected 0 or 1"),
    ({'text': 'a', 'label': True}, "field 'label' is True, expected int"),
    ({'text': 'a', 'label': '1'}, "field 'label' is '1', expected int"),
    ({'text': 'a', 'label': 1.0}, "field 'label' is 1.0, expected int"),
  ],
)
def test_a_bad_row_is_told_by_file_row_and_field(tmp_path, row, said):
  good = {'text': 'a', 'label': 0}
  path = write(tmp_path / 'x.jsonl', lines(good, row))
  with pytest.raises(ValueError, match=f'x.jsonl row 2: {said}') as error:
    labelled(path)
  assert '\n' not in str(error.value)


def test_a_data_set_is_one_generator():
  def stars(rows):
    for row in rows:
      stars = data.field(row, 'stars', int)
      yield dict(text=data.field(row, 'body', str), label=int(stars > 3))

  rows = [data.Row({'body': 'a', 'stars': 5}, 'x row 1')]
  assert list(stars(rows)) == [{'text': 'a', 'label': 1}]
  with pytest.raises(ValueError, match="x row 1: no field 'body'"):
    list(stars([data.Row({'stars': 1}, 'x row 1')]))


def test_tokenizer_reads_back_what_it_writes(tokenizer):
  texts = ['a good film', ' two  spaces\n', 'ünseen \x85 日本 \U0001f600', '']
  ids = data.encode(tokenizer, texts)
  assert [tokenizer.decode(row) for row in ids] == texts
  special = [tokenizer.token_to_id(token) for token in data.SPECIAL_TOKENS]
  assert special == [0, 1, 2]
  assert not set(special) & {i for row in ids for i in row}


def test_special_tokens_in_a_text_are_plain_characters(tokenizer, tmp_path):
  text = 'he <s>loved</s> hated it <pad>'
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  loaded = data.load_tokenizer(tmp_path)
  for one in (tokenizer, loaded.tokenizer):
    (ids,) = data.encode(one, [text])
    assert min(ids) > 2 and one.decode(ids) == text


def test_tokenizer_needs_room_for_all_bytes():
  with pytest.raises(ValueError, match='vocab_size=258'):
    data.train_tokenizer(['a'], 258)


def test_load_tokenizer_from_folder_or_file(tokenizer, tmp_path):
  path = tmp_path / 'tokenizer.json'
  tokenizer.save(str(path))
  for where in (tmp_path, path, str(path)):
    loaded = data.load_tokenizer(where)
    assert (loaded.bos_id, loaded.eos_id) == (1, 2)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_load_tokenizer_takes_special_tokens_by_name(tokenizer, tmp_path):
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  config = tmp_path / 'tokenizer_config.json'
  config.write_text(
    json.dumps({'bos_token': {'content': '</s>'}, 'eos_token': '</s>'})
  )
  assert data.load_tokenizer(tmp_path)[1:] == (2, 2)
  config.write_text(json.dumps({'bos_token': '<s>', 'eos_token': '<end>'}))
  with pytest.raises(ValueError, match="no '<end>' .* eos_token"):
    data.load_tokenizer(tmp_path)


def test_load_tokenizer_tells_what_is_wrong(tmp_path):
  with pytest.raises(FileNotFoundError, match='tokenizer.json'):
    data.load_tokenizer(tmp_path)
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(ValueError, match='not a tokenizer'):
    data.load_tokenizer(tmp_path)


def test_pads_from_lengths():
  rows = [[5, 0], [7, 8, 9]]  # 0, what padding is filled with, is a token too
  tokens, valid = data.left_pad(rows, 4)
  assert tokens.dtype == np.int32 and valid.dtype == bool
  np.testing.assert_array_equal(tokens, [[0, 0, 5, 0], [0, 7, 8, 9]])
  np.testing.assert_array_equal(valid, [[0, 0, 1, 1], [0, 1, 1, 1]])
  tokens, valid = data.right_pad([*rows, []], 3)
  np.testing.assert_array_equal(tokens, [[5, 0, 0], [7, 8, 9], [0, 0, 0]])
  np.testing.assert_array_equal(valid, [[1, 1, 0], [1, 1, 1], [0, 0, 0]])


def test_nothing_is_cut_off():
  with pytest.raises(ValueError, match='row 1 has 3 tokens'):
    data.left_pad([[1], [1, 2, 3]], 2)
  with pytest.raises(ValueError, match='row 0 has 3 tokens'):
    data.right_pad([[1, 2, 3]], 2)
  with pytest.raises(ValueError, match='row 0 has 0 tokens'):
    data.left_pad([[]], 2)


@needs_shared
def test_real_reviews_keep_their_rows():
  path = SHARED / 'sentiment' / 'imdb-train-8k.jsonl.gz'
  found = labelled(path)
  assert len(found) == 8000 and sum(row['label'] for row in found) == 4000
  assert any('\x85' in row['text'] for row in found)
  assert not any('<br />' in row['text'] for row in found)


@needs_shared
@pytest.mark.parametrize(
  'name, bos, eos',
  [
    ('gpt-neox-20b', '<|endoftext|>', '<|endoftext|>'),
    ('minimind-6400', '<|im_start|>', '<|im_end|>'),
    ('mistral-v1', '<s>', '</s>'),
  ],
)
def test_real_tokenizers(name, bos, eos):
  tokenizer, *ids = data.load_tokenizer(SHARED / 'tokenizers' / name)
  assert [tokenizer.id_to_token(i) for i in ids] == [bos, eos]
  text = f'a {bos} film {eos}'
  (row,) = data.encode(tokenizer, [text])
  assert not set(row) & set(ids) and tokenizer.decode(row) == text
