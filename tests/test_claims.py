"""The rule of a claim, and that every study can say each of its words."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from align_jax.compare.lines import WIDE
from align_jax.compare.report import Page, typeset
from align_jax.files import write_record
from configs import (
  ahmadian_tldr,
  gao_tldr,
  gsm8k_llama3_2_1b,
  lanchantin_chat,
  pythia_1b_tldr,
  rafailov_tldr,
  sentiment,
  tajwar_alpacafarm,
  tang_tldr,
  toy,
  toy_learned_gold,
)
from experiments import claims, common, derived, registration
from experiments import study as study_module
from experiments.claims import Claim, Evidence, Exact, rule
from experiments.overoptimisation import Proxy
from experiments.suite import e01_online_offline as e01
from experiments.suite import e13_coverage as e13
from experiments.suite import studies
from tests import (
  limit_points,
  made_points,
  online_points,
  recent_points,
  size_points,
  suite_points,
)

for module in (limit_points, online_points, recent_points, size_points):
  suite_points.MADE |= module.MADE
STUDIES = studies()
CFG = toy.get_config().to_dict()
LEARNED = toy_learned_gold.get_config().to_dict()


def config_for(study):
  """The toy's config that a study can serve."""
  return LEARNED if study.key == 'E8+' else CFG


def of(values, **fields):
  """The word for a claim that measures these values."""
  claim = Claim('x', 'It is so.', 'a paper', 'x', lambda e: values, **fields)
  return rule(claim, Evidence([], CFG, None)).word


def by_seed(mean, deviation, seeds=8):
  return mean + deviation * np.linspace(-1, 1, seeds)


def test_the_words_of_a_claim():
  assert of(by_seed(0.5, 0.1)) == claims.REPRODUCED
  assert of(by_seed(-0.5, 0.1)) == claims.OPPOSITE
  assert of(by_seed(0.001, 0.01), margin=0.05) == claims.FAILED
  assert of(by_seed(0.1, 1.0)) == claims.UNDECIDED
  assert of(by_seed(0.5, 0.1, seeds=1)) == claims.NONE
  assert of([0.5, np.nan, 0.5]) == claims.NONE


def test_the_words_of_a_claim_of_no_difference():
  of_equal = lambda *args: of(by_seed(*args), equal=True, margin=0.05)
  assert of_equal(0.01, 0.01) == claims.REPRODUCED
  assert of_equal(0.5, 0.1) == of_equal(-0.5, 0.1) == claims.FAILED
  assert of_equal(0.06, 0.05) == claims.UNDECIDED


def test_an_exact_claim_has_no_exceptions():
  word = lambda **cases: (
    rule(
      Exact('x', 'Always.', 'a paper', 'x', lambda e: cases),
      Evidence([], CFG, None),
    ).word
  )
  assert word(a=0.0, b=-1.0) == claims.REPRODUCED
  assert word(a=0.0, b=1e-9) == word(a=np.nan) == claims.FAILED
  assert word(a=np.nan, b=-1.0) == word(b=-1.0, a=np.nan) == claims.FAILED
  assert word() == claims.NONE


def test_points_that_are_missing_are_named():
  claim = Claim('x', 'So.', 'a paper', 'x', claims.Gap('online', 'offline'))
  points = made_points.arms(2, online={'quality': 1.0})
  ruling = rule(claim, Evidence(points, CFG, None))
  assert ruling.word == claims.NONE
  assert ruling.why == "no points of 'offline'"


def test_a_jackknife_of_a_mean_is_the_values():
  values = np.array([1.0, 4.0, 2.0])
  found = claims.jackknife(lambda i: values[i].mean(), 3)
  np.testing.assert_allclose(found, values)
  one_seed = claims.jackknife(lambda i: np.concatenate([values[i]])[0], 1)
  assert one_seed == values[:1]


