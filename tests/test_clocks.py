"""A template that asks for the date is told the same one on any day."""

import datetime
import json

import pytest
import tiny_judges
from conftest import SIZES

from align_jax import judges
from align_jax.data import templates
from align_jax.judges.reader import open_reader
from align_jax.tasks import preferences

DATED = (
  "{{ strftime_now('%d %b %Y') }}"
  "{% for m in messages %}{{ '\\n' + m.role + ': ' + m.content }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '\\nassistant: ' }}{% endif %}"
)


def knobs(folder):
  rows = [
    dict(
      prompt=[dict(role='user', content=f'Q {i}?')],
      chosen=[dict(role='assistant', content=f'yes {i}')],
      rejected=[dict(role='assistant', content='no')],
    )
    for i in range(8)
  ]
  file = folder / 'rows.jsonl'
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  template = folder / 'dated.jinja'
  template.write_text(DATED)
  return dict(
    seed=0,
    workdir=folder / 'task',
    model=dict(vocab_size=300, num_layers=1, **SIZES),
    sft_batch_size=2,
    data=str(file),
    dataset='',
    subset='',
    split='train',
    revision='',
    tokenizer='',
    template=str(template),
    prompt_len=64,
    completion_len=16,
    long_prompt='error',
    long_completion='error',
    on_bad_row='error',
    heldout_prompts=2,
    eval_prompts=2,
    pretrain_steps=0,
    judge=dict(kind='reward_model', checkpoint='x'),
    judge_share=0.0,
    judge_model={},
    judge_steps=0,
    judge_batch_size=1,
    judge_learning_rate=1e-3,
  )


def test_a_task_is_of_the_day_it_was_made(tmp_path, monkeypatch):
  told = []

  def judge(folder, *, date=None):
    told.append(date)
    return lambda prompts, completions: [len(x) for x in completions]

  monkeypatch.setitem(judges.JUDGES, 'reward_model', judge)
  prompts = []
  for day in (datetime.date(2024, 1, 2), datetime.date(2031, 5, 6)):
    monkeypatch.setattr(templates, 'today', lambda day=day: day)
    task = preferences.make_task(**knobs(tmp_path))
    prompts.append(task.decode(task.pairs)[0])
  assert prompts[0] == prompts[1] and '02 Jan 2024' in prompts[0][0]
  assert set(told) == {'2024-01-02'} and len(told) > 1


def test_a_judge_takes_a_date(tmp_path):
  config = tiny_judges.SCALAR
  params = tiny_judges.random_params(0, config)
  folder = tiny_judges.write(tmp_path / 'judge', params, config, DATED) or (
    tmp_path / 'judge'
  )
  reader = open_reader(folder, 'scalar', None, 'float32', 64, '2024-07-26')
  assert reader.encoder.date == datetime.date(2024, 7, 26)
  settings = dict(kind='reward_model', checkpoint=str(folder))
  judges.check_settings({**settings, 'date': '2024-07-26'})
  for wrong in ('26 Jul 2024', '2024-13-01', 20240726):
    with pytest.raises(ValueError, match=r'judge\.date=.*2026-01-31'):
      judges.check_settings({**settings, 'date': wrong})
