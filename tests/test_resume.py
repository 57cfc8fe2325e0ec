"""A workdir is gone on in: to more steps, and by later versions."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import interrupted_at
from runs import train_arm
from test_train import final_state

from align_jax.files import read_jsonl
from align_jax.lab import groups, sweep
from align_jax.learn import sources
from align_jax.learn.train import drop_log, read_log
from align_jax.tasks import folders
from configs import base, toy
from experiments import common, online_vs_offline, resume

ARMS = {
  'offline': dict(source='golden_pairs'),
  'online': {},
  'in order': dict(source='log', log_of='online/default', shuffle=1),
  'taught': dict(loss='reverse_kl', teacher_of='online/default', group_size=1),
}


def config(**fields):
  """The toy with one seed, arms that need one another, and other fields."""
  cfg = common.as_dict(base.smoke(toy.get_config()))
  arms = {n: {'loss_kwargs': {}, **arm} for n, arm in ARMS.items()}
  arm = {**cfg['arm'], 'save_every': 4, **fields}
  return {**cfg, 'seeds': 1, 'arms': arms, 'arm': arm}


def runs_of(cfg, *names):
  return [r for r in sweep.sweep(cfg) if r.arm in names]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Twelve steps of three arms at once."""
  workdir, cfg = tmp_path_factory.mktemp('whole'), config(steps=12)
  common.execute(cfg, runs_of(cfg, 'offline', 'online', 'in order'), workdir)
  return workdir


@pytest.fixture(scope='module')
def extended(tmp_path_factory):
  """Six steps, then twelve, saved and logged at other steps."""
  workdir = tmp_path_factory.mktemp('extended')
  for cfg in (config(), config(steps=12, save_every=5)):
    common.execute(cfg, runs_of(cfg, 'offline', 'online', 'in order'), workdir)
  return workdir


@pytest.mark.parametrize('arm', ['offline', 'online', 'in order'])
def test_extended_equals_uninterrupted(arm, whole, extended):
  [run] = runs_of(config(steps=12), arm)
  first, second = run.directory(whole), run.directory(extended)
  metrics = [(d / 'metrics.jsonl').read_text() for d in (first, second)]
  assert metrics[0] == metrics[1]
  same = jax.tree.map(np.array_equal, final_state(first), final_state(second))
  assert jax.tree.all(same)
  points = [
    {row['step']: row for row in read_jsonl(d / 'points.jsonl')}
    for d in (first, second)
  ]
  # Log-spaced: those of six steps stay, those of twelve follow.
  assert [list(rows) for rows in points] == [[0, 2, 5, 12], [0, 2, 3, 6, 12]]
  assert all(points[0][s] == points[1][s] for s in (0, 2, 12))


def test_the_log_goes_on_too(whole, extended):
  [run] = runs_of(config(), 'online')
  first, second = (read_log(run.directory(d)) for d in (whole, extended))
  assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_a_run_is_finished_after_the_steps_that_are_asked(extended, capsys):
  for steps, want in ((6, False), (12, True), (13, False)):
    [run] = runs_of(config(steps=steps), 'online')
    assert resume.finished(extended, run) == want
  with pytest.raises(ValueError, match='holds no finished run'):
    common.experiment(
      online_vs_offline.runs,
      online_vs_offline.report,
      config(),
      extended,
      report_only=True,
    )
  note = '12 steps are done, the config has steps=6: not in the report'
  assert note in capsys.readouterr().err


def test_fewer_steps_than_done_are_refused(extended):
  cfg = config(steps=9)
  with pytest.raises(ValueError, match='12 steps done, .* steps=9: .* 12'):
    common.execute(cfg, runs_of(cfg, 'online'), extended)
  [run] = runs_of(cfg, 'online')
  assert resume.held(run.directory(extended))['steps'] == 12
  with pytest.raises(ValueError, match='holds 12 updates, expected at most 9'):
    train_arm(cfg, run, extended)