@pytest.mark.parametrize('constant', [0.0, 1.0, 0.7, 1 / 3])
def test_a_correlation_of_what_is_constant_is_none(constant):
  x, y = [1.0, 2.0, 4.0], [3.0, 1.0, 0.0]
  np.testing.assert_allclose(claims.correlation(x, y), np.corrcoef(x, y)[0, 1])
  for size in range(3, 12):
    same, other = [constant] * size, np.arange(size)
    assert np.isnan(claims.correlation(same, other))
    assert np.isnan(claims.correlation(other, same))


ARMS = {'a': 2.0, 'b': 1.0, 'c': 2.0, 'd': 1.0}  # gold per sqrt(nat)


def ruling_of(measure, window=(1.0, 3.0), points=None, **speeds):
  """Of runs that end at four nats, or at others where they are slower."""
  points = points or [
    p
    for arm, quality in ARMS.items()
    for seed in range(3)
    for p in made_points.run(
      arm, seed, quality, noise=0.0, speed=speeds.get(arm, 1.0), steps=STEPS
    )
  ]
  cfg = {**CFG, 'report': {**CFG['report'], 'window': window}}
  claim = Claim('x', 'It is so.', 'a paper', 'x', measure, equal=True)
  return rule(claim, Evidence(points, cfg, None))


STEPS = (0, *range(1, 100, 2), 10**6)  # many, so that lines are the curve


def test_gaps_of_a_sum_are_read_over_the_kls_that_all_of_them_passed():
  """Both are the square root of the KL, and one arm ends earlier."""
  parts = (1, claims.Gap('a', 'b')), (-1, claims.Gap('c', 'd'))
  whole = ruling_of(claims.Sum(parts))
  assert (whole.word, whole.why) == (claims.REPRODUCED, '')
  ended = ruling_of(claims.Sum(parts), d=0.4)
  assert ended.word == claims.REPRODUCED, ended
  assert abs(ended.estimate.value) < 0.01
  assert 'read over 1.00 to 1.51 nats instead of 1.00 to 3.00 nats' in ended.why


def test_a_window_that_was_cut_is_told():
  ruling = ruling_of(claims.Gap('a', 'b'), b=0.5)
  assert (
    ruling.why.startswith('read over 1.00 to 1.')
    and '1.00 to 3.00' in ruling.why
  )
  assert ruling.why in study_module.text_of(ruling)
  assert study_module.entry(ruling)['why'] == ruling.why


def test_numbers_that_a_policy_lacks_are_named():
  points = made_points.arms(2, online={'quality': 1.0})
  for p in points:
    del p['implicit_accuracy']
  evidence = Evidence(points, CFG, None)
  for measure in (evidence.of_policies, lambda x: evidence.last('online', x)):
    with pytest.raises(ValueError, match='online/.* has no implicit_accuracy'):
      measure('implicit_accuracy')


@pytest.mark.parametrize(
  ('power', 'peak'), [(-0.25, 0.0), (-1.0, 0.0), (0.25, 9.0), (1.0, 9.0)]
)
def test_the_peak_of_a_run_that_only_falls_is_the_reference(power, peak):
  kls = np.linspace(0, 9, 10)
  golds = np.sign(power) * kls ** abs(power)
  run = [{'kl_seq_nats': kl, 'gold': x} for kl, x in zip(kls, golds)]
  np.testing.assert_allclose(claims.peak_kl(run), peak, atol=0.1)


def test_the_best_policy_may_have_the_name_of_another():
  """Configurations of held and of free arms are called by their strengths."""
  points = []
  for arm, quality in {'online': 3.0, 'offline': 1.0}.items():
    for name, good in ((arm, quality), (e01.FREE[arm], 1.0)):
      points += made_points.run(name, 0, good, noise=0.0)
      points += made_points.run(name, 1, good, noise=0.0)
  gains = Evidence(points, CFG, None).gains
  best = [e01.best(gains.arms, arm).mean() for arm in ('online', 'offline')]
  assert best[0] > 2 * best[1]


