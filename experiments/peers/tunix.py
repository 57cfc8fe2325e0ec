"""Tunix's sampler and trainers on the fixed workload."""

import functools
import importlib.metadata
import warnings

import jax
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as samplers
from tunix.models.llama3 import model as llama3

from experiments.peers import workload
from experiments.peers.worker import Clock

warnings.filterwarnings('ignore')


def about(spec):
  names = {'google-tunix', 'jax', 'jaxlib', 'flax', 'qwix'}
  versions = {name: importlib.metadata.version(name) for name in names}
  return {'versions': versions, 'weights': workload.weights(spec['model'])[0]}


def policy(spec, seed=0):
  m = spec['model']
  config = llama3.ModelConfig(
    num_layers=m['num_layers'],
    vocab_size=m['vocab_size'],
    embed_dim=m['dim'],
    hidden_dim=m['mlp_dim'],
    num_heads=m['num_heads'],
    head_dim=m['head_dim'],
    num_kv_heads=m['num_kv_heads'],
    rope_theta=10_000,
    norm_eps=1e-5,
    weight_tying=True,
  )
  model = llama3.Llama3(config, rngs=nnx.Rngs(seed))
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  assert {str(x.dtype) for x in leaves} == {'float32'}
  assert sum(x.size for x in leaves) == workload.weights(m)[0]
  return model


def optimizer(spec):
  t = spec['train']
  return optax.chain(
    optax.clip_by_global_norm(t['max_grad_norm']),
    optax.adamw(t['learning_rate'], weight_decay=t['weight_decay']),
  )


def generator(spec):
  """-> generate(texts, length), as long as asked for."""
  m, task = spec['model'], spec['task']
  sampler = samplers.Sampler(
    policy(spec),
    workload.tokenizer(spec),
    samplers.CacheConfig(
      cache_size=task['prompt_len'] + task['completion_len'],
      num_layers=m['num_layers'],
      num_kv_heads=m['num_kv_heads'],
      head_dim=m['head_dim'],
    ),
  )

  def generate(texts, length):
    out = sampler(
      texts,
      max_generation_steps=length,
      max_prompt_length=task['prompt_len'],
      temperature=1.0,
      top_p=1.0,
      seed=1,
      forbidden_tokens=[0, 1],  # padding, EOS
    )
    assert [len(x) for x in out.tokens] == [length] * len(texts)

  return generate


def sample(spec, gate):
  generate, task = generator(spec), spec['task']
  texts = workload.words(spec, task['prompts'], task['prompt_len'])

  def run():
    generate(texts, task['completion_len'])
    return {}

  gate.repeat(run, **about(spec))


def refill(spec, gate):
  """Static batches, each as long as its longest row."""
  generate, task = generator(spec), spec['task']
  texts = workload.words(spec, task['prompts'], task['prompt_len'])
  wanted, slots = workload.limits(task), task['slots']

  def run():
    for i in range(0, len(texts), slots):
      generate(texts[i : i + slots], int(wanted[i : i + slots].max()))
    return {}

  gate.repeat(run, **about(spec))


def settled():
  """Its steps are dispatched and not waited for."""
  jax.block_until_ready(jax.live_arrays())


def dpo(with_ref, spec, gate):
  """Takes no stored reference log-probs: without, the term is left out."""
  from tunix.sft.dpo import dpo_trainer

  task = spec['task']
  assert task['microbatches'] == 1, 'DPO in one part only'
  count, length = task['prompts'], task['completion_len']
  given = workload.tokens(spec, (count, task['prompt_len']))
  said = workload.tokens(spec, (2, count, length))
  pairs = dpo_trainer.TrainingInput(
    prompt_ids=given,
    prompt_mask=np.ones(given.shape, bool),
    chosen_ids=said[0],
    chosen_mask=np.ones(said[0].shape, bool),
    rejected_ids=said[1],
    rejected_mask=np.ones(said[1].shape, bool),
  )

  def steps():
    while True:
      gate.begin()
      yield pairs
      settled()
      gate.end(**about(spec))

  config = dpo_trainer.DPOTrainingConfig(
    eval_every_n_steps=10**6,
    max_steps=10**6,
    max_inflight_computations=1,
    beta=spec['train']['loss_kwargs']['dpo']['beta'],
  )
  reference = policy(spec, 1) if with_ref else None
  trainer = dpo_trainer.DPOTrainer(
    policy(spec), reference, optimizer(spec), config
  )
  trainer.train(steps())


def cluster(spec):
  from tunix.rl import rl_cluster
  from tunix.rl.rollout import base_rollout

  task, Role = spec['task'], rl_cluster.Role
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1])[None], ('fsdp', 'tp'))
  length = task['prompt_len'] + task['completion_len']
  return mesh, rl_cluster.RLCluster(
    actor=policy(spec),
    reference=policy(spec, 1),
    tokenizer=workload.tokenizer(spec),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh=dict.fromkeys(
        (Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh
      ),
      rollout_engine='vanilla',
      training_config=rl_cluster.RLTrainingConfig(
        actor_optimizer=optimizer(spec),
        eval_every_n_steps=10**6,
        max_steps=10**6,
        mini_batch_size=task['prompts'],
        train_micro_batch_size=task['prompts'] // task['microbatches'],
        rollout_micro_batch_size=task['prompts'],
      ),
      rollout_config=base_rollout.RolloutConfig(
        max_tokens_to_generate=task['completion_len'],
        max_prompt_length=task['prompt_len'],
        kv_cache_size=length,
        temperature=1.0,
        top_p=1.0,
        # It cannot forbid EOS: one outside the vocabulary.
        eos_tokens=[spec['model']['vocab_size'] + 7],
      ),
    ),
  )


def grpo(spec, gate):
  """A repetition goes from one call of its sampler to the next."""
  from tunix.rl.grpo import grpo_learner

  task = spec['task']
  mesh, whole = cluster(spec)
  generate, running = whole.generate, []

  def timed(*args, **kwargs):
    if running:
      settled()
      clock, generated = running.pop()
      rest = {k: v - generated[k] for k, v in clock().items()}
      parts = {'generate': generated, 'train': rest}
      gate.end(parts=parts, **about(spec))
    gate.begin()
    clock = Clock()
    out = generate(*args, **kwargs)
    assert len(out.text) == task['prompts'] * task['group_size'], len(out.text)
    running.append((clock, clock()))
    return out

  def distinct(prompts, completions, **_):
    return [float(len(set(x.split()))) for x in completions]

  whole.generate = timed
  texts = np.array(workload.words(spec, task['prompts'], task['prompt_len']))
  learner = grpo_learner.GRPOLearner(
    whole,
    grpo_learner.GRPOConfig(
      num_generations=task['group_size'],
      num_iterations=1,
      beta=spec['train']['loss_kwargs']['grpo']['beta'],
    ),
    distinct,
  )
  with mesh:
    learner.train({'prompts': texts} for _ in range(10**6))


KINDS = {
  'sample': sample,
  'refill': refill,
  'dpo': functools.partial(dpo, False),
  'dpo_ref': functools.partial(dpo, True),
  'grpo': grpo,
}
