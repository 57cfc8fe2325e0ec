"""Tool calls and lists as files have them: JSON in texts, Arrow's nulls."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from align_jax import data
from align_jax.data import examples, formats, pipeline

TEMPLATE = (
  '{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}'
  '{% for m in messages %}<{{ m.role }}>{{ m.content }}'
  '{% for c in m.tool_calls or [] %}{{ c.function.name }}'
  '{{ c.function.arguments | tojson }}{% endfor %}</s>{% endfor %}'
  '{% if add_generation_prompt %}<assistant>{% endif %}'
)
ASKED = dict(role='user', content='q')


def tool(name, **properties):
  parameters = dict(type='object', properties=properties)
  return dict(type='function', function=dict(name=name, parameters=parameters))


TOOLS = [
  tool('weather', town=dict(type='string', enum=['Oslo', 'Rome'])),
  tool('add', a=dict(type='number'), b=dict(type='object', x=dict(y=1))),
]


def called(name, arguments, text=False):
  arguments = json.dumps(arguments) if text else arguments
  function = dict(name=name, arguments=arguments)
  calls = [dict(type='function', function=function)]
  return [dict(role='assistant', content='', tool_calls=calls)]


def rows(text=False):
  for name, good, bad in (
    ('weather', dict(town='Oslo'), dict(town='Rome')),
    ('add', dict(a=1, b=dict(x=[1, 2])), dict(a=2, b=dict(x=[]))),
  ):
    yield dict(
      prompt=[ASKED],
      chosen=called(name, good, text),
      rejected=called(name, bad, text),
      tools=TOOLS,
    )


@pytest.fixture(scope='module')
def encoder():
  return data.make_encoder(data.make_vocabulary('', (), 259), TEMPLATE)


def write(path, found):
  found = list(found)
  if path.suffix == '.parquet':
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)
  elif path.suffix == '.arrow':
    table = pyarrow.Table.from_pylist(found)
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
      writer.write_table(table)
  else:
    path.write_text(''.join(json.dumps(x) + '\n' for x in found), 'utf-8')
  return path


def tokens(path, encoder):
  found = list(pipeline.read(path, encoder))
  return [(x.prompt, x.completions) for x in found]


def texts(row, names):
  return {k: json.dumps(v) if k in names else v for k, v in row.items()}


def with_text_schemas(row):
  make = lambda x: dict(
    x,
    function=dict(
      x['function'], parameters=json.dumps(x['function']['parameters'])
    ),
  )
  return dict(row, tools=[make(x) for x in row['tools']])


@pytest.mark.parametrize('ending', ['.jsonl', '.parquet', '.arrow'])
@pytest.mark.parametrize(
  'change',
  [
    lambda row: row,
    lambda row: texts(row, ['tools']),
    lambda row: texts(row, ['prompt', 'chosen', 'rejected', 'tools']),
    lambda row: dict(row, tools=[json.dumps(x) for x in row['tools']]),
    with_text_schemas,
  ],
)
@pytest.mark.parametrize('text', [False, True])
def test_all_ways_to_write_a_call_have_the_same_tokens(
  tmp_path, encoder, ending, change, text
):
  want = tokens(write(tmp_path / 'want.jsonl', rows()), encoder)
  path = write(tmp_path / f'x{ending}', map(change, rows(text)))
  assert tokens(path, encoder) == want


def test_a_null_that_a_file_writes_is_kept(tmp_path, encoder):
  row = dict(messages=[ASKED, *called('f', dict(unit=None))], tools=TOOLS)
  ids, _ = tokens(write(tmp_path / 'x.jsonl', [row]), encoder)[0][1], None
  tokenizer = encoder.vocabulary.tokenizer
  assert '{"unit": null}' in tokenizer.decode(ids[0])


def test_arguments_may_be_a_map_of_arrow(tmp_path, encoder):
  text = pyarrow.string()
  function = pyarrow.struct(
    [('name', text), ('arguments', pyarrow.map_(text, text))]
  )
  call = pyarrow.struct([('type', text), ('function', function)])
  message = pyarrow.struct(
    [('role', text), ('content', text), ('tool_calls', pyarrow.list_(call))]
  )
  row = dict(messages=[ASKED, *called('f', dict(town='Oslo'))], tools=TOOLS)
  want = tokens(write(tmp_path / 'x.jsonl', [row]), encoder)
  table = pyarrow.table(
    {
      'messages': pyarrow.array([row['messages']], pyarrow.list_(message)),
      'tools': [json.dumps(TOOLS)],
    }
  )
  pyarrow.parquet.write_table(table, tmp_path / 'x.parquet')
  assert tokens(tmp_path / 'x.parquet', encoder) == want


def test_a_call_before_the_role_is_a_message_too(tmp_path, encoder):
  row = dict(prompt=[ASKED], completion=called('f', dict(a=1)), tools=TOOLS)
  want = tokens(write(tmp_path / 'x.jsonl', [row]), encoder)
  turned = [dict(reversed(x.items())) for x in row['completion']]
  row['completion'] = json.dumps(turned)
  assert row['completion'].startswith('[{"tool_calls"')
  row['prompt'] = json.dumps(row['prompt'])
  assert tokens(write(tmp_path / 'y.jsonl', [row]), encoder) == want


@pytest.mark.parametrize('saved', ['to_parquet', 'save_to_disk'])
def test_what_arrow_types_as_json_is_parsed(tmp_path, encoder, saved):
  """As `datasets` reads objects of different fields from a .jsonl."""
  import datasets

  path = write(tmp_path / 'x.jsonl', rows())
  made = datasets.load_dataset(
    'json', data_files=str(path), split='train', cache_dir=str(tmp_path / 'c')
  )
  target = tmp_path / ('y.parquet' if saved == 'to_parquet' else 'y')
  getattr(made, saved)(str(target))
  assert tokens(target, encoder) == tokens(path, encoder)


def test_nulls_of_other_tools_are_left_out_of_json_too(tmp_path, encoder):
  """As a table of Arrow is written to .jsonl; a null of its own is kept."""
  want = tokens(write(tmp_path / 'x.jsonl', rows()), encoder)
  table = pyarrow.Table.from_pylist(list(rows()))
  path = write(tmp_path / 'y.jsonl', table.to_pylist())
  assert '"town": null' in path.read_text('utf-8')
  assert tokens(path, encoder) == want
  schema = [tool('f', unit=dict(type='string', default=None))]
  row = dict(messages=[ASKED, *called('f', dict(unit=None, a=None))])
  (made,) = pipeline.read_examples(
    write(tmp_path / 'z.jsonl', [dict(row, tools=schema)]), counts=data.Counts()
  )
  call = made.completions[0][0]['tool_calls'][0]
  assert call['function']['arguments'] == dict(unit=None)
  assert made.tools == schema


def test_calls_of_sharegpt_are_one_or_several(tmp_path, encoder):
  def row(call):
    turns = [('human', 'q'), ('function_call', json.dumps(call))]
    return dict(
      conversations=[{'from': x, 'value': y} for x, y in turns],
      tools=json.dumps(TOOLS),
    )

  one = dict(name='add', arguments=dict(a=1))
  text = dict(one, arguments='{"a": 1}')
  found = [row(one), row(text), row([one]), row([one, text])]
  seen = tokens(write(tmp_path / 'x.jsonl', found), encoder)
  assert seen[0] == seen[1] == seen[2] != seen[3]


BAD = [
  (called('f', [1], True), 'arguments, as JSON, is .1., expected dict'),
  (called('f', 'town'), 'arguments: not JSON'),
  (called('f', 3), 'arguments is 3, expected dict'),
  (called(None, {}), 'name is None, expected str'),
  (
    [dict(role='assistant', tool_calls={'a': 1})],
    'tool_calls is .*, expected list',
  ),
  ([dict(role='assistant', tool_calls=['x'])], 'call 1: not JSON'),
  ([dict(role='assistant', tool_calls='[')], 'tool_calls: not JSON'),
  (called('f', '{"a": 1, "a": 2}'), "field 'a' twice"),
]


@pytest.mark.parametrize('answer, said', BAD)
def test_a_bad_call_is_a_bad_row(tmp_path, answer, said):
  path = write(tmp_path / 'x.jsonl', [dict(messages=[ASKED, *answer])])
  with pytest.raises(data.RowError, match=f'x.jsonl row 1: .*{said}') as error:
    list(pipeline.read_examples(path, counts=data.Counts()))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'row, said',
  [
    (dict(prompt=str([ASKED]), completion='a'), 'a list as Python prints it'),
    (dict(messages='[{"role": "user"'), 'not JSON'),
    (dict(prompt='[{"role": "user", ', completion='a'), 'not JSON'),
    (dict(messages=[ASKED], tools='[3]'), 'ends with'),
    (dict(messages=[ASKED, *called('f', {})], tools='[3]'), 'item 0 is 3'),
  ],
)
def test_a_list_that_is_no_json_is_a_bad_row(tmp_path, row, said):
  path = write(tmp_path / 'x.jsonl', [row])
  with pytest.raises(data.RowError, match=f'x.jsonl row 1: .*{said}'):
    list(pipeline.read_examples(path, counts=data.Counts()))


@pytest.mark.parametrize(
  'text',
  [
    '[{"a": 1}] is',
    '{"role": "x"}',
    '[{"value": 1}]',
    '[{"content": "x"}]',
    "{'role': 'admin'} is",
    "[{'role': 'admin'}] is no JSON.",
    '[role]',
  ],
)
def test_other_json_in_a_text_is_text(tmp_path, text):
  path = write(tmp_path / 'x.jsonl', [dict(prompt=text, completion=text)])
  (found,) = pipeline.read_examples(path, counts=data.Counts())
  assert (found.prompt, found.completions) == (text, [text])


def test_the_template_shows_what_is_compared(encoder):
  """Else all of the tests above would compare nothing."""
  row = next(rows())
  example = examples.encode_example(
    encoder,
    formats.preference(data.Row(row, 'x')),
  )
  decode = encoder.vocabulary.tokenizer.decode
  assert 'weather{"town": "Oslo"}' in decode(example.completions[0])
  assert '"enum": ["Oslo", "Rome"]' in decode(example.prompt)
