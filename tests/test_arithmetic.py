"""Answers that are right or wrong, the rows they come from, and the task."""

import json

import jax
import numpy as np
import pytest
from conftest import SHARED, SIZES

from align_jax import data
from align_jax.tasks import arithmetic

GSM8K = SHARED / 'gsm8k' / 'train.jsonl.gz'
MODEL = dict(vocab_size=259, num_layers=1, **SIZES)
KNOBS = dict(
  model=MODEL,
  sft_batch_size=16,
  data='',
  dataset='gsm8k',
  tokenizer='',
  prompts=500,
  eval_prompts=100,
  prompt_len=18,
  completion_len=23,
  wrong_share=0.0,
)
ROWS = [
  dict(question='One and one?', answer='1 + 1 = 2\n#### 2'),
  dict(question='Half of 3?', answer='3 / 2\n#### 1.5'),
  dict(question='Two less 4?', answer='#### -2'),
  dict(question='Price?', answer='#### $1,234'),
]


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def read(path):
  return list(data.gsm8k(data.rows(path)))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('arithmetic') / 'task'


@pytest.fixture(scope='module')
def task(workdir):
  return arithmetic.make_task(seed=0, workdir=workdir, **KNOBS)


@pytest.fixture(scope='module')
def batch(task):
  return task.demonstrations(None, jax.random.key(0), 0)


@pytest.fixture
def own(tmp_path):
  """Knobs of a task on the four rows."""
  path = write(tmp_path / 'own.jsonl', ROWS)
  sizes = dict(prompts=9, eval_prompts=1, prompt_len=20, completion_len=20)
  return {**KNOBS, **sizes, 'data': path, 'workdir': tmp_path / 'task'}


def texts(prompts, task):
  """The different texts of `Prompts`."""
  decoded, _ = task.decode(
    task.demonstrations(None, jax.random.key(0), 0).replace(
      prompts=prompts.tokens, prompt_valid=prompts.valid
    )
  )
  return set(decoded)


@pytest.mark.parametrize(
  'text, answer',
  [
    ('#### 5', '5'),
    ('1 + 4 = 5\n#### 5\n', '5'),
    ('####5', '5'),
    ('#### 1,234', '1234'),
    ('#### $5', '5'),
    ('#### $ 1,234.50', '1234.50'),
    ('#### 5.', '5'),
    ('#### -3', '-3'),
    ('#### -$3', '-3'),
    ('#### .5', '.5'),
    ('#### 4\n#### 5', '5'),
    ('#### 4\n####', None),
    ('#### 5 apples', None),
    ('#### 5\nor so', None),
    ('#### 5 6', None),
    ('#### five', None),
    ('#### 1/2', None),
    ('#### 1e3', None),
    ('#### --3', None),
    ('#### 1.2.3', None),
    ('#### .', None),
    ('#### nan', None),
    ('#### \u0665', None),  # a digit elsewhere
    ('5', None),
    ('### 5', None),
    ('', None),
  ],
)
def test_final_answer(text, answer):
  assert data.final_answer(text) == answer


@pytest.mark.parametrize(
  'completion, answer, right',
  [
    ('#### 5.0', '5', True),
    ('#### 5', '5.0', True),
    ('#### 005', '5', True),
    ('#### .5', '0.50', True),
    ('#### -0', '0', True),
    ('#### 1,234', '1234', True),
    ('#### -3', '3', False),
    ('#### 3', '-3', False),
    ('#### 50', '5', False),
    ('5', '5', False),
    ('#### ', '0', False),
    # What floating point would take for equal, or could not hold.
    ('#### 0.1000000000000000000001', '0.1', False),
    (f'#### {10**40 + 1}', str(10**40), False),
    (f'#### {"1" * 9999}', '1' * 9999, True),
  ],
)
def test_correct(completion, answer, right):
  assert data.correct(completion, answer) is right


