"""Proxies of a size of their own, and one that several variants share."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_checkpoints

from align_jax import sharding, tasks
from align_jax.files import write_record
from align_jax.lab import proxies, schedule, setups, stages, sweep
from align_jax.learn import batches
from align_jax.models import initial, transformer
from align_jax.models.interface import shapes
from align_jax.tools.fit_programs import Programs
from align_jax.types import Prompts
from configs import base, toy
from experiments import common

SIZE = dict(
  dim=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8
)
POLICY = transformer.ModelConfig(vocab_size=16, **SIZE)
OTHER = {'sft.steps': 2}  # another reference, by the same programs
LENT = {**OTHER, 'proxy.variant': 'first'}


def config(first=(), other=LENT, **proxy):
  """Two variants, of which `other` uses the proxy of `first`."""
  c = toy.get_config()
  c.task.update(prompts=20, eval_prompts=8)
  c.model.update(vocab_size=16, dim=8, mlp_dim=8)
  cfg = common.as_dict(base.smoke(c))
  cfg['proxy'] |= {'verifier': 'sized', 'model': SIZE, **proxy}
  cfg['arms'] = {'online': {}}
  return {**cfg, 'seeds': 1, 'variants': {'first': dict(first), 'other': other}}


def setups_of(cfg, workdir):
  shared = sweep.shared_of(sweep.sweep(cfg))
  made = setups.setups_of(shared, workdir)
  for name, one in shared.items():
    write_record(workdir / name / 'settings.json', one.settings)
  setups.write_owners(made)
  return made


def test_a_lent_proxy_is_its_owners_whoever_asks_first(tmp_path):
  made = setups_of(config(), tmp_path / 'one')
  asked = stages.prepare(made['other'], 0)
  assert not (tmp_path / 'one' / 'other' / 'seed0' / 'proxy0').exists()
  own = setups_of(config(other=OTHER), tmp_path / 'two')
  owned = stages.prepare(own['first'], 0)
  equal = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))
  assert equal(asked.proxy_params, owned.proxy_params)
  # It learned from the pairs of the first variant, not from its own.
  pairs = {
    name: batches.load(tmp_path / 'one' / name / 'seed0' / 'pairs.npz')
    for name in ('first', 'other')
  }
  assert not equal(pairs['first'].completions, pairs['other'].completions)
  assert equal(pairs['first'].completions, owned.pairs.completions)
  for name in made:
    found = setups.opened(tmp_path / 'one' / name)
    assert found.folder('proxy', 0) == made[name].folder('proxy', 0)
  assert found.lender.variant == 'first'


def test_a_sized_proxy_has_its_own_size(tmp_path):
  setup = setups_of(config(other=OTHER), tmp_path)['first']
  params = stages.prepare(setup, 0).proxy_params
  c = transformer.ModelConfig(vocab_size=16, head='scalar', **SIZE)
  same = jax.tree.map(lambda a, b: a.shape == b.shape, params, shapes(c))
  assert jax.tree.all(same)


def test_a_borrower_waits_for_the_owner_of_its_proxy(tmp_path):
  cfg = config()
  runs = sweep.sweep(cfg)
  made = setups.setups_of(sweep.shared_of(runs), tmp_path)
  jobs = schedule.make_jobs(made, runs, common.train_runs)
  needs = {job.name: job.needs for job in jobs}
  assert 'first/seed0' in needs['other/seed0']


@pytest.mark.parametrize(
  ('cfg', 'message'),
  [
    (config(model={}), r'proxy.model=\{\}, expected fields'),
    (config(verifier='bow'), 'none with others'),
    (config(model={**SIZE, 'dims': 8}), "proxy.model.dims=8.*mean 'dim'"),
    (config(model={'dim': 8}), 'proxy.model: .*missing'),
    (config(model={'checkpoint': 'x', 'dim': 8}), 'proxy.model.dim=8 is given'),
    (config(model={'checkpoint': 'x', 'dtype': 'f'}), 'proxy.model.dtype=.f.,'),
    (config(other={'proxy.variant': 'frst'}), "other: .*did you mean 'first'"),
    (config(first={'proxy.variant': 'other'}), 'a proxy of its own'),
    (config(other={'proxy.variant': 'other'}), 'a proxy of its own'),
    (config(verifier='transformer', model={}), 'do not start from a policy'),
    (config(other={**LENT, 'proxy.steps': 3}), 'whose proxy.steps=4'),
    (config(other={**LENT, 'task.peak_shift': 0}), 'whose task='),
    (config(other={**LENT, 'model.vocab_size': 17}), 'whose model.vocab_size'),
    ({**config(variant='first'), 'variants': {}}, 'is none of'),
  ],
)
def test_a_proxy_that_cannot_be_made_or_lent_is_refused(cfg, message):
  with pytest.raises(ValueError, match=message) as refused:
    common.check(cfg, sweep.sweep(cfg))
  assert len(str(refused.value).splitlines()) == 1


def test_a_sized_proxy_counts_where_it_lies():
  """`align fit` knows the bytes of each of its members."""
  mesh = sharding.make_mesh(jax.devices()[:1])

  def resident(**proxy):
    run = sweep.sweep(config(**proxy))[0]
    with jax.set_mesh(mesh):
      return sum(Programs(run, mesh, 'device')._resident().values())

  own = resident(members=2) - resident(verifier='bow', model={})
  c = transformer.ModelConfig(vocab_size=16, head='scalar', **SIZE)
  assert own == 2 * sum(4 * x.size for x in jax.tree.leaves(shapes(c)))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('checkpoints')


@pytest.fixture(scope='module')
def language_model(folder):
  return tiny_checkpoints.make(folder / 'own', 'qwen2')


def start_of(checkpoint):
  """What a proxy starts from, and the checkpoint's own parameters."""
  fields = {'checkpoint': str(checkpoint)}
  c = initial.scorer(fields, POLICY, 'proxy.model')
  assert c.head == 'scalar'
  stored = initial.hf.load(checkpoint, head='scalar').params
  return initial.scorer_params(fields, c, None), stored


