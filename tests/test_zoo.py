"""Every kind of method at a size of seconds, and the page that ranks them."""

import csv
import dataclasses
import types

import jax
import made_points
import numpy as np
import pytest
from runs import run_of, setup_of, stage_of, start_of, train_arm, train_together

from align_jax import losses
from align_jax.compare.report import MISSING
from align_jax.files import read_jsonl
from align_jax.lab import arms, labels, proxies, stage_checks
from align_jax.learn import checkpoint, train
from align_jax.losses import LOSSES, preference, reference_free
from align_jax.losses.kl import BIASED
from align_jax.policy import sampling
from align_jax.policy.programs import policy_programs, scorer
from configs import arithmetic, base, methods, toy
from experiments import common, method_zoo, pages, ranking

# One of each way to sample, to look at a group, and to be given more than
# log-probs; every loss by itself is held by the law suite.
KINDS = (
  'ppo-shared',
  'rloo',
  'rloo-exact',
  'reinforce_ema',
  'kto',
  'hypo',
  'dpo-mixed',
  'iterative_dpo-warm',
  'nash_md',
  'xpo',
  'ipo_md',
  'forward_kl',
  'best_of_n',
  'optimum',
)
LAYERS = dict(num_layers=1, dim=16, num_heads=2, num_kv_heads=1, head_dim=8)


@pytest.fixture(scope='module')
def cfg():
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.model.update(mlp_dim=16, **LAYERS)
  c.report.shown = (0.01,)
  c.methods = methods.zoo(**c.arm.to_dict())  # as `smoke` made it
  cfg = common.as_dict(c)
  known = common.as_dict(toy.get_config())['methods']
  for name, arm in known.items():
    steps = {k: c.arm[k] for k in ('steps', 'save_every')}
    own = dict(pool=64) if arm.get('reweigh') else steps
    cfg['methods'][name] = {**arm, **own, 'batch_size': 4}
  cfg['methods'] = {name: cfg['methods'][name] for name in KINDS}
  for arm in cfg['methods'].values():
    arm['sweep'] = arm.get('sweep', ({},))[-1:]
  teacher = method_zoo.runs(
    {**cfg, 'methods': {'rloo': cfg['methods']['rloo']}}
  )[0]
  cfg['methods']['forward_kl']['teacher_of'] = teacher.name
  return cfg


@pytest.fixture(scope='module')
def workdir(cfg, tmp_path_factory):
  path = tmp_path_factory.mktemp('zoo')
  common.experiment(method_zoo.runs, method_zoo.report, cfg, path)
  return path


def points(workdir):
  return read_jsonl(workdir / 'points.jsonl')


def test_every_kind_of_method_runs_and_moves(workdir):
  last = {}
  for p in points(workdir):
    assert np.isfinite([p['kl_seq_nats'], p['gold'], p['proxy']]).all()
    last[p['arm']] = p
  assert set(last) == set(KINDS)
  assert all(p['kl_seq_nats'] > 0 for p in last.values())


def test_the_page_ranks_them_between_the_lines(workdir, cfg):
  with (workdir / 'table.csv').open() as file:
    header, *rows = csv.reader(file)
  names = [row[0] for row in rows]
  assert names[:2] == ['(best_of_n)', '(optimum)']
  assert sorted(names[2:]) == sorted(set(KINDS) - {'best_of_n', 'optimum'})
  page = (workdir / 'report.html').read_text()
  assert page.count('role="img"') == 2 * 2  # for a desk and for a phone
  assert 'One seed says nothing of others' in page
  assert 'read off between checkpoints' in page
  assert 'log n − (n − 1) / n' in page


def test_the_bound_stands_beside_best_of_n(workdir):
  rows = [p for p in points(workdir) if p['arm'] == 'best_of_n']
  assert [p['n'] for p in rows] == [1, 2, 4, 8, 16]
  for p in rows:
    assert p['kl_seq_nats'] <= p['kl_bound_nats'] + 1e-9


