"""Checkpoints that stay, through kills, and what a run went past."""

import json
import shutil

import jax
import numpy as np
import pytest
from runs import setup_of, train_arm, train_until_killed
from test_train import settings

from align_jax.files import read_jsonl
from align_jax.lab import checks
from align_jax.learn import kept
from align_jax.learn.checkpoint import params_of, steps_in, steps_of
from align_jax.learn.kept import Keep, Kept

PARAMS = {'w': jax.numpy.arange(3.0)}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A run that keeps nothing, measured after 0, 2, 3 and 6 steps."""
  cfg, run = settings('online')
  workdir = tmp_path_factory.mktemp('plain')
  train_arm(cfg, run, workdir)
  return workdir, cfg, run


def keeping(plain):
  """The same run with what it keeps: its third, fifth and sixth policy."""
  workdir, cfg, run = plain
  kl = kept.measured(run.directory(workdir))[3]
  keep = dict(steps=[5], kls=[0.99 * kl, 1.01 * kl])
  return cfg, run.but(keep=keep, save_every=4, name='online/keeping')


@pytest.fixture(scope='module')
def whole(plain):
  workdir = plain[0]
  cfg, run = keeping(plain)
  train_arm(cfg, run, workdir)
  return run.directory(workdir)


def test_steps_and_kls_are_kept_next_to_the_last(whole):
  assert steps_in(whole / 'kept') == [3, 5, 6]
  assert list(steps_of(whole)) == [3, 4, 5, 6]
  assert steps_in(whole / 'checkpoints') == [4, 6]


def test_keeping_changes_nothing_else(plain, whole):
  workdir, _, run = plain
  for name in ('points.jsonl', 'metrics.jsonl'):
    text = (run.directory(workdir) / name).read_text()
    assert text == (whole / name).read_text()


def test_a_killed_run_keeps_the_same(plain, whole, tmp_path):
  cfg, run = keeping(plain)
  train_until_killed(cfg, run, tmp_path, 6)
  again = run.directory(tmp_path)
  assert steps_in(again / 'kept') == [3, 5]
  assert max(steps_in(again / 'checkpoints'), default=0) < 5
  train_arm(cfg, run, tmp_path)
  assert steps_in(again / 'kept') == [3, 5, 6]
  for step in (3, 5, 6):
    first, second = params_of(whole, step), params_of(again, step)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_a_run_that_goes_on_keeps_where_it_begins(plain):
  workdir, cfg, run = plain
  more = run.but(steps=8, keep=dict(steps=[6, 7]), name='online/more')
  shutil.copytree(run.directory(workdir), more.directory(workdir))
  train_arm(cfg, more, workdir)
  assert steps_in(more.directory(workdir) / 'kept') == [6, 7]


def test_what_is_after_the_checkpoint_or_half_written_is_dropped(tmp_path):
  keep = Keep(steps=(1, 2, 3))
  first = Kept(tmp_path, keep, 0)
  for step in range(4):
    first.offer(step, PARAMS)
  (tmp_path / 'kept' / '4.orbax-checkpoint-tmp').mkdir()
  assert steps_in(tmp_path / 'kept') == [1, 2, 3]
  again = Kept(tmp_path, keep, 2)
  assert {path.name for path in (tmp_path / 'kept').iterdir()} == {'1', '2'}
  again.offer(2, PARAMS)  # is there
  again.offer(3, PARAMS)
  assert steps_in(tmp_path / 'kept') == [1, 2, 3]


def test_a_kl_is_kept_at_its_first_point_even_if_that_was_before(tmp_path):
  points = {0: 0.0, 2: 1.0, 4: 3.0, 6: 2.5}
  assert [kept.first_beyond(points, kl) for kl in (1, 1.5, 9)] == [2, 4, None]
  rows = [{'step': s, 'kl_seq_nats': kl} for s, kl in points.items() if s < 6]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'points.jsonl').write_text(text)
  resumed = Kept(tmp_path, Keep(kls=(1.5,)), 5)
  resumed.offer(6, PARAMS, {'kl_seq_nats': 2.5})
  assert not steps_in(tmp_path / 'kept')
  keep = Keep(steps=(3, 7), kls=(1.5, 9.0))
  assert kept.missed(tmp_path, keep, 6) == ['keep.steps=3', 'keep.kls=1.5']
  assert read_jsonl(tmp_path / 'points.jsonl') == rows


@pytest.mark.parametrize(
  ('keep', 'message'),
  [
    (dict(steps=(2, 7)), 'keep.steps=7, expected at most .*steps=6'),
    (dict(steps=(0,)), r'keep=.*\(0,\).*, expected steps, at least 1'),
    (dict(steps=(2.5,)), r'keep=.*\(2.5,\).*, expected steps, at least 1'),
    (dict(kls=(0.0,)), r'keep=.*\(0.0,\).*, expected .* kls, nats above 0'),
    (dict(step=(1,)), "arm.keep=.*step: no such field, did you mean 'steps'"),
  ],
)
def test_what_cannot_be_kept_is_refused_at_start(keep, message):
  cfg, run = settings('online')
  shared = setup_of(cfg, '').shared
  checks.check_run(run.but(keep=dict(steps=(1, 6), kls=(0.1,))), shared)
  with pytest.raises(ValueError, match=message):
    checks.check_run(run.but(keep=keep), shared)
