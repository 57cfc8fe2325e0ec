"""The task of preference files: splits, counts, judge, starts, refusals."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest
import tiny_checkpoints
from conftest import SHARED, SIZES, needs_shared
from preference_files import hh, ultrafeedback, write
from runs import run_of, setup_of, stage_of

from align_jax import data, judges
from align_jax.lab import arms, setups, source_checks
from align_jax.learn import batches
from align_jax.models import initial
from align_jax.policy.programs import policy_programs
from align_jax.tasks import pair_files, pair_judge, preferences
from configs import base
from experiments import common

S, T = 24, 16


def knobs(path, **changes):
  return dict(
    model=dict(vocab_size=300, num_layers=1, **SIZES),
    sft_batch_size=4,
    data=str(path),
    dataset='',
    subset='',
    split='train',
    revision='',
    tokenizer='',
    eos_token='',
    template='hh',
    prompt_len=S,
    completion_len=T,
    long_prompt='left',
    long_completion='right',
    on_bad_row='skip',
    heldout_prompts=8,
    eval_prompts=6,
    pretrain_steps=2,
    judge=dict(kind='pairs', checkpoint=''),
    judge_share=0.5,
    judge_model=dict(num_layers=1, **SIZES),
    judge_steps=40,
    judge_batch_size=8,
    judge_learning_rate=1e-2,
    **changes,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('preferences')


@pytest.fixture(scope='module')
def kwargs(folder):
  path = write(folder / 'hh.jsonl', hh, 48)
  rows = path.read_text().splitlines()
  differs = json.dumps(dict(chosen=hh(0)['chosen'], rejected=hh(1)['rejected']))
  path.write_text('\n'.join([*rows, rows[0], differs]) + '\n')
  return dict(workdir=folder / 'task', **knobs(path))


@pytest.fixture(scope='module')
def task(kwargs):
  with jax.default_prng_impl('unsafe_rbg'):
    return preferences.make_task(seed=0, **kwargs)


def parts(kwargs):
  return {
    name: batches.load(kwargs['workdir'] / f'{name}_pairs.npz')
    for name in pair_files.Split._fields
  }


def asked(batch):
  tokens, valid = np.asarray(batch.prompts), np.asarray(batch.prompt_valid)
  return {tuple(t[v].tolist()) for t, v in zip(tokens, valid)}


def test_every_row_is_counted_and_told(task, kwargs):
  made = json.loads((kwargs['workdir'] / 'counts.json').read_text())
  assert made['rows'] == 50 and made['kept'] == 49
  lost = sum(made['bad'].values()) + sum(made['dropped'].values())
  assert made['rows'] + made['more'] == made['kept'] + lost
  assert sum(made['pairs'].values()) == made['kept']
  assert list(made['bad'].values()) == [1]
  told = '\n'.join(pair_files.summary_lines(made))
  assert '50 rows, 49 kept' in told and 'differ before their last' in told


def test_no_prompt_is_on_two_sides(task, kwargs):
  held_out, judge, policy = map(asked, parts(kwargs).values())
  assert len(held_out) == 8
  assert not held_out & judge and not held_out & policy and not judge & policy
  shown = [
    {tuple(t[v].tolist()) for t, v in zip(x.tokens, x.valid)}
    for x in (task.eval_prompts, task.train_prompts)
  ]
  assert len(shown[0]) == 6 and shown[0] < held_out and shown[1] == policy


def test_a_cut_prompt_that_is_held_out_is_dropped(tmp_path, kwargs):
  """Longer prompts with one ending are different, and alike once cut."""
  end = 'the very same ending of all'
  row = lambda i: dict(prompt=f'{i} {end}', chosen=f' a{i}', rejected=' b')
  path = write(tmp_path / 'x.jsonl', row, 9)
  counts = data.Counts()
  found = pair_files.split(pair_files.read(path, '', counts), 3, 0.5)
  vocabulary = data.make_vocabulary('', (), 259)
  limits = data.Limits(12, T, 'left')
  kept = pair_files.encode(found, data.make_encoder(vocabulary), limits, counts)
  assert [len(x) for x in kept] == [3, 0, 0]
  assert counts.dropped[pair_files.LEAK] == 6 and counts.balanced()


def test_the_tokenizer_reads_no_held_out_text(kwargs, tmp_path, monkeypatch):
  seen = []

  def train(texts, vocab_size):
    seen.extend(texts)
    raise KeyboardInterrupt

  monkeypatch.setattr(data.tokens, 'train_tokenizer', train)
  with pytest.raises(KeyboardInterrupt):
    preferences.make_task(seed=0, **{**kwargs, 'workdir': tmp_path / 'task'})
  counts = data.Counts('skip')
  examples = pair_files.read(kwargs['data'], '', counts)
  found = pair_files.split(examples, 8, 0.5)
  assert len(seen) == len(found.judge) + len(found.policy)
  for example in found.held_out:
    assert not any(example.prompt[-1]['content'] in text for text in seen)


def test_pairs_are_the_files_better_answer_first(task):
  _, completions = task.decode(task.pairs)
  for better, worse in zip(completions[::2], completions[1::2]):
    assert any(better.strip().startswith(x[:4]) for x in GOOD)
    assert not any(worse.strip().startswith(x[:4]) for x in GOOD)
  assert task.pairs.rewards.tolist() == [1, 0] * task.pairs.num_prompts


GOOD = ('gladly', 'thank', 'of course', 'yes')


def test_demonstrations_are_texts_first_and_then_better_answers(task):
  texts = task.demonstrations(None, jax.random.key(0), 1)
  assert texts.completions.shape == (4, S + T - preferences.STRETCH)
  answers = task.demonstrations(None, jax.random.key(0), 2)
  assert answers.completions.shape == (4, T) and answers.group_size == 1
  for text in task.decode(answers)[1]:
    assert any(text.strip().startswith(x[:4]) for x in GOOD)


def test_held_out_demonstrations_are_better_answers(task):
  held_out = task.held_out_demonstrations()
  assert held_out.group_size == 1
  assert 0 < held_out.num_prompts <= len(task.eval_prompts)
  assert not asked(held_out) & asked(task.pairs)
  for text in task.decode(held_out)[1]:
    assert any(text.strip().startswith(x[:4]) for x in GOOD)


def test_the_judge_learns_and_says_how_well(task, kwargs):
  told = json.loads((kwargs['workdir'] / 'judge.json').read_text())
  found = told['held_out']
  low, high = found['interval']
  assert 0.7 < found['accuracy'] and low < found['accuracy'] <= high <= 1
  assert found['pairs'] == parts(kwargs)['held_out'].num_prompts
  scores = np.asarray(task.gold(task.pairs))
  assert scores.shape == (2 * task.pairs.num_prompts,)
  again = preferences.make_task(seed=1, **kwargs)
  np.testing.assert_array_equal(again.gold(task.pairs), scores)


def test_wilson_intervals():
  low, high = pair_judge.interval(0.5, 100)
  assert low == pytest.approx(0.4038, abs=1e-3)
  assert high == pytest.approx(0.5962, abs=1e-3)
  assert pair_judge.interval(1.0, 10)[1] <= 1


def test_a_loaded_judge_is_shown_the_messages(kwargs, tmp_path, monkeypatch):
  seen = []

  def longest(folder, scale):
    def score(prompts, completions):
      seen.extend(prompts)
      return [scale * len(text) for text in completions]

    return score

  monkeypatch.setitem(judges.JUDGES, 'reward_model', longest)
  other = dict(
    judge=dict(kind='reward_model', checkpoint='x', scale=2.0), judge_share=0.0
  )
  with jax.default_prng_impl('unsafe_rbg'):
    task = preferences.make_task(
      seed=0, **{**kwargs, **other, 'workdir': tmp_path / 'task'}
    )
  completions = task.decode(task.pairs)[1]
  assert task.gold(task.pairs).tolist() == [2.0 * len(x) for x in completions]
  assert all(x[-1]['role'] == 'user' for x in seen)
  assert not (tmp_path / 'task' / 'judge_pairs.npz').exists()


def test_a_length_may_be_gold(kwargs, tmp_path):
  rule = dict(judge=dict(kind='length', target=5), judge_share=0.0)
  folder = tmp_path / 'task'
  changed = {**kwargs, **rule, 'workdir': folder}
  with jax.default_prng_impl('unsafe_rbg'):
    task = preferences.make_task(seed=0, **changed)
  lengths = np.asarray(task.pairs.valid).sum(1)
  assert len(set(lengths.tolist())) > 2
  np.testing.assert_array_equal(task.gold(task.pairs), -np.abs(lengths - 5))
  assert json.loads((folder / 'judge.json').read_text())['kind'] == 'length'
  made = {path.name for path in folder.iterdir()}
  assert not made & {'judge.npz', 'judge_pairs.npz', 'prompts.json'}


LENGTH = dict(kind='length', target=5)


@pytest.mark.parametrize(
  'judge, share, said',
  [
    (LENGTH, 0.5, "'length' has neither; got judge_share=0.5"),
    (dict(LENGTH, checkpoint='x'), 0.0, "'length' has neither"),
    (dict(kind='length'), 0.0, "judge.target=None: kind='length' has 'target'"),
    (dict(LENGTH, scale=2), 0.0, "judge.scale=2: kind='length' has 'target'"),
    (dict(LENGTH, target=-1), 0.0, 'judge.target=-1, expected a whole number'),
    (dict(LENGTH, target=1.5), 0.0, 'judge.target=1.5, expected a whole'),
    (dict(kind='pairs', scale=2), 0.5, "scale=2: kind='pairs' has nothing"),
  ],
)
def test_mistakes_in_a_judge_are_told(judge, share, said):
  fields = {k: v for k, v in knobs('x').items() if k.startswith('judge_')}
  made = {**fields, 'judge': judge, 'judge_share': share}
  with pytest.raises(ValueError, match=said):
    pair_judge.check_judge(pair_judge.Judge(**made))


@pytest.mark.parametrize(
  'changed, said',
  [
    (
      dict(eval_prompts=9),
      'eval_prompts=9, expected a whole number from 1 to 8',
    ),
    (dict(heldout_prompts=48), '48 different prompts leave none'),
    (dict(judge_share=0.0), "judge.kind='pairs': 'pairs' and 'labels' learn"),
    (
      dict(judge=dict(kind='oracle', checkpoint='x'), judge_share=0.0),
      "judge.kind='oracle' is none of",
    ),
    (dict(template=''), 'messages need task.template, one of'),
    (dict(tokenizer='no/such'), "'no/such' is no local folder, and could not"),
    (dict(long_completion='left'), "long_completion='left', expected one"),
    (dict(dataset='gsm8k'), "no field 'question'"),
    (dict(long_prompt='drop', prompt_len=4), 'no pairs are left'),
    (dict(heldout_prompts=0.99), '48 different prompts leave none'),
    (dict(heldout_prompts=0.1, eval_prompts=8), 'only 5 are left'),
    (
      dict(judge=dict(kind='labels', checkpoint='')),
      "judge.kind='labels', and .*hh.jsonl is of pairs: expected 'pairs'",
    ),
  ],
)
def test_mistakes_are_told_in_one_line(kwargs, tmp_path, changed, said):
  wrong = {**kwargs, 'workdir': tmp_path / 'task', 'on_bad_row': 'skip'}
  if 'dataset' in changed:
    wrong['on_bad_row'] = 'error'
  with pytest.raises(ValueError, match=said) as raised:
    preferences.make_task(seed=0, **{**wrong, **changed})
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'task').exists()


def test_a_file_of_something_else_is_refused(tmp_path):
  row = lambda i: dict(prompt=f'{i}', completion=' x')
  path = write(tmp_path / 'x.jsonl', row, 2)
  with pytest.raises(ValueError, match="x.jsonl row 1: is a row of 'prompt_co"):
    pair_files.read(path, '', data.Counts())


@needs_shared
@pytest.mark.parametrize(
  'name, dataset, good, bad',
  [
    ('hh-rlhf/harmless-base.part-a.jsonl.gz', 'hh', 1734, 11),
    ('ultrafeedback/train_clean.jsonl.gz', 'ultrafeedback', 994, 6),
  ],
)
def test_real_files_are_split_by_prompt(name, dataset, good, bad):
  counts = data.Counts('skip')
  examples = pair_files.read(SHARED / name, dataset, counts)
  assert len(examples) == good and sum(counts.bad.values()) == bad
  found = pair_files.split(examples, 200, 0.5)
  assert sum(map(len, found)) == good
  prompts = [{json.dumps(x.prompt) for x in part} for part in found]
  assert len(prompts[0]) == 200
  assert sum(map(len, prompts)) == len(set.union(*prompts))


# --- Starting from a checkpoint ----------------------------------------------


@pytest.fixture(scope='module')
def checkpoint(folder):
  return tiny_checkpoints.make(folder / 'qwen2', 'qwen2')


def started(checkpoint, path, steps):
  c = base.smoke(base.get_config())
  c.task = dict(name='preferences', **knobs(path))
  del c.task['model'], c.task['sft_batch_size']
  c.task.update(
    template='', pretrain_steps=0, prompt_len=48, eos_token='<|im_end|>'
  )
  c.model = dict(checkpoint=str(checkpoint), revision='', dtype='float32')
  c.sft.steps = steps
  return common.as_dict(c)


def test_no_sft_leaves_the_checkpoint_as_the_reference(
  checkpoint, folder, tmp_path
):
  path = write(folder / 'uf.jsonl', ultrafeedback)
  cfg = started(checkpoint, path, 0)
  stage = stage_of(cfg, 0, tmp_path)
  stored = initial.hf.load(checkpoint)
  jax.tree.map(np.testing.assert_array_equal, stage.reference, stored.params)
  assert stage.task.model == stored.config
  name = stage.task.tokenizer / 'tokenizer.json'
  assert name.read_bytes() == (checkpoint / 'tokenizer.json').read_bytes()
  run = run_of(cfg, source='file_pairs', batch_size=4)
  make = arms.SOURCES['file_pairs'].make
  batch = make(stage, run)(None, None, 0)
  assert batch.ref_logps.shape == batch.completions.shape
  assert (np.asarray(batch.ref_logps)[np.asarray(batch.valid)] < 0).all()
  assert batch.rewards.tolist() == [1, 0] * 4
  # A reference that moves is asked anew.
  moved = jax.tree.map(lambda x: 1.1 * x, stage.reference)
  state = types.SimpleNamespace(anchors={'ref': moved})
  again = make(stage, run.but(refresh_every={'ref': 1}))(state, None, 0)
  logps, _, _ = policy_programs(stage.task.model)
  np.testing.assert_array_equal(again.ref_logps, logps(moved, batch))
  assert np.abs(again.ref_logps - batch.ref_logps).max() > 1e-3
  shapes = batch.prompts.shape[1], batch.completions.shape[1]
  buckets = ((shapes[0], shapes[1] - 1),)
  draw = make(stage, run.but(batch_size=1, length_buckets=buckets))
  sizes = {draw(None, None, i).completions.shape[1] for i in range(20)}
  assert shapes[1] - 1 in sizes


@pytest.mark.parametrize(
  'model, said',
  [
    (dict(checkpoint='x', dim=64), 'model.dim=64 is given beside'),
    (dict(checkpoint='', revision='main', dim=8), "model.revision='main' is"),
    (dict(checkpoint='no/such'), "'no/such' is no local folder"),
  ],
)
def test_a_checkpoint_says_what_the_model_is(model, said):
  with pytest.raises(ValueError, match=said):
    initial.model_fields(model)


def test_rope_is_scaled_for_the_lengths_of_the_task():
  folder = pathlib.Path(__file__).parent / 'golden' / 'hf' / 'llama_dynamic'
  cfg = common.as_dict(base.get_config())
  cfg['model'] = dict(checkpoint=str(folder))
  cfg['task'] = dict(tokenizer='x', prompt_len=900, completion_len=100)
  model = setups.task_knobs(setup_of(cfg, 'runs'))['model']
  kind, settings = model['rope_scaling']
  assert kind == 'dynamic' and dict(settings)['length'] == 1000


# --- Labels ------------------------------------------------------------------


def torn(i):
  """Row i of a file of pairs, torn apart: one answer, with a label."""
  row, good = hh(i // 2), i % 2 == 0
  text = row['chosen' if good else 'rejected']
  prompt, answer = text.rsplit('\n\nAssistant:', 1)
  prompt = prompt.removeprefix('\n\nHuman: ')
  turns = [('user', prompt), ('assistant', answer.strip())]
  turns = [dict(role=x, content=y) for x, y in turns]
  return dict(messages=turns, label=good)


@pytest.fixture(scope='module')
def labelled(folder):
  path = write(folder / 'labels.jsonl', torn, 96)
  made = dict(workdir=folder / 'labelled', **knobs(path))
  made.update(judge=dict(kind='labels', checkpoint=''), heldout_prompts=0.25)
  with jax.default_prng_impl('unsafe_rbg'):
    return preferences.make_task(seed=0, **made), made


def test_labels_are_read_by_the_judge_and_by_sft(labelled):
  task, made = labelled
  assert task.pairs is None and task.labelled.group_size == 1
  rewards = np.asarray(task.labelled.rewards)
  assert set(rewards.tolist()) == {0.0, 1.0}
  _, completions = task.decode(task.labelled)
  good = lambda text: any(text.strip().startswith(x[:4]) for x in GOOD)
  assert [good(x) for x in completions] == (rewards == 1).tolist()
  answers = task.demonstrations(None, jax.random.key(0), 2)
  assert all(map(good, task.decode(answers)[1]))
  told = json.loads((made['workdir'] / 'judge.json').read_text('utf-8'))
  assert told['held_out']['good'] == told['held_out']['bad'] == 12
  assert told['held_out']['accuracy'] > 0.8
  counts = json.loads((made['workdir'] / 'counts.json').read_text('utf-8'))
  assert counts['labels'] == dict(held_out=24, judge=36, policy=36)


def test_kto_learns_from_labels_as_from_the_pairs(labelled, tmp_path):
  """A row per label, then one of another prompt; the reference annotates."""
  task, _ = labelled
  cfg = common.as_dict(base.smoke(base.get_config()))
  run = run_of(cfg, source='file_labels', loss='kto', batch_size=4)
  params = initial.params({}, task.model, jax.random.key(0))
  stage = types.SimpleNamespace(
    task=task, reference=params, folder=tmp_path / 'seed0', seed=0
  )
  state = types.SimpleNamespace(anchors={'ref': params})
  batch = arms.make_source(stage, run)(state, None, 0)
  assert batch.group_size == 2 and batch.num_prompts == 4
  rewards = np.asarray(batch.rewards).reshape(4, 2)
  assert set(rewards[:, 0].tolist()) <= {0.0, 1.0}
  assert rewards[:, 1].tolist() == [0.5] * 4
  assert batch.ref_logps.shape == batch.completions.shape


@pytest.mark.parametrize(
  'source, kind', [('file_labels', 'pairs'), ('file_pairs', 'labels')]
)
def test_a_source_that_the_judges_rows_belie_is_refused(source, kind):
  cfg = common.as_dict(base.get_config())
  run = run_of(cfg, source=source, loss='kto', batch_size=4)
  task = dict(name='preferences', judge=dict(kind=kind))
  with pytest.raises(ValueError, match=f"{source}' reads .*kind='{kind}'"):
    source_checks.check_pairs(run, task)


def test_labels_of_one_kind_or_of_two_files_are_refused(labelled, tmp_path):
  _, made = labelled
  path = write(tmp_path / 'x.jsonl', lambda i: torn(2 * i), 40)
  wrong = {**made, 'data': str(path), 'workdir': tmp_path / 'task'}
  with pytest.raises(ValueError, match='x.jsonl: all labels are True, expect'):
    preferences.make_task(seed=0, **wrong)
  wrong['judge'] = dict(kind='pairs', checkpoint='')
  with pytest.raises(ValueError, match="kind='pairs', and .* is of labels"):
    preferences.make_task(seed=0, **wrong)


def test_a_small_file_says_what_is_held_out(tmp_path):
  """As many as a fixed number leaves, and as many as a share does."""
  row = lambda i: dict(prompt=f'{i}', chosen='a', rejected='b')
  path, said = write(tmp_path / 'x.jsonl', row, 300), []
  for held_out in (256, 256.0, 0.1):
    counts = data.Counts()
    examples = pair_files.read(path, '', counts)
    parts = pair_files.split(examples, held_out, 0.5)
    counts.kept = len(examples)
    made = pair_files.summary(counts, parts, path)
    said.append('\n'.join(pair_files.summary_lines(made)))
  assert '256 held_out, 22 judge, 22 policy' in said[0]
  assert 'note: 256 are held out, 22 left for policies: task.held' in said[0]
  assert said[0] == said[1]
  assert '30 held_out, 135 judge, 135 policy' in said[2]
  assert 'note' not in said[2]


def test_a_file_may_be_in_parts(kwargs, tmp_path):
  """The same rows in two shards give the same split, and another key."""
  rows = pathlib.Path(kwargs['data']).read_text('utf-8').splitlines()
  for i in (0, 1):
    part = tmp_path / 'set' / f'{i}.jsonl'
    part.parent.mkdir(exist_ok=True)
    part.write_text('\n'.join(rows[25 * i : 25 * i + 25]) + '\n', 'utf-8')
  found = []
  for source in (kwargs['data'], str(tmp_path / 'set')):
    examples = pair_files.read(source, '', data.Counts('skip'))
    made = pair_files.split(examples, 8, 0.5)
    found.append([[x.prompt for x in part] for part in made])
  assert found[0] == found[1]


def test_file_pairs_need_a_file():
  stage = types.SimpleNamespace(task=types.SimpleNamespace(pairs=None))
  run = run_of(common.as_dict(base.get_config()), source='file_pairs')
  with pytest.raises(ValueError, match="arm/default: source 'file_pairs': the"):
    arms.SOURCES['file_pairs'].make(stage, run)
