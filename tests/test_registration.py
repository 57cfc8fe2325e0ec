"""What is fixed before the first run, and what a look costs."""

import json

import numpy as np
import pytest

from align_jax.compare import intervals
from align_jax.lab import groups, sweep
from configs import base, toy
from experiments import (
  common,
  findings,
  online_vs_offline,
  plan,
  registration,
)


@pytest.fixture
def cfg():
  return common.as_dict(base.smoke(toy.get_config()))


def changed(cfg, **report):
  return {**cfg, 'report': {**cfg['report'], **report}}


def test_what_was_registered_is_unchanged(cfg, tmp_path):
  registration.register(cfg, tmp_path)
  rows = registration.read(tmp_path)
  assert rows['seeds'] == cfg['seeds'] and rows['looks'] == []
  assert rows['window'] == list(cfg['report']['window'])
  assert len(rows['rules']) == len(rows['config']) == 64
  assert registration.changes(cfg, tmp_path) == []
  more = {**cfg, 'workers': 7, 'together': True}
  assert registration.changes(more, tmp_path) == []  # how, not what


def test_it_is_written_once_and_before_the_first_run(cfg, tmp_path):
  registration.register(cfg, tmp_path)
  before = registration.read(tmp_path)
  started = tmp_path / 'seed0' / 'sft' / 'checkpoints' / '6'
  started.mkdir(parents=True)
  registration.register({**cfg, 'seeds': 9}, tmp_path)
  assert registration.read(tmp_path) == before
  late = tmp_path / 'late'
  (late / 'seed0' / 'sft' / 'checkpoints' / '6').mkdir(parents=True)
  registration.register(cfg, late)
  [note] = registration.changes(cfg, late)
  assert 'nothing was registered' in note


@pytest.mark.parametrize(
  'report, told',
  [
    (dict(margin=0.7), 'margin: 0.05 registered, 0.7 now'),
    (dict(window=(1.0, 1.5)), 'window'),
    (dict(control='ref+proxy'), 'control'),
    (dict(shown=(0.25,)), 'other fields of the config have changed'),
  ],
)
def test_what_changed_is_named(cfg, tmp_path, report, told):
  registration.register(cfg, tmp_path)
  [note] = registration.changes(changed(cfg, **report), tmp_path)
  assert told in note


def test_one_change_hides_no_other(cfg, tmp_path):
  registration.register(cfg, tmp_path)
  both = changed({**cfg, 'proxy': {**cfg['proxy'], 'steps': 9}}, margin=0.06)
  assert len(registration.changes(both, tmp_path)) == 2


def test_a_change_of_the_rules_is_told(cfg, tmp_path, monkeypatch):
  registration.register(cfg, tmp_path)
  monkeypatch.setattr(registration, 'digest_of', lambda files: 'others')
  assert registration.changes(cfg, tmp_path) == [
    'the code of the rules has changed'
  ]


def test_more_seeds_are_told(cfg, tmp_path):
  registration.register(cfg, tmp_path)
  [note] = registration.changes({**cfg, 'seeds': 5}, tmp_path)
  assert note == 'seeds: 2 registered, 5 now'


def test_a_look_that_was_not_declared_adds_to_the_chance_of_a_false_claim(
  cfg, tmp_path
):
  registration.register(cfg, tmp_path)  # of two seeds
  look = lambda n, **report: registration.look(
    changed(cfg, **report), tmp_path, n
  )
  spent = lambda: registration.spent(registration.read(tmp_path))
  assert look(2) == look(2) == pytest.approx(0.95)  # the same look again
  assert spent() == pytest.approx(0.05)
  assert look(6) == pytest.approx(0.975)
  assert look(6) == pytest.approx(0.975)
  assert spent() == pytest.approx(0.075)
  assert look(12) == pytest.approx(0.9875)
  assert spent() == pytest.approx(0.0875)
  assert look(2) == pytest.approx(0.95)


@pytest.mark.parametrize(
  'other',
  [dict(window=(1.0, 1.0)), dict(control='ref+proxy'), dict(margin=0.2)],
)
def test_another_question_is_another_look(cfg, tmp_path, other):
  registration.register(cfg, tmp_path)
  assert registration.look(cfg, tmp_path, 2) == pytest.approx(0.95)
  asked = changed(cfg, **other)
  assert registration.look(asked, tmp_path, 2) == pytest.approx(0.975)
  rows = registration.read(tmp_path)
  assert len(registration.undeclared(rows)) == 1


def test_declared_looks_share_it_from_the_start(cfg, tmp_path):
  cfg = changed(cfg, schedule=(3, 6))
  registration.register(cfg, tmp_path)
  look = lambda n, cfg=cfg: registration.look(cfg, tmp_path, n)
  assert look(3) == look(6) == pytest.approx(0.975)
  assert look(4) == pytest.approx(0.975)  # the first that was not declared
  # What is registered counts, not what the config has become.
  assert look(3, changed(cfg, schedule=())) == pytest.approx(0.975)


