"""The family on the toy task: every method as a config, four strengths each.

Methods differ in source, loss and what they are told of a group; all see the
same proxy and as many completions per step. `python -m experiments.method_zoo`
compares them; docs/methods.md has a page for each.

Expect: three quarters of an hour of processor time for six seeds of the toy; so
few seeds distinguish 3 of the 41 methods in the table of docs/methods.md from
the best at 2 nats.
"""


def betas(*values, lr=1e-3, **hparams):
  """Strengths by the price of a nat."""
  return tuple(
    dict(learning_rate=lr, loss_kwargs=dict(beta=beta, **hparams))
    for beta in values
  )


def rates(*values, **hparams):
  """Strengths by the learning rate, where no term holds the policy."""
  return tuple(
    dict(learning_rate=lr, loss_kwargs=dict(hparams)) for lr in values
  )


def pairs(loss, sweep, **fields):
  """A loss on pairs of the policy's own samples, labelled by the proxy."""
  return dict(loss=loss, sweep=sweep, **fields)


def groups(loss, sweep, **fields):
  """A loss on groups of four; rewards in deviations of the reference's."""
  return dict(
    loss=loss,
    sweep=sweep,
    group_size=4,
    batch_size=16,
    reward_scale='reference',
    **fields,
  )


GENTLE = (1.5e-4, 3e-4, 6e-4, 1.2e-3)  # no term holds these: small steps
NATS = (0.7, 0.35, 0.25, 0.18)  # of a deviation of reward each

# Of losses of beta times a log-ratio.
LOG_RATIO = betas(1.0, 0.5, 0.3, 0.2, lr=2e-3)

PREFERENCE = {
  'dpo': pairs('dpo', LOG_RATIO),
  'cdpo': pairs(
    'cdpo', betas(0.5, 0.3, 0.2, 0.1, label_smoothing=0.1, lr=2e-3)
  ),
  'rdpo': pairs(
    'rdpo', betas(1.0, 0.5, 0.3, 0.2, label_smoothing=0.1, lr=2e-3)
  ),
  'ipo': pairs('ipo', betas(0.2, 0.1, 0.08, 0.06, lr=2e-3)),
  'slic_norm': pairs('slic_norm', LOG_RATIO),
  'slic': pairs('slic', rates(*GENTLE)),
  'kto': pairs(
    'kto', betas(2.0, 1.0, 0.5, 0.25, lr=2e-3), reward_scale='preference'
  ),
  'orpo': pairs('orpo', rates(*GENTLE, beta=1.0)),
  'simpo': pairs('simpo', rates(*GENTLE)),
  'cpo': pairs('cpo', rates(*GENTLE)),
  'cpl': pairs('cpl', rates(*GENTLE)),
  'rpo': pairs('rpo', betas(1.0, 0.5, 0.3, 0.2, alpha=0.2, lr=2e-3)),
  'dpo-ref': pairs(
    'dpo', betas(1.0, 0.5, 0.3, 0.1, lr=2e-3), source='reference'
  ),
  'ipo-ref': pairs(
    'ipo', betas(0.2, 0.1, 0.07, 0.05, lr=2e-3), source='reference'
  ),
  'dpo-stale': pairs(
    'dpo',
    LOG_RATIO,
    source='sampler',
    refresh_every=dict(sampler=32),
  ),
  'dpo-mixed': pairs(
    'dpo',
    LOG_RATIO,
    source='mixed',
    parts=('reference', 'policy'),
  ),
  'hypo': pairs(
    'hypo',
    betas(0.5, 0.3, 0.2, 0.1, kl_coef=0.01, lr=2e-3),
    source='hybrid',
    parts=('reference',),
    batch_size=16,
  ),
}