def test_a_held_run_is_compared_at_its_budget():
  """By its last checkpoint, if that is near enough, and says so."""
  point = lambda step, kl, gold, arm: dict(
    arm=arm,
    configuration='c',
    seed=0,
    step=step,
    kl_by_prompt=[kl] * 4,
    gold_by_prompt=[gold] * 4,
    gold_samples=[[gold]] * 4,
    kl_budget=2.0,
    kl_seq_nats=kl,
    kl_seq_nats_se=0.01,
    gold=gold,
  )
  rows = [
    *(point(s, k, g, 'near') for s, k, g in [(0, 0, 0), (5, 1.97, 3.0)]),
    *(point(s, k, g, 'far') for s, k, g in [(0, 0, 0), (5, 2.3, 9.0)]),
  ]
  settings = dict(report=dict(budgets=(1.0, 2.0)), task=dict(name='toy'))
  table = pages.compare(rows, settings, pages.gain(rows)).table
  assert table['near'][1].value == 3.0
  assert not table['far'][1]
  assert 'at 2 nats by construction' in method_zoo.matched_how(rows)
  header, worst = method_zoo.held_table(rows)
  assert worst[0][0] == 'far' and worst[0][-1] == '15.0%'
  assert worst[1][-1] == '1.5%'


def compared(seeds, budgets=(0.5, 1.0), **arms):
  points = made_points.arms(seeds, **arms)
  cfg = dict(report=dict(budgets=budgets), task=dict(name='toy'))
  return pages.compare(points, cfg, pages.gain(points))


def test_methods_are_grouped_where_most_of_them_are_held():
  """Also where one, that is too slow, was never there."""
  comparison = compared(
    2,
    a=dict(quality=0.2, held=1.0),
    b=dict(quality=0.3, held=1.0),
    slow=dict(quality=0.3, speed=0.2),
  )
  names = ['a', 'b', 'slow']
  assert not comparison.table['slow'][1]
  assert ranking.main_budget(comparison, names, [0, 1]) == 1


def test_what_cannot_be_told_apart_is_one_group():
  close = dict(b=dict(quality=1.0), c=dict(quality=0.99))
  comparison = compared(
    8, a=dict(quality=0.2), **close, d=dict(quality=0.3, speed=0.05)
  )
  names = ['a', 'b', 'c', 'd']
  grouped = ranking.groups(comparison, names, 0)
  assert [set(names) for names in grouped] == [{'b', 'c'}, {'a'}]  # d is not in
  assert [set(x) for x in ranking.groups(comparison, ['b', 'c'], 1)] == [
    {'b', 'c'}
  ]
  text = ranking.sentence(grouped, 0.5, 8)
  assert '3 methods fall into 2 groups' in text and 'over 8 seeds' in text
  assert ranking.main_budget(comparison, names, [0, 1]) == 1
  places = comparison.rank_sets(names)
  assert ranking.places_text(places['a'][0]) == '3'
  assert ranking.places_text(places['b'][0]) == '1-2'
  assert ranking.places_text(places['d'][0]) == MISSING


def test_one_seed_tells_nothing_apart():
  comparison = compared(1, a=dict(quality=0.1), b=dict(quality=3.0))
  assert ranking.groups(comparison, ['a', 'b'], 0) == [['b', 'a']]
  text = ranking.sentence([['b', 'a']], 0.5, 1)
  assert text.startswith('No method of the 2 can') and '1 seed.' in text


def test_the_zoo_is_the_whole_family():
  """Every loss that trains a policy is in it, four strengths or more each."""
  cfg = common.as_dict(toy.get_config())
  runs = method_zoo.runs(cfg)
  trained = {run.loss.name for run in runs if not run.pool.how}
  # The toy's rewards are no successes; those of arithmetic are.
  of_successes = {x for x, row in LOSSES.items() if row.rewards == 'successes'}
  assert of_successes <= set(arithmetic.get_config().methods)
  assert trained == set(LOSSES) - set(proxies.PROXIES) - {'sft'} - of_successes
  for name in cfg['methods']:
    mine = [r for r in runs if r.arm == name and not r.pool.how]
    assert not mine or len({r.configuration for r in mine}) >= 4
  assert cfg['seeds'] >= 3
  families = method_zoo.families_of(cfg, list(cfg['methods']))
  assert 'methods' not in families  # each is in a family with a name


@pytest.mark.parametrize('module', [toy, arithmetic])
def test_configs_of_the_zoo_are_right_from_the_start(module, capsys):
  cfg = common.as_dict(module.get_config())
  common.check(cfg, method_zoo.runs(cfg))
  told = capsys.readouterr().err
  assert "grpo: the KL term 'loss_k3'" in told and BIASED['loss_k3'] in told
  assert 'rloo' not in told


