"""`align fit`: what it reads off compiled programs, and what it compiles."""

import dataclasses
import importlib.util
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import sharding
from align_jax.lab import config_file
from align_jax.models.transformer import ModelConfig
from align_jax.tools import (
  fit,
  fit_flops,
  fit_here,
  fit_hlo,
  fit_measure,
  fit_programs,
  fit_search,
  fit_slices,
  fit_table,
)
from align_jax.tools.fit_measure import needed

# As the TPU compiler writes: a loop of 16 turns whose condition alone says so,
# an asynchronous collective written down twice, and a fused reduce-scatter.
TPU = """\
HloModule jit_f

%cond (p: (s32[], f32[4,8])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(16)
  %p = (s32[]{:T(128)}, f32[4,8]{1,0}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n, %constant.5), direction=LT
}

%start.1 (q: bf16[4,8]) -> bf16[32,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[32,8]{1,0:T(8,128)} all-gather(%q), channel_id=7
}

%done.1 (q: bf16[4,8]) -> bf16[32,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[32,8]{1,0:T(8,128)} all-gather(%q), channel_id=7
}

%all-reduce-scatter.1 (q: bf16[32,8]) -> bf16[4,8] {
  %q = bf16[32,8]{1,0} parameter(0)
  %r = bf16[32,8]{1,0} all-reduce(%q), channel_id=8, to_apply=%add
  ROOT %s = bf16[4,8]{1,0} dynamic-slice(%r), dynamic_slice_sizes={4,8}
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[]{:T(128)}, f32[4,8]{1,0}) parameter(0)
  %a = bf16[32,8]{1,0} fusion(%p), kind=kCustom, calls=%start.1
  %b = bf16[32,8]{1,0} fusion(%a), kind=kCustom, calls=%done.1
  %c = bf16[4,8]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %t = (s32[]{:T(128)}, f32[4,8]{1,0}) tuple(%p, %c)
}

ENTRY %main (x: f32[4,8]) -> (s32[], f32[4,8]) {
  %x = (s32[]{:T(128)}, f32[4,8]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[4,8]{1,0}) while(%x), condition=%cond, body=%body
}
"""


def test_a_loop_of_the_tpu_compiler_is_counted_by_its_condition():
  gather, scatter = fit_hlo.collectives(TPU)
  assert gather == ('all-gather', ('bf16[32,8]',), 512, 16, False, '')
  assert (scatter.kind, scatter.bytes, scatter.times) == (
    'reduce-scatter',
    512,
    16,
  )
  assert fit_hlo.summary([gather, scatter], loops=1) == {}
  once = fit_hlo.summary([gather, scatter])
  assert once['all-gather'] == (16, 16 * 512)


def test_a_loop_of_unknown_length_is_counted_per_turn():
  endless = TPU.replace('direction=LT', 'direction=NE')
  assert all(op.per_token for op in fit_hlo.collectives(endless))
  found = fit_hlo.summary(fit_hlo.collectives(endless), loops=2)
  assert found == {'all-gather': (0.5, 256), 'reduce-scatter': (0.5, 256)}
  assert fit_hlo.loops(TPU) == [] and fit_hlo.loops(endless) == [4 + 4 * 8 * 4]
  assert fit_hlo.loops(endless, (4, 8)) == [4]
  assert fit_hlo.loops(endless, (8, 4)) == [4 + 4 * 8 * 4]


def test_what_a_ring_sends_is_counted_though_all_has_channel_1():
  send = '  %s.{} = f32[4] collective-permute(%q), channel_id=1'
  text = '\n'.join(['ENTRY %main () -> f32[4] {', *map(send.format, 'ab'), '}'])
  (kind,) = fit_hlo.summary(fit_hlo.collectives(text)).items()
  assert kind == ('collective-permute', (2, 2 * 16))