def test_numbers_are_right_however_they_are_written():
  rng = np.random.default_rng(0)
  for number in rng.integers(-(10**9), 10**9, 200):
    for text in (f'{number}', f'{number:,}', f'${number:,}.00', f'{number}.'):
      assert data.correct(f'so\n#### {text}', str(number))
      assert not data.correct(f'so\n#### {text}', str(number + 1))


def test_gsm8k_reads_what_it_needs(tmp_path):
  path = write(tmp_path / 'x.jsonl', [{**ROWS[3], 'level': 1}])
  (row,) = read(path)
  assert row == dict(prompt='Price?\n', completion='#### $1,234', answer='1234')
  assert row.where.endswith('x.jsonl row 1')
  assert list(data.gsm8k([ROWS[0]]))[0]['answer'] == '2'


@pytest.mark.parametrize(
  'row, said',
  [
    ({'answer': '#### 1'}, "no field 'question'"),
    ({'question': 'a'}, "no field 'answer'"),
    ({'question': 'a', 'answer': 1}, "field 'answer' is 1, expected str"),
    ({'question': ' ', 'answer': '#### 1'}, "field 'question' is empty"),
    ({'question': 'a', 'answer': '1'}, "field 'answer' ends in '1', expected"),
    ({'question': 'a', 'answer': 'b\n#### c'}, r"field 'answer' ends in 'b\\n"),
    ({'question': 'a', 'answer': ''}, "field 'answer' ends in ''"),
  ],
)
def test_a_bad_row_is_told_by_file_row_and_field(tmp_path, row, said):
  path = write(tmp_path / 'x.jsonl', [ROWS[0], row])
  with pytest.raises(ValueError, match=f'x.jsonl row 2: {said}') as error:
    read(path)
  assert '\n' not in str(error.value)


@pytest.mark.skipif(not GSM8K.exists(), reason='no real data')
def test_every_row_of_the_real_file_is_right(tmp_path):
  rows = read(GSM8K)
  assert len(rows) == len({row['prompt'] for row in rows}) == 7473
  assert all(data.correct(row['completion'], row['answer']) for row in rows)
  assert rows[0]['answer'] == '72'
  solved = [
    dict(question=r['prompt'][:-1], answer=r['completion']) for r in rows
  ]
  sizes = dict(prompts=64, eval_prompts=32, prompt_len=993, completion_len=1229)
  path = write(tmp_path / 'some.jsonl', solved[:128])
  knobs = {**KNOBS, **sizes, 'data': path, 'workdir': tmp_path}
  task = arithmetic.make_task(seed=0, **knobs)
  batch = task.demonstrations(None, jax.random.key(0), 0)
  np.testing.assert_array_equal(task.gold(batch), 1)
  asked, said = task.decode(batch)
  other = dict(completions=np.roll(batch.completions, 1, 0))
  other |= dict(valid=np.roll(batch.valid, 1, 0))
  answer = {r['prompt']: r['answer'] for r in rows}
  same = [
    answer[q] == data.final_answer(t)
    for q, t in zip(asked, said[-1:] + said[:-1])
  ]
  np.testing.assert_array_equal(task.gold(batch.replace(**other)), same)
  assert not all(same)


def test_sums_are_read_as_any_file(task, workdir):
  rows = read(workdir / 'sums.jsonl')
  assert len(rows) == len({row['prompt'] for row in rows}) == 8100
  for row in rows:
    a, b = (
      row['prompt'].removeprefix('What is ').removesuffix('?\n').split(' + ')
    )
    assert row['answer'] == str(int(a) + int(b))
    assert (
      row['completion']
      == f'{a} + {b} = {row["answer"]}\n#### ' + (row['answer'])
    )
  firsts = [row['prompt'][8:10] for row in rows[:200]]
  assert len(set(firsts)) > 50  # in no order


def test_prompts_held_out_are_not_trained_on(task):
  train, asked = texts(task.train_prompts, task), texts(task.eval_prompts, task)
  assert (len(train), len(asked)) == (500, 100)
  assert not train & asked
  shown = set()
  for seed in range(200):
    batch = task.demonstrations(None, jax.random.key(seed), 0)
    shown |= set(task.decode(batch)[0])
  assert len(shown) > 2000 and not shown & asked


