"""What a config may say: refused at the door by field, value, expectation."""

import dataclasses
import math

import pytest

from align_jax.lab import fields, groups, settings, sweep
from configs import base, toy
from experiments import command, common, online_vs_offline


@pytest.fixture(scope='module')
def cfg():
  return command.as_dict(toy.get_config())


def changed(cfg, path, value):
  """A config with one field changed, without a look at what it may be."""
  first, *rest = path.split('.')
  if not rest:
    return {**cfg, first: value}
  return {**cfg, first: changed(cfg[first], '.'.join(rest), value)}


def refusal(cfg):
  with pytest.raises(ValueError) as refused:
    common.check(cfg, online_vs_offline.runs(cfg))
  return str(refused.value)


NAN = math.nan
COUNTS = (0, -1, 1.5, '3', True, None)
WRONG = {
  'arm.batch_size': COUNTS,
  'arm.group_size': COUNTS,
  'arm.steps': COUNTS,
  'arm.num_epochs': COUNTS,
  'arm.num_minibatches': COUNTS,
  'arm.num_microbatches': COUNTS,
  'arm.save_every': COUNTS,
  'arm.log_every': COUNTS,
  'arm.kl_samples': COUNTS,
  'arm.pool': COUNTS,
  'arm.rows_at_once': (-1, 0.5),
  'arm.points': (-1, 0.5),
  'arm.shuffle': (-1,),
  'arm.microbatch_tokens': (-1,),
  'arm.learning_rate': (-1, 0, NAN, math.inf, '1e-3', True),
  'arm.max_grad_norm': (0.0, -1.0, NAN),
  'arm.weight_decay': (-1.0, NAN),
  'arm.warmup_steps': (-1, 10**6, 0.5),
  'arm.truncation_penalty': (-1.0, NAN),
  'arm.mixture': (2.0, -0.1, 0.0, NAN),
  'arm.kl_budget': (-1.0, NAN),
  'arm.kl_mode': ('holt', 1),
  'arm.loss': ('dop', 3, None),
  'arm.source': ('sampl', 'sampler'),
  'arm.labels': ('gibberish',),
  'arm.reward_scale': ('z',),
  'arm.truncated': ('drop',),
  'arm.refresh_every': ({'sampelr': 8}, {'ref': 0}, {'ref': -1}, 8),
  'arm.loss_kwargs': ({'bata': 1.0}, {'beta': -1.0}, {'beta': NAN}, 0.1),
  'arm.lora': ({'rnk': 2}, {'rank': -1}),
  'arm.sampling': ({'temperature': 0.0}, {'temprature': 1.0}),
  'arm.optimizer': (
    {},
    {'name': 'adam'},
    {'name': 'adamw', 'b3': 0.9},
    {'name': 'adamw', 'b1': 'x'},
    {'name': 'adamw', 'eps': -1.0},
  ),
  'arm.schedule': ({'name': 'cosin'}, {'name': 'constant', 'final': 0.1}),
  'arm.keep': ({'steps': (0,)}, {'stepz': (1,)}, {'steps': (10**6,)}),
  'sft.steps': (-1, 1.5),
  'sft.batch_size': COUNTS,
  'sft.learning_rate': (0, -1.0, NAN),
  'sft.max_grad_norm': (0.0,),
  'sft.warmup_steps': (-1, 501),
  'golden.pairs': COUNTS,
  'golden.label_noise': (2.0, -0.1, NAN),
  'proxy.verifier': ('tree',),
  'proxy.loss': ('dpo',),
  'proxy.loss_kwargs': ({'margn': 1},),
  'proxy.members': COUNTS,
  'proxy.opponents': COUNTS,
  'proxy.combine': ('max',),
  'proxy.max_grad_norm': (0.0,),
  'proxy.warmup_steps': (10**6,),
  'eval.samples': COUNTS,
  'eval.points': COUNTS,
  'eval.first_step': (0, 10**6),
  'eval.pairs': COUNTS,
  'eval.metrics': (('lenght',), 'length'),
  'report.budgets': ((), (0.0,), (NAN,), 2.0, (2.0, 1.0), (1.0, 1.0)),
  'report.window': ((3.5, 1.5), (0.0, 1.0), (1.0,), 2.0, (NAN, 1.0)),
  'report.treatment': ('onlin',),
  'report.margin': (-0.1,),
  'report.half_width': (0.0,),
  'report.schedule': ((0,), 3, (16, 8)),
  'seeds': (0, -1, 101, 2.5),
  'workers': (-1,),
  'together': ('yes',),
  'pilot': (2,),
  'ages': ((0,), 8),
  'mesh.data': (0, 3),
  'model.dim': (0, -8),
  'model.num_layers': (0,),
  'task.prompts': (0, -1),
  'task.eval_prompts': (-1,),
  'task.prompt_len': (0,),
  'task.completion_len': (0,),
  'task.peak_shift': (2.0, NAN),
  'task.name': ('toi',),
  'eval.sets': (('trian',),),
  'model.vocab_size': (0, 4),
  'model.num_kv_heads': (0, 3),
  'model.dtype': ('float99',),
  'model.tie_embeddings': ('yes',),
  'arm.judge': ({'knd': 1},),
  'variants': ({'': {}},),
  'report.golden_policy': ('onlin+gold',),
  'arm.kl_every': (*COUNTS, 10**6),
  'arm.lora.rank': (-1, 1.5),
}