def test_collectives_of_one_channel_and_other_arrays_are_others():
  both = (
    '  %r.1 = f32[4]{0} all-reduce(%q), channel_id=1, to_apply=%add',
    '  %r.2 = f32[8]{0} all-reduce(%q), channel_id=1, to_apply=%add',
  )
  text = '\n'.join(['ENTRY %main () -> f32[4] {', *both, '}'])
  found = fit_hlo.summary(fit_hlo.collectives(text))
  assert found == {'all-reduce': (2, 2 * (16 + 32))}  # there and back


def test_a_product_runs_once_on_each_device_that_a_shard_map_names():
  mesh = jax.sharding.AbstractMesh(
    (2, 4), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  rows = jax.sharding.PartitionSpec('b')
  f = jax.shard_map(
    lambda x: x @ x.T,
    mesh=mesh,
    in_specs=rows,
    out_specs=rows,
    axis_names={'b'},
    check_vma=False,
  )
  jaxpr = jax.make_jaxpr(f)(jnp.ones((8, 3))).jaxpr
  assert fit_flops.flops(jaxpr) == 4 * 2 * 2 * 3 * 2


def test_products_are_counted_as_often_as_they_run():
  def f(x, w):
    again = jax.checkpoint(jnp.dot)
    x, _ = jax.lax.scan(lambda x, _: (again(x, w), 0), x, length=5)
    more = lambda c: c[0].sum() < 3
    return jax.lax.while_loop(more, lambda c: (c[0] @ w, c[1]), (x, 0))

  x, w = jnp.ones((2, 4)), jnp.ones((4, 4))
  jaxpr = jax.make_jaxpr(f)(x, w).jaxpr
  assert fit_flops.flops(jaxpr) == 5 * 2 * 2 * 4 * 4
  assert fit_flops.flops(jaxpr, turns=7) == 12 * 2 * 2 * 4 * 4


@pytest.mark.parametrize(
  ('message', 'bytes_', 'limit'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (17.5G) exceeds available HBM (15.75G)',
      17.5,
      15.75,
    ),
    (
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory '
      'in memory space hbm. Used 20.5G of 15.75G hbm. Exceeded hbm',
      20.5,
      15.75,
    ),
  ],
)
def test_what_the_compiler_says_of_memory_is_read(message, bytes_, limit):
  assert needed(message) == bytes_ * 2**30
  assert fit_slices.available(message) == limit * 2**30


def test_a_search_starts_with_the_mesh_whose_tokens_take_least():
  """A large model is split, since it is read for each token; a small is not."""
  chip, meshes = fit_slices.CHIPS['v5e'], [*fit_search.meshes(64, 128, 8)]
  small = ModelConfig(
    vocab_size=512,
    dim=128,
    num_layers=2,
    num_heads=8,
    num_kv_heads=8,
    head_dim=32,
    mlp_dim=512,
  )
  large = dataclasses.replace(small, dim=4096, mlp_dim=14336)

  def seconds(model, rows):
    return [fit_search.token_seconds(x, model, rows, chip) for x in meshes]

  for model, rows, rollout in ((large, 512, 8), (small, 8192, 1)):
    best = meshes[np.argmin(seconds(model, rows))]
    assert best['rollout'] == rollout
  # Half of the weights, and a sum of states with the other half.
  whole, half, *_ = seconds(small, 64)
  states = 2 * 2 * 2 * (64 / 32 * 128 * 4) / chip.ici
  assert half == pytest.approx(whole / 2 + states)


@pytest.fixture
def searched(monkeypatch):
  """(limit, size) -> what a search of an 8B config finds on eight chips.

  Limit and size(cfg) of every program are in GiB.
  """

  def search(limit, size):
    def compiled(cfg, arm, name, found, limit):
      program = types.SimpleNamespace(
        name=name, beside=0, host=0, arguments=(), tokens=0, rows=0
      )
      return fit_measure._too_large(program, limit, 0.0, size(cfg) << 30)

    monkeypatch.setattr(fit_search, 'compiled', compiled)
    monkeypatch.setattr(fit_slices.Slice, 'limit', lambda self: limit << 30)
    cfg = config_file.load('configs/llama3_8b_ultrafeedback.py')
    asked = [('rloo', 'sample'), ('rloo', 'train')]
    return fit_search.search(cfg, fit_slices.find('v5e-8'), asked)[0]

  return search