def test_all_looks_together_claim_falsely_as_often_as_is_said(cfg, tmp_path):
  """A true zero, looked at again and again as seeds are added."""
  cfg = {**cfg, 'seeds': 6}
  registration.register(cfg, tmp_path)
  looks = {n: registration.look(cfg, tmp_path, n) for n in (6, 12, 24, 48)}
  at_most = registration.spent(registration.read(tmp_path))
  rng, claims = np.random.default_rng(0), 0
  for _ in range(1500):
    x = rng.normal(size=(48, 1))
    claims += any(
      intervals.estimate(x[:n], False, level).sign for n, level in looks.items()
    )
  assert 0.06 < claims / 1500 < at_most


def test_without_a_registration_there_is_no_verdict(cfg, tmp_path):
  assert registration.look(cfg, tmp_path, 3) is None
  assert registration.read(tmp_path) is None
  cfg = changed(cfg, window=(1.0, 2.0))
  found = finding(cfg, list(rows(lambda i: 0.3 + 0.01 * i)), None)
  assert found.word == 'no verdict' and 'is above' not in found.sentence


# --- Seeds ------------------------------------------------------------------


def test_pilot_seeds_and_those_that_confirm_are_disjoint(cfg):
  of = lambda **fields: {run.seed for run in sweep.sweep({**cfg, **fields})}
  most = groups.PILOT_SEEDS
  assert of(seeds=3) == {0, 1, 2}
  assert not of(seeds=most) & of(seeds=most, pilot=True)
  for wrong in (0, most + 1):
    with pytest.raises(ValueError, match=f'seeds={wrong}'):
      of(seeds=wrong)


def test_runs_are_of_the_seeds_of_their_kind(cfg):
  runs = sweep.sweep({**cfg, 'pilot': True})
  assert {run.seed for run in runs} == {100, 101}


# --- The plan ---------------------------------------------------------------


def rows(gap, seeds=6, prompts=20):
  """Points of two arms whose gap at every budget is `gap` of a seed."""
  for seed in range(100, 100 + seeds):
    for arm, gain in (('online', gap(seed - 100)), ('offline', 0.0)):
      for step, kl in enumerate((0.0, 0.5, 4.0)):
        yield dict(
          arm=arm,
          configuration='a',
          seed=seed,
          step=step,
          kl_by_prompt=[kl] * prompts,
          gold_by_prompt=[gain * (kl > 0)] * prompts,
        )


def write(workdir, points):
  lines = ''.join(json.dumps(p) + '\n' for p in points)
  (workdir / 'points.jsonl').write_text(lines)


def test_a_plan_reads_a_pilot(cfg, tmp_path):
  write(tmp_path, rows(lambda i: 0.3 + 0.1 * i))
  cfg = changed({**cfg, 'seeds': 20}, window=(1.0, 2.0))
  power = plan.measured(cfg, tmp_path)
  assert power.seeds == 20
  assert power.deviation == pytest.approx(0.1 * 3.5**0.5)
  text = plan.plan(cfg, tmp_path)
  assert '20 seeds' in text and '80% power' in text


def test_a_plan_takes_an_assumed_deviation(cfg):
  text = plan.plan(changed({**cfg, 'seeds': 12}, deviation=0.1))
  assert '12 seeds and a deviation of 0.10' in text


def test_a_plan_from_nothing_is_refused(cfg, tmp_path):
  with pytest.raises(ValueError, match='--config.report.deviation'):
    plan.plan(cfg)
  with pytest.raises(ValueError, match='no points of online and offline'):
    plan.plan(cfg, tmp_path)
  write(tmp_path, rows(lambda i: 1.0, seeds=1))
  with pytest.raises(ValueError, match='one seed'):
    plan.plan(cfg, tmp_path)
  write(tmp_path, [p for p in rows(lambda i: 1.0) if p['arm'] == 'online'])
  with pytest.raises(ValueError, match='no points of online and offline'):
    plan.plan(cfg, tmp_path)


def test_a_declared_schedule_widens_the_plan(cfg):
  widths = [
    plan.plan(changed({**cfg, 'seeds': 8}, deviation=0.5, schedule=schedule))
    for schedule in ((), (4, 8))
  ]
  assert widths[0] != widths[1]


# --- Sentences --------------------------------------------------------------


def finding(cfg, points, level=0.95):
  from experiments.pages import compare, gain

  comparison = compare(points, cfg, gain(points))
  return findings.find(comparison, cfg['report'], level)


def test_the_sentence_says_what_the_word_says(cfg):
  cfg = changed(cfg, window=(1.0, 2.0))
  above = finding(cfg, list(rows(lambda i: 0.3 + 0.01 * i)))
  assert above.word == 'above' and 'online is above offline' in above.sentence
  assert '95% interval over 6 seeds' in above.sentence
  assert not any('Descriptive' in note for note in above.notes)
  same = finding(cfg, list(rows(lambda i: 0.001 * (-1) ** i)))
  assert same.word == 'equivalent' and 'is equivalent to' in same.sentence
  unsure = finding(cfg, list(rows(lambda i: 0.5 * (-1) ** i)))
  assert unsure.word == 'undecided' and 'is not shown' in unsure.sentence