def test_demonstrations_read_as_question_and_answer(task, batch, workdir):
  rows = {row['prompt']: row for row in read(workdir / 'sums.jsonl')}
  for prompt, completion in zip(*task.decode(batch), strict=True):
    assert rows[prompt]['completion'] == completion
  other = task.demonstrations(None, jax.random.key(1), 0)
  assert task.decode(other) != task.decode(batch)


def test_prompts_begin_with_bos_and_digits_are_tokens(task, batch):
  assert batch.prompts.shape == (16, 18) and batch.prompt_valid.all()
  assert (np.asarray(batch.prompts)[:, 0] == 1).all()
  prompts, completions = task.decode(batch)
  lengths = np.asarray(batch.valid).sum(1)
  np.testing.assert_array_equal(lengths, [len(c) + 1 for c in completions])
  assert len(set(lengths.tolist())) > 1


def test_eos_is_the_last_token_of_the_mask(task, batch):
  completions, mask = np.asarray(batch.completions), np.asarray(batch.mask)
  last = mask.sum(1) - 1
  assert (completions[np.arange(16), last] == task.eos_id).all()
  assert ((completions == task.eos_id) & mask).sum() == 16
  np.testing.assert_array_equal(mask, batch.valid)
  np.testing.assert_array_equal(mask, np.arange(23) <= last[:, None])


def test_gold_is_one_for_the_answer_and_zero_for_another(task, batch):
  gold = task.gold(batch)
  assert gold.shape == (16,) and gold.dtype == np.float32
  np.testing.assert_array_equal(gold, 1)
  wrong = batch.replace(
    **{
      name: np.roll(getattr(batch, name), 1, axis=0)
      for name in ('completions', 'valid', 'mask')
    }
  )
  same = [
    data.final_answer(a) == data.final_answer(b)
    for a, b in zip(task.decode(batch)[1], task.decode(wrong)[1])
  ]
  assert sum(same) < 8
  np.testing.assert_array_equal(task.gold(wrong), same)


def test_gold_knows_every_prompt_and_group(task, batch):
  for prompts in (task.train_prompts, task.eval_prompts):
    tokens, valid = prompts[:8]
    groups = batch.replace(prompts=tokens, prompt_valid=valid, group_size=2)
    asked, said = task.decode(groups)
    assert asked[::2] == asked[1::2] and len(set(asked)) == 8
    right = [
      data.correct(c, str(sum(map(int, p[8:-2].split(' + ')))))
      for p, c in zip(asked, said)
    ]
    np.testing.assert_array_equal(task.gold(groups), right)


def test_all_seeds_have_the_same_task(task, workdir):
  made = (workdir / 'sums.jsonl').stat().st_mtime_ns
  other = arithmetic.make_task(seed=1, workdir=workdir, **KNOBS)
  assert (workdir / 'sums.jsonl').stat().st_mtime_ns == made
  for name in ('train_prompts', 'eval_prompts'):
    ours, theirs = getattr(task, name), getattr(other, name)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)


def test_a_second_task_is_taught_and_measured(tmp_path):
  knobs = {**KNOBS, 'prompts': 50, 'workdir': tmp_path, 'sft_batch_size': 512}
  task = arithmetic.make_task(seed=0, **knobs, old_prompts=2000)
  old = texts(task.eval_sets['old'], task)
  assert len(old) == 2000 and all(' - ' in text for text in old)
  trained = texts(task.train_prompts, task) | texts(task.eval_prompts, task)
  assert not old & trained
  batch = task.demonstrations(None, jax.random.key(0), 0)
  taught = sum(text in old for text in task.decode(batch)[0])
  assert 0.15 < taught / 512 < 0.25  # 2000 of 10,000 rows
  np.testing.assert_array_equal(task.gold(batch), 1)
  assert not arithmetic.make_task(seed=0, **knobs).eval_sets