def test_a_search_that_finds_none_tells_the_smallest(searched):
  with pytest.raises(fit_search.NoneFits) as found:
    searched(16, lambda cfg: 100 * cfg['mesh']['fsdp'])
  assert str(found.value) == 'sample takes 100.00 GiB of 16.00'


def test_a_search_moves_the_reference_where_nothing_else_is_enough(searched):
  tried = []

  def size(cfg):
    tried.append(cfg['reference_memory'])
    return 18 if tried[-1] == 'device' else 15

  done = searched(16, size)
  assert done['reference_memory'] == 'host' and done['model.remat']
  told = fit_search.short(done)
  assert 'reference_memory host' in told and told.endswith(', remat')
  # 30 GiB of reference on eight chips: without it 14 GiB are still too much.
  tried.clear()
  with pytest.raises(fit_search.NoneFits):
    searched(14, size)
  assert set(tried) == {'device'}


def test_a_published_judge_lies_beside_every_program():
  """On each host whole, split over the host's own devices."""
  cfg = config_file.load('configs/llama3_8b_ultrafeedback.py')
  run = fit_search.first_run(cfg, 'rloo')
  hosts = np.repeat(np.arange(4), 2)
  devices = [types.SimpleNamespace(process_index=i) for i in hosts]
  mesh = types.SimpleNamespace(devices=np.array(devices))
  [(field, size)] = fit_programs.judges_on_device(run, mesh).items()
  # 7.5 billion parameters: Llama 3 8B without its head.
  assert field == 'task.judge'
  assert size == pytest.approx(7.5e9 * 2 / 2, rel=0.01)


def test_a_search_knows_what_splits_rows_and_heads():
  first, *more = fit_search.meshes(64, rows=128, kv_heads=8)
  assert (first['fsdp'], first['rollout'], first['tensor']) == (64, 1, 1)
  assert [m['rollout'] for m in more] == [2, 4, 8]
  # More chips than prompts: layers are split, and rows still divide.
  for mesh in fit_search.meshes(256, rows=128, kv_heads=8):
    assert mesh['tensor'] == 2 and mesh['fsdp'] * mesh['rollout'] == 128
  found = list(fit_search.trainings(128, 32, remat=False))
  assert found[0] == {'model.remat': False, 'arm.num_microbatches': 1}
  assert [x['arm.num_microbatches'] for x in found[1:]] == [1, 2, 4]


def test_a_search_turns_the_knob_that_counts():
  cfg = config_file.load('configs/toy.py')
  split = {'mesh.fsdp': 8, 'mesh.rollout': 1}
  for path in 'arm.num_microbatches', 'arms.online.num_microbatches':
    cfg = fit_search.changed(cfg, {path: 1})
    run = fit_search.first_run(cfg, 'online')
    found = list(fit_search._on_device(cfg, None, run, split))
    assert all(path in changes for changes in found)
    parts = [
      fit_search.first_run(fit_search.changed(cfg, x), 'online') for x in found
    ]
    assert [run.updates.num_microbatches for run in parts] == [
      x[path] for x in found
    ]