def test_few_seeds_are_called_descriptive_and_one_is_no_verdict(cfg):
  cfg = changed(cfg, window=(1.0, 2.0))
  few = finding(cfg, list(rows(lambda i: 0.3 + 0.01 * i, seeds=3)))
  assert any('Descriptive' in note for note in few.notes)
  one = finding(cfg, list(rows(lambda i: 0.3, seeds=1)))
  assert one.word == 'no verdict' and '[' not in one.sentence


def test_the_level_of_a_look_is_said(cfg):
  cfg = changed(cfg, window=(1.0, 2.0))
  later = finding(cfg, list(rows(lambda i: 0.3 + 0.01 * i)), 0.975)
  assert '97.5% interval' in later.sentence


def test_a_turn_of_the_sign_is_told(cfg):
  """Behind at first, ahead at last; a difference that rises has no turn."""
  cfg = changed(cfg, window=(1.0, 2.0), budgets=(0.5, 3.0))
  points = list(rows(lambda i: 0.3 + 0.01 * i))
  for p in points:
    if p['arm'] == 'online' and p['step'] == 1:
      p['gold_by_prompt'] = [-x for x in p['gold_by_prompt']]
  told = lambda points: [n for n in finding(cfg, points).notes if 'turns' in n]
  assert ['between 0.5 and 3 nats' in note for note in told(points)] == [True]
  assert told(list(rows(lambda i: 0.3 + 0.01 * i))) == []


def test_a_turn_between_a_reading_in_passing_and_a_held_one_is_none(cfg):
  cfg = changed(cfg, window=(4.0, 4.0), budgets=(0.5, 4.0))
  points = list(rows(lambda i: 0.3 + 0.01 * i))
  for p in points:
    p['kl_budget'] = 4.0
    if p['arm'] == 'online' and p['step'] == 1:
      p['gold_by_prompt'] = [-x for x in p['gold_by_prompt']]
  found = finding(cfg, points)
  assert found.word == 'above'
  assert not [note for note in found.notes if 'turns' in note]


def test_unequal_numbers_of_updates_are_told(cfg):
  cfg = changed(cfg, window=(1.0, 2.0))
  points = list(rows(lambda i: 0.3 + 0.01 * i))
  assert 'runs end after 2 updates' in finding(cfg, points).notes[0]
  for p in points:
    if p['arm'] == 'offline':
      p['step'] *= 2
  assert (
    'online end after 2 updates, of offline after 4'
    in (finding(cfg, points).notes[0])
  )


def test_a_run_that_missed_its_budget_is_named(cfg):
  cfg = changed(cfg, window=(4.0, 4.0))
  points = list(rows(lambda i: 0.3 + 0.01 * i))
  for p in points:
    p['kl_budget'] = 4.0
    if (p['seed'], p['arm'], p['step']) == (103, 'offline', 2):
      p['kl_by_prompt'] = [4.5] * 20
  found = finding(cfg, points)
  assert found.word == 'no verdict'
  assert 'offline/a of seed 103 was to be held at 4 nats' in found.sentence
  assert 'ended at 4.50' in found.sentence


def test_arms_that_never_meet_get_no_verdict(cfg):
  cfg = changed(cfg, window=(5.0, 6.0))
  far = finding(cfg, list(rows(lambda i: 0.3)))
  assert far.word == 'no verdict' and 'nothing to compare' in far.sentence
  cfg = changed(cfg, window=(3.0, 6.0))
  cut = finding(cfg, list(rows(lambda i: 0.3 + 0.01 * i)))
  assert any('instead of 3.00 to 6.00 nats' in note for note in cut.notes)


def test_effects_need_equally_many_configurations_from_the_start(cfg):
  one, two = base.sweep((1e-3, 0.1)), base.sweep((1e-3, 0.1), (1e-3, 0.2))
  arms = {
    'offline': dict(source='golden_pairs', labels='golden', sweep=two),
    'online': dict(sweep=one),
  }
  with pytest.raises(ValueError, match='have 1 and 2 configurations'):
    online_vs_offline.runs({**cfg, 'arms': arms})
  arms['online']['sweep'] = two
  arms['other'] = dict(sweep=one)  # of no effect
  assert len(online_vs_offline.runs({**cfg, 'arms': arms})) == 10


@pytest.mark.parametrize(
  'report, budget, told',
  [
    (dict(treatment='onlien'), 0.0, "report.treatment='onlien' is none of"),
    (dict(control='x'), 0.0, "report.control='x' is none of"),
    (dict(window=(2.0, 1.0)), 0.0, r'window=\(2.0, 1.0\), .* 0 < low <= high'),
    (dict(window=(2.0, 2.0)), 1.7, 'lies beyond arm.kl_budget=1.7'),
  ],
)
def test_a_comparison_that_cannot_be_is_refused_at_start(
  cfg, report, budget, told
):
  cfg = changed(cfg, **report)
  cfg['arm']['kl_budget'] = budget
  with pytest.raises(ValueError, match=told):
    online_vs_offline.runs(cfg)
