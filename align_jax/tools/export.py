"""A run as a Hugging Face folder: weights, tokenizer, template, settings.

  python -m align_jax.tools.export RUN FOLDER [--dtype bfloat16]

RUN is the directory of an arm's run or of `sft`, whose last policy becomes a
model for AutoModelForCausalLM; or of a `proxy0`, or the folder `task` of a
judge that was trained there, which become reward models for
AutoModelForSequenceClassification.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from align_jax import tasks
from align_jax.data import load_tokenizer
from align_jax.lab import stages
from align_jax.learn.checkpoint import final_params
from align_jax.models import hf, initial, lora
from align_jax.models.transformer import ModelConfig
from align_jax.policy.programs import policy_of
from align_jax.tasks.judge import judge_config, load_params

DTYPES = ('float32', 'bfloat16', 'float16')


class Found(NamedTuple):
  """What a run's directory holds."""

  params: Any
  config: ModelConfig
  fields: dict | None  # of a config.json that it came with


def experiment_of(run):
  """The folder and the fields of the experiment that a run belongs to.

  Raises:
    ValueError: the run belongs to none.
  """
  for folder in run.parents:
    path = folder / 'settings.json'
    if path.is_file():
      settings = json.loads(path.read_text())
      if {'task', 'model', 'sft'} <= settings.keys():
        return folder, settings
  raise ValueError(f'{run}: no directory of a run, or of none of an experiment')


def _judge(run, task, cfg, number):
  knobs = cfg['task']
  if not (run / 'judge.npz').is_file():
    raise ValueError(f'{run}: holds no judge that was trained here')
  config = judge_config(knobs['judge_model'], task.model.vocab_size)
  return Found(load_params(run / 'judge.npz', config), config, None)


def _proxy(run, task, cfg, number):
  proxy = cfg['proxy']
  if proxy['verifier'] != 'transformer' or proxy['loss'] == 'preference_model':
    raise ValueError(
      f'{run}: a reward model of proxy.verifier={proxy["verifier"]!r} and '
      f'proxy.loss={proxy["loss"]!r} has no form that transformers reads'
    )
  config = dataclasses.replace(task.model, head='scalar')
  return Found(final_params(run), config, initial.hf_fields(cfg['model']))


def _policy(run, task, cfg, number):
  params = final_params(run)
  if lora.KEY in params:
    params = _merged(run, params, task, cfg, number)
  params = policy_of(params)
  return Found(params, task.model, initial.hf_fields(cfg['model']))


def _merged(run, params, task, cfg, number):
  """Adapters put into the reference that they adapt."""
  settings = json.loads((run / 'settings.json').read_text())
  directory = experiment_of(run)[0] / f'seed{number}'
  base = stages.train_sft(cfg, directory, task, number, stages.silent)
  settings = lora.Lora(**settings['lora'])
  adapters = lora.restored(params[lora.KEY], base, task.model, settings)
  return lora.merge(base, adapters)


def _kind(run):
  """How to read a run's directory, by its name."""
  return next((f for name, f in KINDS if run.name.startswith(name)), _policy)


KINDS = (('task', _judge), ('proxy', _proxy))  # anything else is a policy


def token_ids(task):
  """The names in config.json of the tokens that every model has."""
  if task.tokenizer is None:
    return {'eos_token_id': task.eos_id, 'pad_token_id': 0}
  vocabulary = load_tokenizer(task.tokenizer, needs_bos=False)
  path = task.tokenizer / 'tokenizer_config.json'
  config = json.loads(path.read_text()) if path.is_file() else {}
  pad = config.get('pad_token')
  pad = pad.get('content') if isinstance(pad, dict) else pad
  pad = vocabulary.tokenizer.token_to_id(pad) if pad else None
  return {
    'bos_token_id': vocabulary.bos_id,
    'eos_token_id': task.eos_id,
    'pad_token_id': task.eos_id if pad is None else pad,
  }


def generation(task, ids):
  """As policies were sampled: temperature 1, all of the vocabulary."""
  sampling = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
  ids = {k: v for k, v in ids.items() if v is not None}
  return {**sampling, **ids, 'max_new_tokens': task.max_new_tokens}


def export(run, folder, dtype='float32'):
  """Writes the last policy, or the reward model, of a run.

  Args:
    run: its directory, see above.
    folder: made if need be.
    dtype: of the weights.
  Raises:
    ValueError: no run there, or one that has no such form.
    FileNotFoundError: the run has not ended.
  """
  run, folder = pathlib.Path(run).resolve(), pathlib.Path(folder)
  workdir, cfg = experiment_of(run)
  number = next(
    (int(p.name[4:]) for p in (run, *run.parents) if _is_seed(p, workdir)), 0
  )
  task = tasks.make_task(seed=number, **stages.task_knobs(cfg, workdir))
  found = _kind(run)(run, task, cfg, number)
  ids = token_ids(task)
  fields = found.fields or hf.llama_fields(found.config)
  # The config.json of a checkpoint keeps what it says; the lengths and ends of
  # generation are the task's.
  own = {k: v for k, v in ids.items() if fields.get(k) is None}
  as_dtype = lambda x: x.astype(jnp.dtype(dtype))
  hf.export(
    folder,
    jax.tree.map(as_dtype, found.params),
    found.config,
    {**fields, **own},
    source=task.tokenizer,
  )
  (folder / 'generation_config.json').write_text(
    json.dumps(generation(task, ids), indent=2, sort_keys=True) + '\n'
  )


def _is_seed(path, workdir):
  return path.parent == workdir and path.name.startswith('seed')


def main(argv=None):
  parser = argparse.ArgumentParser(
    prog='python -m align_jax.tools.export', description=__doc__.split('\n')[0]
  )
  parser.add_argument('run', help='the directory of a run')
  parser.add_argument('folder', help='where it is written')
  parser.add_argument('--dtype', choices=DTYPES, default='float32')
  args = parser.parse_args(argv)
  try:
    export(args.run, args.folder, args.dtype)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'error: {" ".join(str(error).split())}')
  print(f'{args.folder}: written')


if __name__ == '__main__':
  main()
