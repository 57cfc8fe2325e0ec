"""Every field an experiment has, with its meaning."""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()

  # The task: a module of align_jax.tasks, or 'package.module' of your own. All
  # other fields are arguments of that module's make_task.
  c.task = ml_collections.ConfigDict({'name': ''})

  # The policy, one of three:
  # - fields of align_jax.models.transformer.ModelConfig, as below.
  # - a checkpoint and no sizes, see docs/pipelines.md.
  # - dict(adapter='package.module:Class', **its_fields), see docs/models.md.
  c.model = ml_collections.ConfigDict(
    dict(
      checkpoint='',  # a folder or hub id to start from. '': random parameters
      vocab_size=0,  # tokens
      dim=64,
      num_layers=2,
      num_heads=4,
      num_kv_heads=4,
      head_dim=16,
      mlp_dim=128,
      tie_embeddings=True,
      # 'plain' | a name in align_jax.models.fused.KERNELS | 'auto': a kernel
      # that the machine can run, else plain | 'ring': plain, but blocks of keys
      # travel round mesh.context, where plain gathers them.
      attention='auto',
      # Whether a backward pass computes each layer anew, instead of storing it.
      remat=False,
    )
  )

  # Number of replications. Each has its own SFT policy, golden pairs and proxy.
  c.seeds = 3
  # True: seeds 100 and up, for choosing a design. False: seeds 0 and up, for
  # the results.
  c.pilot = False

  # The reference: supervised fine-tuning on the task's demonstrations.
  c.sft = ml_collections.ConfigDict(
    dict(
      steps=1000,  # 0: the reference is the model before training
      batch_size=64,  # demonstrations per step
      learning_rate=1e-3,
      # 'adamw' | 'lion' | 'muon' | 'rmsprop', and its arguments, see
      # align_jax.learn.optimizers.OPTIMIZERS.
      optimizer=dict(name='adamw'),
      # 'constant' | 'linear' | 'cosine' | 'inverse_sqrt', and its keyword
      # arguments, see align_jax.learn.schedules.SCHEDULES.
      schedule=dict(name='constant'),
      warmup_steps=0,  # steps of linear warm-up; the first rate is above 0
      max_grad_norm=1.0,  # > 0. inf: no clipping
      weight_decay=0.0,
    )
  )

  # The fixed data set: pairs of the reference's samples, labelled by gold.
  c.golden = ml_collections.ConfigDict(
    dict(
      pairs=1000,
      label_noise=0.0,  # share of the labels that are flipped, in [0, 1]
    )
  )

  # The proxy: a reward model trained on the golden pairs.
  c.proxy = ml_collections.ConfigDict(
    dict(
      # 'bow': bag of words | 'transformer': as the SFT policy, and from it |
      # 'sized': a transformer of proxy.model.
      verifier='bow',
      # verifier='sized': fields of ModelConfig, without vocab_size and head, of
      # random parameters. Or a checkpoint, with what `model` has beside one.
      model=dict(),
      # The variant whose proxy this one uses, see docs/pipelines.md. '': its
      # own.
      variant='',
      # 'bradley_terry': pairs | 'preference_model': pairs in both orders |
      # 'verifier', 'binary_cross_entropy': single completions, gold in [0, 1].
      loss='bradley_terry',
      loss_kwargs=dict(),  # its arguments, such as margin or label_smoothing
      # loss='preference_model': completions of the reference per prompt. The
      # reward is the share of them that a completion beats.
      opponents=8,
      members=1,  # reward models that differ in initialisation. 1: no ensemble
      combine='mean',  # 'mean' | 'worst_case' | 'uncertainty_weighted'
      variance_weight=0.5,  # combine='uncertainty_weighted': price of variance
      steps=600,
      batch_size=64,
      num_microbatches=1,  # as in arm
      learning_rate=2e-3,
      optimizer=dict(name='adamw'),  # as in sft
      schedule=dict(name='constant'),  # as in sft
      warmup_steps=0,
      max_grad_norm=1.0,
      weight_decay=1.0,
    )
  )

  # Defaults of every arm.
  c.arm = ml_collections.ConfigDict(
    dict(
      # Where batches come from, see align_jax.lab.arms.SOURCES:
      # - fixed pairs: 'golden_pairs' | 'file_pairs' (the file's own labels)
      # - single answers with the file's own labels: 'file_labels'
      # - pairs of two chosen policies under golden labels: 'written_pairs'
      # - batches of another run: 'log'
      # - samples of one policy: 'policy' | 'reference' | 'sampler' (an older
      #   copy) | 'one_step_stale' (sampled during the step before) | 'teacher'
      # - samples of the geometric mixture with the reference: 'mixture'
      # - a sample of the policy and one of an opponent:
      #   'policy_and_mixture' | 'policy_and_reference'
      # - two sources, see `parts`: 'mixed' | 'hybrid'
      source='policy',
      # 'proxy' | 'gold' | 'judge' | 'implicit' (the policy's own log-ratio) | a
      # rule in align_jax.learn.rewards.REWARDS.
      labels='proxy',
      # labels='judge': a published checkpoint, and further arguments of
      # align_jax.judges.JUDGES[kind]. An arm that sets this sets all of it.
      judge=dict(
        kind='reward_model',  # 'reward_model' | 'llm_judge'
        checkpoint='',  # a folder, or the id of a model on the hub
        dtype='float32',  # of its parameters and activations
        max_length=2048,  # tokens per row
        batch_size=8,  # rows judged at once
      ),
      # 'none' | 'reference': standardised by the reference's mean and standard
      # deviation | 'preference': mean win probability within the group.
      reward_scale='none',
      truncated='keep',  # completions without EOS: 'keep' | 'mask' | 'penalise'
      truncation_penalty=1.0,  # truncated='penalise': reward subtracted
      loss='ipo',  # a name in align_jax.losses.LOSSES
      loss_kwargs=dict(beta=0.1),  # its arguments
      steps=1500,
      points=0,  # number of measurements. 0: eval.points
      batch_size=32,  # prompts per step
      group_size=2,  # completions per prompt
      # Rows decoded at once. A finished row is replaced by the next. 0: all.
      rows_at_once=0,
      learning_rate=1e-4,
      optimizer=dict(name='adamw'),  # as in sft
      schedule=dict(name='constant'),  # as in sft
      warmup_steps=0,
      max_grad_norm=1.0,
      weight_decay=0.0,
      # How training samples are drawn, see align_jax.policy.programs.Sampling.
      # Evaluation, the KL budget and pools always sample the policy itself, at
      # temperature 1 and untruncated.
      sampling=dict(
        temperature=1.0,  # > 0
        top_p=1.0,  # total probability of the tokens kept. 1: all tokens
        top_k=0,  # number of likeliest tokens kept. 0: all
        # Least probability of a kept token, relative to the likeliest. 0: all.
        min_p=0.0,
        dtype='',  # of activations, such as 'bfloat16'. '': the model's own
        cache_dtype='',  # of keys and values. '': that of the activations
        stop_tokens=(),  # ids that end a completion, in addition to EOS
      ),
      # Importance weights for samples that are not the trained policy's, a
      # name in align_jax.losses.correction.CORRECTIONS. '': none.
      correction='',
      correction_cap=2.0,  # the largest of these weights, at least 1
      num_microbatches=1,  # parts of a batch whose gradients are summed
      # Maximum tokens per microbatch, padding included and each prompt counted
      # once. It replaces num_microbatches, which stays 1. 0: off.
      microbatch_tokens=0,
      # Fixed data: ((prompt positions, completion positions), ...). Each batch
      # loses padding down to the smallest bucket that holds it. (): none.
      length_buckets=(),
      num_epochs=1,  # passes over a batch
      num_minibatches=1,  # updates per pass
      # {anchor: steps between its updates from the policy}, such as
      # {'sampler': 8}.
      refresh_every=dict(),
      # source='mixed': two sources, half of the prompts each. source='hybrid':
      # the source of its pairs.
      parts=(),
      mixture=0.125,  # weight of the reference in the mixture, in (0, 1)
      critic='own',  # loss='ppo': 'own' trunk | 'shared' with the policy
      # Own trunk: 'reference' | 'reward_model', brought to the rewards' scale.
      critic_init='reference',
      critic_warmup=0,  # first steps, in which the critic alone learns
      # The policy that is the anchor 'teacher', named as `writers` are. '':
      # no teacher.
      teacher_of='',
      context=(),  # token ids that only the teacher sees, in every prompt
      context_after=0,  # prompt tokens in front of them, such as 1 for BOS
      kl_budget=0.0,  # nats. 0: no budget
      kl_mode='hold',  # at the budget: 'hold' the KL there | 'stop' the run
      kl_every=20,  # steps between measurements of the KL
      kl_samples=8,  # completions per eval prompt in each measurement
      # Low-rank adapters, see align_jax.models.lora. rank=0: train all
      # parameters. targets: the matrices, by the ends of their paths.
      lora=dict(rank=0, alpha=16.0, targets=('qkv', 'o', 'gate_up', 'down')),
      # 'best_of_n' | 'optimum': reweight samples of the reference instead of
      # training. 'tempered': the optimum at larger KLs. '': train.
      reweigh='',
      pool=1024,  # reweigh: samples per eval prompt
      log_of='',  # source='log': the run whose batches are replayed
      shuffle=0,  # source='log': steps per shuffled window. 0: one window
      # source='written_pairs': the two policies, each 'reference', the last of
      # a run, 'ARM/CONFIGURATION', or one it kept, 'ARM/CONFIGURATION@STEP'.
      writers=(),
      # Signs that end the run, in align_jax.learn.watch.SIGNS: 'gap' | 'empty'
      # | 'cut' | 'runaway'. (): they are noted.
      stop_on=(),
      save_every=500,  # steps between checkpoints
      log_every=10,  # steps between rows of metrics
      # Checkpoints to keep beside the last, for align_jax.tools.export.
      keep=dict(
        steps=(),  # numbers of updates
        kls=(),  # nats: the first measured point at or above each
      ),
    )
  )

  # The arms: {name: fields that differ from `arm`}. Each entry of an arm's
  # `sweep` is a configuration, with one run per seed.
  c.arms = ml_collections.ConfigDict()

  # Variants of the config, such as dict(few=dict(golden=dict(pairs=250))).
  # Each variant has all arms. Variants share the stages they agree on.
  c.variants = ml_collections.ConfigDict()

  # The arms of experiments.method_zoo, one per method.
  c.methods = ml_collections.ConfigDict()
  c.families = ml_collections.ConfigDict()  # {title: method names}, for figures

  # Measurements on held-out prompts, after log-spaced numbers of steps.
  c.eval = ml_collections.ConfigDict(
    dict(
      samples=8,  # completions per prompt
      first_step=20,  # step of the first measurement
      points=14,  # number of measurements
      pairs=512,  # held-out pairs, for accuracies
      # What completions are like and what is forgotten, see docs/measures.md.
      # What compares a prompt's completions needs samples=2 or more.
      metrics=(
        'length',
        'repeats',
        'ead_per_input',
        'ead_across_inputs',
        'self_bleu',
      ),
      # Further prompts: names in the task's `eval_sets`, such as 'train' and
      # 'ood' of the toy. (): the held-out prompts only.
      sets=(),
    )
  )

  # The comparison, fixed in advance.
  c.report = ml_collections.ConfigDict(
    dict(
      budgets=(0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 6.0, 8.0),  # nats
      # The confirmatory comparison: the mean of treatment - control over
      # sqrt(KL) within `window`.
      treatment='online',
      control='offline',
      window=(1.5, 3.5),  # (low, high) nats; equal if the arms are held there
      margin=0.05,  # gold reward; smaller differences count as equivalent
      half_width=0.05,  # gold reward: wanted half-width of the interval
      # Gold reward: standard deviation between seeds of treatment - control,
      # for experiments.plan without points. 0: unknown.
      deviation=0.0,
      # Numbers of seeds at which a verdict will be read. (): once.
      schedule=(),
      shown=(0.5, 1.0, 2.0, 3.0),  # budgets in the table of method_zoo, nats
      # Win rates are against its last policy. '': none are shown.
      golden_policy='online+gold',
    )
  )

  # Devices: the product of these. A CPU is split into as many.
  c.mesh = ml_collections.ConfigDict(
    dict(
      data=1,  # share the rows of a batch
      fsdp=1,  # share the rows and, but for sampling, the parameters
      rollout=1,  # as fsdp in training; in sampling they share each layer
      context=1,  # share the tokens of each row
      tensor=1,  # share each layer
    )
  )
  # Where the reference's parameters are: on the 'device', or in the memory of
  # its 'host', of which each program that reads them makes a copy.
  c.reference_memory = 'device'
  c.workers = 0  # processes. 0: one per core on a CPU, else 1
  # Train runs that differ only in numbers as one program. Useful on
  # accelerators, which one small run does not fill.
  c.together = False
  # Where metrics are shown beside metrics.jsonl: 'tensorboard', 'wandb',
  # 'trackio'.
  c.trackers = ()
  # (first, last) updates of each run to trace; --profile=FIRST:LAST. (): none.
  c.profile = ()
  return c


