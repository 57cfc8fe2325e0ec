"""The formulas of the papers in float64, a row and a token at a time.

An oracle is `(x, b, **hparams) -> loss`, of the name and the hyper-parameters
that the loss has. `x` are its outputs and `b` all that is constant, see `data`:
the batch; `b.at`, the outputs wherever the formula takes no derivative of
them; and `b.old`, what they were when the batch was prepared. The derivative of
an oracle in `x` is therefore the gradient of the loss.
"""

import types

import jax
import numpy as np


def double(tree):
  return jax.tree.map(
    lambda x: np.asarray(x, bool if x.dtype == bool else np.float64), tree
  )


def data(batch, at, old):
  """What is constant, in float64."""
  names = 'mask rewards ref_logps sampler_logps'.split()
  fields = {name: double(getattr(batch, name)) for name in names}
  ones = np.ones(batch.mask.shape)
  fields['weights'] = ones if batch.weights is None else double(batch.weights)
  return types.SimpleNamespace(
    **fields, group_size=batch.group_size, at=double(at), old=double(old)
  )


# --- Rows, groups and tokens --------------------------------------------------


def rows(b):
  return range(len(b.rewards))


def group_of(b, row):
  first = row // b.group_size * b.group_size
  return range(first, first + b.group_size)


def groups(b):
  return [group_of(b, row) for row in rows(b)[:: b.group_size]]


def steps(b, row):
  return [t for t in range(b.mask.shape[1]) if b.mask[row, t]]


def all_steps(b):
  return [(row, t) for row in rows(b) for t in steps(b, row)]


def logps(x):
  return x.logps if hasattr(x, 'logps') else x


def seq(x, b, row):
  return sum(logps(x)[row, t] for t in steps(b, row))


def per_token(x, b, row):
  return seq(x, b, row) / len(steps(b, row))


def log_ratio(x, b, row):
  return sum(logps(x)[row, t] - b.ref_logps[row, t] for t in steps(b, row))


def best(b, rows):
  return max(rows, key=lambda row: b.rewards[row])


def worst(b, rows):
  return min(rows, key=lambda row: b.rewards[row])


def pairs(b):
  """(best row, worst row) of every group that is no tie."""
  for group in groups(b):
    y, z = best(b, group), worst(b, group)
    if b.rewards[y] > b.rewards[z]:
      yield y, z


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def log_sigmoid(x):
  return -np.log1p(np.exp(-x))


# --- Supervised ---------------------------------------------------------------


def sft(x, b):
  return -np.mean([x[row, t] for row, t in all_steps(b)])


def forward_kl(x, b):
  return np.mean([x[row, t] for row, t in all_steps(b)])


def reverse_kl(x, b):
  return np.mean([x[row, t] for row, t in all_steps(b)])


def cross_entropy(x, label):
  return -label * log_sigmoid(x) - (1 - label) * log_sigmoid(-x)


def binary_cross_entropy(x, b):
  return np.mean([cross_entropy(x[i], b.rewards[i]) for i in rows(b)])


def verifier(x, b):
  return np.mean(
    [cross_entropy(x[row, t], b.rewards[row]) for row, t in all_steps(b)]
  )


def preference_model(x, b):
  decided = [i for i in rows(b) if b.rewards[i] != 0.5]
  return np.mean([cross_entropy(x[i], b.rewards[i]) for i in decided])


def bradley_terry(x, b, margin=0.0, label_smoothing=0.0, centring=0.0):
  total, count = 0.0, 0
  for y, z in pairs(b):
    lead = x[y] - x[z] - margin * (b.rewards[y] - b.rewards[z])
    total -= (1 - label_smoothing) * log_sigmoid(lead)
    total -= label_smoothing * log_sigmoid(-lead)
    total += centring * (x[y] + x[z]) ** 2
    count += 1
  return total / count


# --- Preferences --------------------------------------------------------------


def over_pairs(f, b):
  return np.mean([f(y, z) for y, z in pairs(b)])


def on_margin(f, x, b):
  """Mean of f(log-ratio of the best minus that of the worst)."""
  h = lambda row: log_ratio(x, b, row)
  return over_pairs(lambda y, z: f(h(y) - h(z)), b)


def dpo(x, b, beta=0.1):
  return on_margin(lambda m: -log_sigmoid(beta * m), x, b)