def test_an_empty_zoo_is_refused():
  with pytest.raises(ValueError, match='config.methods is empty'):
    method_zoo.runs({'methods': {}})


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('rloo', dict(truncated='drop'), "truncated='drop', expected one of"),
    ('rloo', dict(rows_at_once=-1), 'rows_at_once=-1, expected a whole'),
    ('rloo', dict(reward_scale='z'), "reward_scale='z' is none of"),
    ('rloo', dict(loss_kwargs=dict(kl='k1')), "kl='k1' is none of"),
    ('rloo', dict(loss='max_rl'), "reward_scale='reference', expected 'none'"),
    ('ipo_md', dict(loss_kwargs=dict(logp_reduction='max')), "reduction='max'"),
    ('ppo', dict(critic='none'), "critic='none', expected one of"),
    ('ppo', dict(critic_init='reward_model'), "needs proxy.verifier='transf"),
    ('ppo', dict(num_minibatches=3), 'does not split into num_minibatches=3'),
    ('nash_md', dict(source='policy'), "'nash_md' needs source"),
    ('rloo', dict(loss='hypo', loss_kwargs={}), "'hypo' needs source hybrid"),
    ('hypo', dict(source='policy'), 'parts=.* expected it unset: source .pol'),
    ('rloo', dict(critic='shared'), "loss 'rloo' do not read it"),
    ('dpo', dict(source='hybrid'), "takes no rows of source 'hybrid'"),
    (
      'dpo-mixed',
      dict(parts=('policy',)),
      r"2 parts .* parts=\('policy',\)",
    ),
    ('dpo-mixed', dict(parts=('policy', 'mixed')), "parts='mixed' is none of"),
    ('forward_kl', dict(teacher_of=''), 'teacher_of must name the run'),
    (
      'reverse_kl',
      dict(teacher_of='a/b', loss_kwargs={}),
      "teacher_of='a/b' is none of",
    ),
    ('rloo', dict(loss='bradley_terry', loss_kwargs={}), 'trains reward model'),
    (
      'rloo',
      dict(kl_budget=1.0, kl_mode='fix'),
      "kl_mode='fix', expected one",
    ),
    (
      'rloo',
      dict(kl_budget=1.0, loss_kwargs=dict(beta=0.0)),
      'adapts loss_kwargs.beta, which must be > 0',
    ),
    ('best_of_n', dict(reweigh='best'), "reweigh='best', expected one of"),
    ('optimum', dict(reward_scale='preference'), 'scores each by itself'),
    (
      'best_of_n',
      dict(labels='judge', judge=dict(kind='llm_judge', checkpoint='x')),
      'scores each by itself',
    ),
  ],
)
def test_a_wrong_method_is_refused_at_start(name, change, message):
  cfg = common.as_dict(toy.get_config())
  arm = {**cfg['methods'][name], 'sweep': ({},), **change}
  cfg['methods'] = {name: arm}
  with pytest.raises(ValueError, match=message):
    common.check(cfg, method_zoo.runs(cfg))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(loss='dpo'), "proxy.loss='dpo' is none of"),
    (dict(combine='max'), "proxy.combine='max', expected one of"),
    (dict(members=0), 'proxy.members=0, expected .* at least 1'),
    (dict(opponents=0), 'proxy.opponents=0, expected .* at least 1'),
    (dict(num_microbatches=3), 'into proxy.num_microbatches=3'),
    (dict(loss='preference_model'), "needs proxy.verifier='transformer'"),
    (dict(loss='verifier'), "needs proxy.verifier='transformer'"),
    (dict(loss='binary_cross_entropy'), 'golden.label_noise=0.5 does not'),
  ],
)
def test_a_wrong_proxy_is_refused_at_start(change, message):
  cfg = common.as_dict(toy.get_config())
  cfg['golden']['label_noise'] = 0.5
  cfg['proxy'].update(change)
  with pytest.raises(ValueError, match=message):
    stage_checks.check_shared(setup_of(cfg, '').shared)


# --- Arms and proxies that the zoo does not use -------------------------------


def tiny(cfg, **proxy):
  return {**cfg, 'proxy': {**cfg['proxy'], 'steps': 2, **proxy}}


def checked(cfg, **fields):
  run = run_of(cfg, **fields)
  common.check(cfg, [run])
  return run


