"""`--config.FIELD=VALUE`: every override counts, or is refused."""

import pathlib
import subprocess
import sys

import pytest

from align_jax.lab import checks, effects, overrides
from align_jax.lab.sweep import sweep
from configs import base, toy
from experiments import (
  command,
  common,
  method_zoo,
  online_vs_offline,
)
from experiments.suite import studies

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def cfg():
  return common.as_dict(toy.get_config())


def after(cfg, *given):
  """The config after overrides 'PATH=TEXT'."""
  return overrides.apply(cfg, [tuple(x.split('=', 1)) for x in given])


def checked(cfg, *given, runs=online_vs_offline.runs):
  """The config, if all of its overrides have an effect."""
  given = [tuple(x.split('=', 1)) for x in given]
  told = [command.Override(path, text, cfg, given) for path, text in given]
  new = overrides.apply(cfg, given)
  effects.check(runs, new, told)
  return new


def of(cfg, arm, field):
  """Values of a field over the runs of an arm on the first seed."""
  return [
    run.flat[field] for run in sweep(cfg) if (run.arm, run.seed) == (arm, 0)
  ]


@pytest.mark.parametrize(
  ('path', 'text', 'value'),
  [
    ('seeds', '3', 3),
    ('sft.learning_rate', '1', 1.0),
    ('together', 'true', True),
    ('report.window', '(1, 2.5)', (1, 2.5)),
    ('report.budgets', '[1, 2]', (1, 2)),
    ('report.treatment', 'online+gold', 'online+gold'),
    ('arm.loss_kwargs', "{'beta': 0.5}", {'beta': 0.5}),
    ('arm.loss_kwargs.kl', 'exact', 'exact'),
    ('arm.refresh_every.sampler', '8', 8),
    ('arm.lora.rank', '4', 4),
    ('arm.optimizer.name', 'lion', 'lion'),
    ('model.rope_theta', '1e6', 1e6),
  ],
)
def test_text_becomes_a_value_of_the_fields_kind(path, text, value, cfg):
  new = after(cfg, f'{path}={text}')
  for key in path.split('.'):
    new = new[key]
  assert new == value and type(new) is type(value)


def test_an_override_leaves_the_config_it_was_given_alone(cfg):
  before = repr(cfg)
  after(cfg, 'arms.*.beta=[0.3,0.4]', 'sft.steps=3', 'arms.shuffled=None')
  assert repr(cfg) == before


def test_one_arm_by_name(cfg):
  new = after(cfg, 'arms.online.loss=dpo')
  assert of(new, 'online', 'loss') == ['dpo']
  assert of(new, 'offline', 'loss') == of(cfg, 'offline', 'loss')


def test_all_arms_by_a_pattern(cfg):
  new = after(cfg, 'arms.*.steps=900', 'arms.*+gold.batch_size=16')
  trained = [run for run in sweep(new) if not run.pool.how]
  assert {run.schedule.steps for run in trained} == {900}
  small = {run.arm for run in sweep(new) if run.updates.batch_size == 16}
  assert small == {'online+gold', 'ref+gold'}


def test_it_counts_over_what_an_arm_sweeps(cfg):
  new = after(cfg, 'arms.online.learning_rate=1', 'arms.online.beta=0.7')
  assert of(new, 'online', 'learning_rate') == [1.0]
  assert of(new, 'online', 'loss_kwargs') == [{'beta': 0.7}]


def test_a_list_of_values_is_swept(cfg):
  new = after(cfg, 'arms.online.beta=[0.1,0.2]')
  assert of(new, 'online', 'loss_kwargs') == [{'beta': 0.1}, {'beta': 0.2}]
  new = after(new, 'arms.online.loss=[dpo,ipo]')
  assert of(new, 'online', 'loss') == ['dpo', 'dpo', 'ipo', 'ipo']
  names = [run.name for run in sweep(new) if run.arm == 'online']
  assert len(set(names)) == 4