def test_an_arm_that_a_study_needs_is_named():
  arms = {name: x for name, x in CFG['arms'].items() if name != 'shuffled'}
  with pytest.raises(ValueError, match='arms.shuffled: no such arm'):
    STUDIES['E2'].runs({**CFG, 'arms': arms})


def listed(of_points):
  """Claims that points decide, or those that none do."""
  return [
    pytest.param(study, claim, id=f'{study.key}-{claim.name}')
    for study in STUDIES.values()
    for claim in study.claims
    if ((study.key, claim.name) in limit_points.OTHERWISE) != of_points
  ]


@pytest.mark.parametrize('study, claim', listed(of_points=True))
def test_a_claim_can_get_each_word(study, claim, tmp_path):
  cfg = study.config(config_for(study))
  words = {
    rule(claim, Evidence(points, cfg, tmp_path)).word
    for points in suite_points.made(study, claim, tmp_path)
  }
  assert words >= suite_points.wanted(claim)


@pytest.mark.parametrize('study, claim', listed(of_points=False))
def test_a_claim_of_exact_numbers_can_fail(study, claim, tmp_path):
  evidence = Evidence([], study.config(CFG), tmp_path)
  measure = limit_points.OTHERWISE[study.key, claim.name]
  otherwise = dataclasses.replace(claim, measure=measure)
  words = {rule(x, evidence).word for x in (claim, otherwise)}
  assert words == suite_points.wanted(claim)


@pytest.mark.parametrize('study', STUDIES.values(), ids=lambda s: s.key)
def test_a_study_runs_on_the_toy(study):
  cfg = config_for(study)
  common.check(study.config(cfg), study.runs(cfg))


def test_parts_of_a_gold_judge_need_one():
  with pytest.raises(ValueError, match='task.judge_model: expected a learned'):
    STUDIES['E8+'].runs(CFG)


@pytest.mark.parametrize('key', ['E1', 'E3', 'E5', 'E8', 'E8+', 'E11'])
def test_a_study_runs_on_texts(key):
  cfg = {**sentiment.get_config().to_dict(), 'seeds': 2}
  runs = STUDIES[key].runs(cfg)
  common.check(cfg, runs)
  if key in ('E8', 'E8+', 'E11'):  # which have dozens of runs on the toy
    toys = {**config_for(STUDIES[key]), 'seeds': 2}
    assert len(runs) < len(STUDIES[key].runs(toys))
  # Every proxy that a claim reads is trained.
  own = STUDIES[key].config(cfg)
  fields = [vars(claim.measure).values() for claim in STUDIES[key].claims]
  read = {x for own in fields for x in own if isinstance(x, Proxy)}
  assert {proxy.name(own) for proxy in read} <= {run.variant for run in runs}


def runs_of(key, cfg):
  return STUDIES[key].runs(cfg)


OF_PAPERS = [
  *((tang_tldr, f'E{number}') for number in range(1, 7)),
  (pythia_1b_tldr, 'E1-'),
  (rafailov_tldr, 'E11'),
  *((gao_tldr, key) for key in ('E7', 'E8', 'E8+', 'E10')),
  (lanchantin_chat, 'E14'),
  (tajwar_alpacafarm, 'E12'),
  *((gsm8k_llama3_2_1b, key) for key in ('E18', 'E19', 'E20')),
  *((ahmadian_tldr, key) for key in ('E16', 'E17')),
]


@pytest.mark.parametrize('module, key', OF_PAPERS)
def test_a_study_is_accepted_at_the_size_of_its_paper(module, key):
  cfg = module.get_config().to_dict()
  runs = STUDIES[key].runs(cfg)
  common.check(STUDIES[key].config(cfg), runs)
  assert all(run.shared.model['checkpoint'] for run in runs)