@pytest.fixture(scope='module')
def with_transformer(cfg, tmp_path_factory):
  """A seed whose proxy is a transformer, and its config and workdir."""
  workdir = tmp_path_factory.mktemp('transformer')
  cfg = tiny(cfg, verifier='transformer', members=2, combine='worst_case')
  return cfg, workdir, stage_of(cfg, 0, workdir)


def test_an_ensemble_scores_as_its_worst_member(with_transformer):
  _, workdir, seed = with_transformer
  assert (workdir / 'seed0' / 'proxy1').exists()
  config = dataclasses.replace(seed.task.model, head='scalar')
  members = [
    checkpoint.final_params(workdir / 'seed0' / f'proxy{i}') for i in (0, 1)
  ]
  scores = np.stack([scorer(config)(p, seed.pairs) for p in members])
  assert (scores[0] != scores[1]).any()
  np.testing.assert_allclose(seed.proxy(seed.pairs), scores.min(0), rtol=1e-5)


def test_a_critic_may_start_as_the_reward_model(with_transformer):
  cfg, workdir, seed = with_transformer
  fields = dict(loss='ppo', loss_kwargs={}, critic_init='reward_model')
  start = start_of(seed, checked(cfg, **fields))
  want = checkpoint.final_params(workdir / 'seed0' / 'proxy0')
  critic = dict(start.params['critic'])
  head, own = (np.asarray(x.pop('head')) for x in (critic, want))
  np.testing.assert_allclose(head, own * (head / own).mean(), rtol=1e-4)
  assert jax.tree.all(jax.tree.map(np.array_equal, critic, want))
  assert start.anchors['ref'].keys() == seed.reference.keys()


def test_the_reference_scores_zero_in_its_own_deviations(with_transformer):
  _, _, seed = with_transformer
  scores = np.asarray(labels.of_reference(seed, seed.proxy)(seed.pairs))
  assert abs(scores.mean()) < 1e-3 and abs(scores.std() - 1) < 1e-3


@pytest.mark.parametrize('loss', ['preference_model', 'verifier'])
def test_other_proxies_are_trained_and_scored(loss, cfg, tmp_path):
  """A pairwise model in both orders; a verifier at every token."""
  c = tiny(cfg, verifier='transformer', loss=loss)
  if loss == 'verifier':  # labels within [0, 1]
    c = arithmetic_cfg(c)
  seed = stage_of(c, 0, tmp_path)
  scores = np.asarray(seed.proxy(seed.pairs))
  assert scores.shape == seed.pairs.rewards.shape and np.isfinite(scores).all()
  if loss == 'preference_model':
    assert ((scores >= 0) & (scores <= 1)).all()
    run = checked(c, reward_scale='preference')
    asked = labels.reward_of(seed, run.labels)
    wins = np.asarray(asked(seed.pairs)).reshape(-1, 2)
    np.testing.assert_allclose(wins.sum(1), 1)


def test_points_of_a_preference_model_say_how_good_a_policy_is(cfg, tmp_path):
  """Of runs together, of single completions, and of a pool in parts."""
  fields = dict(verifier='transformer', loss='preference_model')
  c = tiny(cfg, **fields, opponents=3, learning_rate=1e-1)
  alone = dict(loss='reinforce', loss_kwargs={}, group_size=1)
  run = checked(c, **alone, learning_rate=1e-1)
  runs = [run.but(name=f'arm/{i}') for i in range(2)]
  train_together(c, runs, tmp_path)
  pool = checked(c, reweigh='best_of_n', pool=64)
  train_arm(c, pool.but(name='arm/pool'), tmp_path)
  trained, best = (
    [p['proxy'] for p in read_jsonl(tmp_path / 'seed0' / name / 'points.jsonl')]
    for name in ('arm/0', 'arm/pool')
  )
  assert len(set(trained)) > 1 and 0.5 not in trained
  assert (np.diff(best) > 0).all()  # more of it as n grows


def arithmetic_cfg(cfg):
  c = base.smoke(arithmetic.get_config())
  c.task.update(prompts=64, eval_prompts=8)
  c.model.update(mlp_dim=16, **LAYERS)
  return {**common.as_dict(c), 'proxy': cfg['proxy']}


def test_a_verifier_needs_labels_that_are_chances():
  batch = types.SimpleNamespace()
  source = proxies.as_judged(lambda: batch, lambda batch: np.array([0.5, 1.5]))
  with pytest.raises(ValueError, match='0.5 to 1.5'):
    source()


# --- Every pairwise loss, whatever the source ---------------------------------


