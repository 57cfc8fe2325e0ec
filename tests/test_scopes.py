"""A profile names the stages of a program, in the field's words."""

import functools
import re

import jax
import pytest

from align_jax.learn import optimizers, step
from align_jax.losses import LOSSES
from align_jax.policy import sampling, scoring


def scopes(lowered):
  """The names of all scopes, of the backward pass too."""
  locations = re.findall(r'"([^"]*/[^"]*)"', lowered.as_text(debug_info=True))
  inside = (x for x in locations if not x.endswith('.py'))
  return {name for x in inside for name in re.split(r'[/()]+', x)}


MODEL = {'embed', 'layer', 'norm', 'qkv', 'attention', 'mlp', 'head'}


@pytest.fixture(scope='module')
def lowered_step(config, params, batch):
  forward = functools.partial(scoring.token_logps, config=config)
  tx = optimizers.make_optimizer()
  train_step = step.make_train_step(forward, LOSSES['sft'], tx)
  state = step.init_state(params, tx)
  return train_step.program.lower(state, {}, batch, {'learning_rate': 0.1})


def test_a_train_step_names_its_stages(lowered_step):
  assert scopes(lowered_step) >= {'forward', 'loss', 'update', *MODEL}


def test_sampling_names_its_stages(config, params, prompts):
  draw = functools.partial(
    sampling.sample, config=config, group_size=2, max_new_tokens=3
  )
  lowered = jax.jit(draw).lower(params, *prompts, jax.random.key(0))
  assert scopes(lowered) >= {'prefill', 'decode', 'draw', *MODEL}


def test_a_layer_holds_its_stages_and_not_the_head(lowered_step):
  text = lowered_step.as_text(debug_info=True)
  for name in ('qkv', 'attention', 'mlp'):
    assert re.search(rf'layer\)*/{name}', text), name
  assert not re.search(r'layer\)*/head', text)
