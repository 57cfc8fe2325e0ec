"""Tasks of rows and a rule: the builder, its knobs, and the page's example."""

import importlib
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import SIZES

from align_jax import data, tasks
from align_jax.files import read_jsonl
from align_jax.tasks import knobs, texts
from experiments import common

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'data.md').read_text()
SECTION = PAGE[PAGE.index('## A task of your own') :]
(FILE,) = re.findall(r'```python\n(.*?)```', SECTION, re.DOTALL)
(COMMAND,) = re.findall(r'```bash\npython (.*?)```', SECTION, re.DOTALL)
ROWS = [dict(prompt=f'{x} ', completion=x * n) for n, x in enumerate('abcd', 1)]
KNOBS = dict(
  model=dict(vocab_size=259, num_layers=1, **SIZES),
  sft_batch_size=64,
  prompts=9,
  eval_prompts=1,
  prompt_len=4,
  completion_len=6,
)
SMOKE = """
from configs import arithmetic, base
def get_config():
  c = base.smoke(arithmetic.get_config())
  c.task.update(prompts=64, eval_prompts=8)
  c.model.update(dim=16, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=16)
  c.seeds, c.report.shown, c.methods = 1, (0.01,), {'rloo': c.methods['rloo']}
  return c
"""


def letters(prompt, completion, row):
  """How many of the row's letter there are."""
  return completion.count(row['prompt'][0])


def make(rows=ROWS, score=letters, **changed):
  return texts.text_task(rows, score, **{**KNOBS, **changed})


@pytest.fixture(scope='module')
def task():
  return make()


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A package of the user's own with the task of the page."""
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'backwards.py').write_text(FILE)
  monkeypatch.syspath_prepend(tmp_path)
  importlib.invalidate_caches()
  yield 'mine.backwards'
  for name in ('mine', 'mine.backwards'):
    sys.modules.pop(name, None)


# --- What the builder makes ---------------------------------------------------


def test_prompts_that_read_the_same_count_once():
  asked = ['a', 'b', 'a', 'c', 'b', 'd']
  train, held_out = texts.split(asked, prompts=9, eval_prompts=2)
  assert sorted([*train, *held_out]) == [0, 1, 3, 5] and len(held_out) == 2


def test_demonstrations_are_the_rows_that_are_not_held_out(task):
  batch = task.demonstrations(None, jax.random.key(0), 0)
  shown = set(zip(*task.decode(batch), strict=True))
  eval_prompts = batch.replace(
    prompts=np.repeat(task.eval_prompts.tokens, 64, 0),
    prompt_valid=np.repeat(task.eval_prompts.valid, 64, 0),
  )
  (asked,) = set(task.decode(eval_prompts)[0])
  rest = {(r['prompt'], r['completion']) for r in ROWS if r['prompt'] != asked}
  assert shown == rest and len(task.train_prompts) == 3


def test_held_out_demonstrations_are_the_other_rows(task):
  shown = zip(*task.decode(task.held_out_demonstrations()), strict=True)
  answers = {r['prompt']: r['completion'] for r in ROWS}
  shown = list(shown)
  assert len(shown) == len(task.eval_prompts) == 1
  assert all(answers[prompt] == text for prompt, text in shown)


def test_gold_is_the_rule_for_the_row_of_the_prompt(task):
  batch = task.demonstrations(None, jax.random.key(0), 0)
  turned = batch.replace(completions=np.roll(batch.completions, 1, 0))
  for made in (batch, turned):
    want = [said.count(asked[0]) for asked, said in zip(*task.decode(made))]
    gold = task.gold(made)
    assert gold.dtype == np.float32 and len(set(want)) > 1
    np.testing.assert_array_equal(gold, want)


def test_wrong_completions_are_those_of_other_rows():
  task = make(wrong_share=0.5)
  batch = task.demonstrations(None, jax.random.key(0), 0)
  answers = {r['prompt']: r['completion'] for r in ROWS}
  asked, said = task.decode(batch)
  right = [answers[a] == s for a, s in zip(asked, said)]
  assert set(said) <= set(answers.values()) and 0.4 < np.mean(right) < 0.95