TOY = '--config=configs/toy.py', '--topology=v5e-8'


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--topology=v5e-8'], '--config is required'),
    (['--config=configs/toy.py', '--topology=v5e-9'], 'v5e-9'),
    (['--config=configs/toy.py', '--topology=v5e-8', '--only=x'], 'online'),
    (['--programs=trian', '--all'], 'trian'),
    (
      ['--config=configs/toy.py', '--topology=here', '--search'],
      'expected a slice, got here',
    ),
    (['--all', '--only=online'], '--all is given alone'),
    (['--all', '--config.seeds=2'], '--all is given alone'),
    ([*TOY, '--config.seeds=-3'], 'seeds=-3, expected'),
    ([*TOY, '--config.task.name=toi'], 'toi'),
    ([*TOY, '--config.arm.num_microbatches=3'], 'num_microbatches=3'),
    ([*TOY, '--only=optimum'], "reweigh='optimum' trains nothing"),
    ([*TOY, '--config.together=True'], 'together=True: expected False'),
    (
      [*TOY, '--only=offline', '--config.arm.steps=9'],
      'offline sets step',
    ),
    (
      [*TOY, '--only=online', '--config.arms.offline.steps=9'],
      'no run of this',
    ),
    ([*TOY, '--only=online', '--config.arm.mixture=0.3'], 'no run reads mixt'),
    (
      [*TOY, '--search', '--config.mesh.fsdp=2'],
      '--config.mesh.fsdp: --search',
    ),
  ],
)
def test_a_mistake_is_one_line(flags, words, capsys):
  with pytest.raises(SystemExit) as stop:
    fit.main(flags)
  assert words in str(stop.value) and '\n' not in str(stop.value)


def of_known_size(monkeypatch, limit):
  """Makes this machine one of known chips of `limit` bytes."""
  chip = fit_slices.Chip(1e12, 1e11, 1e10)
  monkeypatch.setitem(fit_here.KINDS, jax.devices()[0].device_kind, chip)
  monkeypatch.setattr(fit_here.Here, 'limit', lambda self: limit)


def test_what_does_not_fit_ends_with_status_1(monkeypatch, capsys):
  of_known_size(monkeypatch, 2**10)
  flags = ['--config=configs/toy.py', '--topology=here', '--programs=score']
  with pytest.raises(SystemExit) as stop:
    fit.main([*flags, '--only=online'])
  assert stop.value.code == 'error: here is too small for score'
  assert 'DOES NOT FIT: ' in capsys.readouterr().out


def test_a_machine_runs_what_it_compiles(monkeypatch, capsys):
  of_known_size(monkeypatch, 2**33)
  programs = '--programs=train,sample'
  fit.main(['--config=configs/toy.py', '--topology=here', programs])
  update, sampler = [
    line.split(', ')
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('  measured: ')
  ]
  times, share = update[1], update[2]
  assert float(times.split()[0]) > 1  # no program beats its bound
  assert share.startswith('MFU ')
  assert any(x.endswith('of the bandwidth of HBM') for x in sampler)


def test_a_kernel_s_products_count_apart():
  taken = fit_here.Taken(2.0, 0)
  told = types.SimpleNamespace(
    tokens=0, bound=1.0, useful=4e12, attended=6e12, taken=taken
  )
  one = types.SimpleNamespace(chips=1, chip=types.SimpleNamespace(flops=4e12))
  line = fit_table._measured(told, one)
  assert ', MFU 50%, 75% with the products of attention, ' in line
  told.attended = told.useful
  assert 'attention' not in fit_table._measured(told, one)


def test_adapters_of_a_known_checkpoint_need_no_download():
  cfg = config_file.load('configs/llama3_8b_ultrafeedback.py')
  cfg['arm']['lora']['rank'] = 4
  cfg['model']['param_dtype'] = 'bfloat16'
  cfg['mesh'].update(fsdp=1, rollout=1)
  mesh = sharding.make_mesh(jax.devices()[:1], **cfg['mesh'])
  with jax.set_mesh(mesh):
    [run] = fit.runs_of(cfg, 'rloo')
    programs = fit_programs.Programs(run, mesh, 'device')
    update, sampler = programs.train(), programs.sample()
  trained, base = (
    sum(x.size for x in jax.tree.leaves(tree))
    for tree in (update.arguments[0].params, sampler.arguments[0])
  )
  assert base > 8e9 and 0.001 < trained / base < 0.002
  # The base stays beside the merged policy that samples.
  assert sampler.beside - update.beside > 1.9 * base


