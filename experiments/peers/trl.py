"""TRL's trainers and transformers' generate on the fixed workload."""

import functools
import importlib.metadata
import logging
import tempfile
import warnings

import torch
import transformers
from transformers.generation import GenerationMixin

from experiments.peers import workload
from experiments.peers.worker import Clock

warnings.filterwarnings('ignore')
logging.disable(logging.WARNING)
transformers.logging.set_verbosity_error()
GPU = torch.cuda.is_available()
torch.backends.cuda.matmul.allow_tf32 = True  # as JAX's products are there


def wait():
  """Until the device has done what it was asked to."""
  if GPU:
    torch.cuda.synchronize()


def about(spec):
  names = ('trl', 'transformers', 'torch', 'accelerate')
  versions = {name: importlib.metadata.version(name) for name in names}
  return {'versions': versions, 'weights': workload.weights(spec['model'])[0]}


def saved_model(spec):
  """A folder with random weights and the tokenizer: the trainers read one."""
  m, folder = spec['model'], tempfile.mkdtemp(dir=spec['scratch'])
  torch.manual_seed(spec['seed'])
  config = transformers.LlamaConfig(
    vocab_size=m['vocab_size'],
    hidden_size=m['dim'],
    num_hidden_layers=m['num_layers'],
    num_attention_heads=m['num_heads'],
    num_key_value_heads=m['num_kv_heads'],
    head_dim=m['head_dim'],
    intermediate_size=m['mlp_dim'],
    tie_word_embeddings=True,
    rms_norm_eps=1e-5,
    max_position_embeddings=1024,
    bos_token_id=None,
    pad_token_id=0,
    eos_token_id=1,
  )
  model = transformers.LlamaForCausalLM(config).float()
  count = model.num_parameters()
  assert count == workload.weights(m)[0], count
  model.save_pretrained(folder)
  workload.tokenizer(spec, padding_side='left').save_pretrained(folder)
  return folder


def generator(spec):
  """-> generate(ids, length, **kwargs), as long as asked for."""
  model = transformers.LlamaForCausalLM.from_pretrained(
    saved_model(spec), dtype=torch.float32
  ).eval()
  model = model.cuda() if GPU else model

  def generate(ids, length, **kwargs):
    with torch.inference_mode():
      return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=length,
        min_new_tokens=length,
        **kwargs,
      )

  return generate


def prompts(spec):
  shape = spec['task']['prompts'], spec['task']['prompt_len']
  ids = torch.from_numpy(workload.tokens(spec, shape)).long()
  return ids.cuda() if GPU else ids


def sample(spec, gate):
  generate, ids = generator(spec), prompts(spec)
  length = spec['task']['completion_len']

  def run():
    out = generate(ids, length)
    assert out.shape == (len(ids), ids.shape[1] + length), out.shape
    wait()
    return {}

  gate.repeat(run, **about(spec))


def refill(spec, gate):
  """Static batches, each as long as its longest row."""
  generate, ids = generator(spec), prompts(spec)
  wanted, slots = workload.limits(spec['task']), spec['task']['slots']

  def run():
    for i in range(0, len(wanted), slots):
      generate(ids[i : i + slots], int(wanted[i : i + slots].max()))
    wait()
    return {}

  gate.repeat(run, **about(spec))


# --- Trainers, which go round their own loops ---------------------------------


class Steps(transformers.TrainerCallback):
  """The gate around each step of a trainer's loop."""

  def __init__(self, spec, gate):
    self._about, self._gate, self._generated = about(spec), gate, None
    self._generate = GenerationMixin.generate
    self._rows = spec['task']['prompts'] * spec['task']['group_size']

  def generate(self, model, *args, **kwargs):
    clock = Clock()
    out = self._generate(model, *args, **kwargs)
    assert len(out) == self._rows, len(out)
    wait()
    self._generated = clock()
    return out

  def on_step_begin(self, *args, **kwargs):
    self._gate.begin()  # waits for its turn
    self._clock = Clock()

  def on_step_end(self, *args, **kwargs):
    wait()
    parts = {}
    if self._generated:
      rest = {k: v - self._generated[k] for k, v in self._clock().items()}
      parts = {'parts': {'generate': self._generated, 'train': rest}}
    self._gate.end(**parts, **self._about)


