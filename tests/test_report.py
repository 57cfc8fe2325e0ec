"""The page: what it says of which data, and that it can be read."""

import csv
import html
import re

import made_points
import numpy as np
import pytest

from align_jax.compare.intervals import MISSING as NONE
from align_jax.compare.intervals import estimate
from align_jax.compare.report import MISSING, Page, show, typeset
from align_jax.lab import sweep
from configs import toy
from experiments import (
  common,
  equal_steps,
  matched,
  online_vs_offline,
  pages,
  provenance,
  registration,
  sections,
)
from experiments.suite import e14_semi_online

SEEDS = 8
BETTER = dict(offline=dict(quality=0.7), online=dict(quality=1.0))
# Better at every KL, and slower: worse after as many updates.
SLOWER = dict(
  offline=dict(quality=0.7, speed=1.0), online=dict(quality=1.0, speed=0.2)
)


def config(arms, **report):
  cfg = common.as_dict(toy.get_config())
  cfg['arms'] = {name: dict(sweep=({},)) for name in arms}
  cfg['arm']['kl_budget'] = 0.0
  known = dict(budgets=(0.25, 0.5, 1.0, 2.0, 9.0), window=(0.25, 0.5))
  cfg['report'].update(known | report)
  return cfg


def write(folder, points, cfg, drawn=False, registered=True, **fields):
  """Terminal output, and the page as its words.

  Args:
    drawn: with its figures, which take most of the time.
  """
  seeds = len({p['seed'] for p in points})
  folder.mkdir(parents=True, exist_ok=True)
  if registered:
    registration.register(cfg, folder)
  made_points.fill(folder, seeds, **fields)
  with pytest.MonkeyPatch.context() as patch:
    if not drawn:
      patch.setattr(Page, 'figure', captioned)
    shown = online_vs_offline.report(points, cfg, folder)
  return shown, words(folder)


def captioned(page, draw, path, alt, caption=''):
  page.text(caption)


def words(folder):
  page = (folder / 'report.html').read_text('utf-8')
  page = re.sub(r'<(style|svg).*?</\1>', ' ', page, flags=re.DOTALL)
  text = html.unescape(re.sub(r'<[^>]*>', ' ', page)).replace('−', '-')
  return re.sub(r'\s+', ' ', text)


def page_of(tmp_path, arms, seeds=SEEDS, drawn=False, **report):
  points = made_points.arms(seeds, **arms)
  return write(tmp_path, points, config(arms, **report), drawn)


# --- What it says -------------------------------------------------------------


@pytest.mark.parametrize(
  ('online', 'headline'),
  [
    (1.0, 'online is above offline'),
    (0.4, 'online is below offline'),
    (0.7, 'online against offline: undecided'),
  ],
)
def test_the_word_is_that_of_the_data(tmp_path, online, headline):
  arms = dict(offline=dict(quality=0.7), online=dict(quality=online))
  shown, page = page_of(tmp_path, arms, margin=0.0)
  assert headline in page
  [sentence] = re.findall(r'At equal KL from the reference.*\)\.', shown)
  assert sentence in page


def test_one_seed_gets_numbers_and_no_verdict(tmp_path):
  _, page = page_of(tmp_path, BETTER, seeds=1, drawn=True)
  assert 'online against offline: no verdict' in page
  assert 'nan' not in page


def test_arms_that_never_met_are_not_compared(tmp_path):
  arms = dict(offline=dict(quality=0.7, speed=0.02), online=dict(quality=1))
  _, page = page_of(tmp_path, arms, seeds=2, drawn=True)
  assert 'never at the same KL' in page and 'no verdict' in page
  assert 'There is nothing at equal KL to hold against it.' in page


def test_an_arm_without_points_is_named(tmp_path):
  _, page = page_of(tmp_path, dict(online=dict(quality=1.0)), drawn=True)
  assert "'offline' has no points" in page
  assert 'offline has no policy' in page


def test_unequal_numbers_of_configurations_are_refused_in_words(tmp_path):
  points = made_points.arms(3, **BETTER)
  for seed in range(3):
    points += made_points.run('online', seed, 1.0, config='other')
  _, page = write(tmp_path, points, config(BETTER))
  assert 'no verdict' in page and 'equally many' in page
  assert "No 'online - offline'" in page


def test_few_seeds_are_called_descriptive(tmp_path):
  _, few = page_of(tmp_path / 'few', BETTER, seeds=3)
  _, many = page_of(tmp_path / 'many', BETTER, seeds=6)
  assert 'Descriptive:' in few and 'Descriptive:' not in many