def test_all_kinds_of_a_sweep_are_judged(monkeypatch, capsys):
  of_known_size(monkeypatch, 2**33)
  flags = ['--config=configs/toy.py', '--topology=here', '--programs=score']
  cfg = config_file.load('configs/toy.py')
  sweep = {}, {'loss_kwargs': {'beta': 1.0}}, {'group_size': 4}
  cfg['arms']['online']['sweep'] = sweep
  monkeypatch.setattr(config_file, 'load', lambda file: cfg)
  fit.main([*flags, '--only=online'])
  heads = [x for x in capsys.readouterr().out.splitlines() if 'chips' in x]
  assert len(heads) == 2 and "arm 'online/group_size4'" in heads[1]
  with pytest.raises(SystemExit, match='and online/group_size4 execute other'):
    fit.main([flags[0], '--topology=v5e-8', '--search', '--only=online'])


def test_variants_of_other_sizes_are_judged(monkeypatch, capsys):
  of_known_size(monkeypatch, 2**33)
  flags = ['--config=configs/toy.py', '--topology=here', '--programs=score']
  cfg = config_file.load('configs/toy.py')
  cfg['variants'] = {
    'plain': {},
    'wide': {'model.mlp_dim': 128},
    'noisy': {'golden': {'label_noise': 0.3}},
  }
  monkeypatch.setattr(config_file, 'load', lambda file: cfg)
  found = fit.runs_of(cfg, 'online')
  assert [run.variant for run in found] == ['plain', 'wide']
  fit.main([*flags, '--only=wide online'])
  heads = [x for x in capsys.readouterr().out.splitlines() if 'chips' in x]
  assert len(heads) == 1 and "arm 'wide online'" in heads[0]
  with pytest.raises(SystemExit, match='--only=low online: no such arm'):
    fit.main([*flags, '--only=low online'])
  tried = lambda cfg, *_: ({'model.remat': cfg['model']['mlp_dim'] == 128}, [])
  monkeypatch.setattr(fit_search, 'search', tried)
  fit.main([flags[0], '--topology=v5e-1', '--search', '--only=wide online'])
  assert 'v5e-1 with --config.model.remat=True' in capsys.readouterr().out


def test_one_prompt_is_not_halved():
  arm = {'batch_size': 1}
  assert fit_table._fewer_prompts(arm) == 'a larger slice'
  assert fit_table._fewer_prompts({'batch_size': 8}).endswith('batch_size=4')


def test_a_machine_of_unknown_chips_is_refused(monkeypatch):
  monkeypatch.setattr(fit_here, 'KINDS', {'TPU v9': fit_slices.CHIPS['v4']})
  kind = jax.devices()[0].device_kind
  with pytest.raises(ValueError, match=f'--topology=here: device {kind}'):
    fit_here.find()


COMPILER = importlib.util.find_spec('libtpu')


@pytest.mark.skipif(not COMPILER, reason='needs libtpu')
def test_all_programs_are_compiled_for_a_slice():
  command = [sys.executable, '-m', 'align_jax.tools.fit', '--topology=v5e-4']
  config = '--config=configs/toy.py', '--only=online', '--config.mesh.fsdp=4'
  told = subprocess.run([*command, *config], capture_output=True, text=True)
  assert told.returncode == 0, told.stderr
  first, *lines = told.stdout.splitlines()
  assert first.startswith('v5e-4: 4 chips, 1 hosts, 15.75 GiB of HBM each')
  heads = [line.split(': ')[0] for line in lines if line.endswith(': fits')]
  assert heads == ['train', 'sample', 'score', 'evaluate', 'sample to evaluate']
  bounds = [x for x in lines if x.startswith('  at least ')]
  assert len(bounds) == 5 and all(float(x.split()[2]) > 0 for x in bounds)


@pytest.mark.skipif(bool(COMPILER), reason='libtpu is there')
def test_a_missing_compiler_names_the_command():
  with pytest.raises(ValueError, match='pip install "libtpu'):
    fit_slices.find('v5e-8').devices()
