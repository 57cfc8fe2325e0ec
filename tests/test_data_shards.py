"""Folders, patterns and lists of files; files that expand without end."""

import gzip
import json
import zlib

import pyarrow
import pyarrow.parquet
import pytest

from align_jax import data
from align_jax.data import files, shards


def row(i):
  return dict(prompt=f'q{i}', chosen='a', rejected='b')


def write(path, *numbers):
  path.parent.mkdir(parents=True, exist_ok=True)
  found = [row(i) for i in numbers]
  table = pyarrow.Table.from_pylist(found)
  if path.suffix == '.parquet':
    pyarrow.parquet.write_table(table, path)
  elif path.suffix == '.arrow':
    with pyarrow.ipc.new_file(path, table.schema) as writer:
      writer.write_table(table)
  else:
    text = ''.join(json.dumps(x) + '\n' for x in found).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == '.gz' else text)
  return path


def numbers(source, **how):
  return [int(x['prompt'][1:]) for x in data.rows(source, **how)]


@pytest.mark.parametrize('ending', ['jsonl', 'jsonl.gz', 'parquet', 'arrow'])
def test_a_folder_is_read_in_sorted_order(tmp_path, ending):
  for i, name in enumerate(['part-c', 'part-a', 'part-b']):
    write(tmp_path / 'set' / f'{name}.{ending}', 2 * i, 2 * i + 1)
  (tmp_path / 'set' / 'README.md').write_text('of shards', 'utf-8')
  (tmp_path / 'set' / '.cache').mkdir()
  write(tmp_path / 'set' / '.cache' / 'old.jsonl', 99)
  folder = tmp_path / 'set'
  assert numbers(folder) == [2, 3, 4, 5, 0, 1]
  assert numbers(str(folder / f'part-[ab].{ending}')) == [2, 3, 4, 5]
  several = (folder / f'part-b.{ending}', str(folder / f'part-c.{ending}'))
  assert numbers(several) == numbers(list(several)) == [4, 5, 0, 1]
  assert numbers(str(tuple(map(str, several)))) == [4, 5, 0, 1]
  places = [x.where for x in data.rows(folder)]
  assert places[0] == f'{folder / "part-a"}.{ending} row 1'
  assert places[-1] == f'{folder / "part-c"}.{ending} row 2'


def test_a_split_is_taken_where_names_tell_them(tmp_path):
  write(tmp_path / 'hub' / 'data' / 'train-00000-of-00002.parquet', 0)
  write(tmp_path / 'hub' / 'data' / 'train-00001-of-00002.parquet', 1)
  write(tmp_path / 'hub' / 'data' / 'test-00000-of-00001.parquet', 2)
  write(tmp_path / 'dirs' / 'train' / 'a.jsonl', 3)
  write(tmp_path / 'dirs' / 'validation' / 'a.jsonl', 4)
  write(tmp_path / 'sub' / 'en' / 'train.jsonl', 5)
  write(tmp_path / 'sub' / 'de' / 'train.jsonl', 6)
  write(tmp_path / 'h4' / 'train_sft-00000-of-00001.parquet', 7)
  write(tmp_path / 'h4' / 'train_prefs-00000-of-00001.parquet', 8)
  assert numbers(tmp_path / 'hub') == [0, 1]
  assert numbers(tmp_path / 'hub', split='test') == [2]
  assert numbers(tmp_path / 'dirs', split='validation') == [4]
  assert numbers(tmp_path / 'sub', config='de') == [6]
  assert numbers(tmp_path / 'h4', split='train_prefs') == [8]
  with pytest.raises(ValueError, match=r"no split 'train', it has \['train_"):
    numbers(tmp_path / 'h4')
  with pytest.raises(ValueError, match="no split 'dev', it has .'train', 'val"):
    numbers(tmp_path / 'dirs', split='dev')
  with pytest.raises(ValueError, match='files of several folders'):
    numbers(tmp_path / 'sub')


def test_what_datasets_saves_to_disk(tmp_path):
  import datasets

  made = datasets.Dataset.from_list([row(i) for i in range(5)])
  made.save_to_disk(tmp_path / 'one', num_shards=2)
  both = datasets.DatasetDict(train=made, test=made.select([3]))
  both.save_to_disk(tmp_path / 'both')
  assert numbers(tmp_path / 'one') == list(range(5))
  assert numbers(tmp_path / 'both') == list(range(5))
  assert numbers(tmp_path / 'both', split='test') == [3]
  with pytest.raises(ValueError, match="no split 'dev', it has"):
    numbers(tmp_path / 'both', split='dev')
  (tmp_path / 'one' / 'data-00001-of-00002.arrow').unlink()
  with pytest.raises(FileNotFoundError, match='data-00001-of-00002.arrow: no'):
    numbers(tmp_path / 'one')
  (tmp_path / 'one' / 'state.json').write_text('{}', 'utf-8')
  with pytest.raises(ValueError, match=r"state.json: .* list '_data_files'"):
    numbers(tmp_path / 'one')


def test_no_shard_is_lost(tmp_path):
  folder = tmp_path / 'x'
  write(folder / 'train-00000-of-00003.jsonl', 0)
  write(folder / 'train-00002-of-00003.jsonl', 2)
  with pytest.raises(FileNotFoundError, match='train-00001-of-00003: no such'):
    numbers(folder)
  assert numbers(str(folder / 'train-*.jsonl')) == [0, 2]  # as it was asked
  write(folder / 'train-00001-of-00003.jsonl', 1)
  assert numbers(folder) == [0, 1, 2]
  (folder / 'train-00003.jsonl.zst').touch()
  with pytest.raises(ValueError, match='x: holds train-00003.jsonl.zst, which'):
    numbers(folder)


