"""Metrics of completions and further evaluation sets, from sample to page."""

import itertools

import jax
import made_points
import numpy as np
import pytest

from align_jax.files import read_jsonl
from align_jax.lab import checks, sweep
from align_jax.learn import metrics, probe
from align_jax.learn.forgetting import FORGETTING
from align_jax.learn.metrics import METRICS, Samples
from align_jax.policy.programs import entropies
from align_jax.types import Batch
from configs import base, toy
from experiments import common, measures, online_vs_offline, pages
from experiments.pages import metric

# Two prompts, two completions each: (3 3 5), (5) and (1 2 1 2), (1 2).
TOKENS = [[3, 3, 5, 0], [5, 0, 0, 0], [1, 2, 1, 2], [1, 2, 0, 0]]
LENGTHS = [3, 1, 4, 2]


def unread(*_):
  pytest.fail('read without need')


def made(tokens=TOKENS, lengths=LENGTHS, texts=unread, entropies=unread):
  tokens, empty = np.array(tokens), np.zeros((2, 1), int)
  valid = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
  batch = Batch(empty, empty == 0, tokens, valid, valid, None, group_size=2)
  return Samples(batch, 10, None, texts, entropies)


BY_HAND = {
  'length': [2, 3],
  'repeats': [1 / 2, 2 / 2],
  'distinct_1': [2 / 4, 2 / 6],
  'distinct_2': [2 / 4, 2 / 6],  # (33, 35) and (12, 21)
  'entropy': [(0.1 + 0.2 + 0.3 + 1) / 4, (0.5 * 4 + 2) / 6],
}
ENTROPIES = np.array(
  [[0.1, 0.2, 0.3, 0], [1, 0, 0, 0], [0.5] * 4, [1, 1, 0, 0]]
)


@pytest.mark.parametrize('name', BY_HAND)
def test_equals_what_is_counted_by_hand(name):
  got = METRICS[name](made(entropies=lambda: ENTROPIES))
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, BY_HAND[name])


@pytest.mark.parametrize('name', METRICS)
def test_padding_is_not_read(name):
  other = np.where(np.arange(4) < np.array(LENGTHS)[:, None], TOKENS, 9)
  got = METRICS[name](made(other, entropies=lambda: ENTROPIES))
  want = METRICS[name](made(entropies=lambda: ENTROPIES))
  np.testing.assert_array_equal(got, want)


def test_one_completion_has_no_diversity_within_a_prompt():
  names = (*METRICS, *FORGETTING)
  assert metrics.chosen(names, 2) == [METRICS, FORGETTING]
  found, _ = metrics.chosen(names, 1)
  assert set(METRICS) - set(found) == metrics.SEVERAL and 'repeats' in found
  cfg = common.as_dict(toy.get_config())
  cfg['eval'].update(samples=1, metrics=names)
  told = checks.notes(sweep.sweep(cfg)[0])[-1]
  assert 'eval.samples=1' in told and 'self_bleu' in told


def test_entropy_is_that_of_every_next_token(
  config, params, batch, token_logps
):
  got = np.asarray(entropies(config)(params, batch))
  assert (got[~np.asarray(batch.valid)] == 0).all()
  for t in (0, 2):
    logps = []
    for token in range(config.vocab_size):
      tokens = batch.completions.at[:, t].set(token)
      other = batch.replace(completions=tokens)
      logps.append(np.asarray(token_logps(params, other, 1.0))[:, t])
    logps = np.array(logps, float)
    there = np.asarray(batch.valid[:, t])
    want = -(np.exp(logps) * logps).sum(0)
    np.testing.assert_allclose(got[there, t], want[there], rtol=1e-4)


def test_an_unknown_metric_is_refused_with_those_there_are():
  with pytest.raises(ValueError, match="'perplexity' is none of .*'self_bleu'"):
    metrics.chosen(('length', 'perplexity'), 2)
  cfg = common.as_dict(toy.get_config())
  cfg['eval']['metrics'] = ('lenght',)
  with pytest.raises(ValueError, match=r"eval\.metrics=\('lenght',\)"):
    common.check(cfg, sweep.sweep(cfg))


