"""A checkpoint is loaded within the parameters and one of its tensors."""

import json
import os
import subprocess
import sys

import pytest

SLACK = 32  # MB: what loading a checkpoint of 2 MB takes, and half as much
SIZES = ['--layers=2', '--vocab_size=32768', '--hidden_size=2048']


@pytest.mark.skipif(
  not os.path.exists('/proc/self/clear_refs'), reason='needs Linux'
)
def test_a_sharded_import_takes_less_than_a_tensor_beyond_it(tmp_path):
  env = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
  }
  module = [sys.executable, '-m', 'align_jax.tools.measure_import']
  sizes = [*SIZES, '--intermediate_size=512', f'--folder={tmp_path}']
  done = subprocess.run(
    [*module, *sizes], env=env, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr[-4000:]
  out = json.loads(done.stdout)
  tensor = out['largest_tensor_mb']
  # Large enough that a second copy of it, or of all, would not go unseen.
  assert out['devices'] == 8 and tensor > 3 * SLACK
  assert out['owned_mb'] > 2 * tensor
  assert out['beyond_owned_mb'] < tensor + SLACK
  assert out['of_it_anonymous_mb'] < tensor / 2 + SLACK
  assert not list(tmp_path.iterdir())
