"""Exports checkpoints as published ones are: safetensors and a config.json.

One file at a time leaves the devices, so the host never needs memory for more.
"""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import safetensors.numpy

from align_jax.models import hf_config, hf_tensors
from align_jax.models.hf import COPIED, GENERATION, INDEX

UNFINISHED = '.part'  # of a file that is being written
CLASSES = {
  'llama': 'Llama',
  'mistral': 'Mistral',
  'mixtral': 'Mixtral',
  'qwen2': 'Qwen2',
  'qwen3': 'Qwen3',
  'qwen3_moe': 'Qwen3Moe',
  'gemma2': 'Gemma2',
  'gemma3_text': 'Gemma3',
  'phi3': 'Phi3',
  'gpt2': 'GPT2',
  'gpt_neox': 'GPTNeoX',
}


def export(
  folder, params, config, fields=None, *, source=None, shard_bytes=2**31
):
  """Writes a folder that `hf.load` and transformers read.

  The parameters keep their dtype. A head 'scalar' becomes a model for
  AutoModelForSequenceClassification with one label.

  Args:
    folder: made if need be.
    params, config: of a transformer.
    fields: the config.json that it came with. None: one of the family 'llama'.
    source: a folder whose tokenizer files and generation_config.json are
      copied.
    shard_bytes: the largest size of a file.
  Raises:
    ValueError: `fields` do not describe `config`. Names what differs.
  """
  folder = pathlib.Path(folder)
  fields = _describe(params, config, fields or llama_fields(config))
  plan = _plan(hf_tensors.tensors(config, fields['model_type']), params)
  files = _split(plan, shard_bytes)
  folder.mkdir(parents=True, exist_ok=True)
  for name, rows in files.items():
    arrays = {row.name: _their_array(row, params) for row, _ in rows}
    if jax.process_index() == 0:
      path = folder / f'{name}{UNFINISHED}'
      safetensors.numpy.save_file(arrays, path, {'format': 'pt'})
  if jax.process_index() == 0:
    _replace(folder, files)
    _write_rest(folder, files, fields, source)


def _replace(folder, files):
  """Old weights give way only when all of the new ones are there."""
  for old in [*folder.glob('model*.safetensors'), folder / INDEX]:
    old.unlink(missing_ok=True)
  for name in files:
    (folder / f'{name}{UNFINISHED}').rename(folder / name)


def _describe(params, config, fields):
  """The config.json of this model, checked to describe it."""
  family = fields['model_type']
  dtype = str(jax.tree.leaves(params)[0].dtype)
  scalar = config.head == 'scalar'
  name, kind = CLASSES[family], 'ForCausalLM'
  if scalar:
    name += 'Text' if family == 'gemma3_text' else ''
    kind = 'ForSequenceClassification'
    if 'pad_token_id' not in fields:
      raise ValueError(
        "config.json: a scalar head needs a 'pad_token_id', or null: no padding"
      )
  dropped = ('torch_dtype', 'dtype', 'id2label', 'label2id', 'num_labels')
  fields = {k: v for k, v in fields.items() if k not in dropped}
  fields |= {'architectures': [name + kind], 'dtype': dtype}
  if scalar:
    fields |= {'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}}
  length = dict(config.rope_scaling[1] if config.rope_scaling else ())
  beside = 'head', 'dtype', 'attention', 'remat', 'no_tokens'
  beside = {k: getattr(config, k) for k in beside}
  said = hf_config.from_hf(fields, length.get('length', 0), **beside)
  for key, value in vars(said).items():
    if value != getattr(config, key):
      raise ValueError(
        f'config.json: says {key}={value!r}, the model has '
        f'{getattr(config, key)!r}'
      )
  return fields


def llama_fields(config):
  """A config.json of the family 'llama', for a model without its own."""
  return {
    'model_type': 'llama',
    'vocab_size': config.vocab_size,
    'hidden_size': config.dim,
    'intermediate_size': config.mlp_dim,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'hidden_act': config.activation,
    'rms_norm_eps': config.norm_eps,
    'rope_theta': config.rope_theta,
    'tie_word_embeddings': config.tie_embeddings,
    'attention_bias': config.o_bias,
    'mlp_bias': config.mlp_bias,
    'max_position_embeddings': 2048,
    'bos_token_id': None,
    'eos_token_id': None,
    'pad_token_id': 0,
  }


def _leaf(row, params):
  return functools.reduce(lambda tree, key: tree[key], row.path, params)


def _plan(rows, params):
  """Each tensor and its size in bytes."""
  for row in rows:
    size = np.prod(row.shape, dtype=np.int64)
    yield row, int(size) * _leaf(row, params).dtype.itemsize


def _split(plan, shard_bytes):
  """File names -> the (tensor, bytes) in each."""
  shards, room = [], 0
  for row, size in plan:
    if size > room or not shards:
      shards.append([])
      room = shard_bytes
    shards[-1].append((row, size))
    room -= size
  if len(shards) == 1:
    return {'model.safetensors': shards[0]}
  name = 'model-{:05}-of-{:05}.safetensors'
  return {name.format(i + 1, len(shards)): s for i, s in enumerate(shards)}


def _their_array(row, params):
  x = _leaf(row, params)
  if row.start:
    x = jax.lax.dynamic_slice(x, row.start, row.size)
  if not x.is_fully_addressable:
    from jax.experimental import multihost_utils

    x = multihost_utils.process_allgather(x, tiled=True)
  x = row.form.theirs(np.asarray(x).reshape(row.part))
  return np.ascontiguousarray(x)


def write_json(path, x):
  """Writes `x` as JSON, indented, keys sorted."""
  text = json.dumps(x, indent=2, sort_keys=True, ensure_ascii=False)
  path.write_text(text + '\n', 'utf-8')


def _write_rest(folder, files, fields, source):
  write = lambda name, x: write_json(folder / name, x)
  if len(files) > 1:
    where = {row.name: name for name, rows in files.items() for row, _ in rows}
    total = sum(size for rows in files.values() for _, size in rows)
    metadata = {'total_size': total}
    write(INDEX, {'metadata': metadata, 'weight_map': where})
  write('config.json', fields)
  ids = ('bos_token_id', 'eos_token_id', 'pad_token_id')
  ids = {k: fields[k] for k in ids if fields.get(k) is not None}
  write(GENERATION, {'_from_model_config': True, **ids})
  for name in COPIED if source is not None else ():
    path = pathlib.Path(source) / name
    if path.is_file() and path.resolve() != (folder / name).resolve():
      shutil.copyfile(path, folder / name)
