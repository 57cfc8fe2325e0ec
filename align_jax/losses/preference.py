"""Losses on the best and the worst completion of each group."""

import jax
import jax.numpy as jnp

from align_jax import ops


def best_and_worst(x, batch):
  """`x` of each group's best and worst row by reward.

  Args:
    x: f32 [B].
    batch: groups of at least two; `rewards` f32 [B].
  Returns:
    f32 [P] twice, and weight f32 [P]: 0 where all rewards of the group are
    equal.
  Raises:
    ValueError: the group size is 1.
  """
  if batch.group_size < 2:
    raise ValueError(
      'a pairwise loss needs group_size >= 2, got a batch with group_size 1'
    )
  rewards = ops.by_group(batch.rewards, batch.group_size)
  x = ops.by_group(x, batch.group_size)
  pick = lambda index: jnp.take_along_axis(x, index[:, None], axis=1)[:, 0]
  weight = (rewards.max(1) > rewards.min(1)).astype(jnp.float32)
  return pick(rewards.argmax(1)), pick(rewards.argmin(1)), weight


def best_minus_worst(x, batch):
  """Their difference f32 [P], and the weight; see `best_and_worst`."""
  best, worst, weight = best_and_worst(x, batch)
  return best - worst, weight


def log_ratios(logps, batch):
  """log pi(y|x) - log ref(y|x) per row, summed over the completion: f32 [B]."""
  return ops.masked_sum(logps - batch.ref_logps, batch.mask)


def pair_metrics(margin, weight):
  return {
    'weight': weight.sum(),
    'accuracy': ops.weighted_mean(margin > 0, weight),
    'margin': ops.weighted_mean(margin, weight),
  }


def _on_log_ratios(logps, batch, of_margin):
  """Mean over pairs of a function of the log-ratio margin f32 [P]."""
  margin, weight = best_minus_worst(log_ratios(logps, batch), batch)
  loss = ops.weighted_mean(of_margin(margin), weight)
  return loss, pair_metrics(margin, weight)


# --- On log-ratios to the reference -------------------------------------------


def dpo(logps, batch, *, beta=0.1):
  """Direct preference optimisation (Rafailov et al. 2023, eq. 7).

  -log sigmoid(beta * Delta), Delta the difference of summed log-ratios.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`; each group's best and worst row form the pair.
    beta: strength of the KL term, per nat.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats}.
  """
  return _on_log_ratios(logps, batch, lambda m: jax.nn.softplus(-beta * m))


def cdpo(logps, batch, *, beta=0.1, label_smoothing=0.1):
  """DPO with smoothed labels (Mitchell 2023): a share of them is wrong.

  Args:
    label_smoothing: that share, in [0, 0.5); the rest as in `dpo`.
  """
  return _on_log_ratios(
    logps,
    batch,
    lambda m: (
      (1 - label_smoothing) * jax.nn.softplus(-beta * m)
      + label_smoothing * jax.nn.softplus(beta * m)
    ),
  )


def rdpo(logps, batch, *, beta=0.1, label_smoothing=0.1):
  """Robust DPO (Chowdhury et al. 2024, eq. 12): unbiased under wrong labels.

  Its expectation over labels flipped with that probability is DPO's loss on the
  right ones, hence it may be negative.

  Args:
    label_smoothing: share of wrong labels, in [0, 0.5); the rest as in `dpo`.
  """
  return _on_log_ratios(
    logps,
    batch,
    lambda m: (
      (
        (1 - label_smoothing) * jax.nn.softplus(-beta * m)
        - label_smoothing * jax.nn.softplus(beta * m)
      )
      / (1 - 2 * label_smoothing)
    ),
  )


def ipo(logps, batch, *, beta=0.1, logp_reduction='sum'):
  """Identity preference optimisation (Azar et al. 2023, eq. 17, tau = beta).

  (Delta - 1 / (2 beta))^2. Summed log-ratios are the form that Tang et al. 2024
  use online and offline alike; TRL's offline and HALOs' IPO average them over
  the tokens, where beta then differs by about the completion length.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`; each group's best and worst row form the pair.
    beta: strength of the KL term; the margin aimed at is 1 / (2 beta) nats.
    logp_reduction: 'sum' | 'mean' over a completion's tokens.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats (per token for 'mean')}.
  """
  reduce = LOGP_REDUCTIONS[logp_reduction]
  ratios = reduce(logps - batch.ref_logps, batch.mask)
  margin, weight = best_minus_worst(ratios, batch)
  loss = ops.weighted_mean(jnp.square(margin - 0.5 / beta), weight)
  return loss, pair_metrics(margin, weight)


def slic_norm(logps, batch, *, beta=0.1):
  """SLiC's hinge on the log-ratio margin (Liu et al. 2023, RSO, eq. 9).

  max(0, 1 - beta * Delta); see `slic` for the margin on log-probs.

  Args: as in `dpo`.
  """
  return _on_log_ratios(logps, batch, lambda m: jax.nn.relu(1 - beta * m))