def test_an_interrupted_run_may_end_where_it_is(tmp_path):
  cfg = config()
  [run] = runs_of(cfg, 'online')
  with interrupted_at(5) as report:
    train_arm(cfg, run, tmp_path, report)
  resume.write(run.directory(tmp_path), resume.settings_of(run))
  cfg = config(steps=4)
  common.execute(cfg, runs_of(cfg, 'online'), tmp_path)
  path = run.directory(tmp_path)
  assert read_jsonl(path / 'points.jsonl')[-1]['step'] == 4
  assert json.loads((path / 'done.json').read_text())['steps'] == 4


def test_a_run_that_has_lost_its_settings_is_refused(tmp_path):
  cfg = config()
  [run] = runs_of(cfg, 'online')
  pretend(run.directory(tmp_path), run, 6)
  resume.open_workdir(cfg, [run], tmp_path)
  (run.directory(tmp_path) / 'settings.json').unlink()
  with pytest.raises(ValueError, match='default/settings.json: no such file'):
    resume.open_workdir(cfg, [run.but(learning_rate=0.3)], tmp_path)


@pytest.mark.parametrize('shuffle', [0, 1, 2, 3, 6, 7])
def test_a_replay_goes_on_where_its_order_does(shuffle):
  same = []
  for done in range(1, 7):
    order = lambda n: sources.replay_order(n, 5, shuffle=shuffle or n, seed=1)
    first, second = (list(map(order(n), range(done))) for n in (6, 12))
    agree = np.array_equal(first, second)
    assert resume.same_order(shuffle, done, 6, 12) == agree
    assert resume.same_order(shuffle, done, 12, 12)
    same.append(agree)
  assert any(same) == (shuffle not in (0, 7))


def pretend(path, run, steps):
  """A directory as a run leaves it, without its arrays."""
  resume.write(path, resume.settings_of(run))
  (path / 'checkpoints' / str(steps)).mkdir(parents=True)


@pytest.mark.parametrize(
  'arm, fields, done, message',
  [
    ('in order', {'shuffle': 0}, 6, 'shuffled for steps=6, .* steps=12'),
    (
      'online',
      {'schedule': {'name': 'cosine'}},
      4,
      "'cosine' of steps=6, .* steps=12",
    ),
  ],
)
def test_what_was_made_for_fewer_steps_is_not_extended(
  arm, fields, done, message, tmp_path
):
  """The order of a shuffled replay, and a schedule."""
  [run] = runs_of(config(), arm)
  run = run.but(**fields)
  path = run.directory(tmp_path)
  pretend(path, run, done)
  resume.check_steps(path, run)
  with pytest.raises(ValueError, match=message):
    resume.check_steps(path, run.but(steps=12))


def test_runs_that_were_begun_together_keep_their_settings(tmp_path):
  """Their checkpoints lie beside their folders."""
  cfg = config()
  [run] = runs_of(cfg, 'online')
  path = run.directory(tmp_path)
  resume.write(path, resume.settings_of(run))
  resume.open_workdir(cfg, [run.but(weight_decay=0.9)], tmp_path)
  resume.write(path, resume.settings_of(run))
  (path.parent / 'together-1' / 'checkpoints' / '4').mkdir(parents=True)
  with pytest.raises(ValueError, match='weight_decay=.*, this one has 0.9'):
    resume.open_workdir(cfg, [run.but(weight_decay=0.9)], tmp_path)


def test_a_run_that_has_taught_is_not_extended(tmp_path):
  taught, teacher = (
    runs_of(config(steps=12), arm)[0] for arm in ('taught', 'online')
  )
  pretend(teacher.directory(tmp_path), teacher, 6)
  resume.check_taught(tmp_path, teacher)
  pretend(taught.directory(tmp_path), taught, 6)
  with pytest.raises(ValueError, match='from 6 to steps=12, .*/taught/default'):
    resume.check_taught(tmp_path, teacher)
  resume.check_taught(tmp_path, teacher.but(steps=6))
  (taught.directory(tmp_path) / 'settings.json').unlink()
  swept = dataclasses.replace(taught, configuration='of_online/default')
  pretend(swept.directory(tmp_path), swept, 6)
  with pytest.raises(
    ValueError, match='from 6 to steps=12, .*/of_online/default'
  ):
    resume.check_taught(tmp_path, teacher)


