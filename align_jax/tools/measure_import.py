"""How much host memory does an import take beyond the parameters?

  XLA_FLAGS=--xla_force_host_platform_device_count=8 \
    python -m align_jax.tools.measure_import --layers=4

Writes a checkpoint of random bfloat16 numbers in the shapes of Llama 3 8B, with
fewer layers, into a temporary folder, a file at a time; loads it with `hf.load`
over all devices (mesh fsdp), and prints by how much the process's peak resident
memory exceeds what it held before and the parameters it then owns: in all, and
without the mapped pages of the checkpoint's files, which the system may take
back. Devices are forced on the CPU, so that the parameters lie in host memory.
"""

import json
import pathlib
import tempfile
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors.numpy

from align_jax import sharding
from align_jax.models import hf, hf_config, hf_tensors
from align_jax.tools import fit_models
from align_jax.tools.cli import Parser

LLAMA_3_8B = {**fit_models.LLAMA_3_8B, 'head_dim': 128}
FILE = 'model-{:05}-of-{:05}.safetensors'


def write(folder, fields, seed=0):
  """A checkpoint of random numbers, one file per layer; -> the largest tensor
  and all of them, in bytes."""
  rng = np.random.default_rng(seed)
  config = hf_config.from_hf(fields)
  rows = hf_tensors.tensors(config, fields['model_type'])
  files = {}
  for row in rows:
    files.setdefault(row.name.split('layers.')[-1].split('.')[0], []).append(
      row
    )
  where, sizes = {}, []
  for i, group in enumerate(files.values()):
    name = FILE.format(i + 1, len(files))
    arrays = {row.name: _random(rng, row.shape) for row in group}
    safetensors.numpy.save_file(arrays, folder / name)
    where |= dict.fromkeys(arrays, name)
    sizes += [x.nbytes for x in arrays.values()]
  (folder / hf.INDEX).write_text(
    json.dumps({'weight_map': where}), encoding='utf-8'
  )
  (folder / 'config.json').write_text(json.dumps(fields), encoding='utf-8')
  return max(sizes), sum(sizes)


def _random(rng, shape):
  """bfloat16 of size about 0.01, without a float32 copy."""
  bits = rng.integers(0x3C00, 0x3C80, shape, np.uint16)
  return bits.view(ml_dtypes.bfloat16)


class Peak:
  """By how many bytes this process grew at most within `with`.

  Attributes:
    resident: all of it, as the kernel keeps count.
    anonymous: what no file backs, looked at every millisecond.
  """

  def __enter__(self):
    reset = pathlib.Path('/proc/self/clear_refs')
    reset.write_text('5', encoding='utf-8')  # VmHWM = VmRSS
    self._start = _status('VmRSS'), _status('RssAnon')
    self.anonymous, self._over = 0, threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self._thread.start()
    return self

  def _watch(self):
    while not self._over.wait(0.001):
      grown = _status('RssAnon') - self._start[1]
      self.anonymous = max(self.anonymous, grown)

  def __exit__(self, *_):
    self._over.set()
    self._thread.join()
    self.resident = _status('VmHWM') - self._start[0]


def _status(field):
  text = pathlib.Path('/proc/self/status').read_text('utf-8')
  line = next(x for x in text.splitlines() if x.startswith(f'{field}:'))
  return int(line.split()[1]) * 1024


def measure(folder):
  """-> bytes of the parameters on this host, and the Peak of loading them."""
  mesh = sharding.make_mesh(fsdp=jax.device_count())
  jnp.zeros(8).block_until_ready()  # the backend itself is not the import's
  with Peak() as peak:
    params = hf.load(folder, dtype='bfloat16', mesh=mesh).params
    jax.block_until_ready(params)
  owned = sum(
    shard.data.nbytes
    for x in jax.tree.leaves(params)
    for shard in x.addressable_shards
  )
  return owned, peak


def main(argv=None):
  """The command `align import memory`."""
  parser = Parser(
    prog='align import memory', description=__doc__.split('\n')[0]
  )
  parser.add_argument('--layers', type=int, default=4)
  parser.add_argument('--folder', help='where the temporary folder is made')
  for name in SIZES:
    parser.add_argument(f'--{name}', type=int, default=LLAMA_3_8B[name])
  args = parser.parse_args(argv)
  sizes = {name: getattr(args, name) for name in SIZES}
  fields = {**LLAMA_3_8B, **sizes, 'num_hidden_layers': args.layers}
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    folder = pathlib.Path(folder)
    largest, total = write(folder, fields)
    owned, peak = measure(folder)
  print(
    json.dumps(
      {
        'layers': args.layers,
        'devices': jax.device_count(),
        'checkpoint_mb': total // 10**6,
        'owned_mb': owned // 10**6,
        'largest_tensor_mb': largest // 10**6,
        'beyond_owned_mb': (peak.resident - owned) // 10**6,
        'of_it_anonymous_mb': (peak.anonymous - owned) // 10**6,
      }
    )
  )


SIZES = ('vocab_size', 'hidden_size', 'intermediate_size')

if __name__ == '__main__':
  main()