def cdpo(x, b, beta=0.1, label_smoothing=0.1):
  e = label_smoothing
  return on_margin(
    lambda m: -(1 - e) * log_sigmoid(beta * m) - e * log_sigmoid(-beta * m),
    x,
    b,
  )


def rdpo(x, b, beta=0.1, label_smoothing=0.1):
  e = label_smoothing
  right = on_margin(lambda m: -log_sigmoid(beta * m), x, b)
  wrong = on_margin(lambda m: -log_sigmoid(-beta * m), x, b)
  return ((1 - e) * right - e * wrong) / (1 - 2 * e)


def ipo(x, b, beta=0.1, logp_reduction='sum'):
  def h(row):
    count = len(steps(b, row)) if logp_reduction == 'mean' else 1
    return log_ratio(x, b, row) / count

  return over_pairs(lambda y, z: (h(y) - h(z) - 1 / (2 * beta)) ** 2, b)


def slic_norm(x, b, beta=0.1):
  return on_margin(lambda m: max(0.0, 1 - beta * m), x, b)


def rpo(x, b, beta=0.1, alpha=1.0):
  nll = over_pairs(lambda y, z: -per_token(x, b, y), b)
  return dpo(x, b, beta) + alpha * nll


def hypo(x, b, beta=0.1, kl_coef=0.1):
  """The half square is what has the gradient log-ratio * grad log pi."""
  total = 0.0
  for first, second, *fresh in groups(b):
    y, z = best(b, (first, second)), worst(b, (first, second))
    if b.rewards[y] > b.rewards[z]:
      margin = log_ratio(x, b, y) - log_ratio(x, b, z)
      total -= log_sigmoid(beta * margin)
    total += kl_coef * np.mean([log_ratio(x, b, i) ** 2 / 2 for i in fresh])
  return total / len(groups(b))


def raft(x, b):
  return over_pairs(lambda y, z: -seq(x, b, y), b)


def slic(x, b, margin=1.0, alpha=1.0):
  def loss(y, z):
    hinge = max(0.0, margin - seq(x, b, y) + seq(x, b, z))
    return hinge - alpha * per_token(x, b, y)

  return over_pairs(loss, b)


def cpo(x, b, beta=0.1, alpha=1.0):
  def loss(y, z):
    preference = -log_sigmoid(beta * seq(x, b, y) - beta * seq(x, b, z))
    return preference - alpha * per_token(x, b, y)

  return over_pairs(loss, b)


def simpo(x, b, beta=2.0, gamma=1.0):
  def loss(y, z):
    lead = beta * per_token(x, b, y) - beta * per_token(x, b, z)
    return -log_sigmoid(lead - gamma)

  return over_pairs(loss, b)


def orpo(x, b, beta=0.1):
  def odds(row):
    p = np.exp(per_token(x, b, row))
    return p / (1 - p)

  def loss(y, z):
    ratio = -log_sigmoid(np.log(odds(y) / odds(z)))
    return -per_token(x, b, y) + beta * ratio

  return over_pairs(loss, b)


def cpl(x, b, alpha=0.1, gamma=1.0, bias=0.5):
  def s(row):
    return sum(
      gamma**i * alpha * x[row, t] for i, t in enumerate(steps(b, row))
    )

  def loss(y, z):
    return -np.log(np.exp(s(y)) / (np.exp(s(y)) + np.exp(bias * s(z))))

  return over_pairs(loss, b)


def kto(x, b, beta=0.1, desirable=1.0, undesirable=1.0):
  z0 = max(
    0.0, np.mean([log_ratio(b.old, b, group[-1]) for group in groups(b)])
  )
  losses = []
  for group in groups(b):
    for row in group[:-1]:
      h = log_ratio(x, b, row)
      if b.rewards[row] > 0.5:
        losses.append(desirable * (1 - sigmoid(beta * (h - z0))))
      if b.rewards[row] < 0.5:
        losses.append(undesirable * (1 - sigmoid(beta * (z0 - h))))
  return np.mean(losses)


# --- Games --------------------------------------------------------------------


def nash_md(x, b, beta=0.05):
  total = 0.0
  for mine, _ in groups(b):
    advantage = b.rewards[mine] - 1 / 2 - beta * log_ratio(b.at, b, mine)
    total -= advantage * seq(x, b, mine)
  return total / len(groups(b))


