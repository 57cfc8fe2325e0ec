"""Imports published checkpoints: safetensors and a config.json.

Tensors go one at a time from the file into the (sharded) parameters. So the
host never needs memory for the model beside its own shards
(`tools.measure_import` measures it). No pickle is read, and no code that came
with a checkpoint is run. `hf_export` writes them.
"""

import dataclasses
import functools
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import NamedSharding

from align_jax import paths, sharding
from align_jax.files import looks_like_path, read_object
from align_jax.models import hf_config, hf_tensors, vocabulary, weights
from align_jax.models.config import ModelConfig

NAMED = 8  # tensors named in a message; the others are counted
INDEX = 'model.safetensors.index.json'
GENERATION = 'generation_config.json'
FLOATS = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'BF16': jnp.bfloat16}
# Buffers of old checkpoints, computed here.
BUFFERS = ('rotary_emb.inv_freq', '.attn.bias', '.masked_bias')
BUFFERS += ('.attention.bias',)
# The files of a checkpoint except its weights.
TEXTS = ('*.json', '*.txt', '*.model', '*.jinja')
COPIED = """
added_tokens.json chat_template.jinja chat_template.json generation_config.json
merges.txt special_tokens_map.json spiece.model tokenizer.json tokenizer.model
tokenizer_config.json vocab.json
""".split()


class Model(NamedTuple):
  """A checkpoint, loaded."""

  params: dict
  config: ModelConfig
  hf_config: dict  # the config.json it came with


def load(
  name,
  *,
  dtype='float32',
  head=None,
  mesh=None,
  max_length=0,
  revision=None,
  **changes,
):
  """Reads a checkpoint.

  Args:
    name: a local folder, or the id of a model on the hub.
    dtype: of the parameters.
    head: 'lm' or 'scalar'. None: the checkpoint's. On a language model a
      'scalar' head is new: zeros.
    mesh: where the parameters go. None: the mesh in force, or one device.
    max_length: see `hf_config.from_hf`.
    revision: of the model on the hub.
    **changes: fields of ModelConfig, such as the `dtype` of activations under
      the name `activations`. Without `no_tokens` they are the ids that the
      tokenizer of the folder does not have.
  Raises:
    ValueError: a config.json or tensors that are not those of a known model.
      Names the field, the tensors or the file.
  """
  folder = fetch(name, revision)
  fields = read_config(folder)
  if 'activations' in changes:
    changes['dtype'] = changes.pop('activations')
  config = describe(folder, fields, max_length, **changes)
  has, head = config.head, head or config.head
  config = dataclasses.replace(config, head=head)
  if 'no_tokens' not in changes:
    config = vocabulary.of_folder(config, folder)
  with_new_head = (head, has) == ('scalar', 'lm')
  rows = hf_tensors.tensors(config, fields['model_type'])
  if with_new_head:
    rows = [r for r in rows if r.path != ('head',)]
  stored = _open(folder)
  names = _match(rows, stored, config, fields['model_type'], folder)
  mesh = sharding.current_mesh() if mesh is None else mesh
  return Model(_fill(rows, names, stored, config, dtype, mesh), config, fields)


def fetch(name, revision=None, patterns=(*TEXTS, '*.safetensors')):
  """The local folder of a checkpoint, downloaded if need be.

  Raises:
    FileNotFoundError: a path of no folder.
    ValueError: no such folder, and nothing that the hub would give.
  """
  folder = paths.path(name).expanduser()
  if folder.is_dir():
    return paths.local(folder)
  if not str(name) or looks_like_path(name) or folder.exists():
    raise FileNotFoundError(f'{folder}: no such folder')
  import huggingface_hub

  try:
    found = huggingface_hub.snapshot_download(
      str(name), revision=revision, allow_patterns=list(patterns)
    )
  except Exception as e:  # many kinds: no network, no such id, no permission
    reason = ' '.join(str(e).split())
    raise ValueError(
      f'{str(name)!r} is no local folder, and could not be fetched from the '
      f'hub: {type(e).__name__}: {reason:.200}'
    ) from None
  return pathlib.Path(found)


def read_config(folder):
  """The dict of a folder's config.json."""
  path = pathlib.Path(folder) / 'config.json'
  if not path.is_file():
    raise ValueError(f'{path}: no such file')
  return read_object(path)


def describe(folder, fields, max_length=0, **changes):
  """`hf_config.from_hf`, whose errors name the folder."""
  try:
    return hf_config.from_hf(fields, max_length, **changes)
  except ValueError as error:
    raise ValueError(f'{folder}/{error}') from error


class Stored(NamedTuple):
  """A tensor in a file."""

  path: pathlib.Path
  offset: int  # bytes
  shape: tuple[int, ...]
  dtype: str  # as safetensors calls it

  def read(self):
    """A view of the file, without a copy. It is unmapped once dropped."""
    dtype = np.dtype(FLOATS[self.dtype])
    if 0 in self.shape:
      return np.zeros(self.shape, dtype)
    return np.memmap(self.path, dtype, 'r', self.offset, self.shape)


