"""Which accelerator a machine has, and whether JAX uses it.

Needs no package: launch/setup.sh runs this module before any is installed.
"""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

DEVICES = 'auto', 'cpu', 'gpu', 'tpu'
REQUIREMENTS = {'tpu': 'jax[tpu]', 'gpu': 'jax[cuda12]', 'cpu': 'jax'}
# What makes JAX use the device; another release of CUDA does as well.
PLUGINS = {
  'tpu': ('libtpu',),
  'gpu': ('jax_cuda12_plugin', 'jax_cuda13_plugin'),
}
GOOGLE = '0x1ae0'  # PCI vendor
OTHER = '0x01', '0x02'  # PCI classes: its disks and network cards


def find(
  root: str = '/',
  env: Mapping[str, str] = os.environ,
  nvidia_smi: str = 'nvidia-smi',
) -> tuple[str, str]:
  """The accelerator of this machine, and what shows that it is there.

  Args:
    root: of the file system that has /dev and /sys.
    env: environment variables.
    nvidia_smi: the command that lists GPUs.
  Returns:
    'tpu', 'gpu' or 'cpu', and a file, variable or command; '' for a CPU.
  """
  if seen := _tpu(root, env):
    return 'tpu', seen
  if seen := _gpu(root, env, nvidia_smi):
    return 'gpu', seen
  return 'cpu', ''


def _tpu(root, env):
  # Chips up to v4 are /dev/accel0; later ones are given to VFIO, as other
  # devices may be. /dev/accel is a folder, of other makers' chips.
  if seen := _first(root, 'dev/accel[0-9]*'):
    return seen
  if _first(root, 'dev/vfio/[0-9]*'):
    for vendor in sorted(glob.glob(f'{root}/sys/bus/pci/devices/*/vendor')):
      if _read(vendor) == GOOGLE:
        device = os.path.dirname(vendor)
        if not _read(f'{device}/class').startswith(OTHER):
          return '/' + os.path.relpath(device, root)
  # Containers of Colab and Kubernetes may hide both; these set this.
  return 'TPU_WORKER_ID' if env.get('TPU_WORKER_ID') else ''


def _gpu(root, env, nvidia_smi):
  if env.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
    return ''
  if seen := _first(root, 'dev/nvidia[0-9]*'):
    return seen
  if not (command := shutil.which(nvidia_smi)):
    return ''
  listed = subprocess.run([command, '-L'], capture_output=True, text=True)
  return f'{nvidia_smi} -L' if listed.stdout.startswith('GPU ') else ''


def _first(root, pattern):
  found = sorted(glob.glob(os.path.join(root, pattern)))
  return '/' + os.path.relpath(found[0], root) if found else ''


def _read(path):
  try:
    with open(path, encoding='ascii') as file:
      return file.read().strip()
  except OSError:
    return ''


def choose(device: str) -> None:
  """Keeps JAX, here and in processes to come, on the CPU if that was asked.

  Call it before the first use of JAX.

  Args:
    device: one of DEVICES.
  """
  if device == 'cpu':
    import jax

    os.environ['JAX_PLATFORMS'] = 'cpu'
    jax.config.update('jax_platforms', 'cpu')


def check(device: str, found: tuple[str, str] | None = None) -> None:
  """Raises ValueError unless JAX computes on the device that was asked for.

  With 'auto' that is the accelerator of the machine, if it has one and
  JAX_PLATFORMS does not say otherwise. Starts JAX.

  Args:
    device: one of DEVICES.
    found: see `find`.
  """
  kind, seen = found or find()
  if device == 'auto':
    device = 'cpu' if os.environ.get('JAX_PLATFORMS') else kind
  if device == 'cpu':  # which is always there; see `choose`
    return
  import jax

  used = jax.default_backend()
  if used == device:
    return
  if device != kind:
    raise ValueError(
      f'--device={device}: this machine has no {device.upper()}, and JAX '
      f'computes on the {used.upper()}'
    )
  raise ValueError(
    f'JAX does not use the {device.upper()} of this machine ({seen}): '
    f'{_mend(device, jax)}, or give --device=cpu to compute without it'
  )


def _mend(kind, jax):
  """The command that installs what is missing, or what JAX says."""
  if not any(map(importlib.util.find_spec, PLUGINS[kind])):
    what = REQUIREMENTS[kind]
    return f"run {sys.executable} -m pip install '{what}=={jax.__version__}'"
  try:
    jax.devices(kind)
  except RuntimeError as error:
    return f'it says {" ".join(str(error).split())!r}'
  return f'it prefers the {jax.default_backend().upper()}'


if __name__ == '__main__':
  print(REQUIREMENTS[find()[0]])
