"""The rule of a claim, and that every study can say each of its words."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from align_jax.compare.lines import WIDE
from align_jax.compare.report import Page, typeset
from configs import toy
from experiments import claims, common, registration
from experiments.claims import Claim, Evidence, Exact, rule
from experiments.suite import studies
from tests import made_points, online_points, recent_points, suite_points

suite_points.MADE |= online_points.MADE | recent_points.MADE
STUDIES = studies()
CFG = toy.get_config().to_dict()


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


def test_a_correlation_of_what_is_constant_is_none():
  x, y = [1.0, 2.0, 4.0], [3.0, 1.0, 0.0]
  np.testing.assert_allclose(claims.correlation(x, y), np.corrcoef(x, y)[0, 1])
  assert np.isnan(claims.correlation(x, [1.0, 1.0, 1.0]))


def test_an_arm_that_a_study_needs_is_named():
  arms = {name: x for name, x in CFG['arms'].items() if name != 'shuffled'}
  with pytest.raises(ValueError, match='arms.shuffled: no such arm'):
    STUDIES['E2'].runs({**CFG, 'arms': arms})


CLAIMS = [
  pytest.param(study, claim, id=f'{study.key}-{claim.name}')
  for study in STUDIES.values()
  for claim in study.claims
]


@pytest.mark.parametrize('study, claim', CLAIMS)
def test_a_claim_can_get_each_word(study, claim, tmp_path):
  words = {
    rule(claim, Evidence(points, study.config(CFG), tmp_path)).word
    for points in suite_points.made(study, claim, tmp_path)
  }
  assert words >= suite_points.wanted(claim)


@pytest.mark.parametrize('study', STUDIES.values(), ids=lambda s: s.key)
def test_a_study_runs_on_the_toy(study):
  common.check(study.config(CFG), study.runs(CFG))


@pytest.mark.parametrize('study', STUDIES.values(), ids=lambda s: s.key)
def test_a_study_reports_on_all_its_runs(study, tmp_path, monkeypatch):
  def drawn_once(page, draw, *told):
    plt.close(draw(WIDE))

  monkeypatch.setattr(Page, 'figure', drawn_once)
  cfg = {**CFG, 'seeds': 2}
  points = []
  for number, run in enumerate(study.runs(cfg)):
    own = dict(config=run.configuration, held=run.kl.nats)
    quality = 1 + 0.01 * number
    for point in made_points.run(run.label, run.seed, quality, **own):
      point = recent_points.with_metrics(point)
      points.append({**point, 'implicit_accuracy': 0.5 * quality})
  told = study.report(points, cfg, made_points.fill(tmp_path, 2))
  assert not any(line.startswith('NO VERDICT') for line in told.splitlines())
  assert len(told.splitlines()) == len(study.claims)
  page = (tmp_path / 'report.html').read_text()
  assert all(typeset(claim.says) in page for claim in study.claims)


@pytest.mark.parametrize('study', STUDIES.values(), ids=lambda s: s.key)
def test_a_study_registers_its_own_code(study):
  assert any('suite' in name for name in study.rules)
  assert all((registration.ROOT / name).exists() for name in study.rules)
  names = [claim.name for claim in study.claims]
  assert len(set(names)) == len(names)