@pytest.mark.parametrize('head', ['lm', 'scalar'])
def test_a_proxy_starts_from_its_checkpoint(head, folder):
  """A reward model keeps its head; a language model gets one of zeros."""
  params, stored = start_of(
    tiny_checkpoints.make(folder / head, 'qwen2', head=head)
  )
  assert (np.ptp(stored['head']) > 0) == (head == 'scalar')
  jax.tree.map(np.testing.assert_array_equal, params, stored)


def test_a_proxy_of_a_checkpoint_scores_golden_pairs(language_model, tmp_path):
  model = {'checkpoint': str(language_model)}
  cfg = config(other=OTHER, model=model, learning_rate=1e-9, weight_decay=0.0)
  setup = setups_of(cfg, tmp_path)['first']
  stage = stages.prepare(setup, 0)
  stored = initial.hf.load(language_model, head='scalar').params
  near = jax.tree.map(np.allclose, stage.proxy_params, stored)
  assert jax.tree.all({**near, 'head': True})
  assert np.ptp(np.asarray(stage.proxy(stage.pairs))) > 0


@pytest.mark.parametrize(
  ('policy', 'family', 'message'),
  [
    (dict(vocab_size=1000), 'qwen2', 'ids, expected the 1000 of the policy'),
    (dict(vocab_size=16), 'llama', 'expected one tokenizer'),
  ],
)
def test_a_proxy_that_cannot_read_the_policy_is_refused(
  policy, family, message, language_model, tmp_path
):
  other = tiny_checkpoints.make(tmp_path / family, family)
  task = tasks.Task(
    model=dataclasses.replace(POLICY, **policy),
    max_new_tokens=4,
    eos_id=0,
    train_prompts=Prompts(np.zeros((1, 2), int), np.ones((1, 2), bool)),
    eval_prompts=None,
    demonstrations=None,
    gold=None,
    decode=None,
    tokenizer=language_model,
  )
  [run] = sweep.sweep(
    {**config(model={'checkpoint': str(other)}), 'variants': {}}
  )
  with pytest.raises(ValueError, match=message) as refused:
    proxies.check_proxy_of(task, run.shared.proxy)
  assert len(str(refused.value).splitlines()) == 1