@pytest.mark.parametrize(
  ('path', 'value'),
  [(path, value) for path, values in WRONG.items() for value in values],
)
def test_a_wrong_value_is_refused_by_field_value_and_expectation(
  path, value, cfg
):
  if path == 'arm.loss_kwargs':  # which the toy's arms sweep
    cfg = {**cfg, 'arms': {'offline': {}, 'online': {}}}
  told = refusal(changed(cfg, path, value))
  assert path.split('.')[-1] in told, told
  assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
  ('path', 'near'),
  [
    ('proxy.lerning_rate', 'learning_rate'),
    ('sft.stepz', 'steps'),
    ('report.windw', 'window'),
    ('report.resamples', 'expected one of'),
    ('eval.sample', 'samples'),
    ('golden.pair', 'pairs'),
    ('mesh.dta', 'data'),
    ('sead', 'seeds'),
    ('arm.sourc', 'source'),
    ('model.dimm', 'dim'),
    ('model.numlayers', 'num_layers'),
    ('task.promps', 'prompts'),
  ],
)
def test_a_misspelt_field_is_refused_with_the_nearest(path, near, cfg):
  told = refusal(changed(cfg, path, 1))
  assert path.split('.')[-1] in told and near in told


@pytest.mark.parametrize(
  ('arm', 'field'),
  [
    (dict(source='golden_pairs', labels='gold'), 'labels'),
    (dict(source='golden_pairs', reward_scale='reference'), 'reward_scale'),
    (dict(source='golden_pairs', group_size=4), 'group_size'),
    (dict(source='policy', log_of='offline/default'), 'log_of'),
    (dict(source='policy', mixture=0.2), 'mixture'),
    (dict(source='policy', parts=('policy', 'reference')), 'parts'),
    (dict(source='policy', length_buckets=((2, 2),)), 'length_buckets'),
    (dict(critic='shared'), 'critic'),
    (dict(teacher_of='reference'), 'teacher_of'),
    (dict(truncation_penalty=2.0), 'truncation_penalty'),
    (dict(reweigh='optimum', source='reference', group_size=4), 'group_size'),
  ],
)
def test_what_nothing_reads_may_not_be_set(arm, field, cfg):
  arms = {'offline': dict(source='golden_pairs'), 'online': arm}
  told = refusal({**cfg, 'arms': arms})
  assert f'arms.online.{field}=' in told and 'not read it' in told