@pytest.mark.parametrize(
  'source, error, said',
  [
    ('no/', FileNotFoundError, 'no: no such file'),
    ('x/*.parquet', FileNotFoundError, r'x/\*.parquet: no such files'),
    (('x/a.jsonl', 'x/b.jsonl'), FileNotFoundError, 'x/b.jsonl: no such file'),
    (('x/a.jsonl', 'stanfordnlp/imdb'), FileNotFoundError, 'no such file, one'),
    (('x/a.jsonl', 'x'), ValueError, 'x/a.jsonl: is named twice'),
    ((), ValueError, 'an empty list of files'),
    ('x/missing', FileNotFoundError, 'x/missing: no such file'),
    ('a/b/c', FileNotFoundError, 'a/b/c: no such file'),
    ('mixed', ValueError, 'files of several endings'),
    ('half', ValueError, 'more.jsonl: is of no split, beside'),
  ],
)
def test_mistakes_in_names(tmp_path, monkeypatch, source, error, said):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'x' / 'a.jsonl', 0)
  write(tmp_path / 'mixed' / 'a.jsonl', 0)
  write(tmp_path / 'mixed' / 'a.parquet', 0)
  write(tmp_path / 'half' / 'train.jsonl', 0)
  write(tmp_path / 'half' / 'more.jsonl', 0)
  with pytest.raises(error, match=said) as raised:
    numbers(source)
  assert '\n' not in str(raised.value)


def test_a_fingerprint_covers_all_shards(tmp_path):
  one, two = (write(tmp_path / 'x' / f'{n}.jsonl', n) for n in (0, 1))
  whole = data.fingerprint(tmp_path / 'x')
  assert whole == data.fingerprint((one, two)) != data.fingerprint((two, one))
  assert data.fingerprint(one) == data.fingerprint((one,)) != whole
  (tmp_path / 'x').rename(tmp_path / 'y')
  assert data.fingerprint(tmp_path / 'y') == whole
  write(tmp_path / 'y' / '1.jsonl', 2)
  assert data.fingerprint(tmp_path / 'y') != whole


def test_ids_of_a_hub_are_no_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('gpt2', 'stanfordnlp/imdb', 'org/name.v2'):
    assert shards.local_paths(name) is None


# --- Bombs -------------------------------------------------------------------


def bomb(path, unit, start=b''):
  """Writes a .gz of `start` and 20 million bytes of `unit`."""
  packer = zlib.compressobj(1, wbits=31)
  with path.open('wb') as file:
    file.write(packer.compress(start))
    for _ in range(20):
      file.write(packer.compress(unit * (10**6 // len(unit))))
    file.write(packer.flush())


@pytest.fixture
def few(monkeypatch):
  monkeypatch.setattr(files, 'MOST', 2**20)


@pytest.mark.parametrize(
  'name, unit, start',
  [
    ('x.jsonl.gz', b'a', b'{"text": "'),
    ('x.jsonl.gz', b'[' * 1000, b''),
    ('x.json.gz', b'[],', b'['),
    ('x.csv.gz', b'a', b'text\n'),
    ('x.txt.gz', b' ', b''),
  ],
)
def test_a_gz_that_expands_without_end(tmp_path, few, name, unit, start):
  bomb(tmp_path / name, unit, start)
  with pytest.raises(ValueError, match=f'{name}: expands to more than '):
    list(data.rows(tmp_path / name, bad=lambda _: None))


def test_a_line_without_end(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'MAX_LINE_BYTES', 1000)
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'{"a": "' + b'x' * 50_000)
  with pytest.raises(ValueError, match='x.jsonl row 1: a line of more than 16'):
    list(data.rows(path, bad=lambda _: None))


def test_a_parquet_that_expands_without_end(tmp_path, few, monkeypatch):
  path = tmp_path / 'x.parquet'
  one = pyarrow.table({'text': ['a' * 2**23]})
  pyarrow.parquet.write_table(one, path, compression='zstd')
  with pytest.raises(ValueError, match='x.parquet: expands to more than'):
    list(data.rows(path))
  # A dictionary of one long text, for many rows.
  many = pyarrow.table({'text': ['a' * 2**14] * 2000})
  pyarrow.parquet.write_table(many, path)
  monkeypatch.setattr(files, 'BATCH_BYTES', 1)
  seen = 0
  with pytest.raises(ValueError, match='x.parquet: expands to more than'):
    for _ in data.rows(path):
      seen += 1
  assert 0 < seen < 200


def test_a_value_of_too_many_values(tmp_path, monkeypatch):
  monkeypatch.setattr(files.parse, '__defaults__', (10,))
  path = tmp_path / 'x.jsonl'
  path.write_text(json.dumps(dict(row(0), n=list(range(99)))) + '\n', 'utf-8')
  with pytest.raises(data.RowError, match='x.jsonl row 1: more than 10 values'):
    list(data.rows(path))


@pytest.mark.parametrize('depth', [100, 900, 990, 5000])
def test_deep_values_are_bad_rows_or_read(tmp_path, depth):
  path = tmp_path / 'x.jsonl'
  deep = '[' * depth + ']' * depth
  path.write_text(f'{{"messages": {deep}, "tools": {deep}}}\n', 'utf-8')
  counts = data.Counts('skip', 1.0)
  assert not list(data.read_examples(path, counts=counts))
  assert counts.balanced() and counts.rows == 1


def test_many_fields_and_one_twice_are_told_at_once(tmp_path):
  names = ', '.join(f'"{i}": 0' for i in [*range(200_000), 199_999])
  path = tmp_path / 'x.jsonl'
  path.write_text(f'{{{names}}}\n', 'utf-8')
  with pytest.raises(data.RowError, match="field '199999' twice"):
    list(data.rows(path))