def sweep(*pairs):
  """Configurations of an arm, from pairs (learning rate, beta)."""
  return tuple(
    dict(learning_rate=lr, loss_kwargs=dict(beta=beta)) for lr, beta in pairs
  )


def smoke(c):
  """The same experiment at a size that takes seconds, for tests."""
  c.seeds = 2
  c.workers = 1
  c.sft.update(steps=4, batch_size=8, warmup_steps=0)
  c.golden.update(pairs=16)
  c.proxy.update(steps=4, batch_size=8, warmup_steps=0)
  c.arm.update(
    steps=6,
    batch_size=4,
    save_every=2,
    log_every=1,
    warmup_steps=0,
    kl_budget=0.0,  # too few steps to reach one
    pool=64,
    keep=dict(steps=(), kls=()),
  )
  for arm in (*c.arms.values(), *c.methods.values()):
    for name in {'steps', 'points', 'save_every', 'pool', 'keep'} & set(arm):
      del arm[name]
  c.eval.update(samples=2, first_step=2, points=3, pairs=8)
  if 'eval_prompts' in c.task:
    c.task.eval_prompts = min(c.task.eval_prompts, 32)
  budgets = (0.01, 0.1, 1.0)
  c.report.update(budgets=budgets, window=(0.001, 1.0), shown=budgets)
  return c
