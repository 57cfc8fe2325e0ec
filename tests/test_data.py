"""Rows, tokenizers and padding: what is read, and how mistakes are told."""

import gzip
import json

import numpy as np
import pytest

from align_jax import data


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


@pytest.mark.parametrize('name', ['x.jsonl', 'x.json', 'x.jsonl.gz', 'x.json.gz'])
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
    ('x.csv', 'n\n1\n', 'x.csv: reads only .jsonl'),
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
  with pytest.raises(ValueError, match='x.jsonl: not UTF-8'):
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
  monkeypatch.setattr(data, '_hub_rows', lambda *_: pytest.fail('looked up'))
  with pytest.raises(FileNotFoundError, match='no such file'):
    list(data.rows(name))


def test_a_data_set_out_of_reach_is_told_in_one_line(monkeypatch):
  import datasets

  def unreachable(name, split):
    raise ConnectionError(f"Couldn't reach '{name}'\non the Hub")

  monkeypatch.setattr(datasets, 'load_dataset', unreachable)
  with pytest.raises(ValueError, match="'some/set' is no local file") as error:
    list(data.rows('some/set'))
  assert "Couldn't reach" in str(error.value) and '.jsonl' in str(error.value)
  assert '\n' not in str(error.value)


def test_a_data_set_of_the_hub(monkeypatch):
  import datasets

  monkeypatch.setattr(
    datasets, 'load_dataset', lambda name, split: [{'name': name + split}]
  )
  assert list(data.rows('some/set', 'test')) == [{'name': 'some/settest'}]


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
    list(stars([data.Row({}, 'x row 1') | {'stars': 1}]))
