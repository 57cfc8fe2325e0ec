"""Rollouts that collapse, and samplers that differ, are said or stop a run."""

import jax.numpy as jnp
import pytest
from runs import train_arm

from align_jax.lab import sweep
from align_jax.learn import watch
from align_jax.learn.checkpoint import newest_step
from align_jax.types import Batch
from configs import base, toy
from experiments import common

EOS = 1


def batch(rows, logps=0.0):
  tokens = jnp.array(rows)
  valid = tokens >= 0
  return Batch(
    prompts=jnp.zeros((len(rows), 2), jnp.int32),
    prompt_valid=jnp.ones((len(rows), 2), bool),
    completions=tokens,
    valid=valid,
    mask=valid,
    rewards=jnp.zeros(len(rows)),
    sampler_logps=jnp.full(tokens.shape, logps),
  )


def seen(rows, ends=EOS, own=True, logps=0.0):
  model = lambda params, batch: jnp.zeros(batch.completions.shape)
  return watch.Watch(model, own, ends).look({}, batch(rows, logps))


@pytest.mark.parametrize(
  ('rows', 'ends', 'wanted'),
  [
    ([[EOS, -1], [EOS, -1]], EOS, {'empty'}),
    ([[EOS, -1], [2, EOS]], EOS, set()),
    ([[2, 3], [4, 5]], EOS, {'cut'}),
    ([[2, 3], [4, EOS]], EOS, set()),
    ([[2, 3], [4, 5]], jnp.array([3, 5]), set()),
    ([[2, 3], [4, 5]], None, set()),
    ([[-1, -1], [-1, -1]], None, {'empty'}),
  ],
)
def test_collapsed_rollouts_are_seen(rows, ends, wanted):
  assert set(watch.signs(seen(rows, ends))) == wanted


def test_the_gap_is_that_of_the_policys_own_samples():
  rows = [[2, EOS], [3, EOS]]
  assert set(watch.signs(seen(rows, logps=0.2))) == {'gap'}
  assert not watch.signs(seen(rows, logps=0.05))
  assert not watch.signs(seen(rows, logps=0.2, own=False))


def test_a_sign_is_noted_once_or_stops(capsys):
  known, told = set(), watch.signs({}, kl=1000.0)
  for step in (1, 2):
    watch.tell('a', step, told, (), known)
  assert capsys.readouterr().err.count('the KL is 1e+03 nats') == 1
  with pytest.raises(watch.Alarm, match="a: step 3: .*stop_on='runaway'"):
    watch.tell('a', 3, told, ('runaway',), known)


def test_a_run_stops_on_a_sign(tmp_path, monkeypatch):
  """Sampler and trainer differ by rounding, which is too much here."""
  monkeypatch.setattr(watch, 'GAP', 1e-9)
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.arms = {'online': dict(stop_on=('gap',))}
  cfg = common.as_dict(c)
  (run,) = sweep.sweep(cfg)
  with pytest.raises(watch.Alarm, match='online/default: step 2: sampler and'):
    train_arm(cfg, run, tmp_path)
  assert newest_step(run.directory(tmp_path)) == 0
