"""A tiny policy and its jitted functions, shared by all tests."""

import contextlib
import functools
import gc
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_judges
from workers import *  # noqa: F403  hooks

from align_jax import judges
from align_jax.models import transformer
from align_jax.policy import sampling, scoring

# The persistent cache is on where JAX_COMPILATION_CACHE_DIR is set.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)

EOS_ID = 0  # also what padding is filled with: no test may tell them apart
SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason='no real data')
TORCH = importlib.util.find_spec('torch') is not None
needs_torch = pytest.mark.skipif(not TORCH, reason='needs torch')
# Of the smallest policies that are still grouped-query and gated.
SIZES = dict(dim=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8)


@contextlib.contextmanager
def interrupted_at(step):
  """Gives a progress report that ends what reports to it at that step."""

  class Interrupted(Exception):
    pass

  def report(number, info):
    if number == step:
      raise Interrupted

  with pytest.raises(Interrupted):
    yield report


MAPS = pathlib.Path('/proc/self/maps')
MANY = 12_000


@pytest.fixture(autouse=True, scope='module')
def emptied():
  """A process that holds many programs lets go of them after a file.

  They are memory maps, of which Linux gives a process 65530: beyond them XLA
  ends with a segmentation fault. Two processes had come to 26000 and 53000 by
  the end of all files; the largest file alone takes 22100.
  """
  yield
  if not MAPS.exists() or len(MAPS.read_bytes().splitlines()) > MANY:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def all_lowered():
  """Names of the programs that jax lowers, from the first use on."""
  names = []

  def listen(event, seconds, fun_name='', **_):
    if event.endswith('jaxpr_to_mlir_module_duration'):
      names.append(fun_name)

  # For good: jax 0.7 has no public way to end it.
  jax.monitoring.register_event_duration_secs_listener(listen)
  return names


@pytest.fixture
def lowered(all_lowered):
  """Names of the programs that jax lowers, as it does; empty it to begin anew.

  What a jitted function says of the size of its cache is no count of them: in a
  long process others push its entries out.
  """
  all_lowered.clear()
  jax.jit(lambda x: x + 1)(0)
  assert all_lowered.pop()  # it does listen
  return all_lowered


@pytest.fixture(scope='session')
def config():
  return transformer.ModelConfig(
    vocab_size=11,
    dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=24,
  )


@pytest.fixture(scope='session')
def tiny():
  """Of four tokens: whatever it may write can be enumerated."""
  return transformer.ModelConfig(vocab_size=4, num_layers=1, **SIZES)


@functools.partial(jax.jit, static_argnums=1)
def init(seed, config):
  """Parameters whose distributions are far from uniform, unlike at init."""
  # Compiles several times faster than the default generator.
  key = jax.random.key(seed, impl='unsafe_rbg')
  params = transformer.init(key, config)
  return {**params, 'embed': 10 * params['embed']}


@pytest.fixture(scope='session')
def params(config):
  return init(0, config)


@pytest.fixture(scope='session')
def ref_params(config):
  return init(1, config)


@pytest.fixture(scope='session')
def prompts(config):
  """Tokens [4, 5] and valid, left-padded, of unequal lengths."""
  valid = np.arange(5) >= 5 - np.array([[2], [5], [3], [4]])
  tokens = np.random.default_rng(0).integers(1, config.vocab_size, (4, 5))
  tokens = np.where(valid, tokens, EOS_ID).astype(np.int32)
  return jnp.asarray(tokens), jnp.asarray(valid)


@pytest.fixture(scope='session')
def token_logps(config):
  """(params, batch, temperature) -> f32 [B, T]."""

  def f(params, batch, temperature):
    return scoring.token_logps(
      params, batch, config=config, temperature=temperature
    )

  return jax.jit(f)


@pytest.fixture(scope='session')
def sample(config):
  """(params, prompts, valid, key[, temperature]) -> Batch, G = 3, T = 6."""
  return jax.jit(
    functools.partial(
      sampling.sample,
      config=config,
      group_size=3,
      max_new_tokens=6,
      eos_id=EOS_ID,
    )
  )


@pytest.fixture(scope='session')
def batch(params, prompts, sample):
  """Sampled; some rows end with EOS, some are cut off."""
  batch = sample(params, *prompts, jax.random.key(2))
  lengths = batch.valid.sum(1)
  assert lengths.min() < 6 and lengths.max() == 6
  return batch


@pytest.fixture(scope='session')
def causal(tmp_path_factory):
  """The folder of a language model that reacts to what it reads."""
  config = tiny_judges.CONFIG
  params = tiny_judges.random_params(0, config)
  return tiny_judges.write(tmp_path_factory.mktemp('causal'), params, config)


@pytest.fixture(scope='session')
def scalar(tmp_path_factory):
  """The folder of a reward model."""
  config = tiny_judges.SCALAR
  params = tiny_judges.random_params(0, config)
  return tiny_judges.write(tmp_path_factory.mktemp('scalar'), params, config)


@pytest.fixture(scope='session')
def judge(causal):
  return judges.llm_judge(causal)


@pytest.fixture(scope='session')
def reward(scalar):
  return judges.reward_model(scalar)


def flags_for(devices):
  """XLA_FLAGS of so many CPU devices, beside those that are set."""
  more = f'--xla_force_host_platform_device_count={devices}'
  return f'{os.environ.get("XLA_FLAGS", "")} {more}'


def python(code, **env):
  """What a fresh interpreter prints as JSON on its last line."""
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join([str(here), str(here.parent)])
  env = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', **env}
  done = subprocess.run(
    [sys.executable, '-c', code], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return json.loads(done.stdout.splitlines()[-1])