def test_an_arm_is_dropped(cfg):
  new = after(cfg, 'arms.shuffled=None', 'arms.ref*=None')
  assert set(new['arms']) == {'offline', 'online', 'online+gold', 'optimum'}


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ('sft.stepz=3', "sft.stepz: no such field, did you mean 'steps'?"),
    ('seads=3', "seads: no such field, did you mean 'seeds'?"),
    ('sft.steps=abc', "sft.steps='abc', expected a whole number"),
    ('sft.steps.x=1', 'sft.steps is no group of fields'),
    ('together=maybe', "together='maybe', expected true or false"),
    ('report.window=3', "report.window='3', expected a tuple"),
    ('arm.beta=1', "did you mean 'arm.loss_kwargs.beta'?"),
    ('arms.onlin.loss=dpo', "no arm 'onlin', did you mean 'online'?"),
    ('arms.online.stepz=1', "stepz: no such field, did you mean 'steps'?"),
    ('arms.online.beta=x', "beta='x', expected a number"),
    ('arms.online.beta=[]', 'expected one value or more'),
    ('arms.online.beta=[0.1,0.10]', 'expected each value once'),
    ('arms.online.beta=[0.1,0.2', 'expected [A,B], a list'),
    ('arms.online=off', "online='off', expected None, which drops the arm"),
  ],
)
def test_a_wrong_override_is_refused(given, message, cfg):
  with pytest.raises(ValueError) as refused:
    after(cfg, given)
  assert message in str(refused.value)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ('arm.learning_rate=1', 'is shadowed: arms.offline, arms.online,'),
    ('arm.steps=6', 'is shadowed: arms.offline sets steps'),
    ('arm.loss_kwargs.beta=3', 'is shadowed'),
    ('arm.mixture=0.3', 'no run reads mixture'),
    ('arm.context_after=1', 'no run reads context_after'),
    ('arm.critic=shared', 'no run reads critic'),
    ('arm.rows_at_once=0', ''),
    ('methods.dpo.steps=3', 'no run of this experiment is made from'),
    ('proxy.variance_weight=0.7', 'does not read variance_weight'),
    ('proxy.opponents=3', 'does not read opponents'),
    (
      'arms.online.weight_decay=0.5 arms.*.weight_decay=0.1',
      'another override',
    ),
    (
      "golden.pairs=300 golden={'pairs':200,'label_noise':0.0}",
      'another override',
    ),
  ],
)
def test_an_override_without_effect_is_refused(given, message, cfg):
  if not message:  # what is already so
    checked(cfg, given)
    return
  with pytest.raises(ValueError) as refused:
    checked(cfg, *given.split())
  told = str(refused.value)
  assert message in told and given.split()[0] in told


@pytest.mark.parametrize(
  ('given', 'variants', 'names'),
  [
    (
      'model.mlp_dim=48',
      {'base': {}, 'wide': {'model': {'dim': 64}}},
      'shadowed: mlp_dim=None of wide offline, wide online, ',
    ),
    (
      'proxy.model.dim=8',
      {'plain': {}, 'deep': {'proxy': {'model': {'num_layers': 2}}}},
      'shadowed: dim=None of deep offline, ',
    ),
  ],
)
def test_a_variant_s_own_group_shadows_an_override(given, variants, names, cfg):
  sized = dict(verifier='sized', model=dict(dim=16, num_layers=1))
  cfg = {**cfg, 'variants': variants, 'proxy': {**cfg['proxy'], **sized}}
  with pytest.raises(ValueError) as refused:
    checked(cfg, given, runs=sweep)
  assert names in str(refused.value)


@pytest.mark.parametrize(
  ('variant', 'given', 'names'),
  [
    (
      {'arms.online.learning_rate': 5e-4},
      'arms.online.learning_rate=0.002',
      'shadowed: learning_rate=0.0005 of b online is set by',
    ),
    (
      {'arms.online.loss_kwargs': {'beta': 0.3}},
      'arms.*.loss_kwargs.beta=0.7',
      'shadowed: beta=0.3 of b online is set by',
    ),
    (
      {'golden': {'pairs': 9}},
      'golden.pairs=20',
      'pairs=9 of b online, b offline is set by',
    ),
  ],
)
def test_a_variant_s_own_field_shadows_an_override(variant, given, names, cfg):
  arms = {'online': {}, 'offline': {'source': 'golden_pairs'}}
  cfg = {**cfg, 'arms': arms, 'variants': {'a': {}, 'b': variant}}
  with pytest.raises(ValueError) as refused:
    checked(cfg, given, runs=sweep)
  assert names in str(refused.value)


def test_what_a_study_derives_of_a_field_is_no_shadow(cfg):
  """E3's arm of few labels has a batch and steps of its own, made of it."""
  e3, e10 = studies()['E3'], studies()['E10']
  new = checked(cfg, 'arm.batch_size=16', runs=e3.runs)
  assert {run.updates.batch_size for run in e3.runs(new)} == {4, 16}
  # Its runs have no variants, whatever those of the config have.
  wide = {'model': {**cfg['model'], 'dim': 64}}
  own = {**cfg, 'variants': {'1x': {}, '2x': wide}}
  new = checked(own, 'model.remat=True', runs=e10.runs)
  assert all(run.shared.model['remat'] for run in e10.runs(new))


@pytest.mark.parametrize(
  ('key', 'given', 'names'),
  [
    ('E1-', 'proxy.verifier=transformer', "verifier='bow' of bow 0.25x"),
    ('E7', 'eval.points=5', 'is made from config.eval.points'),
    ('E12', 'arm.warmup_steps=9', 'have a warmup_steps of their own'),
  ],
)
def test_a_study_s_own_field_shadows_an_override(key, given, names, cfg):
  with pytest.raises(ValueError) as refused:
    checked(cfg, given, runs=studies()[key].runs)
  assert names in str(refused.value)


