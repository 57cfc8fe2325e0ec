"""What is fixed before the first run, and what a look costs."""

import json

import pytest

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
  registration.register({**cfg, 'seeds': 9}, tmp_path)
  assert registration.read(tmp_path) == before
  late = tmp_path / 'late'
  (late / 'seed0').mkdir(parents=True)
  registration.register(cfg, late)
  [note] = registration.changes(cfg, late)
  assert 'nothing was registered' in note


@pytest.mark.parametrize(
  'report, told',
  [
    (dict(margin=0.7), 'margin: 0.05 registered, 0.7 now'),
    (dict(window=(1.0, 1.5)), 'window'),
    (dict(control='ref+proxy'), 'control'),
    (dict(shown=(0.25,)), 'the config has changed'),
  ],
)
def test_what_changed_is_named(cfg, tmp_path, report, told):
  registration.register(cfg, tmp_path)
  [note] = registration.changes(changed(cfg, **report), tmp_path)
  assert told in note


def test_a_change_of_the_rules_is_told(cfg, tmp_path, monkeypatch):
  registration.register(cfg, tmp_path)
  monkeypatch.setattr(registration, 'rules', lambda: 'others')
  assert registration.changes(cfg, tmp_path) == [
    'the code of the rules has changed'
  ]


def test_more_seeds_are_told(cfg, tmp_path):
  registration.register(cfg, tmp_path)
  [note] = registration.changes({**cfg, 'seeds': 5}, tmp_path)
  assert note == 'seeds: 2 registered, 5 now'


def test_every_look_costs_its_share_of_five_percent(cfg, tmp_path):
  registration.register(cfg, tmp_path)
  look = lambda n: registration.look(cfg, tmp_path, n)
  assert look(3) == look(3) == pytest.approx(0.95)  # the same look again
  assert look(6) == pytest.approx(0.975)
  assert look(12) == pytest.approx(1 - 0.05 / 3)
  assert registration.read(tmp_path)['looks'] == [3, 6, 12]


def test_declared_looks_share_it_from_the_start(cfg, tmp_path):
  cfg = changed(cfg, schedule=(3, 6))
  registration.register(cfg, tmp_path)
  look = lambda n: registration.look(cfg, tmp_path, n)
  assert look(3) == look(6) == pytest.approx(0.975)
  assert look(4) == pytest.approx(1 - 0.05 / 3)  # was not declared


def test_a_look_without_a_registration_is_no_error(cfg, tmp_path):
  assert registration.look(cfg, tmp_path, 3) == pytest.approx(0.95)
  assert registration.read(tmp_path) is None


# --- Seeds ------------------------------------------------------------------


def test_pilot_seeds_and_those_that_confirm_are_disjoint(cfg):
  of = lambda **fields: set(common.seeds_of({**cfg, **fields}))
  most = common.PILOT_SEEDS
  assert of(seeds=3) == {0, 1, 2}
  assert not of(seeds=most) & of(seeds=most, pilot=True)
  for wrong in (0, most + 1):
    with pytest.raises(ValueError, match=f'seeds={wrong}'):
      of(seeds=wrong)


def test_runs_are_of_the_seeds_of_their_kind(cfg):
  runs = common.sweep({**cfg, 'pilot': True})
  assert {run['seed'] for run in runs} == {100, 101}


# --- The plan ---------------------------------------------------------------


def rows(gap, seeds=6, prompts=20):
  """Points of two arms whose gap at every budget is `gap` of a seed."""
  for seed in range(100, 100 + seeds):
    for arm, gain in (('online', gap(seed - 100)), ('offline', 0.0)):
      for step, kl in enumerate((0.0, 0.5, 4.0)):
        yield dict(
          arm=arm,
          config='a',
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
  cfg = changed(cfg, window=(1.0, 2.0), budgets=(0.5, 4.0))
  points = list(rows(lambda i: 0.3 + 0.01 * i))
  for p in points:
    if p['arm'] == 'online' and p['step'] == 1:
      p['gold_by_prompt'] = [-x for x in p['gold_by_prompt']]
  told = lambda points: [n for n in finding(cfg, points).notes if 'turns' in n]
  assert ['between 0.5 and 4 nats' in note for note in told(points)] == [True]
  assert told(list(rows(lambda i: 0.3 + 0.01 * i))) == []


def test_arms_that_never_meet_get_no_verdict(cfg):
  cfg = changed(cfg, window=(5.0, 6.0))
  far = finding(cfg, list(rows(lambda i: 0.3)))
  assert far.word == 'no verdict' and 'nothing to compare' in far.sentence
  cfg = changed(cfg, window=(3.0, 6.0))
  cut = finding(cfg, list(rows(lambda i: 0.3 + 0.01 * i)))
  assert any('cut from 3.00 to 6.00' in note for note in cut.notes)


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