def test_a_run_that_stopped_at_its_budget_has_ended(tmp_path):
  stopping = dict(kl_budget=1e-7, kl_mode='stop', kl_every=1)
  cfg = config(**stopping)
  [run] = runs_of(cfg, 'online')
  path = run.directory(tmp_path)
  common.execute(cfg, [run], tmp_path)
  done = json.loads((path / 'done.json').read_text())
  assert done['stopped'] and 0 < done['steps'] < 6
  cfg = config(steps=12, **stopping)
  [more] = runs_of(cfg, 'online')
  assert resume.finished(tmp_path, more)
  resume.unmark(tmp_path, more)
  common.execute(cfg, [more], tmp_path)
  assert json.loads((path / 'done.json').read_text())['steps'] == done['steps']


def test_a_run_of_an_earlier_version_says_its_steps_by_its_checkpoint(tmp_path):
  [run] = runs_of(config(), 'online')
  pretend(run.directory(tmp_path), run, 6)
  (run.directory(tmp_path) / 'done.json').write_text('{"seconds": 1.0}')
  assert resume.finished(tmp_path, run)
  assert not resume.finished(tmp_path, run.but(steps=12))


def test_a_budget_that_was_controlled_for_fewer_steps_is_noted(tmp_path):
  fields = dict(steps=6, kl_budget=1.0, kl_every=4)
  for mode, every, noted in (('hold', 3, 1), ('stop', 3, 0), ('stop', 4, 1)):
    fields.update(kl_mode=mode, kl_every=every)
    [run] = runs_of(config(**fields), 'online')
    run = run.but(name=f'online/{mode}{every}')
    pretend(run.directory(tmp_path), run, 6)
    assert not resume.notes(tmp_path, run)
    notes = resume.notes(tmp_path, run.but(steps=12))
    assert len(notes) == noted and all('steps=6' in note for note in notes)


def test_what_was_not_kept_is_noted(tmp_path):
  [run] = runs_of(config(), 'online')
  pretend(run.directory(tmp_path), run, 4)
  run = run.but(keep=dict(steps=(2, 5)))
  [note] = resume.notes(tmp_path, run)
  assert 'keep.steps=2 is past, after 4 steps' in note


def test_a_log_that_is_too_short_is_refused():
  cfg = config()
  cfg['arms']['in order']['steps'] = 7
  message = r'arms.in order.steps=7 of batch_size=4 replay 28 .* the 24 that'
  with pytest.raises(ValueError, match=message):
    common.check(cfg, sweep.sweep(cfg))


def test_a_log_that_ended_early_is_refused(extended):
  [run] = runs_of(config(steps=20), 'in order')
  run = run.but(name='in order/longer')
  with pytest.raises(ValueError, match='steps=20 .* holds, 48 prompts'):
    train_arm(config(), run, extended)


def test_batches_after_the_checkpoint_leave_the_log(tmp_path):
  (tmp_path / 'log').mkdir()
  for part in ('00000000-00000004', '00000004-00000006', '00000004-00000008'):
    (tmp_path / 'log' / f'{part}.npz').touch()
  drop_log(tmp_path, 6)
  left = sorted(path.stem for path in (tmp_path / 'log').iterdir())
  assert left == ['00000000-00000004', '00000004-00000006']