def test_a_held_arm_is_compared_at_its_one_budget(tmp_path):
  arms = {n: {**of, 'held': 2.0} for n, of in BETTER.items()}
  _, page = page_of(tmp_path, arms, window=(2.0, 2.0))
  assert 'Both arms are held at the budget' in page
  assert 'at 2 nats' in page and 'window was cut' not in page
  assert 'Dotted: the KL of the verdict' in page
  assert matched.MARKS['held'][0] in page


# --- Equal steps --------------------------------------------------------------


def test_equal_steps_may_say_the_opposite(tmp_path):
  shown, page = page_of(tmp_path, SLOWER)
  assert 'online is above offline' in page
  assert 'Equal KL says the opposite.' in page
  assert 'Equal KL says the opposite.' in shown


def test_equal_steps_of_arms_as_fast_say_the_same(tmp_path):
  _, page = page_of(tmp_path, BETTER)
  assert 'Equal KL says the same' in page


def test_equal_steps_may_add_to_a_difference(tmp_path):
  arms = dict(offline=BETTER['offline'], online=dict(quality=1, speed=2.0))
  _, page = page_of(tmp_path, arms)
  assert 'Equal KL has the same sign; the size' in page


def test_the_step_is_one_before_an_arm_is_held():
  """And of these the one at which the KLs differ most."""
  arms = dict(
    offline=dict(quality=0.7, speed=0.4, held=1.0),
    online=dict(quality=1.0, speed=1.0, held=1.0),
  )
  points = made_points.arms(3, **arms)
  comparison = pages.compare(points, config(arms), pages.gain(points))
  names = 'online', 'offline'
  steps = equal_steps.steps_of(comparison, *names)
  assert [s.number for s in steps] == list(made_points.STEPS[1:])
  step = equal_steps.chosen(comparison, names, steps)
  assert step.number == 8 and step.kls[0].value < 0.95
  free = {n: dict(of, held=0.0) for n, of in arms.items()}
  points = made_points.arms(3, **free)
  comparison = pages.compare(points, config(arms), pages.gain(points))
  steps = equal_steps.steps_of(comparison, *names)
  assert equal_steps.chosen(comparison, names, steps).number == 64


def test_a_sign_that_is_not_sure_is_called_so(tmp_path):
  alike = dict(offline=dict(quality=0.7), online=dict(quality=0.7))
  _, page = page_of(tmp_path, alike)
  assert 'Neither its sign nor that of equal KL is sure.' in page


def test_runs_that_share_no_step_have_nothing_to_say(tmp_path):
  arms = dict(
    offline=dict(quality=0.7, steps=(0, 3, 9, 70)), online=dict(quality=1.0)
  )
  _, page = page_of(tmp_path, arms)
  assert 'There is no comparison at equal steps' in page


# --- Sentences computed over seeds --------------------------------------------


def counted(proxies, policies, gaps):
  rows = {i: (p, 0.9, [q]) for i, (p, q) in enumerate(zip(proxies, policies))}
  return sections.accuracy_sentence(rows, gaps, ('online', 'offline'))


def test_the_sentence_on_ranking_counts_seeds():
  text = counted([0.7, 0.7, 0.5], [0.6, 0.6, 0.6], (0.1, -0.1, 0.1))
  assert text.startswith('In 2 of 3 seeds the proxy ranks')
  assert '1 of these 2 and in 1 of the 1 where it does not' in text
  text = counted([0.5, 0.5], [0.6, 0.6], (-0.1, -0.1))
  assert text.startswith('In 0 of 2 seeds')
  assert 'in 0 of the 2 where it does not' in text
  assert 'ahead' not in counted([0.7], [0.6], ())


def test_the_page_counts_them(tmp_path):
  proxies = [0.7, 0.7] + [0.5] * (SEEDS - 2)
  points = made_points.arms(SEEDS, **BETTER)
  _, page = write(tmp_path, points, config(BETTER), proxy=proxies)
  assert f'In 2 of {SEEDS} seeds the proxy ranks' in page
  assert '2 of these 2 and in 6 of the 6 where it does not' in page


def test_a_trajectory_is_the_mean_of_runs_as_far_as_all_go():
  runs = [
    [dict(step=s, gold=g) for s, g in [(0, 0.0), (10, 1.0), (20, 5.0)]],
    [dict(step=s, gold=g) for s, g in [(0, 0.0), (5, 1.0), (10, 3.0)]],
  ]
  steps, means = sections.trajectory(runs, 'gold')
  assert steps.tolist() == [0, 5, 10]
  np.testing.assert_allclose(means, [0, 0.75, 2.0])


# --- Tables -------------------------------------------------------------------


