"""What `align fit` compiles for eight devices is what the lab runs on them."""

import pytest
from conftest import python

LAB = """
import dataclasses, json
from align_jax import sharding

sharding.use_mesh(fsdp=2, rollout=2, tensor=2)
import jax
from align_jax.lab import protocol, starts, sweep
from align_jax.models import cpu
from align_jax.models.interface import of
from align_jax.tools import fit_hlo
from align_jax.tools.fit_programs import PROGRAMS, Programs, bytes_on_device
from align_jax.types import Batch
from configs import base, toy
from experiments import common

cfg = common.as_dict(base.smoke(toy.get_config()))
cfg['model'] |= dict(
  dim=48, mlp_dim=80, num_layers=2, num_heads=4, num_kv_heads=4, remat=True
)
cpu.MAX_UNROLLED = 0  # a scan, as of a large model
cfg['task'].update(eval_prompts=8)
cfg['eval'].update(samples=1)
cfg['arms'] = {
  'rloo': dict(loss='rloo', group_size=2),
  'ppo': dict(loss='ppo'),
  'offline': cfg['arms']['offline'],
}
mesh = sharding.current_mesh()
runs = {run.arm: run for run in sweep.sweep(cfg) if run.seed == 0}
found = {name: Programs(run, mesh, 'device') for name, run in runs.items()}
away = Programs(runs['rloo'], mesh, 'host')


def told(tree):
  return {
    jax.tree_util.keystr(path): [x.shape, str(x.dtype), str(x.sharding.spec)]
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
    if x.size > 1
  }


def real(programs):
  '''The state as the lab makes it.'''
  model = programs.task.model
  drawn = of(model).init(jax.random.key(0), model)
  placed = sharding.place(drawn, of(model).axes(model), mesh)
  stage = dataclasses.replace(programs.stage, reference=placed)
  tx = protocol.optimizer_for(stage, programs.run)
  return starts.start_of(stage, programs.run, tx)


SCORING = (
  ('offline', 'train'), ('ppo', 'train'), ('rloo', 'score'),
  ('rloo', 'evaluate'),
)


def tokens(program):
  '''Of the completions that a program scores.'''
  batch = next(x for x in program.arguments if isinstance(x, Batch))
  return batch.completions.size


def ops(arm, name):
  program = PROGRAMS[name](found[arm])
  text = program.f.lower(*program.arguments).compile().as_text()
  return [op._asdict() for op in fit_hlo.collectives(text)]


state = real(found['rloo'])
print(json.dumps({
  'abstract': told(found['rloo'].state),
  'real': told(state),
  'vocab': found['rloo'].task.model.vocab_size,
  'bytes': {
    name: [
      [x.beside + bytes_on_device(x.arguments), x.host]
      for x in (PROGRAMS[name](one) for one in (found['rloo'], away))
    ]
    for name in ('train', 'sample', 'score', 'evaluate')
  },
  'layers': found['rloo'].task.model.num_layers,
  # Bytes of the smallest part of a matrix that a device has.
  'least': min(
    x.nbytes // 8 for x in jax.tree.leaves(state.params) if x.ndim > 2
  ),
  'ops': {
    f'{arm} {name}': ops(arm, name)
    for arm, name in (*SCORING, ('rloo', 'sample'))
  },
  'tokens': {
    f'{arm} {name}': tokens(PROGRAMS[name](found[arm]))
    for arm, name in SCORING
  },
}))
"""


@pytest.fixture(scope='module')
def lab():
  return python(LAB)


def test_what_is_compiled_for_is_the_state_of_the_lab(lab):
  assert len(lab['real']) > 20
  assert lab['abstract'] == lab['real']


def test_a_reference_on_its_host_is_not_on_the_device(lab):
  for name, ((before, none), (after, host)) in lab['bytes'].items():
    assert none == 0 < host, name
    assert before - after == host, name


def test_no_weight_moves_for_a_token(lab):
  """Sampling lays the weights out once; then only states move."""
  moved = [op for op in lab['ops']['rloo sample'] if op['per_token']]
  assert moved and max(op['bytes'] for op in moved) < lab['least']
  laid = [op for op in lab['ops']['rloo sample'] if not op['per_token']]
  assert max(op['bytes'] for op in laid) >= lab['least']


SCORING = 'offline train', 'ppo train', 'rloo score', 'rloo evaluate'


@pytest.mark.parametrize('name', SCORING)
def test_logits_stay_where_their_tokens_are(lab, name):
  arrays = [array for op in lab['ops'][name] for array in op['arrays']]
  assert not [x for x in arrays if x.endswith(f',{lab["vocab"]}]')]
  assert not [
    op
    for op in lab['ops'][name]
    if op['kind'] == 'all-gather' and '/head/' in op['label']
  ]
  # Nor is the head gathered: the rows' states move to their logits.
  width = lab['real'][".params['embed']"][0][1]
  assert not [x for x in arrays if f'[{lab["vocab"]},{width}]' in x]


@pytest.mark.parametrize('name', SCORING)
def test_outside_of_layers_only_states_are_gathered(lab, name):
  """No parameter or gradient: numbers of tokens, and states for the head."""
  width, number = lab['real'][".params['embed']"][0][1], lab['tokens'][name]
  assert lab['least'] > 4 * number
  for op in lab['ops'][name]:
    if (op['kind'], op['times']) == ('all-gather', 1):
      assert op['bytes'] == 4 * number * width or op['bytes'] < lab['least']


def test_a_layer_is_gathered_once_each_way(lab):
  """A whole layer is not kept: the backward pass gathers it anew."""
  gathers = lambda name: [
    op['arrays']
    for op in lab['ops'][name]
    if (op['kind'], op['times']) == ('all-gather', lab['layers'])
  ]
  once, twice = gathers('rloo score'), gathers('offline train')
  assert len(once) == 4 and len(twice) == 8  # qkv, o, gate_up, down
  assert not [
    op
    for name in ('offline train', 'rloo score')
    for op in lab['ops'][name]
    if op['kind'] == 'collective-permute' and op['bytes'] >= lab['least']
  ]