@pytest.mark.parametrize(
  ('offline', 'online', 'message'),
  [
    ({}, dict(source='teacher', teacher_of='online/default'), 'lead back'),
    ({}, dict(source='log', log_of='online/default'), 'lead back'),
    ({}, dict(source='log', log_of='offlin/default'), 'did you mean'),
    ({}, dict(source='log'), "log_of='', expected the run to replay"),
    ({}, dict(source='sampler'), 'needs its period in refresh_every'),
    ({}, dict(microbatch_tokens=8), 'expected at least 19'),
    ({}, dict(sampling=dict(stop_tokens=(99,))), 'below model.vocab_size=32'),
    ({}, dict(reweigh='optimum', pool=100), 'a multiple of batch_size=32'),
    (dict(batch_size=2000), {}, 'expected at most golden.pairs=1000'),
    (dict(length_buckets=((9, 9),)), {}, 'length_buckets: (9, 9)'),
    (dict(refresh_every={'sampler': 8}), {}, "'sampler' is none of ['ref']"),
    (dict(loss='ppo', loss_kwargs={}, group_size=1), {}, 'group_size'),
  ],
)
def test_a_wrong_combination_is_refused(offline, online, message, cfg):
  fixed = dict(source='golden_pairs', **offline)
  assert message in refusal({**cfg, 'arms': dict(offline=fixed, online=online)})


@pytest.mark.parametrize(
  ('name', 'arm', 'message'),
  [
    ('a/b', {}, 'a name that can be a folder'),
    ('..', {}, 'a name that can be a folder'),
    ('sft', {}, 'a name that can be a folder'),
    ('', {}, "the name '' of an arm"),
    ('x', None, 'arms.x=None, expected fields of an arm'),
    ('x', dict(sweep=()), 'arms.x.sweep=(), expected a tuple of one entry'),
    ('x', dict(sweep={'steps': 3}), 'expected a tuple of one entry'),
  ],
)
def test_an_arm_that_would_be_lost_is_refused(name, arm, message, cfg):
  assert message in refusal({**cfg, 'arms': {**cfg['arms'], name: arm}})


def test_entries_that_would_share_a_folder_are_refused(cfg):
  rates = tuple(dict(learning_rate=x) for x in (1e-3, 1.0000001e-3))
  arms = {'offline': {}, 'online': dict(sweep=rates)}
  assert "two entries are both 'lr0.001'" in refusal({**cfg, 'arms': arms})


def test_arms_that_would_share_a_name_are_refused(cfg):
  arms = {'offline': {}, 'online': {}, 'b c': {}, 'c': {}}
  told = refusal({**cfg, 'arms': arms, 'variants': {'a': {}, 'a b': {}}})
  assert "'a b c' in comparisons" in told


def test_an_arm_is_not_compared_with_itself(cfg):
  report = {**cfg['report'], 'treatment': 'offline'}
  assert 'expected two arms' in refusal({**cfg, 'report': report})


def test_a_variant_with_the_name_of_another_folder_is_refused(cfg):
  assert 'variants.seed0' in refusal({**cfg, 'variants': {'seed0': {}}})


def test_labels_may_say_what_those_of_fixed_data_are(cfg):
  offline = dict(source='golden_pairs', labels='golden')
  cfg = {**cfg, 'arms': {'offline': offline, 'online': {}}}
  common.check(cfg, online_vs_offline.runs(cfg))
  offline['labels'] = 'file'
  assert "labels='file'" in refusal(cfg)


def test_every_field_of_a_config_is_in_a_record():
  """And every field of a record has its default in configs/base.py."""
  cfg = command.as_dict(base.get_config())
  for name, record in groups.GROUPS.items():
    assert set(fields.keys(record)) == set(cfg[name])
  assert set(fields.keys(settings.Run)) == set(cfg['arm'])
  rest = {f.name for f in dataclasses.fields(groups.Experiment)}
  assert rest == set(cfg) - set(groups.GROUPS)


def test_a_run_gives_back_what_it_was_made_of(cfg):
  run = sweep.sweep(cfg)[0]
  arm, entry = cfg['arms'][run.arm], cfg['arms'][run.arm]['sweep'][0]
  own = {k: v for k, v in arm.items() if k != 'sweep'}
  assert run.flat == {**cfg['arm'], **own, **entry}
  assert run.but() == run
  assert run.but(steps=3, name='a/b').schedule.steps == 3
  assert run.but(name='a/b').name == 'a/b'
