"""A TPU or GPU is found in made file systems, and JAX has to use it."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from align_jax import hardware

ROOT = pathlib.Path(__file__).parents[1]
SMI = """#!/bin/sh
test "$1" = -L && echo "{}"
"""


def machine(root, *paths, **texts):
  """Files in `root`; those of `texts` belong to one PCI device."""
  device = root / 'sys/bus/pci/devices/0000:00:05.0'
  for path, text in [
    *((root / path, '') for path in paths),
    *((device / name, text) for name, text in texts.items()),
  ]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text}\n')
  return str(root)


def smi(root, answer):
  path = root / 'nvidia-smi'
  path.write_text(SMI.format(answer))
  path.chmod(0o755)
  return str(path)


VFIO = 'dev/vfio/vfio', 'dev/vfio/0'
CHIP = {'vendor': '0x1ae0', 'class': '0x120000'}
CASES = {
  'nothing': ((), {}, {}, 'cpu', ''),
  'accel': (('dev/accel0', 'dev/accel1'), {}, {}, 'tpu', '/dev/accel0'),
  # Linux keeps the accelerators of other makers in this folder.
  'other accel': (('dev/accel/accel0',), {}, {}, 'cpu', ''),
  'vfio': (VFIO, CHIP, {}, 'tpu', '/sys/bus/pci/devices/0000:00:05.0'),
  'vfio, no class': (
    (VFIO, {'vendor': '0x1ae0'}, {}, 'tpu')
    + ('/sys/bus/pci/devices/0000:00:05.0',)
  ),
  'vfio, network card': (VFIO, CHIP | {'class': '0x020000'}, {}, 'cpu', ''),
  'vfio, disk': (VFIO, CHIP | {'class': '0x010802'}, {}, 'cpu', ''),
  'vfio, other maker': (VFIO, CHIP | {'vendor': '0x10de'}, {}, 'cpu', ''),
  'vfio without a device': (VFIO[:1], CHIP, {}, 'cpu', ''),
  'container': ((), {}, {'TPU_WORKER_ID': '0'}, 'tpu', 'TPU_WORKER_ID'),
  'nvidia': (('dev/nvidiactl', 'dev/nvidia0'), {}, {}, 'gpu', '/dev/nvidia0'),
  'nvidia driver only': (('dev/nvidiactl',), {}, {}, 'cpu', ''),
  'nvidia, hidden': (
    (('dev/nvidia0',), {}, {'CUDA_VISIBLE_DEVICES': ''}, 'cpu', '')
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_what_a_machine_has(tmp_path, name):
  paths, texts, env, kind, seen = CASES[name]
  root = machine(tmp_path, *paths, **texts)
  assert hardware.find(root, env, 'no-such-command') == (kind, seen)


def test_nvidia_smi_shows_gpus_that_have_no_file(tmp_path):
  command = smi(tmp_path, 'GPU 0: NVIDIA H100 (UUID: GPU-1)')
  assert hardware.find(str(tmp_path), {}, command) == ('gpu', f'{command} -L')
  command = smi(tmp_path, 'No devices were found')
  assert hardware.find(str(tmp_path), {}, command) == ('cpu', '')


def test_setup_asks_before_any_package_is_there():
  """-S hides site-packages."""
  setup = (ROOT / 'launch' / 'setup.sh').read_text()
  (words,) = re.findall(r'^  \.venv/bin/python (-m \S*hardware)$', setup, re.M)
  done = subprocess.run(
    [sys.executable, '-S', *words.split()],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() in hardware.REQUIREMENTS.values(), done.stderr


@pytest.fixture
def on_cpu(monkeypatch):
  """JAX computes on the CPU, and nobody said that it should."""
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')


FOUND = {'tpu': ('tpu', '/dev/accel0'), 'gpu': ('gpu', '/dev/nvidia0')}


@pytest.mark.parametrize('kind', FOUND)
@pytest.mark.parametrize('asked', ['auto', 'same'])
def test_an_unused_accelerator_is_an_error(on_cpu, monkeypatch, kind, asked):
  monkeypatch.setattr(hardware.importlib.util, 'find_spec', lambda _: None)
  asked = kind if asked == 'same' else asked
  with pytest.raises(ValueError) as error:
    hardware.check(asked, FOUND[kind])
  text = str(error.value)
  assert FOUND[kind][1] in text and '\n' not in text
  wanted = f'{hardware.REQUIREMENTS[kind]}=={jax.__version__}'
  assert f"{sys.executable} -m pip install '{wanted}'" in text
  assert '--device=cpu' in text


def test_a_plugin_that_fails_is_quoted(on_cpu, monkeypatch):
  monkeypatch.setattr(hardware.importlib.util, 'find_spec', lambda _: True)

  def devices(kind):
    raise RuntimeError('The TPU is already in use\nby process 7.')

  monkeypatch.setattr(jax, 'devices', devices)
  with pytest.raises(ValueError, match='already in use by process 7'):
    hardware.check('auto', FOUND['tpu'])


@pytest.mark.parametrize('asked', FOUND)
def test_an_accelerator_that_is_not_there_is_an_error(on_cpu, asked):
  with pytest.raises(ValueError, match=f'^--device={asked}: .* has no'):
    hardware.check(asked, ('cpu', ''))


def test_what_passes(on_cpu, monkeypatch):
  hardware.check('auto', ('cpu', ''))
  hardware.check('cpu', FOUND['tpu'])
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  hardware.check('auto', FOUND['tpu'])
  hardware.check('tpu', ('cpu', ''))  # seen by JAX alone


def test_jax_platforms_is_an_answer(on_cpu, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  hardware.check('auto', FOUND['tpu'])
  with pytest.raises(ValueError, match='does not use the TPU'):
    hardware.check('tpu', FOUND['tpu'])


def test_the_cpu_is_chosen_for_processes_to_come(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', '')
  before = jax.config.jax_platforms
  try:
    hardware.choose('auto')
    assert os.environ['JAX_PLATFORMS'] == ''
    hardware.choose('cpu')
    assert os.environ['JAX_PLATFORMS'] == jax.config.jax_platforms == 'cpu'
  finally:
    jax.config.update('jax_platforms', before)


def test_an_experiment_asks_before_it_trains(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.online_vs_offline']
    + ['--config=configs/toy.py', f'--workdir={tmp_path}', '--device=tpu'],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 1
  assert done.stderr.startswith('error: --device=tpu: ') or (
    'does not use the TPU' in done.stderr
  )
  assert not list(tmp_path.glob('seed*'))
