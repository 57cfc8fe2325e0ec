"""Sizes that `align fit` knows are published, and configs name slices."""

import math
import re

import pytest
from test_configs import MODULES

from align_jax.lab import overrides
from align_jax.models import hf_config
from align_jax.models.interface import from_fields, size
from align_jax.tools import fit_models, fit_slices
from experiments import common

# As their model cards, and for Llama their papers, count parameters.
PUBLISHED = {
  'EleutherAI/pythia-31m': 30_494_720,
  'EleutherAI/pythia-410m-deduped': 405_334_016,
  'EleutherAI/pythia-1b-deduped': 1_011_781_632,
  'EleutherAI/pythia-1.4b': 1_414_647_808,
  'EleutherAI/pythia-2.8b-deduped': 2_775_208_960,
  'EleutherAI/pythia-6.9b-deduped': 6_857_302_016,
  'Qwen/Qwen2.5-0.5B': 494_032_768,
  'meta-llama/Llama-3.2-1B-Instruct': 1_235_814_400,
  'meta-llama/Meta-Llama-3-8B-Instruct': 8_030_261_248,
  'meta-llama/Llama-3.1-8B-Instruct': 8_030_261_248,
  'meta-llama/Meta-Llama-3-70B-Instruct': 70_553_706_496,
}
# Of these the body is published: they have one number a token, no vocabulary.
JUDGES = {
  'cleanrl/EleutherAI_pythia-6.9b-deduped__reward__tldr': (
    PUBLISHED['EleutherAI/pythia-6.9b-deduped'] - 50432 * 4096 + 4096
  ),
  'Skywork/Skywork-Reward-V2-Qwen3-0.6B': 596_049_920 + 1024,  # tied
  'Skywork/Skywork-Reward-Llama-3.1-8B-v0.2': (
    PUBLISHED['meta-llama/Llama-3.1-8B-Instruct'] - 128256 * 4096 + 4096
  ),
}


@pytest.mark.parametrize('name', fit_models.KNOWN)
def test_a_checkpoint_has_as_many_parameters_as_the_published_one(name):
  fields = hf_config.from_hf(fit_models.KNOWN[name])
  assert size(from_fields(**vars(fields))) == {**PUBLISHED, **JUDGES}[name]


def checkpoints(tree):
  """The values of all fields `checkpoint` in a config."""
  for name, x in tree.items() if isinstance(tree, dict) else ():
    yield from [x] if name == 'checkpoint' else checkpoints(x)


@pytest.mark.parametrize('module', MODULES)
def test_every_checkpoint_of_a_shipped_config_is_known(module):
  named = set(checkpoints(module.get_config().to_dict())) - {''}
  assert named <= fit_models.KNOWN.keys()


FIT = (
  r'`align fit --config=configs/(\w+).py --topology=(\S+?)((?: --config\S+)*)`'
)


@pytest.mark.parametrize('module', MODULES)
def test_a_large_config_names_a_slice_that_its_mesh_fills(module):
  if not module.get_config().model.get('checkpoint'):
    return
  header = ' '.join(module.__doc__.split())
  name, topology, flags = re.search(FIT, header).groups()
  assert module.__name__ == f'configs.{name}'
  given = [x.removeprefix('--config.').split('=') for x in flags.split()]
  cfg = overrides.apply(common.as_dict(module.get_config()), given)
  assert math.prod(cfg['mesh'].values()) == fit_slices.find(topology).chips
