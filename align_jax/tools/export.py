"""A run as a Hugging Face folder: weights, tokenizer, template, settings.

  python -m align_jax.tools.export RUN FOLDER [--dtype bfloat16]
    [--step=N | --kl=NATS]

RUN is the directory of an arm's run or of `sft`, whose last policy becomes a
model for AutoModelForCausalLM; or of a `proxy0`, or the folder `task` of a
judge that was trained there, which become reward models for
AutoModelForSequenceClassification. --step and --kl take an earlier policy, of
the checkpoints that `arm.keep` has kept: that after N updates, or the one whose
measured KL is the nearest.
"""

import dataclasses
import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import paths
from align_jax.data import load_tokenizer
from align_jax.files import read_object, read_record
from align_jax.lab import setups, stages, streams
from align_jax.learn.checkpoint import final_params, params_of, steps_of
from align_jax.learn.kept import measured
from align_jax.losses import LOSSES
from align_jax.models import hf, hf_export, initial, lora
from align_jax.models.hf_export import write_json
from align_jax.models.transformer import ModelConfig
from align_jax.policy.programs import policy_of
from align_jax.tasks.judge import judge_config, load_params
from align_jax.tools.cli import Parser

SETTINGS = 'tokenizer_config.json'
DTYPES = ('float32', 'bfloat16', 'float16')


class Found(NamedTuple):
  """What a run's directory holds."""

  params: Any
  config: ModelConfig
  fields: dict | None  # of a config.json that it came with


def experiment_of(run):
  """The folder of the experiment, or of its variant, that a run belongs to.

  Raises:
    ValueError: the run belongs to none.
  """
  for folder in run.parents:
    path = folder / 'settings.json'
    if path.is_file():
      settings = json.loads(path.read_text('utf-8'))
      if {'task', 'model', 'sft'} <= settings.keys():
        return folder
  raise ValueError(f'{run}: no directory of a run, or of none of an experiment')


def choose(run, step=None, kl=None):
  """The step of the checkpoint that is asked for; None: the last.

  Args:
    run: its directory.
    step: number of updates.
    kl: nats; the nearest of those measured, the later one of two as near.
  Raises:
    ValueError: both are given, or there is no such checkpoint; lists those
      there are.
  """
  if step is None and kl is None:
    return None
  asked = f'step={step}' if kl is None else f'kl={kl:g}'
  if None not in (step, kl):
    raise ValueError(f'step={step} and kl={kl:g}: expected one of them')
  steps, kls = list(steps_of(run)), measured(run)
  known = [s for s in steps if s in kls]
  if step in steps:
    return step
  if kl is not None and known:
    return min(known, key=lambda s: (abs(kls[s] - kl), -s))
  there = '; '.join(described(s, kls) for s in steps) or 'none'
  raise ValueError(f'{run}: no checkpoint of {asked}, there are: {there}')


def described(step, kls):
  """A checkpoint in words."""
  kl = f'KL {kls[step]:.4g} nats' if step in kls else 'KL not measured'
  return f'step {step}, {kl}'


def _params(run, step):
  return final_params(run) if step is None else params_of(run, step)


def _judge(run, task, setup, number, step):
  knobs = setup.shared.task
  if not (run / 'judge.npz').is_file():
    raise ValueError(f'{run}: holds no judge that was trained here')
  config = judge_config(knobs['judge_model'], task.model.vocab_size)
  return Found(load_params(run / 'judge.npz', config), config, None)


def _proxy(run, task, setup, number, step):
  proxy = setup.shared.proxy
  compares = LOSSES[proxy.loss].rows == 'ordered'  # reads two completions
  if proxy.verifier != 'transformer' or compares:
    raise ValueError(
      f'{run}: a reward model of proxy.verifier={proxy.verifier!r} and '
      f'proxy.loss={proxy.loss!r} has no form that transformers reads'
    )
  config = dataclasses.replace(task.model, head='scalar')
  params = _params(run, step)
  return Found(params, config, initial.hf_fields(setup.shared.model))


def _policy(run, task, setup, number, step):
  params = _params(run, step)
  if lora.KEY in params:
    params = _merged(run, params, task, setup, number)
  params = policy_of(params)
  return Found(params, task.model, initial.hf_fields(setup.shared.model))


def _merged(run, params, task, setup, number):
  """Adapters put into the reference that they adapt."""
  settings = read_record(run / 'settings.json')
  base = stages.train_sft(setup, task, number, streams.silent)
  settings = lora.Lora(**settings['lora'])
  adapters = lora.restored(params[lora.KEY], base, task.model, settings)
  return lora.merge(base, adapters)


def _kind(run):
  """How to read a run's directory, by its name."""
  return next((f for name, f in KINDS if run.name.startswith(name)), _policy)


KINDS = (('task', _judge), ('proxy', _proxy))  # anything else is a policy


def token_ids(task, head):
  """The names in config.json of the tokens that every model has.

  transformers reads a score at the last token that is no padding. So the
  padding of a scalar head is no token that ends a text: it is BOS where the
  tokenizer pads with EOS, and None without a BOS.
  """
  ends = () if task.eos_id is None else np.ravel(task.eos_id).tolist()
  scalar = head == 'scalar'
  if task.tokenizer is None:
    return {'eos_token_id': task.eos_id, 'pad_token_id': None if scalar else 0}
  vocabulary = load_tokenizer(task.tokenizer, needs_bos=False)
  pad = _settings_of(task.tokenizer).get('pad_token')
  pad = pad.get('content') if isinstance(pad, dict) else pad
  pad = vocabulary.tokenizer.token_to_id(pad) if pad else None
  pads = [x for x in (pad, vocabulary.bos_id) if x not in (None, *ends)]
  if scalar:
    pad = pads[0] if pads else None
  elif pad is None:
    pad = ends[0]
  return {
    'bos_token_id': vocabulary.bos_id,
    'eos_token_id': ends if len(ends) > 1 else ends[0],
    'pad_token_id': pad,
  }