def xpo(x, b, beta=0.1, alpha=1e-3):
  total = 0.0
  for mine, reference in groups(b):
    total += alpha * seq(x, b, reference)
    y, z = best(b, (mine, reference)), worst(b, (mine, reference))
    if b.rewards[y] > b.rewards[z]:
      margin = log_ratio(x, b, y) - log_ratio(x, b, z)
      total -= log_sigmoid(beta * margin)
  return total / len(groups(b))


# --- The KL penalty of a token: (x, b, row, t) -> as a reward, as a loss ------


def k1(x, b, row, t):
  return logps(x)[row, t] - b.ref_logps[row, t]


def k2(x, b, row, t):
  return k1(x, b, row, t) ** 2 / 2


def k3(x, b, row, t):
  ratio = np.exp(b.ref_logps[row, t]) / np.exp(logps(x)[row, t])
  return ratio - 1 - np.log(ratio)


def exact(x, b, row, t):
  return x.kls[row, t]


def k2_of_sequence(x, b, row, t):
  return log_ratio(b.at, b, row) * k1(x, b, row, t)


def k3_weighted(x, b, row, t):
  weight = np.exp(logps(x)[row, t]) / np.exp(b.sampler_logps[row, t])
  return weight * k3(x, b, row, t)


def in_reward(f):
  return lambda x, b, row, t: (f(b.at, b, row, t), 0.0)


def in_loss(f):
  return lambda x, b, row, t: (0.0, f(x, b, row, t))


KL_TERMS = {
  'none': lambda x, b, row, t: (0.0, 0.0),
  'reward_k1': in_reward(k1),
  'reward_k2': in_reward(k2),
  'reward_k3': in_reward(k3),
  'reward_exact': in_reward(exact),
  'loss_k1': in_loss(k1),
  'loss_k2': in_loss(k2),
  'loss_k2_sequence': in_loss(k2_of_sequence),
  'loss_k3': in_loss(k3),
  'loss_k3_weighted': in_loss(k3_weighted),
  'loss_exact': in_loss(exact),
  'exact': lambda x, b, row, t: (exact(b.at, b, row, t), exact(x, b, row, t)),
}


def paid(b, at, beta, kl):
  """Rewards of the rows after the KL, with everything of it at `at`."""
  there = types.SimpleNamespace(**{**vars(b), 'at': at})
  price = lambda row, t: KL_TERMS[kl](at, there, row, t)[0]
  return [
    b.rewards[row] - beta * sum(price(row, t) for t in steps(b, row))
    for row in rows(b)
  ]


# --- Policy gradients: the completion as the action ---------------------------


def score_function(x, b, advantages, beta, kl):
  total = 0.0
  for row, t in all_steps(b):
    loss = beta * KL_TERMS[kl](x, b, row, t)[1]
    loss -= advantages[row] * logps(x)[row, t]
    total += b.weights[row, t] * loss
  return total / len(rows(b))


def reinforce(x, b, beta=0.05, kl='reward_k1'):
  return score_function(x, b, paid(b, b.at, beta, kl), beta, kl)


def reinforce_mean(x, b, beta=0.05, kl='reward_k1'):
  baseline = np.mean(paid(b, b.old, beta, kl))
  advantages = [r - baseline for r in paid(b, b.at, beta, kl)]
  return score_function(x, b, advantages, beta, kl)


def reinforce_ema(x, b, beta=0.05, kl='reward_k1', baseline=0.0, decay=0.95):
  advantages = [r - baseline for r in paid(b, b.at, beta, kl)]
  return score_function(x, b, advantages, beta, kl)


def rloo(x, b, beta=0.05, kl='reward_k1'):
  rewards = paid(b, b.at, beta, kl)
  advantages = []
  for row in rows(b):
    others = [rewards[i] for i in group_of(b, row) if i != row]
    advantages.append(rewards[row] - np.mean(others))
  return score_function(x, b, advantages, beta, kl)


# --- Policy gradients: clipped, the token as the action -----------------------


def surrogate(weight, advantage, low, high):
  limited = min(max(weight, 1 - low), 1 + high)
  return -min(weight * advantage, limited * advantage)


def weight(x, b, row, t):
  return np.exp(logps(x)[row, t]) / np.exp(b.sampler_logps[row, t])


def token_losses(x, b, advantage, beta, kl, low, high):
  """{(row, t): loss}; advantage: (row, t) -> number."""

  def loss(row, t):
    first = surrogate(weight(x, b, row, t), advantage(row, t), low, high)
    return first + beta * KL_TERMS[kl](x, b, row, t)[1]

  return {(row, t): b.weights[row, t] * loss(row, t) for row, t in all_steps(b)}