FROM = ('golden_pairs', 'log', 'policy', 'sampler', 'mixed')


@pytest.fixture(scope='module')
def batches_of(workdir, cfg):
  """{source: [(batch, log-probs), the same with KTO's extra rows]}."""
  seed = stage_of(cfg, 0, workdir)
  fields = dict(parts=('golden_pairs', 'policy'), log_of='logged', shuffle=2)
  run = checked(cfg).but(**fields, refresh_every={'sampler': 2})
  state = start_of(seed, run)
  logps, _, _ = policy_programs(seed.task.model)

  def batch_of(source, step=0, loss='dpo'):
    make = arms.make_source(seed, run.but(source=source, loss=loss))
    return make(state, jax.random.key(step), step)

  log = [batch_of('policy', step) for step in range(run.schedule.steps)]
  train.write_log(seed.folder / 'logged', 0, len(log), log)
  scored = lambda batch: (batch, logps(seed.reference, batch))
  return {
    name: [scored(batch_of(name, loss=loss)) for loss in ('dpo', 'kto')]
    for name in FROM
  }


def test_the_reference_knows_its_own_log_probs(workdir, cfg):
  seed = stage_of(cfg, 0, workdir)
  run = checked(cfg, source='reference')
  state = start_of(seed, run)
  batch = arms.make_source(seed, run)(state, jax.random.key(0), 0)
  logps, _, _ = policy_programs(seed.task.model)
  assert (np.asarray(batch.ref_logps)[np.asarray(batch.valid)] < 0).all()
  np.testing.assert_allclose(
    batch.ref_logps, logps(seed.reference, batch), atol=1e-5
  )


@pytest.mark.parametrize('source', ['golden_pairs', 'log'])
def test_a_reference_that_moves_annotates_fixed_data(
  source, workdir, cfg, batches_of
):
  seed = stage_of(cfg, 0, workdir)
  fields = dict(log_of='logged', shuffle=2, refresh_every={'ref': 2})
  run, make = checked(cfg).but(**fields), arms.SOURCES[source].make
  moved = jax.tree.map(lambda x: 1.1 * x, seed.reference)
  state = types.SimpleNamespace(anchors={'ref': moved})
  logps, _, _ = policy_programs(seed.task.model)
  batch = make(seed, run)(state, None, 0)
  np.testing.assert_array_equal(batch.ref_logps, logps(moved, batch))
  still = make(seed, run.but(refresh_every={}))
  difference = still(state, None, 0).ref_logps - batch.ref_logps
  assert np.abs(difference).max() > 1e-3


def test_slots_change_when_a_row_is_sampled_and_not_what(
  workdir, cfg, monkeypatch
):
  seed = stage_of(cfg, 0, workdir)
  run, asked = checked(cfg), []
  by_slots = sampling.sample_many

  def counted(*args, slots, **kwargs):
    asked.append(slots)
    return by_slots(*args, slots=slots, **kwargs)

  monkeypatch.setattr(sampling, 'sample_many', counted)
  state = start_of(seed, run)
  few, all_at_once = (
    arms.make_source(seed, run.but(rows_at_once=n))(state, jax.random.key(0), 0)
    for n in (3, 0)
  )
  assert asked == [3]
  # Sums of other shapes may tip a draw.
  same = (few.completions == all_at_once.completions).all(1)
  assert len(same) > 3 and same.mean() > 0.8
  for x, y in (
    (few.ref_logps, all_at_once.ref_logps),
    (few.sampler_logps, all_at_once.sampler_logps),
  ):
    np.testing.assert_allclose(x[same], y[same], atol=1e-5)


PAIRWISE = {**preference.LOSSES, **reference_free.LOSSES}
PAIRWISE = [k for k, x in PAIRWISE.items() if x.rows != 'hybrid']


@pytest.mark.parametrize('loss', PAIRWISE)
def test_any_pairwise_loss_learns_from_any_source(loss, batches_of):
  mismatched = LOSSES[loss].rows == 'mismatched'
  for batch, logps in (pair[mismatched] for pair in batches_of.values()):
    if mismatched:  # reads chances to win, as `reward_scale` makes them
      wins = jax.nn.sigmoid(batch.rewards - batch.rewards.mean())
      batch = batch.replace(rewards=wins)
    batch = losses.prepared(loss, logps, batch, {})
    grad = jax.grad(lambda x: LOSSES[loss](x, batch)[0])(logps)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0