def _open(folder):
  """Tensor names -> where they are."""
  if (folder / INDEX).is_file():
    files = {*read_object(folder / INDEX).get('weight_map', {}).values()}
  else:
    files = {'model.safetensors'}
  stored = {}
  for name in sorted(files):
    path = folder / name
    if not path.is_file():
      raise ValueError(f'{path}: no such file; weights are safetensors only')
    try:
      with safetensors.safe_open(path, framework='numpy'):
        pass
    except safetensors.SafetensorError as error:
      raise ValueError(
        f'{path}: not a whole safetensors file ({error})'
      ) from error
    stored |= _contents(path)
  return stored


def _contents(path):
  """What the header of a safetensors file lists: {name: Stored}."""
  with path.open('rb') as file:
    size = int.from_bytes(file.read(8), 'little')
    header = json.loads(file.read(size))
  header.pop('__metadata__', None)
  return {
    name: Stored(
      path, 8 + size + x['data_offsets'][0], tuple(x['shape']), x['dtype']
    )
    for name, x in header.items()
  }


def _match(rows, stored, config, family, folder):
  """The stored name of each row's tensor. One error lists all problems."""
  prefix = hf_tensors.base_prefix(config, family)
  bare = not any(n.startswith(prefix) for n in stored)
  names = {r: r.name.removeprefix(prefix) if bare else r.name for r in rows}
  head = hf_tensors.head_name(config, family)
  wanted, problems = {n: r for r, n in names.items()}, []
  missing = [n for n in wanted if n not in stored]
  extra = [
    n
    for n in stored
    if n not in wanted and n != head and not n.endswith(BUFFERS)
  ]
  wrong = []
  for name in wanted.keys() & stored.keys():
    shape, dtype = stored[name].shape, stored[name].dtype
    if shape != wanted[name].shape or dtype not in FLOATS:
      expected = f'{wanted[name].shape} of {"/".join(FLOATS)}'
      wrong.append(f'{name} is {shape} of {dtype}, expected {expected}')
  for title, found in (
    ('missing', missing),
    ('not expected', extra),
    ('wrong', wrong),
  ):
    if found:
      found = sorted(found)
      more = f' and {len(found) - NAMED} more' if len(found) > NAMED else ''
      problems.append(f'{title}: {", ".join(found[:NAMED])}{more}')
  if problems:
    raise ValueError(f'{folder}: tensors {"; ".join(problems)}')
  _check_tied(config, head, names, stored, folder)
  return names


def _check_tied(config, head, names, stored, folder):
  """Raises if a tied head is stored as well and is not the embedding."""
  if config.head != 'lm' or not config.tie_embeddings or head not in stored:
    return
  embed = next(n for r, n in names.items() if r.path == ('embed',))
  rows = zip(stored[head].read(), stored[embed].read())
  if not all(np.array_equal(*pair) for pair in rows):
    raise ValueError(
      f'{folder}: tensor {head} differs from {embed}, expected the same since '
      'tie_word_embeddings is true'
    )


@functools.partial(jax.jit, donate_argnums=0)
def _write(whole, part, start):
  return jax.lax.dynamic_update_slice(whole, part, start)


def _put(x, dtype, axes, mesh):
  """Puts a host array on the mesh, each device taking its own part.

  Parts go one at a time, and none aliases the file that `x` may be a view of.
  """
  if mesh is None:
    return jnp.array(x.astype(dtype, copy=False))
  place = NamedSharding(mesh, sharding.spec(axes))
  parts = [
    jax.device_put(
      x[index].astype(dtype, copy=False), device, may_alias=False
    ).block_until_ready()
    for device, index in place.addressable_devices_indices_map(x.shape).items()
  ]
  return jax.make_array_from_single_device_arrays(x.shape, place, parts)


def _blank(spec, dtype, mesh):
  """Zeros where the parameter will be."""
  if mesh is None:
    return jnp.zeros(spec.shape, dtype)
  place = NamedSharding(mesh, sharding.spec(spec.axes))
  zeros = functools.partial(jnp.zeros, spec.shape, dtype)
  return jax.jit(zeros, out_shardings=place)()


def _fill(rows, names, stored, config, dtype, mesh):
  """Copies each tensor into its parameter, one tensor at a time."""
  specs = weights.specs(config)
  params = {**specs, 'layers': dict(specs['layers'])}
  for row in rows:
    *above, leaf = row.path
    tree = functools.reduce(lambda t, key: t[key], above, params)
    spec = functools.reduce(lambda t, key: t[key], row.path, specs)
    label = '.'.join(row.path)
    if mesh is not None:
      sharding.check(spec.shape, spec.axes, mesh.shape, label)
    x = stored[names[row]].read()
    x = row.form.ours(x, row.part).reshape(row.size)
    x = _put(x, jnp.dtype(dtype), spec.axes, mesh)
    if row.size != spec.shape:
      if tree[leaf] is spec:
        tree[leaf] = _blank(spec, dtype, mesh)
      x = _write(tree[leaf], x, np.asarray(row.start, np.int32))
    tree[leaf] = x
  # Parameters without a stored tensor can only be a new head: zeros.
  blank = lambda x: _blank(x, dtype, mesh) if isinstance(x, weights.Spec) else x
  return jax.tree.map(
    blank, params, is_leaf=lambda x: isinstance(x, weights.Spec)
  )