def mean_of_row_means(losses, b):
  mean = lambda row: np.mean([losses[row, t] for t in steps(b, row)])
  return np.mean([mean(row) for row in rows(b)])


def whitened(x):
  """{key: number} -> the same with mean 0 and variance 1."""
  mean, deviation = np.mean([*x.values()]), np.std([*x.values()])
  return {key: (value - mean) / deviation for key, value in x.items()}


def group_centred(b, rewards):
  return [
    rewards[row] - np.mean([rewards[i] for i in group_of(b, row)])
    for row in rows(b)
  ]


def group_normalised(b, rewards):
  centred = group_centred(b, rewards)
  advantages = []
  for row in rows(b):
    deviation = np.std([rewards[i] for i in group_of(b, row)], ddof=1)
    advantages.append(centred[row] / deviation if deviation else 0.0)
  return advantages


def reinforce_pp(x, b, beta=0.05, kl='reward_k1', clip=0.2):
  there = types.SimpleNamespace(**{**vars(b), 'at': b.old})
  price = lambda row, t: KL_TERMS[kl](b.old, there, row, t)[0]
  to_go = {
    (row, t): b.rewards[row]
    - beta * sum(price(row, s) for s in steps(b, row) if s >= t)
    for row, t in all_steps(b)
  }
  advantages = whitened(to_go)
  advantage = lambda row, t: advantages[row, t]
  losses = token_losses(x, b, advantage, beta, kl, clip, clip)
  return np.mean([*losses.values()])


def reinforce_pp_baseline(x, b, beta=0.05, kl='loss_k2', clip=0.2):
  centred = group_centred(b, paid(b, b.old, beta, kl))
  advantages = whitened({(row, t): centred[row] for row, t in all_steps(b)})
  advantage = lambda row, t: advantages[row, t]
  losses = token_losses(x, b, advantage, beta, kl, clip, clip)
  return np.mean([*losses.values()])


def grpo(x, b, beta=0.04, kl='loss_k3', clip=0.2):
  advantages = group_normalised(b, paid(b, b.at, beta, kl))
  advantage = lambda row, t: advantages[row]
  losses = token_losses(x, b, advantage, beta, kl, clip, clip)
  return mean_of_row_means(losses, b)


def dr_grpo(x, b, beta=0.0, kl='loss_k2', clip=0.2, length=1.0):
  advantages = group_centred(b, paid(b, b.at, beta, kl))
  advantage = lambda row, t: advantages[row]
  losses = token_losses(x, b, advantage, beta, kl, clip, clip)
  return sum(losses.values()) / length / len(rows(b))


def dapo(x, b, beta=0.0, kl='loss_k3', clip_low=0.2, clip_high=0.28):
  advantages = group_normalised(b, paid(b, b.at, beta, kl))
  advantage = lambda row, t: advantages[row]
  losses = token_losses(x, b, advantage, beta, kl, clip_low, clip_high)
  return np.mean([*losses.values()])


def gspo(x, b, beta=0.0, kl='loss_k3', clip_low=3e-4, clip_high=4e-4):
  advantages = group_normalised(b, paid(b, b.at, beta, kl))
  total = 0.0
  for row in rows(b):
    count = len(steps(b, row))
    product = np.prod([weight(x, b, row, t) for t in steps(b, row)])
    of_row = product ** (1 / count)
    loss = surrogate(of_row, advantages[row], clip_low, clip_high)
    for t in steps(b, row):
      both = loss + beta * KL_TERMS[kl](x, b, row, t)[1]
      total += b.weights[row, t] * both / count
  return total / len(rows(b))


def max_rl(x, b, beta=0.0, kl='reward_k1'):
  rewards = paid(b, b.at, beta, kl)
  advantages = []
  for row in rows(b):
    group = group_of(b, row)
    successes = sum(b.rewards[i] for i in group)
    centred = rewards[row] - np.mean([rewards[i] for i in group])
    scale = len(group) / successes if successes > 0 else 0.0
    advantages.append(scale * centred)
  return score_function(x, b, advantages, beta, kl)


def cispo(x, b, beta=0.0, kl='loss_k3', clip_high=0.2):
  advantages = group_normalised(b, paid(b, b.at, beta, kl))
  losses = []
  for row, t in all_steps(b):
    constant = min(weight(b.at, b, row, t), 1 + clip_high)
    loss = -constant * advantages[row] * logps(x)[row, t]
    loss += beta * KL_TERMS[kl](x, b, row, t)[1]
    losses.append(b.weights[row, t] * loss)
  return np.mean(losses)