@pytest.mark.parametrize(
  ('outer', 'arm', 'words'),
  [
    (
      {'sampling': {'temperature': 0.7}},
      {'sampling': {'top_p': 0.9}},
      'expected .*temperature',
    ),
    (
      {'lora': {'rank': 4, 'alpha': 8.0}},
      {'sweep': ({'lora': {'rank': 8}},)},
      'expected .*alpha',
    ),
    (
      {},
      {
        'loss': 'rloo',
        'loss_kwargs': {'kl': 'none'},
        'sweep': ({'loss_kwargs': {'beta': 0.1}},),
      },
      'expected kl in it, too',
    ),
  ],
)
def test_a_group_drops_no_part_that_was_set_outside(outer, arm, words, cfg):
  merged = {k: {**cfg['arm'][k], **x} for k, x in outer.items()}
  cfg = {**cfg, 'arm': {**cfg['arm'], **merged}, 'arms': {'online': arm}}
  with pytest.raises(ValueError, match=f'arms.online: .*{words}'):
    sweep(cfg)


def test_a_whole_group_that_a_study_replaces_is_shadowed(cfg):
  few = {**cfg['eval'], 'points': 5}
  with pytest.raises(ValueError, match='is made from config.eval as it is'):
    checked(
      cfg, f'eval={few}', runs=lambda x: sweep({**x, 'eval': cfg['eval']})
    )


def test_sft_that_is_left_out_has_no_settings(cfg):
  none = {**cfg, 'sft': {**cfg['sft'], 'steps': 0}}
  with pytest.raises(ValueError, match='there is no SFT by sft.steps=0'):
    checked(none, 'sft.learning_rate=0.1', runs=sweep)


def test_a_sampler_as_precise_as_the_policy_is_no_other(cfg):
  run = sweep({**cfg, 'arms': {'a': {'sampling': {'dtype': 'float32'}}}})[0]
  with pytest.raises(ValueError, match="dtype='float32', expected another"):
    checks.check_run(run, run.shared)


def test_what_a_variant_leaves_alone_is_overridden(cfg):
  variants = {'base': {}, 'few': {'golden': {'pairs': 8}}}
  cfg = {**cfg, 'variants': variants}
  new = checked(cfg, 'model.mlp_dim=48', runs=sweep)
  found = {run.shared.model['mlp_dim'] for run in sweep(new)}
  assert found == {48}


def test_the_zoo_knows_its_own_shadows(cfg):
  with pytest.raises(ValueError, match='is shadowed: methods.best_of_2, '):
    checked(cfg, 'arm.steps=6', runs=method_zoo.runs)
  new = checked(cfg, 'methods.*.steps=6', runs=method_zoo.runs)
  trained = [r for r in method_zoo.runs(new) if not r.pool.how]
  assert {run.schedule.steps for run in trained} == {6}


def test_effective_overrides_pass(cfg):
  new = checked(cfg, 'arms.*.steps=30', 'sft.steps=7', 'arm.log_every=3')
  assert new['sft']['steps'] == 7


# --- Variants -----------------------------------------------------------------


def test_variants_change_what_they_name(cfg):
  few = {'golden.pairs': 250, 'arm': {'batch_size': 16}}
  new = {**cfg, 'variants': {'few': few, 'all': {}}}
  sizes = {(r.variant, r.updates.batch_size) for r in sweep(new)}
  assert sizes == {('few', 16), ('all', 32)}
  pairs = {r.variant: r.shared.golden.pairs for r in sweep(new)}
  assert pairs == {'few': 250, 'all': cfg['golden']['pairs']}


def test_a_wrong_variant_is_refused(cfg):
  new = {**cfg, 'variants': {'few': {'golden.pair': 250}}}
  with pytest.raises(ValueError, match="golden.pair: .* did you mean 'pairs'"):
    sweep(new)


# --- The command line ---------------------------------------------------------


def command_line(*args):
  program = [sys.executable, '-m', 'experiments.online_vs_offline']
  return subprocess.run(
    [*program, *args], capture_output=True, text=True, timeout=120, cwd=ROOT
  )


def test_help_lists_flags_and_fields():
  done = command_line('--config=configs/toy.py', '--help')
  assert done.returncode == 0
  assert '--workdir:' in done.stdout
  assert '  arm.kl_budget = 2.0' in done.stdout
  assert '  arms: offline, online,' in done.stdout


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (None, 'no such file, expected one such as configs/'),
    ('def get_config(:', ':1: SyntaxError'),
    ('def get_config():\n  return {}[3]', ':2: KeyError: 3'),
    ('x = 1', 'get_config'),
  ],
)
def test_a_missing_or_broken_config_is_one_line(text, message, tmp_path):
  path = tmp_path / 'mine.py'
  if text:
    path.write_text(text)
  with pytest.raises(ValueError) as refused:
    command.load(path)
  assert message in str(refused.value)
  assert f'--config={path}' in str(refused.value)
  assert len(str(refused.value).splitlines()) == 1


def test_a_shadowed_override_ends_in_one_line_and_writes_nothing(tmp_path):
  done = command_line(
    '--config=configs/toy.py',
    f'--workdir={tmp_path / "run"}',
    '--config.arm.steps=6',
  )
  assert done.returncode == 1
  assert done.stderr.startswith('error: --config.arm.steps=6 is shadowed')
  assert len(done.stderr.splitlines()) == 1
  assert not (tmp_path / 'run').exists()


def test_smoke_configs_still_say_what_they_override():
  small = common.as_dict(base.smoke(toy.get_config()))
  assert checked(small, 'sft.steps=2')['sft']['steps'] == 2
