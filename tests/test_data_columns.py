"""Columns that say how a row is meant: read or refused, never dropped."""

import json

import pytest

from align_jax import data
from align_jax.data import columns, pipeline

USER, BOT = (
  lambda text, role=role: dict(role=role, content=text)
  for role in ('user', 'assistant')
)
SYSTEM = dict(role='system', content='s')
A, B = [BOT('a')], [BOT('b')]
PAIR = dict(prompt='q', chosen='a', rejected='b')
TALK = [{'from': 'human', 'value': 'q'}, {'from': 'gpt', 'value': 'a'}]


def read(tmp_path, *rows, **how):
  path = tmp_path / 'x.jsonl'
  path.write_text(''.join(json.dumps(x) + '\n' for x in rows), 'utf-8')
  counts = data.Counts(**how)
  found = list(pipeline.read_examples(path, counts=counts))
  counts.kept = len(found)
  assert counts.balanced()
  return found, counts


@pytest.mark.parametrize(
  'row, prompt',
  [
    ({**PAIR, 'system_message': 's'}, [SYSTEM, USER('q')]),
    (
      {**PAIR, 'prompt': [USER('q')], 'chosen': A, 'rejected': B}
      | dict(system_prompt='s', history=[USER('h'), BOT('i')]),
      [SYSTEM, USER('h'), BOT('i'), USER('q')],
    ),
    (
      dict(prompt='q', completion='a', label=True, chat_history=[['h', 'i']]),
      [USER('h'), BOT('i'), USER('q')],
    ),
    (
      dict(messages=[SYSTEM, USER('q'), BOT('a')], system='s'),
      [SYSTEM, USER('q')],
    ),
    (
      dict(chosen=[USER('q'), *A], rejected=[USER('q'), *B], system='s'),
      [SYSTEM, USER('q')],
    ),
    (
      dict(instruction='q', output_1='a', output_2='b', preference=1)
      | dict(system='s'),
      [SYSTEM, USER('q')],
    ),
    (
      dict(conversations=TALK, system='s', history=[['h', 'i']]),
      [SYSTEM, USER('h'), dict(BOT('i'), weight=0), USER('q')],
    ),
    (
      dict(prompt='q', completions=['a', 'b'], scores=[1, 0], system='s'),
      [SYSTEM, USER('q')],
    ),
    (dict(prompt='q', system='s'), [SYSTEM, USER('q')]),
    (dict(query='q', chosen='a', rejected='b'), [USER('q')]),
    (dict(question='q', input=' ', chosen=A, rejected=B), [USER('q')]),
  ],
)
def test_a_column_of_its_own_is_in_the_prompt(tmp_path, row, prompt):
  (found,), _ = read(tmp_path, row)
  assert found.prompt == prompt
  assert all(x[0]['role'] == 'assistant' for x in found.completions)


REFUSED = [
  (dict(text='a', system='s'), "field 'system' is 's', which is not read"),
  (dict(text='a', tools=[{}]), "field 'tools' is"),
  ({**PAIR, 'tools': [dict(name='f')]}, "field 'tools' is"),
  ({**PAIR, 'query': 'other'}, "field 'query' is 'other', which is not read"),
  ({**PAIR, 'context': 'c'}, "field 'context' is 'c'"),
  ({**PAIR, 'instruction': 'other'}, "field 'instruction' is 'other'"),
  ({**PAIR, 'images': ['x.png']}, "field 'images' is"),
  ({**PAIR, 'audio': {'bytes': 'x'}}, "field 'audio' is"),
  ({**PAIR, 'documents': ['d']}, "field 'documents' is"),
  ({**PAIR, 'loss_mask': [1, 0]}, "field 'loss_mask' is"),
  ({**PAIR, 'weight': 0.5}, "field 'weight' is 0.5"),
  ({**PAIR, 'history': 'h'}, "field 'history' is 'h', expected list"),
  ({**PAIR, 'history': [['h']]}, r'expected \[question, answer\]'),
  ({**PAIR, 'system': 3}, "field 'system' is 3, expected str"),
  ({**PAIR, 'system': 's', 'system_prompt': 't'}, 'two system prompts'),
  (
    dict(messages=[SYSTEM, USER('q'), *A], system='t'),
    'a system prompt in a column, and another',
  ),
  (
    dict(question='q', query='r', chosen='a', rejected='b'),
    'the prompt is in one of',
  ),
  (
    dict(chosen='a b', rejected='a c', context='q'),
    "field 'context' is 'q'",
  ),
  (
    dict(chosen='a b', rejected='a c', problem='q'),
    "field 'problem' is 'q'",
  ),
  (
    dict(messages=[USER('q'), dict(BOT('a'), images=['x'])]),
    "message 2 has 'images'",
  ),
  (
    dict(messages=[USER('q'), dict(BOT('a'), function_call={'name': 'f'})]),
    'expected tool_calls',
  ),
  (
    dict(messages=[USER('q'), BOT('a'), USER('q'), dict(BOT('b'), weight=0)]),
    "by 'assistant' is marked not to be learned from",
  ),
  (
    dict(messages=[dict(USER('q'), train=True), BOT('a')]),
    "by 'user' is marked to be learned from",
  ),
  (
    dict(messages=[USER('q'), dict(BOT('a'), weight=0.3)]),
    'weight 0.3, expected 0 or 1',
  ),
  (
    dict(conversations=[TALK[0], dict(TALK[1], loss=False)]),
    'marked not to be learned from',
  ),
]