def cells(folder):
  page = (folder / 'report.html').read_text('utf-8')
  return [html.unescape(c) for c in re.findall(r'<td[^>]*>(.*?)</td>', page)]


def test_budgets_that_nobody_reached_are_left_out(tmp_path):
  shown, page = page_of(tmp_path, BETTER)
  assert '9' not in cells(tmp_path) and '2' in cells(tmp_path)
  assert '\n| 9 |' not in shown and '\n| 2 |' in shown
  assert 'no arm reached them: 9 nats' in page
  with (tmp_path / 'table.csv').open() as file:
    header, *rows = csv.reader(file)
  assert [row[0] for row in rows] == ['0.25', '0.5', '1', '2', '9']
  assert 'online: read' in header
  left = [row[header.index('online: share of KL to come')] for row in rows]
  assert [float(x) for x in left[:4]] == sorted(
    [float(x) for x in left[:4]], reverse=True
  )
  assert left[4] == ''


def test_every_mark_on_a_page_is_explained(tmp_path):
  arms = dict(
    offline=dict(quality=0.7, held=2.0), online=dict(quality=1.0, speed=0.55)
  )
  shown, page = page_of(tmp_path, arms, budgets=(0.25, 0.5, 1.4, 2.0))
  for kind in ('held', 'plateau', 'passage'):
    mark, text = matched.MARKS[kind]
    assert f'{mark} {text}' in page and f'{mark} {text}' in shown
  assert MISSING in cells(tmp_path)
  assert f'{MISSING} not every seed reached this KL' in page


def test_the_terminal_shows_valid_tables(tmp_path):
  cfg = config(BETTER)
  cfg['arms'] |= {n: dict(reweigh=n) for n in ('optimum', 'best_of_n')}
  shown, _ = write(tmp_path, with_references(), cfg)
  tables = re.findall(r'(?:^\|.*\|$\n?)+', shown, flags=re.MULTILINE)
  assert len(tables) == 2
  for table in tables:
    assert len({line.count('|') for line in table.splitlines()}) == 1


def with_references(seeds=3):
  points = made_points.arms(seeds, **BETTER)
  for seed in range(seeds):
    points += made_points.reweighed('optimum', seed, 2.0)
    points += made_points.reweighed('best_of_n', seed, 1.5)
  return points


def test_shares_are_of_the_optimum_at_the_same_kl(tmp_path):
  points, cfg = with_references(), config(BETTER)
  cfg['arms'] |= {n: dict(reweigh=n) for n in ('optimum', 'best_of_n')}
  _, page = write(tmp_path, points, cfg)
  assert 'Share of the attainable' in page
  comparison = pages.compare(points, cfg, pages.gain(points))
  share = comparison.table['online'][2].value / 2.0
  assert matched.share_of(comparison, 'online', 'optimum', 2) == f'{share:.0%}'
  assert matched.share_of(comparison, 'online', 'optimum', 4) == MISSING
  without = config(BETTER)
  _, page = page_of(tmp_path / 'without', BETTER)
  assert 'attainable' not in page and without['arms'].keys() == BETTER.keys()


def test_numbers_are_shown_as_they_are_known():
  two = estimate([[1.0, 1.0], [1.1, 1.1]], False)
  assert re.fullmatch(r'\+1\.05 \[\+0\.41, \+1\.69\]', show(two, sign=True))
  assert show(estimate([[1.0, 2.0]], True)) == '1.50'
  assert show(estimate([[-0.001]], True)) == '0.00'
  small = estimate([[0.0014, 0.0014], [0.0016, 0.0016]], False)
  assert show(small, digits=None) == '0.0015 [0.0002, 0.0028]'
  assert show(estimate([[0.0], [0.0]], True)) == '0.00 [0.00, 0.00]'
  assert show(NONE) == MISSING
  assert typeset('-1 [-2, +3] a-1 <') == '−1 [−2, +3] a-1 &lt;'
  assert typeset('a - b') == 'a − b'


# --- Samples, provenance ------------------------------------------------------


def test_samples_stand_side_by_side_with_their_reward(tmp_path):
  _, page = page_of(tmp_path, BETTER)
  points = made_points.arms(1, **BETTER)
  at = lambda arm: min(
    (p for p in points if p['arm'] == arm),
    key=lambda p: abs(p['kl_seq_nats'] - 0.375),
  )
  for p in (at('offline'), at('online')):
    said = p['shown'][0]['completion']
    gold = p['gold_samples'][0][0]
    assert f'gold {gold:+.2f} {said}' in page
  assert 'prompt 0' in page and 'reference ·' in page


