"""Every field an experiment has, with its meaning."""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()

  # What is asked of the policy: name of a module of align_jax.tasks; its other
  # fields are that module's knobs.
  c.task = ml_collections.ConfigDict({'name': ''})

  # The policy, fields of align_jax.models.transformer.ModelConfig; or a model
  # of your own, dict(adapter='package.module:Class', **its fields), see
  # docs/models.md; or a checkpoint and no sizes, see docs/pipelines.md.
  c.model = ml_collections.ConfigDict(
    dict(
      checkpoint='',  # a folder or hub id to start from; '': fresh parameters
      vocab_size=0,
      dim=64,
      num_layers=2,
      num_heads=4,
      num_kv_heads=4,
      head_dim=16,
      mlp_dim=128,
      tie_embeddings=True,
      attention='auto',  # 'plain' | a name in align_jax.models.fused.KERNELS
      # | 'auto': one of these that the machine can run, else plain
    )
  )

  # Replications: each has its own SFT policy, golden pairs and proxy.
  c.seeds = 3
  # Seeds 100 and up, to choose a design on; without it 0 and up, to judge it.
  c.pilot = False

  # The reference: supervised fine-tuning on the task's demonstrations; no
  # steps: what the model starts from.
  c.sft = ml_collections.ConfigDict(
    dict(
      steps=1000,
      batch_size=64,  # demonstrations per step
      learning_rate=1e-3,
      warmup_steps=0,
      max_grad_norm=1.0,
      weight_decay=0.0,
    )
  )

  # The finite data set: pairs of the reference, labelled by the gold judge.
  c.golden = ml_collections.ConfigDict(
    dict(
      pairs=1000,
      label_noise=0.0,  # share of labels the wrong way round
    )
  )

  # The proxy: a reward model trained on the golden pairs.
  c.proxy = ml_collections.ConfigDict(
    dict(
      verifier='bow',  # 'bow' | 'transformer' (from the SFT policy)
      loss='bradley_terry',  # 'preference_model': two completions in order |
      # 'verifier', 'binary_cross_entropy': gold labels in [0, 1] of single ones
      loss_kwargs=dict(),  # of the loss: margin, label_smoothing, centring
      opponents=8,  # loss='preference_model': completions of the reference per
      # prompt; a reward is the share of them that it beats
      members=1,  # more: an ensemble, each from another initialisation
      combine='mean',  # 'mean' | 'worst_case' | 'uncertainty_weighted'
      variance_weight=0.5,  # of 'uncertainty_weighted'
      steps=600,
      batch_size=64,
      learning_rate=2e-3,
      warmup_steps=0,
      max_grad_norm=1.0,
      weight_decay=1.0,
    )
  )

  # What every arm is unless it says otherwise.
  c.arm = ml_collections.ConfigDict(
    dict(
      # 'golden_pairs' | 'file_pairs' (labels that came with the task's file) |
      # 'log' | 'policy' | 'reference' | 'sampler' |
      # 'one_step_stale' (samples while the step before trains) | 'teacher' |
      # 'mixture' | 'policy_and_mixture' | 'policy_and_reference' | 'mixed'
      # | 'hybrid', see align_jax.lab.arms.SOURCES
      source='policy',
      labels='proxy',  # 'proxy' | 'gold' | 'judge' | a rule in
      # align_jax.learn.rewards.REWARDS
      # labels='judge': a published checkpoint, and further knobs of
      # align_jax.judges.JUDGES[kind]; an arm that names it names all of it
      judge=dict(
        kind='reward_model',  # 'reward_model' | 'llm_judge'
        checkpoint='',  # a folder, or the id of a model on the hub
        dtype='float32',  # of its parameters and activations
        max_length=2048,  # tokens of a row
        batch_size=8,  # rows at a time
      ),
      reward_scale='none',  # 'none' | 'reference' (it scores 0, deviation 1) |
      # 'preference' (chance to win against the group's others)
      truncated='keep',  # 'keep' | 'mask' | 'penalise' what has no EOS
      truncation_penalty=1.0,  # reward lost, for 'penalise'
      loss='ipo',  # a name in align_jax.losses.LOSSES
      loss_kwargs=dict(beta=0.1),
      steps=1500,
      points=0,  # measured on the way; 0: eval.points
      batch_size=32,  # prompts per step
      group_size=2,  # completions per prompt
      slots=0,  # rows that training samples at a time: one that ends makes
      # room for the next, for lengths that differ much; 0: all at once
      learning_rate=1e-4,
      warmup_steps=0,
      max_grad_norm=1.0,
      weight_decay=0.0,
      num_microbatches=1,  # parts of a batch whose gradients are added up
      microbatch_tokens=0,  # instead: as few parts as keep the tokens of one,
      # padding included and prompts counted once, within this; 0: off
      length_buckets=(),  # fixed data: ((prompt slots, completion slots), ...)
      # to which batches are cut where they hold all but padding
      num_epochs=1,  # passes over a batch
      num_minibatches=1,  # updates per pass
      refresh_every=dict(),  # {anchor: steps}, e.g. {'sampler': 8}
      parts=(),  # source='mixed': two sources, half of the prompts each;
      # source='hybrid': where its pairs come from
      mixture=0.125,  # share of the reference in a geometric mixture
      critic='own',  # loss='ppo': 'own' trunk | 'shared' with the policy
      critic_init='reference',  # own trunk: 'reference' | 'reward_model'
      teacher_of='',  # the run whose last policy is the anchor 'teacher';
      # 'reference': the SFT policy itself
      context=(),  # tokens that the teacher alone sees in every prompt
      context_after=0,  # tokens of the prompt in front of them, such as BOS
      kl_budget=0.0,  # nats; 0: none
      kl_mode='hold',  # 'hold' the run at its budget | 'stop' it there
      kl_every=20,  # steps between measurements of the budget
      kl_samples=8,  # completions per eval prompt of such a measurement
      # Low-rank adapters instead of all parameters, see align_jax.models.lora;
      # rank 0: none. targets: the matrices, by the ends of their paths.
      lora=dict(rank=0, alpha=16.0, targets=('qkv', 'o', 'gate_up', 'down')),
      reweigh='',  # 'best_of_n' | 'optimum': the reference's samples weighed
      # anew instead of training
      pool=1024,  # such samples per eval prompt
      log_of='',  # source='log': the run whose batches are replayed
      shuffle=0,  # source='log': steps per shuffled window; 0: all of them
      save_every=500,  # steps between checkpoints
      log_every=10,  # steps between rows of metrics
    )
  )

  # The arms: {name: what differs from `arm`}; each entry of `sweep` is a
  # configuration of the arm, a run per seed.
  c.arms = ml_collections.ConfigDict()

  # The same for experiments.method_zoo, by method.
  c.methods = ml_collections.ConfigDict()
  c.families = ml_collections.ConfigDict()  # {title: names}, for its figures

  c.ages = (8, 64)  # steps between refreshes, for experiments.staleness

  # Points: measured on held-out prompts after log-spaced numbers of steps.
  c.eval = ml_collections.ConfigDict(
    dict(
      samples=8,  # completions per prompt
      first_step=20,
      points=14,
      pairs=512,  # held-out pairs for accuracies
    )
  )

  # The comparison, fixed in advance.
  c.report = ml_collections.ConfigDict(
    dict(
      budgets=(0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 6.0, 8.0),  # nats
      # The confirmatory number: treatment - control over these budgets; one
      # budget twice where the arms are held there.
      treatment='online',
      control='offline',
      window=(1.5, 3.5),
      margin=0.05,  # of gold reward, within which arms count as equivalent
      half_width=0.05,  # of the interval that the power line plans for
      deviation=0.0,  # of the gap between seeds, for experiments.plan without
      # points; 0: not known
      schedule=(),  # numbers of seeds at which a verdict will be read, where
      # seeds are added after a look; (): once
      shown=(0.5, 1.0, 2.0, 3.0),  # of the budgets, in the table of method_zoo
      golden_policy='online+gold',  # whose last policy win rates are against
    )
  )

  # Devices: data * fsdp * tensor of them; a CPU becomes as many.
  c.mesh = ml_collections.ConfigDict(dict(data=1, fsdp=1, tensor=1))
  c.workers = 0  # processes; 0: one per core on a CPU, else 1
  c.together = False  # runs that differ in numbers alone as one program; for
  # accelerators, which one small run leaves idle
  return c


def sweep(*pairs):
  """Strengths of an arm: (learning rate, beta) each."""
  return tuple(
    dict(learning_rate=lr, loss_kwargs=dict(beta=beta)) for lr, beta in pairs
  )


def smoke(c):
  """The same experiment at a size that takes seconds: for tests."""
  c.seeds = 2
  c.workers = 1
  c.sft.update(steps=4, batch_size=8)
  c.golden.update(pairs=16)
  c.proxy.update(steps=4, batch_size=8)
  c.arm.update(
    steps=6,
    batch_size=4,
    save_every=2,
    log_every=1,
    warmup_steps=0,
    kl_budget=0.0,  # which so few steps do not reach
    pool=64,
  )
  for arm in (*c.arms.values(), *c.methods.values()):
    for name in {'steps', 'points', 'save_every', 'pool'} & set(arm):
      del arm[name]
  c.eval.update(samples=2, first_step=2, points=3, pairs=8)
  c.report.update(budgets=(0.01, 0.1, 1.0), window=(0.001, 1.0))
  return c