def test_checkpoints_learn_at_the_rates_of_their_config():
  """Those of the toy, 50 times as large, are for what starts from scratch."""
  cfg = gao_tldr.get_config().to_dict()
  for key in ('E1-', 'E8', 'E8+'):
    proxies = {repr(r.shared.proxy): r.shared.proxy for r in runs_of(key, cfg)}
    rates = {
      p.optimizer.learning_rate for p in proxies.values() if p.verifier != 'bow'
    }
    assert rates == {1e-5}
    assert all(
      bool(p.model) == (p.verifier == 'sized') for p in proxies.values()
    )
  assert {
    r.loss.kwargs['beta']
    for r in runs_of('E14', lanchantin_chat.get_config().to_dict())
  } == {0.1}


def test_where_the_best_completions_are_may_be_of_the_config():
  cfg = tajwar_alpacafarm.get_config().to_dict()
  runs = runs_of('E12', cfg)
  targets = {r.variant: r.shared.task['judge']['target'] for r in runs}
  assert targets == {'off': 0, 'on': 200}
  with pytest.raises(ValueError, match="'on' and 'off' are no variants"):
    runs_of('E12', {**cfg, 'variants': {}})


def test_forgetting_on_texts_has_a_second_task():
  runs = runs_of('E18', gsm8k_llama3_2_1b.get_config().to_dict())
  assert {r.shared.task['old_prompts'] for r in runs} == {256}
  assert {r.shared.eval.sets for r in runs} == {('old',)}


def test_variants_of_a_config_are_no_part_of_a_study_without():
  cfg = gao_tldr.get_config().to_dict()
  assert {run.variant for run in runs_of('E10', cfg)} == {''}


@pytest.mark.parametrize('key', ['E1', 'E3', 'E8'])
def test_a_caveat_is_of_the_task(key):
  caveat = STUDIES[key].caveat
  texts = sentiment.get_config().to_dict()
  assert 'a bag of words' in caveat(CFG)
  assert not any('bag of words' in caveat(cfg) for cfg in (LEARNED, texts))


SMALL = (
  'few pairs',
  'small width',
  'tokens and',
  'does not see repeats',
  'a fifth',
)


@pytest.mark.parametrize('study', STUDIES.values(), ids=lambda s: s.key)
def test_a_caveat_is_of_the_size_of_the_task(study):
  """No page of a paper's size is excused by what is small in the toy."""
  for module, key in OF_PAPERS:
    if key == study.key:
      cfg = study.config(module.get_config().to_dict())
      told = study.caveat_of(cfg)
      assert not [x for x in SMALL if x in told], (module.__name__, told)


def test_reviews_are_not_said_to_repeat():
  texts = sentiment.get_config().to_dict()
  for key in ('E1', 'E11'):
    told = [STUDIES[key].caveat(STUDIES[key].config(x)) for x in (CFG, texts)]
    assert 'times' in told[0] and 'times' not in told[1]
  assert 'They have 3 of the betas' in told[1]
  assert 'n = 128' in STUDIES['E8'].caveat(STUDIES['E8'].config(texts))
  assert 'Best-of-n ends' not in STUDIES['E8'].caveat(CFG)


def test_arms_without_a_budget_are_as_a_paper_has_them():
  """Checkpoints keep their strengths and updates, small models do not."""
  cfg = tang_tldr.get_config().to_dict()
  runs = {(r.label, r.configuration): r for r in runs_of('E1', cfg)}
  free = runs['offline, no budget', 'lr1e-05-beta0.5']
  assert free.kl.nats == 0 and free.schedule.steps == 20000
  weak = {r.loss.kwargs['beta'] for r in runs_of('E1', CFG) if not r.kl.nats}
  np.testing.assert_allclose(sorted(weak), [0.01, 0.02])


def test_one_strength_of_a_paper_is_that_of_its_baseline():
  cfg = tang_tldr.get_config().to_dict()
  for key in ('E2', 'E4', 'E6'):
    rates = {r.optimizer.learning_rate for r in runs_of(key, cfg)}
    assert 1e-5 in rates and (key == 'E4' or rates == {1e-5}), (key, rates)