POLICY_GRADIENT = {
  'reinforce': groups('reinforce', betas(*NATS)),
  'reinforce_mean': groups('reinforce_mean', betas(*NATS)),
  'reinforce_ema': groups('reinforce_ema', betas(*NATS)),
  'rloo': groups('rloo', betas(*NATS)),
  'rloo-exact': groups('rloo', betas(*NATS, kl='exact')),
  'reinforce_pp': groups('reinforce_pp', betas(*NATS)),
  'reinforce_pp_baseline': groups('reinforce_pp_baseline', betas(*NATS)),
  'grpo': groups('grpo', betas(*NATS)),
  'dr_grpo': groups('dr_grpo', betas(0.5, 0.25, 0.12, 0.06, length=8.0)),
  'dapo': groups('dapo', betas(*NATS), num_minibatches=4),
  'gspo': groups(
    'gspo',
    betas(*NATS, clip_low=0.03, clip_high=0.04),
    num_minibatches=4,
  ),
  'cispo': groups(
    'cispo', betas(*NATS, clip_high=0.05), num_epochs=2, num_minibatches=4
  ),
  'dppo_tv': groups(
    'dppo_tv',
    betas(0.5, 0.25, 0.12, 0.06, length=8.0, threshold=0.005),
    num_epochs=2,
    num_minibatches=4,
  ),
  'dppo_kl': groups(
    'dppo_kl',
    betas(0.5, 0.25, 0.12, 0.06, length=8.0, threshold=1e-4),
    num_epochs=2,
    num_minibatches=4,
  ),
  'dar': groups('dar', betas(4.0, 2.0, 1.0, 0.5)),
  'ppo': groups('ppo', betas(*NATS, lr=5e-4), num_epochs=2, num_minibatches=2),
  'ppo-shared': groups(
    'ppo',
    betas(*NATS, lr=5e-4),
    num_epochs=2,
    num_minibatches=2,
    critic='shared',
  ),
}

BEST_OF_N = {
  'best_of_2': pairs('raft', rates(*GENTLE)),
  'raft': groups('raft', rates(*GENTLE)),
  'iterative_dpo': groups(
    'dpo',
    LOG_RATIO,
    source='sampler',
    refresh_every=dict(sampler=100),
  ),
  'iterative_dpo-warm': groups(
    'dpo',
    betas(8.0, 4.0, 2.0, 1.0, lr=2e-3),
    source='sampler',
    refresh_every=dict(sampler=100, ref=100),
  ),
}

GAMES = {
  'nash_md': pairs(
    'nash_md',
    betas(0.15, 0.1, 0.07, 0.05, lr=2e-3),
    source='policy_and_mixture',
    reward_scale='preference',
  ),
  'ipo_md': pairs(
    'ipo', betas(0.2, 0.1, 0.08, 0.06, lr=2e-3), source='mixture'
  ),
  'xpo': pairs('xpo', LOG_RATIO, source='policy_and_reference'),
}


def distilled(loss, source):
  """A student of an RLOO policy, by the learning rate."""
  return dict(
    loss=loss,
    source=source,
    teacher_of='rloo/lr0.001-beta0.25',
    group_size=2,
    sweep=rates(3e-4, 6e-4, 1e-3, 2e-3),
  )


DISTILLATION = {
  'forward_kl': distilled('forward_kl', 'teacher'),
  'reverse_kl': distilled('reverse_kl', 'policy'),
}

LINES = {
  'best_of_n': dict(source='reference', reweigh='best_of_n', pool=2048),
  'optimum': dict(source='reference', reweigh='optimum', pool=2048),
}

FAMILIES = {
  'preference losses': PREFERENCE,
  'policy gradient': POLICY_GRADIENT,
  'best of n, in rounds': BEST_OF_N,
  'games': GAMES,
  'distillation': DISTILLATION,
  'lines': LINES,
}


def zoo(**fields):
  """All methods; `fields` are what those that train have in common."""
  arms = {}
  for family in FAMILIES.values():
    for name, arm in family.items():
      arms[name] = {**arm} if 'reweigh' in arm else {**fields, **arm}
  return arms


def families():
  """{title: names of its methods}."""
  return {title: tuple(family) for title, family in FAMILIES.items()}