def test_a_policy_that_was_held_is_shown_as_it_ended():
  """Though it was nearer to the budget before."""
  points = list(made_points.run('online', 0, 1.0, held=2.0))
  points[-1]['kl_seq_nats'] = 2.05
  assert sections.policy_at(points, 2.0)['step'] == 64
  assert sections.policy_at(points, 1.0)['step'] == 8


def test_links_lead_to_files_beside_the_page(tmp_path):
  cfg = config(BETTER)
  registration.register(cfg, tmp_path)
  write(tmp_path, made_points.arms(3, **BETTER), cfg)
  page = (tmp_path / 'report.html').read_text('utf-8')
  links = [x for x in re.findall(r'href="([^"]*)"', page) if x[0] != '#']
  assert set(links) == {'table.csv', 'points.jsonl', registration.NAME}
  assert all((tmp_path / link).exists() for link in links)
  assert 'src=' not in page and 'url(http' not in page


def test_a_page_says_what_was_registered(tmp_path):
  cfg, points = config(BETTER), made_points.arms(6, **BETTER)
  _, page = write(tmp_path / 'no', points, cfg, registered=False)
  assert 'Not registered' in page and 'no verdict' in page
  folder = tmp_path / 'yes'
  cfg['seeds'] = 6
  _, page = write(folder, points, cfg)
  assert re.search(r'Registered 20.* at commit \S+; unchanged\.', page)
  cfg['report']['margin'] = 0.5
  _, page = write(folder, points, cfg)
  assert 'changed since: margin: ' in page
  assert 'Read 1 more time than was declared, at 6 seeds' in page
  assert 'chance of a false claim is at most 7.50%' in page


def test_the_page_says_how_it_was_made(tmp_path):
  points = made_points.arms(3, **BETTER)
  _, page = write(tmp_path, points, config(BETTER), command='python -m this')
  assert 'python -m this' in page and registration.commit() in page
  assert re.search(r'Written 20\d\d-\d\d-\d\d', page)


def test_the_config_on_a_page_is_what_its_runs_read():
  cfg = config({**BETTER, 'idle': None})
  points = made_points.arms(2, **BETTER)
  kept = provenance.used(cfg, sweep.sweep, points)
  assert not {'methods', 'families'} & kept.keys()
  assert {'task', 'model', 'report', 'seeds'} <= kept.keys()
  assert set(kept['arms']) == {'offline', 'online'}
  unread = {'judge', 'lora', 'teacher_of', 'critic', 'pool', 'kl_every'}
  assert not unread & kept['arm'].keys()
  assert kept['arm']['weight_decay'] == 0.0
  cfg['arms']['online'].update(labels='judge', kl_budget=1.0)
  kept = provenance.used(cfg, sweep.sweep, points)
  assert {'judge', 'kl_every'} <= kept['arm'].keys()


def test_an_experiment_that_makes_arms_of_one_keeps_that_one():
  cfg = config(BETTER)
  cfg['arms']['online']['steps'] = 64
  points = [
    point
    for run in e14_semi_online.runs(cfg)
    for point in made_points.run(
      run.arm, run.seed, 1.0, config=run.configuration
    )
  ]
  kept = provenance.used(cfg, e14_semi_online.runs, points)
  assert set(kept['arms']) == {'online'}


# --- The file ---------------------------------------------------------------


def test_figures_take_their_colours_from_the_page(tmp_path):
  page_of(tmp_path, {**BETTER, 'ref+proxy': dict(quality=0.8)}, 2, drawn=True)
  page = (tmp_path / 'report.html').read_text('utf-8')
  drawn = re.findall(r'<svg.*?</svg>', page, flags=re.DOTALL)
  assert len(drawn) == 2 * 4  # for a desk and for a phone
  for svg in drawn:
    assert not re.search(r'#[0-9a-f]{6}', svg) and 'var(--ink)' in svg
  assert 'prefers-color-scheme: dark' in page
  ids = re.findall(r' id="([^"]*)"', page)
  assert len(ids) == len(set(ids))
  for name in ('gold_vs_kl', 'effects', 'training', 'gold_vs_proxy'):
    assert (tmp_path / 'figures' / f'{name}.png').stat().st_size > 1000


def test_wide_tables_scroll_in_a_box(tmp_path):
  page = Page('title & more')
  page.table(['a', 'b'], [['1', MISSING]], breaks=[0])
  page.write(tmp_path / 'page.html')
  text = (tmp_path / 'page.html').read_text('utf-8')
  assert '<div class="scroll"><table>' in text and '<tr class="break">' in text
  assert '<title>title &amp; more</title>' in text
  assert f'<td class="missing">{MISSING}</td>' in text