def test_fields_that_a_workdir_lacks_have_their_defaults(tmp_path):
  cfg = config()
  [run] = runs_of(cfg, 'online')
  now = resume.settings_of(run)
  old = {k: v for k, v in now.items() if k != 'keep'}
  old['slots'] = old.pop('rows_at_once')  # its name in an earlier version
  old['lora'] = {k: v for k, v in now['lora'].items() if k != 'alpha'}
  resume.write(tmp_path, old)

  def compare(**fields):
    settings = resume.settings_of(run.but(**fields))
    resume.compare(tmp_path, settings, resume.defaults(cfg))

  compare()
  with pytest.raises(ValueError, match='with rows_at_once=0, this one has 4'):
    compare(rows_at_once=4)
  with pytest.raises(ValueError, match='lora.alpha=16.0, this one has 2.0'):
    compare(lora={**now['lora'], 'alpha': 2.0})
  # What a loss is given has no default but the loss's own.
  with pytest.raises(ValueError, match='loss_kwargs.beta=None, .* has 0.1'):
    compare(loss_kwargs={'beta': 0.1})


def test_fields_that_a_run_does_not_read_may_differ(tmp_path):
  [run] = runs_of(config(), 'offline')
  pretend(run.directory(tmp_path), run.but(labels='brevity', shuffle=3), 6)
  resume.open_workdir(config(), [run], tmp_path)
  assert resume.held(run.directory(tmp_path))['labels'] == 'proxy'
  other = run.but(loss='dpo')
  with pytest.raises(ValueError, match="loss='ipo', this one has 'dpo'"):
    resume.open_workdir(config(), [other], tmp_path)


def guard(path, settings):
  resume.compare(path, settings, {})
  resume.write(path, settings)


def test_settings_that_change_no_update_may_differ(tmp_path):
  cfg = config()
  [run] = runs_of(cfg, 'online')
  opened = lambda run: guard(tmp_path, resume.settings_of(run))
  opened(run)
  other = config(save_every=1, log_every=7, points=9, keep=dict(steps=(2,)))
  opened(runs_of(other, 'online')[0])
  assert resume.held(tmp_path)['points'] == 9
  with pytest.raises(ValueError, match='batch_size=4, this one has 8'):
    opened(run.but(batch_size=8))


def test_the_pairs_prompts_at_a_time_are_a_setting(tmp_path):
  """They change the pairs, also where each arm has a batch size of its own."""

  def opened(size):
    cfg = config(batch_size=size)
    for arm in cfg['arms'].values():
      arm['batch_size'] = 4
    resume.open_workdir(cfg, runs_of(cfg, 'online'), tmp_path)

  opened(4)
  (tmp_path / 'seed0').mkdir(exist_ok=True)
  (tmp_path / 'seed0' / 'pairs.npz').touch()
  settings = resume.held(tmp_path)
  del settings['arm']  # as earlier versions
  resume.write(tmp_path, settings)
  opened(4)
  with pytest.raises(ValueError, match='arm.batch_size=4, this one has 8'):
    opened(8)


def test_other_measurements_may_be_asked_for_later(tmp_path):
  def opened(**fields):
    cfg = config()
    cfg['eval'] = {**cfg['eval'], **fields}
    guard(tmp_path, groups.shared(cfg).settings)

  opened()
  opened(metrics=('length', 'forward_kl'), sets=('ood',))
  assert resume.held(tmp_path)['eval']['sets'] == ['ood']
  with pytest.raises(ValueError, match='eval.samples=2, this one has 3'):
    opened(samples=3)


def test_a_task_folder_that_lacks_a_knob_has_its_default(tmp_path):
  def build(folder, *, size, kind='plain'):
    (folder / 'made').touch()

  known = folders.keywords(build)
  make = lambda **settings: folders.make_once(
    tmp_path / 'task', build, settings, known
  )
  folders.make_once(
    tmp_path / 'task', lambda folder: build(folder, size=1), {'size': 1}
  )
  make(size=1, kind='plain')
  with pytest.raises(ValueError, match="kind='plain', not 'other'"):
    make(size=1, kind='other')