def rpo(logps, batch, *, beta=0.1, alpha=1.0):
  """DPO + alpha NLL of the best, per token (Pang et al. 2024, eq. 1).

  Args:
    alpha: weight of the NLL, whose mean over the completion's tokens is taken;
      the rest as in `dpo`.
  """
  loss, metrics = dpo(logps, batch, beta=beta)
  nll = _best_nll(ops.masked_mean, logps, batch)
  return loss + alpha * nll, metrics


def hypo(logps, batch, *, beta=0.1, kl_coef=0.1):
  """HyPO: offline DPO, and an on-policy KL term (Song et al. 2024, eq. 7).

  The KL's gradient is the score function's with the log-ratio as the reward,
  unbiased on fresh rows.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: needs `ref_logps`; in every group the first two rows are the pair,
      all others fresh samples of the policy, whose rewards are not read.
    beta: of DPO, per nat.
    kl_coef: price of a nat of KL(policy || reference).
  Returns:
    scalar, {weight: groups, accuracy and margin of the pairs, kl: of the fresh
    rows in nats}; a group whose pair ties has a KL term only.
  """
  if batch.group_size < 3:
    raise ValueError(
      'hypo needs group_size >= 3: a pair and at least one fresh completion, '
      f'got group_size {batch.group_size}'
    )
  grouped = ops.by_group(log_ratios(logps, batch), batch.group_size)
  rewards = ops.by_group(batch.rewards, batch.group_size)[:, :2]
  sign = jnp.sign(rewards[:, 0] - rewards[:, 1])
  margin = sign * (grouped[:, 0] - grouped[:, 1])
  decided = (sign != 0).astype(jnp.float32)
  fresh = grouped[:, 2:]
  preference = (decided * jax.nn.softplus(-beta * margin)).mean()
  penalty = 0.5 * jnp.square(fresh).mean()  # gradient: E[ratio * score]
  groups = jnp.float32(len(margin))
  return preference + kl_coef * penalty, {
    'weight': groups,
    'accuracy': (decided * (margin > 0)).mean(),
    'margin': (decided * margin).mean(),
    'kl': jax.lax.stop_gradient(fresh).mean(),
  }


# --- On log-probs, without a reference ----------------------------------------


def _best_nll(reduce, logps, batch):
  """Mean over groups of the best row's reduced negative log-probs."""
  best, _, weight = best_and_worst(reduce(logps, batch.mask), batch)
  return -ops.weighted_mean(best, weight)


def raft(logps, batch):
  """Likelihood of each group's best completion alone (Dong et al. 2023).

  With two samples per prompt it is the best-of-2 of Tang et al. 2024 (4.4).
  Nothing holds the policy near the reference: stop early.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: each group's best row by `rewards` is fitted; groups with equal
      rewards weigh nothing.
  Returns:
    scalar (nats per completion), {weight: groups, accuracy, margin}.
  """
  margin, weight = best_minus_worst(ops.masked_sum(logps, batch.mask), batch)
  loss = _best_nll(ops.masked_sum, logps, batch)
  return loss, pair_metrics(margin, weight)


def slic(logps, batch, *, margin=1.0, alpha=1.0):
  """SLiC-HF: hinge on log-probs and NLL (Zhao et al. 2023, eq. 1).

  max(0, margin - log pi(best) + log pi(worst)) + alpha NLL(best). Theirs
  regularises towards the SFT targets; here the best row stands for them.

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: each group's best and worst row form the pair.
    margin: nats by which the best must lead.
    alpha: weight of the NLL, a mean over the completion's tokens.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats}.
  """
  lead, weight = best_minus_worst(ops.masked_sum(logps, batch.mask), batch)
  loss = ops.weighted_mean(jax.nn.relu(margin - lead), weight)
  nll = _best_nll(ops.masked_mean, logps, batch)
  return loss + alpha * nll, pair_metrics(lead, weight)


def cpo(logps, batch, *, beta=0.1, alpha=1.0):
  """Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417).

  DPO with a uniform reference, and NLL of the best (eq. 6).

  Args:
    beta: scale of the log-prob margin, per nat.
    alpha: weight of the NLL, a mean over the completion's tokens; the rest as
      in `slic`.
  """
  margin, weight = best_minus_worst(ops.masked_sum(logps, batch.mask), batch)
  loss = ops.weighted_mean(jax.nn.softplus(-beta * margin), weight)
  nll = _best_nll(ops.masked_mean, logps, batch)
  return loss + alpha * nll, pair_metrics(margin, weight)


def simpo(logps, batch, *, beta=2.0, gamma=1.0):
  """SimPO (Meng et al. 2024, eq. 6): mean log-probs and a target margin.

  -log sigmoid(beta * (mean log pi(best) - mean log pi(worst)) - gamma).

  Args:
    beta: scale of the mean log-probs.
    gamma: margin aimed at, after scaling; the rest as in `slic`.
  Returns:
    scalar, {weight: pairs, accuracy, margin in nats per token}.
  """
  margin, weight = best_minus_worst(ops.masked_mean(logps, batch.mask), batch)
  loss = ops.weighted_mean(jax.nn.softplus(gamma - beta * margin), weight)
  return loss, pair_metrics(margin, weight)