def _settings_of(folder):
  path = folder / SETTINGS
  return read_object(path) if path.is_file() else {}


def _pad_with(folder, tokenizer, pad):
  """Has the exported tokenizer pad with the token that the model expects."""
  name = None if pad is None else tokenizer.id_to_token(pad)
  write_json(folder / SETTINGS, {**_settings_of(folder), 'pad_token': name})


def generation(task, ids):
  """As policies were sampled: temperature 1, and all tokens there are."""
  sampling = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
  ids = {k: v for k, v in ids.items() if v is not None}
  gaps = getattr(task.model, 'no_tokens', ())
  if never := [i for gap in gaps for i in range(*gap)]:
    ids['suppress_tokens'] = never
  return {**sampling, **ids, 'max_new_tokens': task.max_new_tokens}


def _folders_in(home, run):
  """The run's folder, and all that settings name: checkpoints and others."""
  found, texts = [run], []
  for path in (home, run):
    file = path / 'settings.json'
    texts += _texts(read_record(file)) if file.is_file() else []
  found += [paths.path(x).expanduser() for x in texts if _names_a_path(x)]
  return [x for x in found if x.is_dir()]


def _names_a_path(text):
  try:
    return bool(text and paths.path(text))
  except ValueError:  # a template with https:// in it
    return False


def _texts(x):
  if isinstance(x, dict | list):
    inner = x.values() if isinstance(x, dict) else x
    return [text for y in inner for text in _texts(y)]
  return [x] if isinstance(x, str) else []


def check_folder(folder, sources):
  """Refuses to export over what is there, above all what a run is made of.

  Raises:
    ValueError: the folder is, or contains, one of the sources; it is not empty;
      or it is a file.
  """
  folder = paths.absolute(folder)
  for source in map(paths.absolute, sources):
    if folder in (source, *source.parents):
      raise ValueError(
        f'{folder}: it is, or contains, {source}, which the run is made of: '
        'expected another folder'
      )
  if paths.is_local(folder) and folder.is_file():
    raise ValueError(f'{folder}: a file, expected an empty folder')
  if there := paths.files_in(folder):
    raise ValueError(f'{folder}: holds {there[0]}, expected an empty folder')


def export(run, folder, dtype='float32', step=None, kl=None):
  """Writes the policy, or the reward model, of a run.

  Args:
    run: its directory, see above.
    folder: made if need be.
    dtype: of the weights.
    step, kl: of its checkpoint, see `choose`; neither: the last.
  Returns:
    what was taken, in words; '' for the last.
  Raises:
    ValueError: no run there, or one that has no such form, or `folder` holds
      what is exported.
    FileNotFoundError: the run has not ended.
  """
  run, target = paths.absolute(run), paths.path(folder)
  home = experiment_of(run)
  setup = setups.opened(home)
  check_folder(target, [home, setup.task_folder, *_folders_in(home, run)])
  step = choose(run, step, kl)
  number = next(
    (int(p.name[4:]) for p in (run, *run.parents) if _is_seed(p, home)), 0
  )
  task = setups.make_task(setup, number)
  found = _kind(run)(run, task, setup, number, step)
  ids = token_ids(task, found.config.head)
  fields = found.fields or hf_export.llama_fields(found.config)
  # The config.json of a checkpoint keeps what it says; the lengths and ends of
  # generation are the task's.
  own = {k: v for k, v in ids.items() if fields.get(k) is None}
  if found.config.head == 'scalar':
    own['pad_token_id'] = ids['pad_token_id']
  as_dtype = lambda x: x.astype(jnp.dtype(dtype))
  with paths.filling(target) as folder:
    hf_export.export(
      folder,
      jax.tree.map(as_dtype, found.params),
      found.config,
      {**fields, **own},
      source=task.tokenizer,
    )
    if found.config.head == 'scalar' and task.tokenizer:
      tokenizer = load_tokenizer(task.tokenizer, needs_bos=False).tokenizer
      _pad_with(folder, tokenizer, ids['pad_token_id'])
    write_json(folder / hf.GENERATION, generation(task, ids))
  return '' if step is None else described(step, measured(run))


def _is_seed(path, workdir):
  return path.parent == workdir and path.name.startswith('seed')


def _nats(text):
  if not 0 <= (number := float(text)) < float('inf'):
    raise ValueError
  return number


def main(argv=None):
  """The command `align export`."""
  parser = Parser(prog='align export', description=__doc__.split('\n')[0])
  parser.add_argument('run', help='the directory of a run')
  parser.add_argument('folder', help='where it is written')
  parser.add_argument('--dtype', choices=DTYPES, default='float32')
  parser.add_argument('--step', type=int, help='updates of the checkpoint')
  parser.add_argument('--kl', type=_nats, help='nats, or as near as there is')
  args = parser.parse_args(argv)
  try:
    taken = export(args.run, args.folder, args.dtype, args.step, args.kl)
  except (ValueError, OSError) as error:
    sys.exit(f'error: {" ".join(str(error).split())}')
  print(f'{args.folder}: written' + (f', of {taken}' if taken else ''))


if __name__ == '__main__':
  main()