@pytest.mark.parametrize('row, said', REFUSED)
def test_what_is_not_read_is_a_bad_row(tmp_path, row, said):
  with pytest.raises(data.RowError, match=f'x.jsonl row 1: .*{said}') as error:
    read(tmp_path, row)
  assert '\n' not in str(error.value)
  _, counts = read(tmp_path, row, on_bad_row='skip', max_bad_share=1.0)
  assert sum(counts.bad.values()) == 1


def test_what_is_read_already_may_stand_in_another_column_too(tmp_path):
  row = dict(prompt='Say: q', completion='a', instruction='q', context=None)
  (found,), counts = read(tmp_path, row | dict(weight=1, train=True, id=3))
  assert found.prompt == 'Say: q'
  assert counts.ignored == {'instruction', 'context', 'weight', 'train', 'id'}


@pytest.mark.parametrize(
  'row',
  [
    dict(conversations=TALK, label=False),
    dict(conversations=TALK, kto_tag=False),
    dict(instruction='q', output='a', label=False),
    dict(messages=[USER('q'), *A], kto_tag=False),
  ],
)
def test_a_label_of_one_answer_is_read(tmp_path, row):
  (found,), counts = read(tmp_path, row)
  assert (found.format, found.rewards) == ('unpaired', [0.0])
  assert not counts.ignored and found.completions == [A]


@pytest.mark.parametrize(
  'first, later',
  [
    (dict(prompt='q'), PAIR),
    (dict(prompt='q', completion='a'), dict(label=False)),
    (dict(messages=[USER('q'), *A]), dict(label=True)),
    (dict(chosen='q a', rejected='q b'), PAIR),
    (dict(conversations=TALK), dict(label=True)),
  ],
)
def test_a_row_with_more_than_the_first_is_bad(tmp_path, first, later):
  with pytest.raises(data.RowError, match='row 2: has .*, and rows before it'):
    read(tmp_path, first, {**first, **later})
  nulls = dict.fromkeys(later.keys() - first.keys())
  found, _ = read(tmp_path, first, {**first, **nulls})
  assert len(found) == 2


def test_turns_beside_what_is_read_are_refused_unless_they_stand_in_it(
  tmp_path,
):
  row = {**PAIR, 'messages': [USER('q'), BOT('a')]}
  (found,), counts = read(tmp_path, row)
  assert found.prompt == 'q' and counts.ignored == {'messages'}
  with pytest.raises(data.RowError, match="field 'messages' is "):
    read(tmp_path, {**PAIR, 'messages': [USER('other'), BOT('a')]})


def test_first_answers_may_be_marked_as_not_learned_from(tmp_path):
  turns = [USER('q'), dict(BOT('a'), weight=0), USER('r'), BOT('b')]
  (found,), _ = read(tmp_path, dict(messages=turns))
  assert found.prompt == turns[:3] and found.completions == [turns[3:]]


def test_rows_of_one_file_are_all_texts_or_all_messages(tmp_path):
  first, later = {**PAIR, 'system': ''}, {**PAIR, 'chosen': 'c'}
  found, _ = read(tmp_path, first, later)
  assert [x.prompt for x in found] == [[USER('q')]] * 2
  with pytest.raises(data.RowError, match='row 2: .*which the first row has'):
    read(tmp_path, later, {**PAIR, 'system': 's'})