def log_odds(mean_logps):
  """log p - log(1 - p) of p = exp(mean_logps) < 1."""
  return mean_logps - jnp.log(-jnp.expm1(mean_logps))


def orpo(logps, batch, *, beta=0.1):
  """Odds ratio preference optimisation (Hong et al. 2024, eq. 6 and 7).

  NLL(best) - beta log sigmoid(log odds(best) - log odds(worst)), the odds of a
  completion being those of its geometric mean token probability.

  Args:
    beta: weight of the odds ratio (lambda in the paper); the rest as in `slic`.
  Returns:
    scalar, {weight: pairs, accuracy, margin of the log odds}.
  """
  means = ops.masked_mean(logps.astype(jnp.float32), batch.mask)
  # Certainty has infinite odds: as near to it as float32 can tell.
  odds = log_odds(jnp.minimum(means, -(2.0**-24)))
  margin, weight = best_minus_worst(odds, batch)
  loss = beta * ops.weighted_mean(jax.nn.softplus(-margin), weight)
  nll = _best_nll(ops.masked_mean, logps, batch)
  return nll + loss, pair_metrics(margin, weight)


def cpl(logps, batch, *, alpha=0.1, gamma=1.0, bias=0.5):
  """Contrastive preference learning (Hejna et al. 2023, eq. 5 and app. A).

  -log e^S(best) / (e^S(best) + e^(bias S(worst))), S the discounted sum of
  alpha log pi: regret, not return, explains the preference.

  Args:
    alpha: temperature of the regret model.
    gamma: discount per token.
    bias: below 1 the worst row has to be beaten by more, which keeps the policy
      near the data; 1 is plain. The rest as in `slic`.
  Returns:
    scalar, {weight: pairs, accuracy, margin of S without bias}.
  """
  index = jnp.maximum(jnp.cumsum(batch.mask, 1) - 1, 0)
  discounted = alpha * gamma ** index.astype(jnp.float32) * logps
  best, worst, weight = best_and_worst(
    ops.masked_sum(discounted, batch.mask), batch
  )
  loss = ops.weighted_mean(jax.nn.softplus(bias * worst - best), weight)
  return loss, pair_metrics(best - worst, weight)


# --- Without pairs ------------------------------------------------------------


def mismatch_kl(logps, batch, *, beta=0.1):
  """KTO's reference point, from the whole batch: {'z0': f32 [B]}.

  Mean log-ratio of the last rows of all groups, no gradient, at least 0. A
  biased estimate of the KL: never report it as one.
  """
  ratios = ops.by_group(log_ratios(logps, batch), batch.group_size)[:, -1]
  z0 = jax.lax.stop_gradient(jnp.maximum(ratios.mean(), 0))
  return {'z0': jnp.broadcast_to(z0, batch.rewards.shape)}


def kto(logps, batch, *, beta=0.1, desirable=1.0, undesirable=1.0):
  """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 8).

  Args:
    logps: f32 [B, T], log-probs of the tokens under the policy.
    batch: as prepared by `mismatch_kl`; needs `ref_logps`. The last row of
      every group is a completion of another prompt (`sources.mismatched`); of
      all others those with reward above 0.5 are desirable, those below it are
      not, and 0.5 weighs nothing.
    beta: strength of the KL term, per nat.
    desirable, undesirable: weights of the two kinds of row.
  Returns:
    scalar, {weight: labelled rows, accuracy, z0 in nats}.
  """
  if batch.group_size < 2:
    raise ValueError(
      'kto needs group_size >= 2: labelled completions and one of another '
      'prompt, got group_size 1'
    )
  labelled = lambda x: ops.by_group(x, batch.group_size)[:, :-1].reshape(-1)
  ratios, rewards, z0 = map(
    labelled, (log_ratios(logps, batch), batch.rewards, batch.prepared['z0'])
  )
  sign = jnp.sign(rewards - 0.5)
  weight = (sign != 0).astype(jnp.float32)
  cost = jnp.where(sign > 0, desirable, undesirable)
  losses = cost * (1 - jax.nn.sigmoid(beta * sign * (ratios - z0)))
  return ops.weighted_mean(losses, weight), {
    'weight': weight.sum(),
    'accuracy': ops.weighted_mean(sign * ratios > 0, weight),
    'z0': batch.prepared['z0'].mean(),
  }


PREPARE = {'kto': mismatch_kl}  # see `losses.PREPARE`

# Never read `ref_logps`: nothing in them holds a policy near the reference.
REFERENCE_FREE = ('raft', 'slic', 'cpo', 'simpo', 'orpo', 'cpl')

LOGP_REDUCTIONS = {'sum': ops.masked_sum, 'mean': ops.masked_mean}

LOSSES = {
  'dpo': dpo,
  'cdpo': cdpo,
  'rdpo': rdpo,
  'ipo': ipo,
  'slic_norm': slic_norm,
  'rpo': rpo,
  'hypo': hypo,
  'raft': raft,
  'slic': slic,
  'cpo': cpo,
  'simpo': simpo,
  'orpo': orpo,
  'cpl': cpl,
  'kto': kto,
}