def settings(spec, batch_size):
  parts = spec['task']['microbatches']
  return dict(
    output_dir=spec['scratch'],
    max_steps=10**6,  # until the gate closes
    per_device_train_batch_size=batch_size // parts,
    gradient_accumulation_steps=parts,
    report_to='none',
    save_strategy='no',
    logging_strategy='no',
    disable_tqdm=True,
    bf16=False,
    fp16=False,
    use_cpu=not GPU,
    gradient_checkpointing=False,
    learning_rate=spec['train']['learning_rate'],
    max_grad_norm=spec['train']['max_grad_norm'],
    weight_decay=spec['train']['weight_decay'],
    lr_scheduler_type='constant',
    model_init_kwargs={'dtype': 'float32'},
    seed=spec['seed'],
  )


def go(trainer, spec, gate):
  steps = Steps(spec, gate)
  GenerationMixin.generate = lambda *a, **k: steps.generate(*a, **k)
  trainer.add_callback(steps)
  trainer.train()


def dpo(stored_ref, spec, gate):
  import datasets
  import trl

  task, folder = spec['task'], saved_model(spec)
  count, length = task['prompts'], task['completion_len']
  asked = workload.words(spec, count, task['prompt_len'])
  # The trainer ends each completion with EOS.
  said = [' ' + x for x in workload.words(spec, 2 * count, length - 1)]
  columns = {'prompt': asked, 'chosen': said[:count], 'rejected': said[count:]}
  trainer = trl.DPOTrainer(
    folder,
    args=trl.DPOConfig(
      **settings(spec, count),
      beta=spec['train']['loss_kwargs']['dpo']['beta'],
      max_length=task['prompt_len'] + length,
      precompute_ref_log_probs=stored_ref,
      precompute_ref_batch_size=count if stored_ref else None,
    ),
    train_dataset=datasets.Dataset.from_dict(columns),
    processing_class=workload.tokenizer(spec, padding_side='left'),
  )
  row = trainer.train_dataset[0]
  lengths = len(row['prompt_ids']), len(row['chosen_ids'])
  assert lengths == (task['prompt_len'], length), lengths
  go(trainer, spec, gate)


def online(loss, spec, gate):
  import datasets
  import trl

  task, folder = spec['task'], saved_model(spec)
  Config, Trainer = {
    'grpo': (trl.GRPOConfig, trl.GRPOTrainer),
    'rloo': (trl.RLOOConfig, trl.RLOOTrainer),
  }[loss]

  def distinct(completions, **_):
    return [float(len(set(x.split()))) for x in completions]

  asked = workload.words(spec, task['prompts'], task['prompt_len'])
  trainer = Trainer(
    folder,
    reward_funcs=distinct,
    args=Config(
      **settings(spec, task['prompts'] * task['group_size']),
      num_generations=task['group_size'],
      max_completion_length=task['completion_len'],
      beta=spec['train']['loss_kwargs'][loss]['beta'],
      temperature=1.0,
      top_k=0,
      generation_kwargs={'min_new_tokens': task['completion_len']},
    ),
    train_dataset=datasets.Dataset.from_dict({'prompt': asked}),
    processing_class=workload.tokenizer(spec, padding_side='left'),
  )
  go(trainer, spec, gate)


KINDS = {
  'sample': sample,
  'refill': refill,
  'dpo': functools.partial(dpo, True),
  'dpo_ref': functools.partial(dpo, False),
  'grpo': functools.partial(online, 'grpo'),
  'rloo': functools.partial(online, 'rloo'),
}
