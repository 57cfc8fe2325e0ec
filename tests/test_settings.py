"""What a config may say: refused at the door by field, value, expectation."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from align_jax.lab import (
  checks,
  fields,
  groups,
  settings,
  stage_checks,
  sweep,
)
from configs import base, hh, toy
from experiments import command, common, online_vs_offline


@pytest.fixture(scope='module')
def cfg():
  return common.as_dict(toy.get_config())


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
  'arm.correction': ('TIS', 1),
  'arm.correction_cap': (0.5, NAN, math.inf),
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
  'mesh.data': (0, 3),
  'model.dim': (0, -8),
  'model.num_layers': (0,),
  'task.prompts': (0, -1),
  'task.eval_prompts': (-1,),
  'task.prompt_len': (0,),
  'task.completion_len': (0,),
  'task.peak_shift': (2.0, NAN),
  'task.old_prompts': (-1,),
  'task.name': ('toi',),
  'eval.sets': (('trian',), ('train', 'train')),
  'report.shown': ((2.0, 1.0), (1.0, 1.0), (0.0,)),
  'model.vocab_size': (0, 4),
  'model.num_kv_heads': (0, 3),
  'model.dtype': ('float99',),
  'model.tie_embeddings': ('yes',),
  'arm.judge': ({'knd': 1},),
  'variants': ({'': {}},),
  'report.golden_policy': ('onlin+gold', 'nobody'),
  'model.num_positions': (1, 10),
  'eval.metrics': (('lenght',), 'length', ('length', 'length')),
  'trackers': (('tensorboard', 'tensorboard'),),
  'arm.stop_on': (('gap', 'gap'), ('gaps',)),
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


RLOO = dict(loss='rloo', loss_kwargs={})
HALF_FIXED = dict(source='mixed', parts=('golden_pairs', 'policy'))


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
    (dict(writers=('reference', 'reference')), 'writers'),
    (dict(reweigh='optimum', source='reference', group_size=4), 'group_size'),
    (dict(loss='ipo', correction='token_mask'), 'correction'),
    (dict(RLOO, correction_cap=3.0), 'correction_cap'),
    (dict(RLOO, correction='ignore', correction_cap=3.0), 'correction_cap'),
    (dict(RLOO, source='golden_pairs', correction='ignore'), 'correction'),
    (dict(RLOO, **HALF_FIXED, correction='ignore'), 'correction'),
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
    ({}, dict(source='written_pairs'), 'the two policies that write'),
    (
      {},
      dict(source='written_pairs', writers=('reference', 'online/default')),
      'lead back',
    ),
    (
      {},
      dict(source='written_pairs', writers=('reference', 'offline/default@7')),
      'one of the steps that arm.keep keeps',
    ),
    (
      {},
      dict(source='written_pairs', writers=('reference', 'offline')),
      "'ARM/CONFIGURATION[@STEP]'",
    ),
    ({}, dict(source='sampler'), 'needs its period in refresh_every'),
    ({}, dict(microbatch_tokens=8), 'expected at least 19'),
    ({}, dict(sampling=dict(stop_tokens=(99,))), 'below model.vocab_size=32'),
    ({}, dict(reweigh='optimum', pool=100), 'a multiple of batch_size=32'),
    (dict(batch_size=2000), {}, 'expected at most golden.pairs=1000'),
    (dict(length_buckets=((9, 9),)), {}, 'length_buckets: (9, 9)'),
    (dict(refresh_every={'sampler': 8}), {}, "'sampler' is none of ['ref']"),
    (dict(loss='ppo', loss_kwargs={}, group_size=1), {}, 'group_size'),
    (
      dict(kl_budget=2.0, kl_mode='stop'),
      dict(source='log', log_of='offline/default'),
      'may stop at its kl_budget, and sample less than is replayed, expected',
    ),
    (dict(lora=dict(alpha=32.0)), {}, 'expected a rank above 0 with it'),
    (
      {},
      dict(lora=dict(targets=('nonsense',))),
      'expected a rank above 0 with it',
    ),
    (
      {},
      dict(source='log', log_of='offline/default', length_buckets=((3, 800),)),
      'length_buckets: (3, 800)',
    ),
    (dict(sampling=dict(dtype='float64')), {}, 'expected'),
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
  cfg = common.as_dict(base.get_config())
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


JUDGE_MODEL = dict(
  dim=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8
)
TEXTS = dict(
  judge_model=JUDGE_MODEL,
  judge_steps=1,
  judge_batch_size=1,
  judge_learning_rate=1e-3,
  dataset='',
  tokenizer='',
  data='',
  prompt_len=8,
  completion_len=8,
)
TASKS = {
  'sentiment': dict(
    **TEXTS,
    prompts=8,
    eval_prompts=4,
    heldout_reviews=8,
    sft_len=8,
    judge_len=8,
  ),
  'preferences': dict(
    **TEXTS,
    subset='',
    split='train',
    revision='',
    template='',
    long_prompt='left',
    long_completion='right',
    on_bad_row='skip',
    heldout_prompts=8,
    eval_prompts=4,
    pretrain_steps=0,
    judge=dict(kind='pairs', checkpoint=''),
    judge_share=0.5,
  ),
  'arithmetic': dict(
    data='',
    dataset='gsm8k',
    tokenizer='',
    prompts=8,
    eval_prompts=4,
    prompt_len=18,
    completion_len=23,
    wrong_share=0.3,
  ),
}
PUBLISHED = dict(kind='reward_model', checkpoint='a/b')


def with_task(cfg, name):
  model = {**cfg['model'], 'vocab_size': 300}
  return {**cfg, 'task': {'name': name, **TASKS[name]}, 'model': model}


@pytest.mark.parametrize('name', TASKS)
def test_tasks_of_texts_pass_the_door(name, cfg):
  cfg = with_task(cfg, name)
  common.check(cfg, online_vs_offline.runs(cfg))


@pytest.mark.parametrize(
  ('name', 'changes', 'expected'),
  [
    ('sentiment', dict(judge_steps=0), 'judge_steps=0, expected a whole'),
    ('sentiment', dict(judge_batch_size=0), 'judge_batch_size=0, expected'),
    ('sentiment', dict(judge_learning_rate=0), 'expected a number above 0'),
    ('sentiment', dict(judge_learning_rate=NAN), 'expected a finite number'),
    ('sentiment', dict(judge_len=0), 'judge_len=0, expected'),
    ('sentiment', dict(prompt_len=1), 'prompt_len=1, expected'),
    ('sentiment', dict(eval_prompts=9), 'eval_prompts=9, expected'),
    ('sentiment', dict(eval_prompts=1), 'eval_prompts=1, expected'),
    ('sentiment', dict(dataset='imdb'), "dataset='imdb', expected one of"),
    ('sentiment', dict(data=3), 'data=3, expected text'),
    ('sentiment', dict(tokenizer=None), 'tokenizer=None, expected text'),
    ('sentiment', dict(judge_model=3), 'judge_model=3, expected names'),
    (
      'sentiment',
      dict(judge_model={**JUDGE_MODEL, 'dmi': 3}),
      "judge_model.dmi=3: no such field, did you mean 'dim'?",
    ),
    (
      'preferences',
      dict(judge_model={**JUDGE_MODEL, 'norm_eps': -1.0}),
      'judge_model: norm_eps=-1.0, expected a finite number above 0',
    ),
    ('preferences', dict(long_prompt='lft'), "did you mean 'left'?"),
    ('preferences', dict(long_completion='left'), 'long_completion='),
    ('preferences', dict(on_bad_row='skp'), "did you mean 'skip'?"),
    ('preferences', dict(judge_share=2.0), 'judge_share=2.0, expected'),
    ('preferences', dict(judge={}), 'task.judge.kind=None'),
    ('preferences', dict(judge=dict(kind='pears')), "did you mean 'pairs'?"),
    ('preferences', dict(judge=PUBLISHED), 'task.judge_share=0'),
    (
      'preferences',
      dict(judge=dict(**PUBLISHED, dtype='float8'), judge_share=0.0),
      "task.judge.dtype='float8', expected one of",
    ),
    (
      'preferences',
      dict(judge=dict(**PUBLISHED, max_lenth=3), judge_share=0.0),
      "task.judge.max_lenth=3: no such field, did you mean 'max_length'?",
    ),
    ('arithmetic', dict(wrong_share=1.5), 'wrong_share=1.5, expected'),
    ('arithmetic', dict(prompt_len=1), 'prompt_len=1, expected'),
    ('arithmetic', dict(eval_prompts=0), 'eval_prompts=0, expected'),
    ('arithmetic', dict(dataset='gsm'), "did you mean 'gsm8k'?"),
  ],
)
def test_a_wrong_knob_of_a_task_is_refused_before_its_data(
  name, changes, expected, cfg
):
  cfg = with_task(cfg, name)
  cfg['task'] |= changes
  assert expected in refusal(cfg)


def test_bytes_need_a_vocabulary_of_bytes(cfg):
  cfg = with_task(cfg, 'arithmetic')
  cfg['model']['vocab_size'] = 32
  assert 'model.vocab_size=32, expected at least 259' in refusal(cfg)


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    (
      dict(norm_eps=-1.0),
      'model.norm_eps=-1.0, expected a finite number above',
    ),
    (dict(rope_theta=0), 'model.rope_theta=0, expected'),
    (dict(rope_theta=math.inf), 'model.rope_theta=inf, expected'),
    (dict(attention='splsh'), "did you mean 'splash'?"),
    (dict(activation='relo'), "did you mean 'relu'?"),
    (dict(rope_dim=3), 'model.rope_dim=3, expected'),
    (dict(windows=(4, 4)), 'expected num_layers=1 of them'),
    (dict(logit_softcap=-1.0), 'model.logit_softcap=-1.0, expected None or'),
    (dict(num_experts=2), 'experts_per_token=0, expected'),
    (dict(rope_scaling=('lineer', ())), 'model.rope_scaling='),
    (dict(rope_scaling=('linear', ())), 'all options of that name'),
    (dict(norm_offset=NAN), 'model.norm_offset=nan, expected a finite'),
    (dict(revision='main'), 'is of a model.checkpoint, and there is none'),
  ],
)
def test_a_wrong_switch_of_the_model_is_refused(changes, expected, cfg):
  assert expected in refusal({**cfg, 'model': {**cfg['model'], **changes}})


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    (dict(dim=64), 'expected only checkpoint, revision'),
    (dict(dtype='float99'), "model.dtype='float99', expected"),
    (dict(param_dtype='bf16'), "model.param_dtype='bf16', expected"),
    (dict(attention='flsh'), "model.attention='flsh', expected"),
  ],
)
def test_a_checkpoint_has_its_own_sizes(changes, expected, cfg):
  model = {'checkpoint': 'no/such-model', **changes}
  assert expected in refusal({**cfg, 'model': model})


def test_an_anchor_that_a_run_never_renews_is_noted(cfg):
  arms = {
    name: dict(source='sampler', refresh_every={'sampler': every}, steps=100)
    for name, every in (('offline', 99), ('online', 100))
  }
  once, never = (run for run in sweep.sweep({**cfg, 'arms': arms, 'seeds': 1}))
  assert not checks.notes(once)
  assert checks.notes(never) == [
    "arms.online.refresh_every: 'sampler' would be renewed after 100 updates, "
    "and 'online' ends after 100"
  ]


@pytest.mark.parametrize(
  ('arm', 'expected'),
  [
    (dict(source='file_pairs'), "task 'toy' has none"),
    (dict(source='mixed', parts=('file_pairs', 'policy')), 'has none'),
    (dict(source='file_labels', loss='kto', loss_kwargs={}), 'has none'),
    (dict(source='file_labels', loss='dpo'), "such as 'kto'"),
    (dict(source='file_labels', loss='sft', loss_kwargs={}), "such as 'kto'"),
    (
      dict(source='mixed', parts=('golden_pairs', 'policy'), group_size=4),
      "2 of 'golden_pairs' and 4 of 'policy'",
    ),
    (
      dict(
        source='mixed',
        parts=('log', 'policy'),
        log_of='offline/default',
        group_size=4,
      ),
      "has 2 completions per prompt and 'policy' has 4",
    ),
    (dict(loss='kto', loss_kwargs={}, batch_size=1), 'expected at least 2'),
    (dict(reweigh='optimum', source='reference', steps=9), 'steps=9, expected'),
    (dict(pool=64), 'arms.online.pool=64, expected it unset'),
    (dict(loss='kto', loss_kwargs={}), "expected 'preference': loss 'kto'"),
    (
      dict(loss='nash_md', loss_kwargs={}, source='policy_and_mixture'),
      "expected 'preference'",
    ),
    (dict(loss='max_rl', loss_kwargs={}), "expected 'preference'"),
    (
      dict(source='mixed', parts=('policy', 'reference'), group_size=1),
      'needs at least 2',
    ),
    (
      dict(
        loss='reinforce',
        loss_kwargs={},
        group_size=1,
        reward_scale='preference',
      ),
      "reward_scale='preference' compares completions",
    ),
    (dict(lora=dict(rank=1, alpha=math.inf)), 'lora.alpha=inf, expected'),
    (dict(lora=dict(rank=1, targets='qkv')), "lora.targets='qkv', expected"),
    (dict(sampling=dict(stop_tokens='12')), "stop_tokens='12', expected"),
  ],
)
def test_what_would_fail_after_the_stage_is_refused(arm, expected, cfg):
  arms = {'offline': dict(source='golden_pairs'), 'online': arm}
  assert expected in refusal({**cfg, 'arms': arms})


def test_a_log_of_single_completions_has_no_pairs(cfg):
  single = dict(loss='reinforce', loss_kwargs={}, group_size=1)
  replay = dict(source='log', log_of='online/default', loss='ipo')
  arms = {'offline': replay, 'online': single}
  assert 'has one completion per prompt' in refusal({**cfg, 'arms': arms})


@pytest.mark.parametrize('field', ['treatment', 'control', 'golden_policy'])
def test_samples_that_are_reweighed_are_no_policy_to_compare(field, cfg):
  told = refusal({**cfg, 'report': {**cfg['report'], field: 'optimum'}})
  assert f"report.{field}='optimum' trains nothing" in told


def test_a_trace_is_of_updates_that_there_are(cfg):
  assert 'profile=(9000, 9001), expected updates within' in refusal(
    {**cfg, 'profile': (9000, 9001)}
  )


def test_stretches_of_text_are_a_part_of_sft(cfg):
  texts = common.as_dict(hh.get_config())
  texts['sft']['steps'] = texts['task']['pretrain_steps'] - 1
  texts['task']['data'] = 'x.jsonl'
  told = refusal(texts)
  assert 'task.pretrain_steps=' in told and 'at most sft.steps=' in told


@pytest.mark.parametrize(
  'changes',
  [
    {'arms.online.learning_rate': 1e-5},
    {'arm.learning_rate': 1e-5},
    {'arm': {'learning_rate': 1e-5}},
    {'arms.online.loss_kwargs': {'beta': 3.0}},
  ],
)
def test_a_variant_that_a_sweep_shadows_is_refused(changes, cfg):
  strengths = base.sweep((2e-3, 0.1))
  arms = {'offline': {'sweep': strengths}, 'online': {'sweep': strengths}}
  told = refusal({**cfg, 'arms': arms, 'variants': {'lo': changes}})
  assert f'variants.lo: {next(iter(changes))!r} has no effect' in told
  for path, same in (('arm.steps', 5), ('arm.loss', cfg['arm']['loss'])):
    sweep.sweep({**cfg, 'arms': arms, 'variants': {'lo': {path: same}}})


def test_a_budget_may_be_switched_off(cfg):
  arm = {**cfg['arm'], 'kl_budget': 0.0}
  common.check({**cfg, 'arm': arm}, online_vs_offline.runs({**cfg, 'arm': arm}))


@pytest.mark.parametrize(
  'path', ['report.window', 'workers', 'mesh.data', 'seeds', 'together']
)
def test_a_variant_changes_what_runs_are_made_of(path, cfg):
  told = refusal({**cfg, 'variants': {'a': {path: 1}}})
  assert f'variants.a: {path!r} is the same for the whole' in told


@pytest.mark.parametrize('length', [22, 40, 100])
def test_prompts_that_no_memory_holds_are_refused(length, cfg):
  told = refusal({**cfg, 'task': {**cfg['task'], 'prompt_len': length}})
  assert f'task.prompt_len={length}, expected fewer tokens' in told


def test_a_task_has_a_name(cfg):
  task = {k: v for k, v in cfg['task'].items() if k != 'name'}
  with pytest.raises(ValueError, match='task.name=None, expected the name'):
    stage_checks.check_shared(groups.shared({**cfg, 'task': task}))


def test_a_family_is_a_tuple_of_names(cfg):
  with pytest.raises(ValueError, match='families.x=3, expected a tuple'):
    groups.check_families({**cfg, 'families': {'x': 3}})


def test_a_family_of_no_method_is_refused(cfg):
  families = {'all': ('rlo',)}
  with pytest.raises(ValueError, match="'rlo' is none .* mean 'rloo'"):
    groups.check_families({**cfg, 'families': families})


def test_numbers_of_numpy_are_numbers():
  c = toy.get_config()
  c.arms = {'online': dict(steps=np.int64(2), learning_rate=np.float32(0.5))}
  c.report.budgets = tuple(np.array([1.0, 2.0]))
  cfg = common.as_dict(c)
  groups.check(cfg)
  arm = cfg['arms']['online']
  assert arm == dict(steps=2, learning_rate=0.5) and type(arm['steps']) is int
  assert [type(x) for x in cfg['report']['budgets']] == [float, float]


def test_an_override_is_given_once():
  with pytest.raises(ValueError, match='seeds is given twice, .2. and .3.'):
    command.split(['x', '--config.seeds=2', '--config.seeds=3'])


def leaves(tree, path=''):
  for name, value in tree.items():
    here = f'{path}.{name}' if path else name
    if isinstance(value, dict) and value:
      yield from leaves(value, here)
    else:
      yield here


@pytest.mark.parametrize('value', [1j, b'x'])
def test_no_field_takes_what_no_config_has(value, cfg):
  cfg = {**cfg, 'methods': {}, 'families': {}}
  shadowed = 'arm.loss_kwargs.beta'  # by the sweep of every arm
  for path in leaves(cfg):
    if path != shadowed:
      told = refusal(changed(cfg, path, value))
      assert path.split('.')[-1] in told, told


@pytest.mark.parametrize('axis', ['tensor', 'fsdp'])
def test_a_mesh_that_splits_no_array_is_refused(axis, cfg):
  told = refusal(changed(cfg, f'mesh.{axis}', 3))
  assert 'devices' in told and '3' in told


def test_checks_start_no_device():
  """Or a mesh could no longer split the CPU."""
  code = """
from jax._src import xla_bridge
from configs import toy
from experiments import common, online_vs_offline
c = toy.get_config()
c.mesh.data, c.arm.lora.rank = 2, 2
cfg = common.as_dict(c)
common.check(cfg, online_vs_offline.runs(cfg))
assert not xla_bridge._backends
"""
  subprocess.run([sys.executable, '-c', code], check=True)