@pytest.mark.parametrize(
  'changed, said',
  [
    (dict(old_prompts=9000), 'old_data: .*old_prompts=9000, .* to 8100'),
    (dict(old_data='own'), 'is there before, expected a second task'),
    (dict(old_data='twice'), 'twice.jsonl row 2: .* is there before'),
  ],
)
def test_a_second_task_is_another_one(own, tmp_path, changed, said):
  write(tmp_path / 'twice.jsonl', [dict(ROWS[0], question='Seven?')] * 2)
  if 'old_data' in changed:
    changed = {'old_data': str(tmp_path / f'{changed["old_data"]}.jsonl')}
  with pytest.raises(ValueError, match=said) as raised:
    arithmetic.make_task(seed=0, **{**own, 'old_prompts': 2, **changed})
  assert '\n' not in str(raised.value)


def test_a_second_task_that_nothing_reads_is_refused():
  knobs = {k: v for k, v in KNOBS.items() if k != 'sft_batch_size'}
  with pytest.raises(ValueError, match="old_data='x': expected task.old_prom"):
    arithmetic.check(**knobs, old_data='x')


def test_a_file_of_ones_own(own):
  arithmetic.prepare(**own)
  assert not own['workdir'].exists()  # nothing to generate
  task = arithmetic.make_task(seed=0, **own)
  assert (len(task.train_prompts), len(task.eval_prompts)) == (3, 1)
  batch = task.demonstrations(None, jax.random.key(0), 0)
  np.testing.assert_array_equal(task.gold(batch), 1)
  assert not batch.prompt_valid.all() and batch.prompt_valid[:, -1].all()


@pytest.mark.parametrize(
  'changed, error, said',
  [
    (
      dict(prompt_len=13),
      ValueError,
      'own.jsonl row 1: prompt of 14 tokens, more than task.prompt_len=13; '
      'the longest has 14',
    ),
    (
      dict(completion_len=12),
      ValueError,
      'own.jsonl row 1: completion of 17 tokens, more than '
      'task.completion_len=12; the longest has 17',
    ),
    (dict(eval_prompts=4), ValueError, '4 distinct .* task.eval_prompts=4'),
    (dict(eval_prompts=0), ValueError, '4 distinct .* task.eval_prompts=0'),
    (dict(prompts=0), ValueError, '4 distinct .* task.prompts=0'),
    (dict(dataset='nope'), ValueError, "task.dataset='nope' is none of"),
    (dict(data='no.jsonl'), FileNotFoundError, 'no.jsonl: no such file'),
    (
      dict(model={**MODEL, 'vocab_size': 258}),
      ValueError,
      'has 259 tokens, more than model.vocab_size=258',
    ),
    (dict(prompt_length=9), TypeError, 'prompt_length'),
  ],
)
def test_mistakes_are_told_in_one_line(own, changed, error, said):
  with pytest.raises(error, match=said) as raised:
    arithmetic.prepare(**{**own, **changed})
  assert '\n' not in str(raised.value)


def test_rows_without_answers_are_refused(own, tmp_path):
  rows = [dict(text='a', label=0)]
  own['data'] = write(tmp_path / 'labelled.jsonl', rows)
  with pytest.raises(ValueError, match="task.dataset='text_label' yields"):
    arithmetic.prepare(**{**own, 'dataset': 'text_label'})


def test_a_share_of_the_demonstrations_is_wrong(tmp_path):
  """As many as asked for, and those in form only another question's."""
  knobs = {**KNOBS, 'workdir': tmp_path, 'sft_batch_size': 512}
  task = arithmetic.make_task(seed=0, **{**knobs, 'wrong_share': 0.25})
  batch = task.demonstrations(None, jax.random.key(0), 0)
  right = np.asarray(task.gold(batch.replace(rewards=None)))
  assert 0.15 < 1 - right.mean() < 0.35
  _, completions = task.decode(batch)
  assert all(data.final_answer(text) for text in completions)
  with pytest.raises(ValueError, match='task.wrong_share=1.5'):
    arithmetic.make_task(seed=0, **{**knobs, 'wrong_share': 1.5})
