"""Bad files and rows: each has an outcome, none is lost without a count."""

import gzip
import json
import os
import random
import string

import pytest

from align_jax import data
from align_jax.data import files, pipeline
from align_jax.data.row import Counts

PAIR = dict(prompt='a b', chosen=' c', rejected=' d')


def line(value):
  return json.dumps(value, ensure_ascii=False).encode() + b'\n'


def read(path, on_bad_row='skip', max_bad_share=1.0, **how):
  """-> examples, counts; every row must be accounted for."""
  counts = Counts(on_bad_row, max_bad_share)
  found = []
  for example in pipeline.read_examples(path, counts=counts, **how):
    counts.kept += 1
    found.append(example)
  assert counts.balanced()
  return found, counts


USER, BOT = (dict(role=r, content='hi') for r in ('user', 'assistant'))
TURNS = dict(messages=[USER, BOT])
BAD_ROWS = {  # what is wrong: a row, its error, what it counts as
  'a null': (
    {**PAIR, 'chosen': None},
    "field 'chosen' is None, expected str",
    "field 'chosen' is no str",
  ),
  'a number': (
    {**PAIR, 'chosen': 3},
    "field 'chosen' is 3, expected str",
    "field 'chosen' is no str",
  ),
  'no such field': (
    dict(prompt='a', chosen='b'),
    "no field 'rejected'; it has",
    "no field 'rejected'",
  ),
  'an empty side': (
    {**PAIR, 'rejected': ' \n'},
    "field 'rejected' is empty",
    "field 'rejected' is empty",
  ),
  'an empty prompt': (
    {**PAIR, 'prompt': ''},
    "field 'prompt' is empty",
    "field 'prompt' is empty",
  ),
  'equal sides': (
    {**PAIR, 'rejected': ' c'},
    "fields 'chosen' and 'rejected' are equal",
    "fields 'chosen' and 'rejected' are equal",
  ),
  'half a surrogate pair': (
    {**PAIR, 'chosen': 'x\ud800'},
    r"field 'chosen' has half a surrogate pair, '\\ud800', at 1",
    "field 'chosen' is no Unicode",
  ),
  'a score that is no number': (
    {**PAIR, 'score_chosen': float('nan')},
    "field 'score_chosen' is nan, expected a finite number",
    "field 'score_chosen' is no finite number",
  ),
  'a score that is a text': (
    {**PAIR, 'score_rejected': '3'},
    "field 'score_rejected' is '3', expected a finite number",
    "field 'score_rejected' is no finite number",
  ),
}
BAD_TURNS = {
  'no messages': ([], "field 'messages' is empty"),
  'a text for messages': ('hi', "field 'messages' is 'hi', expected list"),
  'a text for a message': (['hi'], "message 1 is 'hi', expected dict"),
  'a first word by the assistant': ([BOT], 'follows nothing, expected system'),
  'two users in a row': ([USER, USER, BOT], 'message 2 of .user. follows user'),
  'a late system message': (
    [USER, dict(role='system', content='x'), BOT],
    'follows user, expected assistant',
  ),
  'no last answer': ([USER, BOT, USER], "ends with 'user', expected assistant"),
  'an unknown role': (
    [dict(role='gpt', content='x')],
    "has role 'gpt', expected one of",
  ),
  'a role of another type': ([dict(role=[1], content='x')], 'has role'),
  'no role': ([dict(content='x')], 'has role None'),
  'no content': ([USER, dict(role='assistant')], 'content is None'),
  'parts for content': ([dict(USER, content=[{}])], 'expected str'),
  'an empty message': ([dict(USER, content=' '), BOT], 'message 1 is empty'),
}


def check_bad(path, good, bad, said, reason=None):
  path.write_bytes(line(good) + b'\n' + line_of(bad))
  with pytest.raises(data.RowError, match=f'{path.name} row 3: .*{said}') as e:
    read(path, 'error')
  assert '\n' not in str(e.value)
  found, counts = read(path)
  assert len(found) == 1 and counts.rows == 2
  assert list(counts.bad) == [reason or e.value.reason]
  with pytest.raises(ValueError, match='1 of 2 rows are bad, more than max_b'):
    read(path, max_bad_share=0.4)


def line_of(value):
  return json.dumps(value).encode() + b'\n'  # a lone surrogate only so