def dppo(divergence, x, b, beta, kl, threshold, length):
  """divergence: (p, q) -> number, of the policy's and the writer's chance."""
  advantages = group_centred(b, paid(b, b.at, beta, kl))
  total = 0.0
  for row, t in all_steps(b):
    p, q = np.exp(logps(b.at)[row, t]), np.exp(b.sampler_logps[row, t])
    outside = divergence(p, q) > threshold
    rises, falls = advantages[row] > 0 and p > q, advantages[row] < 0 and p < q
    loss = beta * KL_TERMS[kl](x, b, row, t)[1]
    if not (outside and (rises or falls)):
      loss -= weight(x, b, row, t) * advantages[row]
    total += b.weights[row, t] * loss
  return total / length / len(rows(b))


def dppo_tv(x, b, beta=0.0, kl='loss_k2', threshold=0.15, length=1.0):
  tv = lambda p, q: abs(p - q)
  return dppo(tv, x, b, beta, kl, threshold, length)


def dppo_kl(x, b, beta=0.0, kl='loss_k2', threshold=0.05, length=1.0):
  kl_of = lambda p, q: q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
  return dppo(kl_of, x, b, beta, kl, threshold, length)


def dar(x, b, beta=0.05, alpha=0.1, cap=20.0):
  centred = group_centred(b, b.rewards)
  advantages = centred / np.sqrt(np.mean(np.square(centred)))
  total = 0.0
  for row in rows(b):
    away = sum(
      b.ref_logps[row, t] - b.sampler_logps[row, t] for t in steps(b, row)
    )
    chance = np.exp(away) ** alpha * np.exp(advantages[row] / beta)
    for t in steps(b, row):
      total -= b.weights[row, t] * min(chance, cap) * logps(x)[row, t]
  return total / len(rows(b))


# --- Policy gradients: with a critic ------------------------------------------


def gae(b, beta, kl, gamma, lam):
  """{(row, t): advantage}: the sum of discounted errors that follow."""
  there = types.SimpleNamespace(**{**vars(b), 'at': b.old})
  advantages = {}
  for row in rows(b):
    ts = steps(b, row)
    errors = []
    for t, after in zip(ts, [*ts[1:], None]):
      reward = -beta * KL_TERMS[kl](b.old, there, row, t)[0]
      reward += b.rewards[row] if after is None else 0.0
      value_after = 0.0 if after is None else b.old.values[row, after]
      errors.append(reward + gamma * value_after - b.old.values[row, t])
    for i, t in enumerate(ts):
      advantages[row, t] = sum(
        (gamma * lam) ** k * error for k, error in enumerate(errors[i:])
      )
  return advantages


def ppo(
  x,
  b,
  beta=0.05,
  kl='reward_k1',
  gamma=1.0,
  lam=0.95,
  clip=0.2,
  value_clip=0.2,
  value_coef=0.1,
  whiten=1.0,
):
  raw = gae(b, beta, kl, gamma, lam)
  white = whitened(raw)
  advantage = lambda row, t: whiten * white[row, t] + (1 - whiten) * raw[row, t]
  losses = token_losses(x, b, advantage, beta, kl, clip, clip)
  errors = []
  for (row, t), plain in raw.items():
    old, new = b.old.values[row, t], x.values[row, t]
    near = min(max(new, old - value_clip), old + value_clip)
    target = old + plain
    errors.append(max((new - target) ** 2, (near - target) ** 2))
  return np.mean([*losses.values()]) + value_coef * np.mean(errors) / 2


ORACLES = {
  f.__name__: f
  for f in (
    sft,
    forward_kl,
    reverse_kl,
    binary_cross_entropy,
    verifier,
    bradley_terry,
    preference_model,
    dpo,
    cdpo,
    rdpo,
    ipo,
    slic_norm,
    rpo,
    hypo,
    raft,
    slic,
    cpo,
    simpo,
    orpo,
    cpl,
    kto,
    nash_md,
    xpo,
    reinforce,
    reinforce_mean,
    reinforce_ema,
    rloo,
    reinforce_pp,
    reinforce_pp_baseline,
    grpo,
    dr_grpo,
    dapo,
    gspo,
    max_rl,
    cispo,
    dppo_tv,
    dppo_kl,
    dar,
    ppo,
  )
}