def test_rows_of_a_file_take_the_place_of_the_tasks_own(tmp_path):
  path = tmp_path / 'own.jsonl'
  path.write_text(
    ''.join(f'{{"prompt": "{x} ", "completion": "{x}{x}"}}\n' for x in 'xyz')
  )
  task = make(data=str(path), dataset='standard')
  batch = task.demonstrations(None, jax.random.key(0), 0)
  assert set(task.decode(batch)[1]) < {'xx', 'yy', 'zz'}


@pytest.mark.parametrize(
  'changed, said',
  [
    (dict(prompt_len=1), 'task.prompt_len=1, expected a whole number from 2'),
    (
      dict(prompt_len=2),
      'row 1: prompt of 3 tokens, more than task.prompt_len',
    ),
    (dict(completion_len=0), 'task.completion_len=0, expected a whole number'),
    (
      dict(completion_len=4),
      'row 4: completion of 5 tokens, more than task.co',
    ),
    (dict(completion_len=6.0), 'task.completion_len=6.0, expected a whole'),
    (dict(prompts=0), 'task.prompts=0, expected a whole number from 1'),
    (dict(prompts=-3), 'task.prompts=-3, expected a whole number from 1'),
    (
      dict(eval_prompts=0),
      'eval_prompts=0, expected a whole number from 1 to 3',
    ),
    (
      dict(eval_prompts=4),
      'eval_prompts=4, expected a whole number from 1 to 3',
    ),
    (dict(wrong_share=-0.1), 'task.wrong_share=-0.1 is not within'),
    (dict(dataset='nope'), "task.dataset='nope' is none of"),
    (dict(rows=[]), '0 distinct prompts: '),
    (dict(rows=[dict(prompt='a')]), "row 1: no field 'completion'"),
    (
      dict(rows=[dict(ROWS[0], completion=3)]),
      "row 1: field 'completion' is 3",
    ),
    (dict(score=lambda *_: None), 'row 1: the task scores its completion None'),
    (dict(score=lambda *_: [1.0, 2.0]), 'expected a finite number'),
  ],
)
def test_mistakes_are_told_in_one_line(changed, said):
  with pytest.raises(ValueError, match=said) as raised:
    make(**changed)
  assert '\n' not in str(raised.value)


def test_a_tokenizer_that_changes_what_a_row_scores_is_refused(tmp_path):
  import tokenizers

  lossy = data.train_tokenizer((), 259)
  lossy.normalizer = tokenizers.normalizers.Lowercase()
  lossy.save(str(tmp_path / 'tokenizer.json'))
  rows = [dict(prompt=f'{x} ', completion='Yes') for x in 'abc']
  told = dict(tokenizer=str(tmp_path), eval_prompts=1)
  make(rows, lambda prompt, text, row: len(text), **told)
  with pytest.raises(ValueError, match="row 1: .*into 'yes', which scores 0"):
    make(rows, lambda prompt, text, row: int(text == 'Yes'), **told)


# --- Names of knobs and of tasks ----------------------------------------------


def given(name, **changed):
  """What a config gives to a task, by the config's name."""
  module = importlib.import_module(f'configs.{name}')
  cfg = common.as_dict(module.get_config())
  return {**cfg['task'], **dict.fromkeys(knobs.ELSEWHERE), **changed}


@pytest.mark.parametrize('name', ['arithmetic', 'hh', 'sentiment', 'toy'])
def test_a_config_has_the_knobs_of_its_task(name):
  own = given(name)
  task = own.pop('name')
  make_task = importlib.import_module(f'align_jax.tasks.{task}').make_task
  knobs.check(task, make_task, own)
  for knob in own.keys() - set(knobs.ELSEWHERE):
    wrong = {**own, f'{knob}s': own[knob]}
    del wrong[knob]
    with pytest.raises(ValueError) as raised:
      knobs.check(task, make_task, wrong)
    said = str(raised.value)
    assert said.startswith(f'task.{knob}s=') and f"mean '{knob}'?" in said