@pytest.mark.parametrize(
  'row, column, meant',
  [
    (dict(prompt='q', chosen='a', rejcted='b'), 'rejcted', 'rejected'),
    (dict(prompt='q', completion='a', lable=True), 'lable', 'label'),
    (dict(prompt='q', Completion='a'), 'Completion', 'completion'),
    (dict(messages=[USER('q'), *A], labels=False), 'labels', 'label'),
    (dict(prompt='q', completion=['a'], score=[1]), 'score', None),
    (dict(prompt='q', completions=['a']), 'completions', 'completion'),
    ({**PAIR, 'sytem': 's'}, 'sytem', 'system'),
    ({**PAIR, 'systemPrompt': 's'}, 'systemPrompt', 'system_prompt'),
    (dict(choosen='q a', rejected='q b'), 'choosen', 'chosen'),
    (dict(instruction='q', ouput='a'), 'ouput', 'output'),
    (dict(instruction='q', inptu='x', output='a'), 'inptu', 'input'),
    (dict(questoin='q', chosen='x a', rejected='x b'), 'questoin', 'question'),
    (dict(messages=[USER('q'), *A], tool=[{}]), 'tool', 'tools'),
    (dict(prompt='q', Chosen='a', Rejected='b'), 'Chosen', 'chosen'),
    ({'prompt': 'q', ' chosen': 'a', ' rejected': 'b'}, ' chosen', 'chosen'),
    (dict(instruction='q', output='a', Label=True), 'Label', 'label'),
    (dict(instruction='q', output='a', lable=False), 'lable', 'label'),
    (dict(prompt='q', completion='a', KTO_tag='true'), 'KTO_tag', 'kto_tag'),
    (dict(prompt='q', completion='a', Label='False'), 'Label', 'label'),
    (dict(prompt='q', completion='a', Label=1), 'Label', 'label'),
  ],
)
def test_a_column_one_edit_away_is_told(tmp_path, row, column, meant):
  said = f"column '{column}' is not read, did you mean '{meant}'"
  with pytest.raises(data.RowError, match=said if meant else 'expected'):
    read(tmp_path, row)


@pytest.mark.parametrize(
  'row',
  [
    dict(instruction='q', output='a', label=1),
    dict(instruction='q', output='a', label='TRUE'),
    dict(prompt='q', completion='a', kto_tag=0),
    dict(question='q', response='a', kto_tag='0'),
  ],
)
def test_a_label_of_another_type_is_refused(tmp_path, row):
  with pytest.raises(data.RowError, match='expected true or false'):
    read(tmp_path, row)


def test_a_column_of_another_use_is_no_label(tmp_path):
  _, counts = read(tmp_path, dict(instruction='q', output='a', label='math'))
  assert counts.ignored == {'label'}


def test_other_columns_are_no_misspelt_ones(tmp_path):
  row = {**PAIR, 'choosen': None, 'labels': ['x'], 'chosen_': 'z', 'tags': 1}
  _, counts = read(tmp_path, row)
  assert counts.ignored == {'choosen', 'labels', 'chosen_', 'tags'}


@pytest.mark.parametrize(
  'one, other, same',
  [
    ('chosen', 'choosen', True),
    ('label', 'lable', True),
    ('label', 'labels', True),
    ('chosen', 'Chosen ', True),
    ('chosen', 'chsoen', True),
    ('chosen', 'rejected', False),
    ('label', 'bel', False),
    ('input', 'output', False),
  ],
)
def test_names_that_are_near(one, other, same):
  assert columns.near(one, other) == columns.near(other, one) == same


def test_another_reader_is_named_where_no_row_is_read(tmp_path):
  path = tmp_path / 'x.jsonl'
  row = dict(instruction='q', output='a')
  path.write_text(json.dumps(row) * 1 + '\n', 'utf-8')
  for how in ({}, dict(on_bad_row='skip', max_bad_share=0.1)):
    with pytest.raises(ValueError, match="; read by dataset='alpaca'$"):
      list(pipeline.read_examples(path, 'hh', counts=data.Counts(**how)))


def test_a_task_of_texts_reads_what_show_reads(tmp_path):
  path = tmp_path / 'x.jsonl'
  row = dict(question='q', answer='1\n#### 1')
  path.write_text(json.dumps(row) + '\n', 'utf-8')
  (found,) = data.task_rows(path, 'gsm8k', ['prompt', 'completion'])
  assert found['prompt'] == 'q\n'
  with pytest.raises(ValueError, match="; read by dataset='gsm8k'$"):
    list(data.task_rows(path, 'standard', ['prompt', 'completion']))
  path.write_text(json.dumps(row | dict(system='s')) + '\n', 'utf-8')
  with pytest.raises(ValueError, match="x.jsonl row 1: field 'system' is 's'"):
    list(data.task_rows(path, 'gsm8k', ['prompt', 'completion']))


def test_a_long_word_that_both_answers_share_takes_no_time(tmp_path):
  """A quadratic search would take hours."""
  start = 'x' * 2_000_000 + ' y'
  found, _ = read(tmp_path, dict(chosen=f'{start} a', rejected=f'{start}z'))
  assert found[0].prompt == 'x' * 2_000_000