def test_the_size_of_proxies_has_the_caveat_of_its_task():
  caveat = STUDIES['E8+'].caveat
  assert 'eight tokens' in caveat(LEARNED)
  assert 'eight tokens' not in caveat(gao_tldr.get_config().to_dict())


def test_arms_that_claims_compare_have_to_be_there():
  arms = {name: CFG['arms'][name] for name in ('online', 'offline', 'ref+gold')}
  with pytest.raises(
    ValueError, match='expected online.gold, ref.proxy, which claims'
  ):
    runs_of('E3', {**CFG, 'arms': arms})


def test_a_strength_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match='expected 3 strengths or more'):
    derived.single({'sweep': ({}, {})}, 2)


def test_all_betas_of_a_paper_are_there_at_its_size():
  runs = runs_of('E11', rafailov_tldr.get_config().to_dict())
  strengths = {(run.variant, run.arm, run.configuration) for run in runs}
  assert len(strengths) == 2 * 3 * 7
  assert {run.source.name for run in runs} == {'file_pairs'}
  assert len({run.shared.model['checkpoint'] for run in runs}) == 2


def points_of(run, quality):
  """Made points of a run, with what studies read beside gold and KL."""
  if run.pool.how:
    rng = np.random.default_rng(run.seed)
    made = list(made_points.reweighed(run.label, run.seed, quality))
    for point in made:
      gold = point['gold_by_prompt'] + 0.05 * rng.normal(
        size=made_points.PROMPTS
      )
      point['gold_by_prompt'] = gold.tolist()
    return made
  own = dict(config=run.configuration, held=run.kl.nats, speed=quality)
  more = {
    'implicit_accuracy': 0.5 * quality,
    'uncovered': 0.1 * quality,
  }
  made = made_points.run(run.label, run.seed, quality, **own)
  return [recent_points.with_metrics({**point, **more}) for point in made]


REPORTED = [
  *(
    pytest.param(study, config_for(study), id=study.key)
    for study in STUDIES.values()
    if study.trains
  ),
  *(
    pytest.param(
      STUDIES[key], module.get_config().to_dict(), id=f'{key}, whole'
    )
    for module, key in OF_PAPERS
  ),
]


@pytest.mark.parametrize('study, cfg', REPORTED)
def test_a_study_reports_on_all_its_runs(study, cfg, tmp_path, monkeypatch):
  def drawn_once(page, draw, *told):
    plt.close(draw(WIDE))

  monkeypatch.setattr(Page, 'figure', drawn_once)
  # What is computed without points has tests of its own.
  decided = tuple(c for c in study.claims if isinstance(c, claims.Claim))
  study = dataclasses.replace(study, claims=decided)
  write_record(tmp_path / e13.TABLES, {x: [1.0, 2.0] for x in e13.METHODS})
  shown = {name: CFG['report'][name] for name in ('budgets', 'window')}
  cfg = {**cfg, 'seeds': 2, 'report': {**cfg['report'], **shown}}
  points = []
  for number, run in enumerate(study.runs(cfg)):
    points += points_of(run, 1 + 0.01 * number)
  told = study.report(points, cfg, made_points.fill(tmp_path, 2))
  none = [x for x in told.splitlines() if x.startswith('NO VERDICT')]
  assert all('how many pairs a file has' in line for line in none)
  assert len(told.splitlines()) == len(study.claims)
  page = (tmp_path / 'report.html').read_text()
  assert all(typeset(claim.says) in page for claim in study.claims)
  # A win that cost all diversity is seen.
  compared = study.frontier or study_module.add_measures in study.sections
  assert ('Other metrics at equal KL' in page) == compared


@pytest.mark.parametrize('study', STUDIES.values(), ids=lambda s: s.key)
def test_a_study_registers_its_own_code(study):
  assert any('suite' in name for name in study.rules)
  assert all((registration.ROOT / name).exists() for name in study.rules)
  names = [claim.name for claim in study.claims]
  assert len(set(names)) == len(names)