@pytest.mark.parametrize('function', [tasks.prepare, tasks.make_task])
def test_unknown_and_missing_knobs_are_refused(function, tmp_path):
  seed = {'seed': 0} if function is tasks.make_task else {}
  right = {**KNOBS, **seed, 'workdir': tmp_path, 'data': '', 'dataset': 'gsm8k'}
  with pytest.raises(ValueError, match='task.prompt_length=9 is no knob of'):
    function('arithmetic', **right, prompt_length=9)
  del right['prompt_len']
  with pytest.raises(ValueError, match="task.prompt_len is missing, task 'ari"):
    function('arithmetic', **right)


def test_what_a_task_fills_in_is_no_knob():
  inner = lambda rows, *, size, depth=1: None

  @knobs.passes_to(inner, 'size')
  def make_task(*, seed, width, **rest):
    """Passes size=3."""

  want = {'depth': False, 'seed': True, 'width': True}
  assert knobs.known(make_task) == want
  with pytest.raises(ValueError, match='expected @passes_to'):
    knobs.known(lambda *, seed, **rest: None)


def test_modules_that_make_a_task_are_found():
  assert tasks.names() == ['arithmetic', 'preferences', 'sentiment', 'toy']
  for name in ('arithmetik', 'texts', '', '.', 'mine.backwards', 'json.tool'):
    with pytest.raises(ValueError, match=f'task.name={name!r} is none of'):
      tasks.prepare(name)


def test_what_a_module_cannot_import_is_its_own_error(mine, tmp_path):
  (tmp_path / 'mine' / 'broken.py').write_text('import not_installed')
  with pytest.raises(ModuleNotFoundError, match='not_installed'):
    tasks.prepare('mine.broken')


# --- The page -----------------------------------------------------------------


def test_the_pages_task_is_short():
  assert len(FILE.splitlines()) <= 30


def test_the_pages_task_is_found_in_a_package_of_ones_own(mine, tmp_path):
  knobs = {**KNOBS, 'prompt_len': 5, 'eval_prompts': 2}
  own = dict(workdir=tmp_path / 'task', **knobs)
  tasks.prepare(mine, **own)  # without `prepare`: its knobs are checked
  with pytest.raises(ValueError, match='task.prompts=0'):
    tasks.prepare(mine, **{**own, 'prompts': 0})
  task = tasks.make_task(mine, seed=0, **own)
  assert tasks.shares_prompts(mine) and len(task.train_prompts) == 9
  batch = task.demonstrations(None, jax.random.key(0), 0)
  np.testing.assert_array_equal(task.gold(batch), 1)
  rolled = batch.replace(completions=np.roll(batch.completions, 1, 0))
  asked, said = task.decode(rolled)
  want = [
    np.mean([x == y for x, y in zip(text, word[-2::-1])])
    for word, text in zip(asked, said)
  ]
  assert 0 < np.mean(want) < 1
  np.testing.assert_allclose(task.gold(rolled), want, rtol=1e-6)


def test_the_pages_task_runs_as_one_file(tmp_path):
  copy = tmp_path / 'align_jax'
  ignore = shutil.ignore_patterns('.git', '.venv', 'runs', '__pycache__')
  shutil.copytree(ROOT, copy, ignore=ignore)
  (copy / 'align_jax' / 'tasks' / 'backwards.py').write_text(FILE)
  (copy / 'configs' / 'smoke.py').write_text(SMOKE)
  command = COMMAND.replace('configs/arithmetic.py', 'configs/smoke.py')
  done = subprocess.run(
    [sys.executable, *command.replace('\\\n', '').split()],
    cwd=copy,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  workdir = copy / 'runs' / 'backwards'
  assert (workdir / 'report.html').exists()
  points = read_jsonl(workdir / 'points.jsonl')
  assert {p['step'] for p in points} == {0, 2, 3, 6}
  assert all(0 <= p['gold'] <= 1 for p in points)