# --- Points -------------------------------------------------------------------


def even_texts(samples):
  """Completions whose text has an even number of characters."""
  even = [len(text) % 2 == 0 for text in samples.texts[1]]
  return samples.by_prompt(even).mean(1)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Points of one run with all metrics, a planted one, and a further set."""
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.task.update(prompts=24, eval_prompts=8)
  c.eval.metrics = (*METRICS, 'even_texts', *FORGETTING)
  c.eval.sets = ('train', 'ood')
  path = tmp_path_factory.mktemp('metrics')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(METRICS, 'even_texts', even_texts)
    common.experiment(
      online_vs_offline.runs,
      online_vs_offline.report,
      common.as_dict(c),
      path,
      only=['offline'],
    )
  return read_jsonl(path / 'points.jsonl'), (path / 'report.html').read_text()


def test_a_planted_metric_is_in_points_and_on_the_page(trained):
  points, page = trained
  for p in points:
    vector = p['even_texts_by_prompt']
    assert len(vector) == 8 and np.isclose(np.mean(vector), p['even_texts'])
  assert '<td class="text">distinct_2</td>' in page
  assert 'even number of characters' in page


def test_a_set_has_what_the_held_out_prompts_have(trained):
  points, page = trained
  for p, name in itertools.product(points, ('train', 'ood')):
    other = p['sets'][name]
    pairs = 'implicit_accuracy chosen_log_ratio rejected_log_ratio'.split()
    own = {'arm', 'configuration', 'seed', 'step', 'sets', 'shown', *pairs}
    own |= {f'{x}{end}' for x in FORGETTING for end in ('', '_by_prompt')}
    assert set(p) - set(other) - own == {'kl_mode', 'kl_budget'}
    assert other['gold_by_prompt'] != p['gold_by_prompt']
  assert 'Gold reward on other prompts' in page


def test_what_is_forgotten_is_in_points_and_on_the_page(trained):
  points, page = trained
  first, last = points[0], points[-1]
  assert first['step'] == 0 and abs(first['forward_kl']) < 1e-6
  assert last['forward_kl'] > 1e-4 and len(last['forward_kl_by_prompt']) == 8
  assert abs(first['demonstration_logp']) < 1e-6
  assert last['demonstration_logp'] != first['demonstration_logp']
  assert 'KL(reference || policy)' in page


def test_a_set_has_its_own_samples_whatever_is_beside_it():
  key = jax.random.key(0)
  data = lambda key: jax.random.key_data(key).tolist()
  keys = [data(key), *(data(probe.key_of(key, n)) for n in ('a', 'b'))]
  assert len(set(map(tuple, keys))) == 3


# --- Comparisons --------------------------------------------------------------

LONG = dict(offline=dict(quality=0.7), online=dict(quality=1.0))


def config(arms):
  cfg = common.as_dict(toy.get_config())
  cfg['arms'] = {name: dict(sweep=({},)) for name in arms}
  cfg['report'].update(
    budgets=(0.25, 0.5, 1.0, 2.0), window=(0.25, 0.5), shown=(0.5, 1.0)
  )
  return cfg


def with_metric(points, of, name='length'):
  """The points with a metric that is `of` their KL, alike for all prompts."""
  lengths = ([of(p)] * made_points.PROMPTS for p in points)
  return [{**p, f'{name}_by_prompt': x} for p, x in zip(points, lengths)]


def root(point):
  return point['kl_seq_nats'] ** 0.5


def test_a_metric_is_read_at_equal_kl_as_gold_is():
  points = with_metric(made_points.arms(4, **LONG), lambda p: 3 * root(p))
  compared = pages.compare(points, config(LONG), metric('length'))
  got = [e.value for e in compared.table['online']]
  np.testing.assert_allclose(got, [1.5, 4.5**0.5, 3, 18**0.5])


def test_the_configuration_is_the_one_that_gold_prefers():
  points = []
  for config_name, quality, size in (('good', 1.0, 3), ('bad', 0.2, 9)):
    mine = list(made_points.run('online', 0, quality, config=config_name))
    points += with_metric(mine, lambda p, size=size: size)
  compared = pages.compare(points, config(['online']), metric('length'))
  assert {e.value for e in compared.table['online']} == {3}
  assert {e.value for e in compared.peaks()['online'][:1]} == {3}


def test_what_has_no_samples_has_no_metric():
  points = with_metric(made_points.arms(2, **LONG), root)
  points += [p for s in (0, 1) for p in made_points.reweighed('optimum', s, 1)]
  compared = pages.compare(points, config(LONG), metric('length'))
  assert not any(compared.table['optimum'])
  assert all(compared.table['online'])


def test_a_metric_that_was_not_measured_is_named():
  points = made_points.arms(2, **LONG)
  with pytest.raises(ValueError, match="expected 'entropy' in eval.metrics"):
    pages.compare(points, config(LONG), metric('entropy'))


def table(of, points):
  cfg, pair = config(LONG), ('online', 'offline')
  return of(points, cfg, [0.5, 1.0], list(LONG), pair)


def test_a_table_of_the_metrics_that_vary():
  points = with_metric(made_points.arms(3, **LONG), root)
  points = with_metric(points, lambda p: 8, 'repeats')
  found = table(measures.of_metrics, points)
  assert found.header[2:] == ['reference', *LONG, 'online - offline']
  assert [row[:2] for row in found.rows] == [['length', '0.5'], ['length', '1']]
  assert all(row[2].startswith('0.00') for row in found.rows)  # at no KL
  assert found.last == found.rows[1:]
  assert 'Left out' in found.note and 'repeats' in found.note
  assert not table(measures.of_metrics, made_points.arms(3, **LONG))


def test_what_some_points_lack_is_named():
  points = made_points.arms(3, **LONG)
  some = with_metric(points[:-1], root) + points[-1:]
  some = with_metric(some, root, 'repeats')
  found = table(measures.of_metrics, some)
  assert {row[0] for row in found.rows} == {'repeats'}
  assert 'some points lack it: length.' in found.note


def with_set(points, name, gold, prompts):
  """The points with a set on which they have that gold, and twice their KL."""
  rows = lambda x: [x] * prompts
  return [
    p
    | {
      'sets': {
        name: {
          'gold_by_prompt': rows(gold(p)),
          'kl_by_prompt': rows(2 * p['kl_seq_nats']),
        }
      }
    }
    for p in points
  ]


def test_policies_at_equal_kl_are_read_on_other_prompts():
  points = made_points.arms(3, **LONG)
  assert not table(measures.of_sets, points)
  lost = lambda p: 5 - root(p)
  points = with_set(points, 'easy', lost, 7)
  _, header, parts, _ = table(measures.of_sets, points)
  rows = sum(parts, [])
  assert header[2:] == [*LONG, 'online - offline']
  value = {(row[0], row[1]): float(row[2].split()[0]) for row in rows}
  np.testing.assert_allclose(value['easy', '1'], -1, atol=0.011)
  np.testing.assert_allclose(value['easy: KL', '1'], 2, atol=0.1)
  assert value['held out', '1'] > 0


def test_other_prompts_may_be_of_another_number():
  """A configuration is chosen on the held-out prompts, and scored on others."""
  points = []
  for config_name, quality in (('good', 1.0), ('bad', 0.2)):
    mine = list(made_points.run('online', 0, quality, config=config_name))
    points += with_set(mine, 'easy', lambda p, q=quality: -q, 7)
  values = measures.on_set('easy', 'gold')
  compared = pages.compare(points, config(['online']), values)
  assert {e.value for e in compared.table['online'] if e} == {-1}


def test_a_run_is_held_on_the_held_out_prompts():
  """So its budget is read at its last checkpoint, whatever its KL elsewhere."""
  mine = list(made_points.run('online', 0, 1.0, held=2.0))
  points = with_set(mine, 'easy', lambda p: p['step'], 7)
  values = measures.on_set('easy', 'gold')
  compared = pages.compare(points, config(['online']), values, [2.0])
  assert compared.table['online'][0].value == mine[-1]['step']