@pytest.mark.parametrize('bad, said, reason', BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row(tmp_path, bad, said, reason):
  check_bad(tmp_path / 'x.jsonl', PAIR, bad, said, reason)


@pytest.mark.parametrize('bad, said', BAD_TURNS.values(), ids=BAD_TURNS)
def test_bad_messages(tmp_path, bad, said):
  check_bad(tmp_path / 'x.jsonl', TURNS, dict(messages=bad), said)


BAD_LINES = {
  'not JSON': (b'{"a": 1', 'not JSON'),
  'no object': (b'[1]', 'expected a JSON object, got list'),
  'not UTF-8': (b'{"prompt": "\xff"}', 'not UTF-8: invalid start byte at byte'),
  'a field twice': (b'{"prompt": "a", "prompt": "b"}', "field 'prompt' twice"),
  'too many digits': (b'{"a": ' + b'1' * 5000 + b'}', 'not JSON'),
  'too many brackets': (b'[' * 100_000, 'not JSON'),
  'too long': (b'"' + b'x' * 2_000_000 + b'"', 'a line of more than 1000000 b'),
}


@pytest.mark.parametrize('bad, said', BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_one_bad_row(tmp_path, monkeypatch, bad, said):
  monkeypatch.setattr(files, 'MAX_LINE_BYTES', 1_000_000)
  path = tmp_path / 'x.jsonl'
  path.write_bytes(line(PAIR) + bad + b'\r\n' + line(PAIR | {'id': 2}))
  with pytest.raises(data.RowError, match=f'x.jsonl row 2: .*{said}') as error:
    read(path, 'error')
  assert '\n' not in str(error.value)
  found, counts = read(path)
  assert [x.where[-5:] for x in found] == ['row 1', 'row 3']
  assert counts.rows == 3 and sum(counts.bad.values()) == 1


def broken_files(folder):
  """Yields files of which no row can be skipped, and what is said of them."""
  whole = line(PAIR) * 99
  for name, content, said in (
    ('cut.jsonl.gz', gzip.compress(whole)[:-9], 'broken gzip file'),
    ('no.jsonl.gz', whole, 'broken gzip file'),
    (
      'bits.jsonl.gz',
      gzip.compress(whole)[:14] + b'\xff' * 60,
      'broken gzip file',
    ),
    ('packed.jsonl', gzip.compress(whole), 'is gzip, expected UTF-8'),
    ('wide.jsonl', whole.decode().encode('utf-16'), 'is UTF-16, expected'),
    ('wide.json', b'\xfe\xff\x00[', 'is UTF-16, expected'),
    ('latin.json', b'[{"text": "\xe9"}]', 'not UTF-8'),
    ('empty.jsonl', b'', 'no rows, the file is empty'),
    ('empty.csv', b'a,b\n', 'no rows, the file is empty'),
    ('quote.csv', b'text\n"a\nb\nc\n', 'row 2: not CSV: unexpected end'),
    ('names.csv', b'a,a\n1,2\n', 'row 1: expected a line of distinct'),
    ('x.parquet', b'PAR1 and no more', 'not a Parquet file'),
  ):
    path = folder / name
    path.write_bytes(content)
    yield path, said
  (folder / 'folder.jsonl').mkdir()
  yield folder / 'folder.jsonl', 'a folder without data files'
  yield folder, 'files of several endings'
  (folder / 'x.tsv').touch()
  yield folder, 'holds x.tsv, which is none of .jsonl'
  yield folder / 'x.tsv', 'reads only .jsonl'
  os.mkfifo(folder / 'pipe.jsonl')
  yield folder / 'pipe.jsonl', 'is no regular file, expected a file'


def test_a_broken_file_is_never_skipped(tmp_path):
  for path, said in broken_files(tmp_path):
    for on_bad_row in ('error', 'skip'):
      with pytest.raises(ValueError, match=said) as error:
        read(path, on_bad_row)
      assert str(error.value).startswith(str(path))
      assert '\n' not in str(error.value)


def test_what_cannot_be_opened(tmp_path, monkeypatch):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(line(PAIR))

  def refuse(*_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(files, '_jsonl', refuse)
  monkeypatch.setitem(files.READERS, '.jsonl', refuse)
  with pytest.raises(ValueError, match='cannot be read: Permission denied'):
    read(path)


def test_duplicates_are_counted_or_dropped(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(line(PAIR) * 3 + line({**PAIR, 'chosen': ' e'}))
  found, counts = read(path)
  assert len(found) == 4 and counts.notes == {'a duplicate': 2}
  found, counts = read(path, duplicates='drop')
  assert len(found) == 2 and counts.dropped == {'a duplicate': 2}
  with pytest.raises(ValueError, match="duplicates='no', expected 'keep'"):
    read(path, duplicates='no')


def test_a_hopeless_file_is_given_up_early(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(line({**PAIR, 'chosen': ''}) * 5000)
  counts = Counts('skip', 0.5)
  with pytest.raises(ValueError, match="1000 of 1000 rows .*'chosen' is empty"):
    list(pipeline.read_examples(path, counts=counts))


@pytest.mark.parametrize(
  'how, said',
  [
    (dict(on_bad_row='drop'), "on_bad_row='drop', expected 'error' or 'skip'"),
    (dict(max_bad_share=5), 'max_bad_share=5 is not within'),
  ],
)
def test_counts_check_what_they_are_told(how, said):
  with pytest.raises(ValueError, match=said):
    Counts(**how)


def test_csv(tmp_path):
  path = tmp_path / 'x.csv.gz'
  text = '\ufeffprompt,completion,label,n\r\n"a ""b"",\nc", d,TRUE,1\r\n'
  text += 'e, f,0,2\r\n\r\ng, h\r\ni, j,maybe,3\r\nk,l,false,4\r\n'
  path.write_bytes(gzip.compress(text.encode()))
  found, counts = read(path)
  (first, last) = found
  assert first.prompt == 'a "b",\nc' and first.completions == [' d']
  assert (first.rewards, last.rewards) == ([1.0], [0.0])
  assert first.where.endswith('row 2') and last.where.endswith('row 8')
  assert counts.bad == {
    "field 'label' is no bool": 2,  # 0 and maybe
    'other cells': 1,
  }
  with pytest.raises(data.RowError, match="row 4: field 'label' is 0, expect"):
    read(path, 'error')


def test_a_csv_keeps_texts_that_are_no_values(tmp_path):
  """In columns that other files have values in, and that this one ignores."""
  path = tmp_path / 'x.csv'
  path.write_text('prompt,chosen,rejected,label,margin\nq,a,b,safe,\n')
  [found], counts = read(path)
  assert found.rewards == [1.0, 0.0] and counts.ignored == {'label', 'margin'}


def test_two_columns_of_one_name_are_refused(tmp_path):
  import pyarrow
  import pyarrow.parquet

  path = tmp_path / 'x.parquet'
  columns = [pyarrow.array([x]) for x in ('q', 'a', 'b', 'c')]
  names = ['prompt', 'chosen', 'rejected', 'chosen']
  pyarrow.parquet.write_table(pyarrow.table(columns, names), path)
  with pytest.raises(ValueError, match=r"distinct columns, got two \['chosen'"):
    read(path)


def test_parquet(tmp_path):
  import pyarrow
  import pyarrow.parquet

  rows = [dict(messages=[dict(USER, name=None), BOT]), dict(messages=None)]
  rows += [TURNS] * 3000
  path = tmp_path / 'x.parquet'
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  found, counts = read(path)
  assert len(found) == 3001 and found[0].prompt == [USER]
  assert counts.bad == {"field 'messages' is no list": 1}
  with pytest.raises(data.RowError, match="row 2: field 'messages' is None"):
    read(path, 'error')
  assert found[-1].where.endswith('row 3002')


def test_lines_of_a_text(tmp_path):
  path = tmp_path / 'x.txt'
  path.write_bytes(b'a\r\n\n b \x85c\nlast')
  found, counts = read(path)
  assert len(found) == 2 and counts.bad == {'not UTF-8': 1}
  path.write_bytes('a\r\n\n b \x85c\nlast'.encode())
  found, counts = read(path)
  assert [x.completions for x in found] == [['a'], [' b \x85c'], ['last']]
  assert counts.dropped == {'a blank line': 1} and counts.rows == 4


def test_lines_are_read_as_they_are_used(tmp_path):
  """A cut-off file gives what comes before the cut."""
  path = tmp_path / 'x.jsonl.gz'
  rng = random.Random(0)
  many = [dict(text=rng.randbytes(64).hex(), n=n) for n in range(9999)]
  path.write_bytes(gzip.compress(b''.join(map(line, many)))[:-99])
  found = data.rows(path)
  assert [next(found)['n'] for _ in range(9)] == list(range(9))
  with pytest.raises(ValueError, match='broken gzip'):
    list(found)


def damaged(rng, content):
  """The bytes with something done to them."""
  content = bytearray(content)
  for _ in range(rng.randint(1, 4)):
    at = rng.randrange(len(content) + 1)
    what = rng.randrange(5)
    if what == 0:
      content[at:at] = rng.randbytes(rng.randint(1, 4))
    elif what == 1:
      del content[at : at + rng.randint(1, 30)]
    elif what == 2:
      piece = rng.choice([b'"', b'\n', b'{', b'[[', b'\\u', b'\0', b'\xef\xbb'])
      content[at:at] = piece
    elif what == 3:
      word = rng.choice([b'null', b'NaN', b'-Infinity', b'1e999', b'"\\ud800"'])
      at = content.find(b':', at) + 1
      content[at : at + rng.randint(0, 9)] = word
    elif content:
      content[at % len(content)] = rng.randrange(256)
  return bytes(content)


def odd_value(rng, depth=0):
  """Any JSON value, most of them wrong wherever they are."""
  kind = rng.randrange(9 if depth < 3 else 7)
  if kind == 7:
    return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
  if kind == 8:
    names = ['role', 'content', 'from', 'value', 'text', 'response']
    names += ['weight', 'tool_calls', 'function', 'name', 'arguments']
    return {rng.choice(names): odd_value(rng, depth + 1) for _ in range(3)}
  word = ''.join(rng.choices(string.printable, k=rng.randrange(9)))
  return rng.choice(
    [None, True, 0, 1.5, float('nan'), '', ' ', word, 'user', 'assistant']
  )


COLUMNS = (
  'prompt completion chosen rejected label messages text scores completions '
  'conversations instruction input output output_1 output_2 preference turns '
  'question answer reference samples info summaries choice tools score_chosen '
  'metadata instances choices question_id response1 annotator1 passages '
  'prediction system history question query tool_calls weight images'
).split()


def odd_rows(rng):
  """Lines of objects whose columns fit, and whose values may not."""
  columns = rng.choices(COLUMNS, k=rng.randint(1, 6))
  rows = [{name: odd_value(rng) for name in columns} for _ in range(3)]
  return b''.join(map(line_of, rows))


def outcome(path, on_bad_row):
  """'error' or the counts; no other exception gets through."""
  try:
    return read(path, on_bad_row)[1]
  except (ValueError, FileNotFoundError) as e:
    assert str(path) in str(e) and '\n' not in str(e), e
    return 'error'


@pytest.mark.parametrize(
  'name', 'x.jsonl x.json x.csv x.txt x.jsonl.gz x.parquet x.arrow'.split()
)
def test_any_bytes_end_in_a_clean_error_or_a_count(tmp_path, name):
  rng = random.Random(name)
  rows = [PAIR, TURNS, dict(text='ü')]
  path, ends = tmp_path / name, []
  good = line(PAIR) * 2 + line({**PAIR, 'label': True})
  if 'json' in name and 'jsonl' not in name:
    good = json.dumps(rows[:1] * 3).encode()
  if name == 'x.csv':
    good = b'prompt,completion,label\na,"b, c",true\nd,e,false\n'
  if name == 'x.parquet':
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR] * 9), path)
    good = path.read_bytes()
  if name == 'x.arrow':
    import pyarrow

    table = pyarrow.Table.from_pylist([PAIR] * 9)
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
      writer.write_table(table)
    good = path.read_bytes()
  for _ in range(300):
    content = damaged(rng, good)
    if name == 'x.jsonl.gz':
      content = gzip.compress(content, 1)
      content = damaged(rng, content) if rng.random() < 0.5 else content
    path.write_bytes(content)
    ends.append([outcome(path, how) for how in ('error', 'skip')])
  errors = [sum(end == 'error' for end in column) for column in zip(*ends)]
  assert 0 < errors[0] and errors[1] <= errors[0]


def test_any_values_end_in_a_clean_error_or_a_count(tmp_path):
  rng = random.Random(0)
  path, kept = tmp_path / 'x.jsonl', 0
  for _ in range(1000):
    path.write_bytes(odd_rows(rng))
    for how in ('error', 'skip'):
      counts = outcome(path, how)
      kept += counts != 'error' and counts.kept
  assert kept > 25
