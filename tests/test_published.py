"""The losses against those that others published, as their code computes them.

Written in numpy from the semantics of the reference implementations. Where a
loss here differs on purpose, `DEVIATIONS` says how, and a test holds by how
much: it is that difference and no other.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from align_jax import losses
from align_jax.losses import LOSSES
from align_jax.types import Batch, Outputs

DEVIATIONS = {
  'rpo': 'NLL: mean over tokens, then rows; TRL means over all tokens at once',
  'cpo': 'NLL: mean over tokens, then rows; TRL means over all tokens at once',
  'orpo': 'NLL of completions, mean over tokens, then rows; TRL means over all '
  'tokens at once, prompts included',
  'slic': 'NLL: mean over tokens; HALOs sums them',
  'nash_md': 'every token answers for the KL of the whole completion; in TRL '
  'for its own log-ratio alone',
  'rloo': 'a score function without clipping: the same gradient at the first '
  'update, which is the only one; TRL clips the completion ratio',
  'grpo': 'no epsilon: TRL adds 1e-4 to the deviation of a group',
  'dapo': 'no epsilon: TRL adds 1e-4 to the deviation of a group',
  'gspo': 'no epsilon: TRL adds 1e-4 to the deviation of a group',
  'cispo': 'no epsilon: TRL adds 1e-4 to the deviation of a group',
  'max_rl': 'no epsilon: its authors add 1e-6 to the mean of a group',
  'dppo_tv': 'the ratio has no bound; verl truncates it at 20 by default',
  'dppo_kl': 'the ratio has no bound; verl truncates it at 20 by default',
  'ppo': 'the reward stands at the last token; in summarize_from_feedback and '
  'TRL one slot behind it, whose value enters; whitening divides by n, not by '
  'n - 1',
}

P, T = 4, 6


def make(group_size, full=False):
  """Random outputs and a batch, as arrays f64 by name.

  Of every pair of rows the first one has the higher reward.
  """
  rng = np.random.default_rng(group_size)
  B = P * group_size
  lengths = np.full(B, T) if full else 1 + rng.permutation(B) % T
  logps = lambda: -rng.exponential(size=(B, T))
  rewards = np.sort(rng.normal(size=(P, group_size)))[:, ::-1]
  old, values = logps(), rng.normal(size=(B, T))
  return types.SimpleNamespace(
    mask=np.arange(T) < lengths[:, None],
    rewards=rewards.reshape(-1),
    old=old,
    logps=old + 0.3 * rng.normal(size=(B, T)) - 0.3,
    ref=1.5 * logps(),
    old_values=values,
    values=values + 0.4 * rng.normal(size=(B, T)),
    scores=rng.normal(size=B),
    group_size=group_size,
  )


def batch_of(d):
  B, f = len(d.rewards), jnp.float32
  return Batch(
    prompts=jnp.zeros((P, 1), jnp.int32),
    prompt_valid=jnp.ones((P, 1), bool),
    completions=jnp.zeros((B, T), jnp.int32),
    valid=jnp.asarray(d.mask),
    mask=jnp.asarray(d.mask),
    rewards=f(d.rewards),
    sampler_logps=f(d.old),
    ref_logps=f(d.ref),
    group_size=d.group_size,
  )


def ours(name, d, at=None, **hparams):
  """-> loss, gradient by the outputs."""
  batch, f = batch_of(d), jnp.float32
  if name == 'bradley_terry':
    old = new = f(d.scores)
  elif name == 'ppo':
    old = Outputs(f(d.old), values=f(d.old_values))
    new = Outputs(f(d.logps), values=f(d.values))
  else:
    old, new = f(d.old), f(d.logps if at is None else at)
  batch = losses.prepared(name, old, batch, hparams)
  loss = lambda x: LOSSES[name](x, batch, **hparams)[0]
  return jax.value_and_grad(loss)(new)


def close(x, y, rtol=2e-5, atol=2e-6):
  np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def logsigmoid(x):
  return -np.log1p(np.exp(-x))


def seq(x, d):
  return (x * d.mask).sum(1)


def average(x, d):
  return seq(x, d) / d.mask.sum(1)


def halves(x):
  """Of the chosen and of the rejected rows."""
  return x[0::2], x[1::2]


# --- Preference losses --------------------------------------------------------


def dpo_repo(d, beta, label_smoothing=0.0, ipo=False):
  """eric-mitchell/direct-preference-optimization; log-probs are summed."""
  chosen, rejected = halves(seq(d.logps, d))
  ref_chosen, ref_rejected = halves(seq(d.ref, d))
  logits = (chosen - rejected) - (ref_chosen - ref_rejected)
  if ipo:
    return ((logits - 1 / (2 * beta)) ** 2).mean()
  right = -logsigmoid(beta * logits) * (1 - label_smoothing)
  wrong = -logsigmoid(-beta * logits) * label_smoothing
  return (right + wrong).mean()


def trl_dpo(d, loss_type, beta, label_smoothing=0.0):
  """trl DPOTrainer; log-probs are averaged for 'ipo', else summed."""
  total = average if loss_type == 'ipo' else seq
  chosen, rejected = halves(total(d.logps, d) - total(d.ref, d))
  logits = chosen - rejected
  if loss_type == 'robust':
    right = -logsigmoid(beta * logits) * (1 - label_smoothing)
    wrong = logsigmoid(-beta * logits) * label_smoothing
    return ((right + wrong) / (1 - 2 * label_smoothing)).mean()
  if loss_type == 'hinge':
    return np.maximum(0, 1 - beta * logits).mean()
  assert loss_type == 'ipo'
  return ((logits - 1 / (2 * beta)) ** 2).mean()


def nll_of_all_tokens(d):
  """Cross entropy of the chosen rows as trl takes it: one mean of all."""
  mask, logps = halves(d.mask)[0], halves(d.logps)[0]
  return -logps[mask].mean()


def trl_rpo(d, beta, alpha):
  return dpo_repo(d, beta) + alpha * nll_of_all_tokens(d)


def trl_cpo(d, beta, alpha):
  chosen, rejected = halves(seq(d.logps, d))
  preference = -logsigmoid(beta * (chosen - rejected)).mean()
  return preference + alpha * nll_of_all_tokens(d)


def simpo_repo(d, beta, gamma_beta_ratio):
  """princeton-nlp/SimPO."""
  chosen, rejected = halves(average(d.logps, d))
  logits = chosen - rejected - gamma_beta_ratio
  return -logsigmoid(beta * logits).mean()


def trl_orpo(d, beta):
  chosen, rejected = halves(average(d.logps, d))
  log_odds = (chosen - rejected) - (
    np.log1p(-np.exp(chosen)) - np.log1p(-np.exp(rejected))
  )
  return nll_of_all_tokens(d) - (beta * logsigmoid(log_odds)).mean()


def halos_slic(d, margin, alpha):
  chosen, rejected = halves(seq(d.logps, d))
  hinge = np.maximum(0, margin - chosen + rejected)
  return (hinge + alpha * -chosen).mean()


def cpl_repo(d, alpha, bias):
  """jhejna/cpl, `biased_bce_with_scores` for the first one preferred."""
  best, worst = halves(seq(alpha * d.logps, d))
  logit = best - bias * worst
  top = np.maximum(-logit, 0)
  return (np.log(np.exp(-top) + np.exp(-logit - top)) + top).mean()


def halos_kto(d, beta, desirable, undesirable):
  """ContextualAI/HALOs, and trl KTOTrainer; the last rows are mismatched."""
  ratios = (seq(d.logps, d) - seq(d.ref, d)).reshape(P, -1)
  old_ratios = (seq(d.old, d) - seq(d.ref, d)).reshape(P, -1)
  kl = max(old_ratios[:, -1].mean(), 0)
  assert kl > 0.1  # not at its bound
  rewards = d.rewards.reshape(P, -1)[:, :-1]
  chosen = ratios[:, :-1][rewards > 0.5]
  rejected = ratios[:, :-1][rewards < 0.5]
  chosen_losses = 1 - sigmoid(beta * (chosen - kl))
  rejected_losses = 1 - sigmoid(beta * (kl - rejected))
  return np.concatenate(
    [desirable * chosen_losses, undesirable * rejected_losses]
  ).mean()


def trl_reward(d, margin, centring):
  """trl RewardTrainer, the margin of a pair given with it."""
  chosen, rejected = halves(d.scores)
  better, worse = halves(d.rewards)
  lead = chosen - rejected - margin * (better - worse)
  centre = centring * ((chosen + rejected) ** 2).mean()
  return -logsigmoid(lead).mean() + centre


def trl_xpo(d, beta, alpha):
  """trl XPOTrainer, the policy's completion having won every duel."""
  chosen, rejected = halves(seq(d.logps, d) - seq(d.ref, d))
  reference_rows = halves(seq(d.logps, d))[1]
  return (
    -logsigmoid(beta * (chosen - rejected)) + alpha * reference_rows
  ).mean()


def trl_nash_md(d, beta):
  """trl NashMDTrainer; `rewards` stand for the probability of a win."""
  mask, logps, ref = (halves(x)[0] for x in (d.mask, d.logps, d.ref))
  score = (halves(d.rewards)[0] - 0.5) * (logps * mask).sum(1)
  kl = ((logps - ref) * logps * mask).sum(1)
  return (beta * kl - score).mean()


# --- Policy gradients ---------------------------------------------------------


def trl_grpo(d, loss_type, epsilon=1e-4, beta=0.0, low=0.2, high=0.2, **kwargs):
  """trl GRPOTrainer; `scale` divides by the deviation of a group."""
  rewards = d.rewards.reshape(P, -1)
  advantages = rewards - rewards.mean(1, keepdims=True)
  if kwargs.get('scale', True):
    advantages = advantages / (rewards.std(1, ddof=1, keepdims=True) + epsilon)
  advantages = advantages.reshape(-1, 1)
  log_weights = d.logps - d.old
  if kwargs.get('level') == 'sequence':
    log_weights = average(log_weights, d)[:, None]
  coef_1 = np.exp(log_weights)
  if loss_type == 'cispo':  # its bound is of the ratio itself
    x = -np.minimum(coef_1, high) * advantages * d.logps
    return x[d.mask].mean()
  coef_2 = np.clip(coef_1, 1 - low, 1 + high)
  x = -np.minimum(coef_1 * advantages, coef_2 * advantages)
  x = x + beta * (np.exp(d.ref - d.logps) - (d.ref - d.logps) - 1)
  if loss_type == 'grpo':
    return average(x, d).mean()
  if loss_type == 'bnpo':
    return (x * d.mask).sum() / d.mask.sum()
  assert loss_type == 'dr_grpo'
  return (x * d.mask).sum() / (len(x) * T)


def maxrl_gradient(d, epsilon=1e-6):
  """tajwarfahim/maxrl `compute_maxrl_outcome_advantage`, by the log-probs."""
  rewards = d.rewards.reshape(P, -1)
  mean = rewards.mean(1, keepdims=True)
  advantages = ((rewards - mean) / (mean + epsilon)).reshape(-1, 1)
  return -advantages * d.mask / len(advantages)


def verl_dppo(d, kind, low, high, bound=20.0):
  """verl `dppo_tv` and `dppo_kl`: the gradient by the log-probs.

  Advantages and reduction are those of its script: no deviation, a sum over
  tokens. d(-A ratio log pi)/d(log pi) = -A ratio, the ratio being detached.
  """
  rewards = d.rewards.reshape(P, -1)
  advantages = (rewards - rewards.mean(1, keepdims=True)).reshape(-1, 1)
  prob, old = np.exp(d.logps), np.exp(d.old)
  if kind == 'tv':
    good, bad = prob - old <= high, prob - old >= -low
  else:
    kl = old * (d.old - d.logps) + (1 - old) * np.log(
      (1 - old + 1e-8) / (1 - prob + 1e-8)
    )
    good, bad = (kl <= high) | (prob <= old), (kl <= low) | (prob >= old)
  valid = np.where(advantages > 0, good, bad)
  ratio = np.minimum(np.exp(d.logps - d.old), bound)
  assert 0 < valid[d.mask].mean() < 1
  return -advantages * ratio * valid * d.mask / len(advantages)


def openrlhf_loss(d, advantages, clip):
  """openrlhf PolicyLoss after normalising over all tokens of the batch."""
  count = d.mask.sum()
  mean = (advantages * d.mask).sum() / count
  var = ((advantages - mean) ** 2 * d.mask).sum() / count
  advantages = (advantages - mean) / np.sqrt(max(var, 1e-8))
  ratio = np.exp(d.logps - d.old)
  limited = np.clip(ratio, 1 - clip, 1 + clip)
  x = -np.minimum(ratio * advantages, limited * advantages)
  return (x * d.mask).sum() / count


def openrlhf_reinforce_pp(d, beta, clip):
  rewards = -beta * (d.old - d.ref) * d.mask
  rewards[np.arange(len(rewards)), d.mask.sum(1) - 1] += d.rewards
  returns = np.cumsum(rewards[:, ::-1], 1)[:, ::-1]
  return openrlhf_loss(d, returns, clip)


def openrlhf_reinforce_pp_baseline(d, clip):
  rewards = d.rewards.reshape(P, -1)
  centred = (rewards - rewards.mean(1, keepdims=True)).reshape(-1, 1)
  return openrlhf_loss(d, centred * np.ones(d.mask.shape), clip)


def trl_rloo(d, beta):
  """trl RLOOTrainer at the first update: its gradient by the log-probs.

  Rewards lie [group, prompts]. At ratio 1, d(-A ratio)/d(log pi) = -A.
  """
  k = d.group_size
  rewards = d.rewards - beta * seq(d.old - d.ref, d)
  rewards = rewards.reshape(P, k).T
  baseline = (rewards.sum(0) - rewards) / (k - 1)
  advantages = (rewards - baseline).T.reshape(-1)
  return -advantages[:, None] * d.mask / len(advantages)


def summarize_gae(d, beta, lam, gamma=1.0):
  """vwxyzjn/summarize_from_feedback_details: advantages, returns, `mask_p1`.

  The reward goes to the slot behind the last token if there is one, where the
  critic's value counts, too.
  """
  B, last = len(d.mask), d.mask.sum(1) - 1
  mask_p1 = np.arange(T) <= (last + 1)[:, None]
  values = np.where(mask_p1, d.old_values, 0)
  rewards = -beta * np.where(d.mask, d.old - d.ref, 0)
  rewards[np.arange(B), np.minimum(last + 1, T - 1)] += d.rewards
  advantages, following = np.zeros((B, T)), np.zeros(B)
  for t in reversed(range(T)):
    next_values = values[:, t + 1] if t < T - 1 else 0.0
    delta = rewards[:, t] + gamma * next_values - values[:, t]
    advantages[:, t] = following = delta + gamma * lam * following
  return advantages, advantages + values, mask_p1


def masked_whiten(x, mask):
  count = mask.sum()
  mean = x[mask].mean()
  var = ((x[mask] - mean) ** 2).mean() * count / (count - 1)
  return np.where(mask, (x - mean) / np.sqrt(var + 1e-8), 0)


def summarize_ppo(d, beta, lam, clip, value_clip, value_coef):
  advantages, returns, mask_p1 = summarize_gae(d, beta, lam)
  advantages = masked_whiten(advantages, d.mask)
  near = np.clip(d.values, d.old_values - value_clip, d.old_values + value_clip)
  errors = np.maximum((d.values - returns) ** 2, (near - returns) ** 2)
  ratio = np.exp(d.logps - d.old)
  limited = np.clip(ratio, 1 - clip, 1 + clip)
  policy = np.maximum(-advantages * ratio, -advantages * limited)
  return policy[d.mask].mean() + value_coef * 0.5 * errors[mask_p1].mean()


# --- The same ----------------------------------------------------------------

PAIRS, GROUPS = make(2), make(4)


AGREEMENTS = [
  ('dpo', {'beta': 0.3}, dpo_repo(PAIRS, 0.3)),
  ('cdpo', {'beta': 0.3, 'label_smoothing': 0.2}, dpo_repo(PAIRS, 0.3, 0.2)),
  (
    'rdpo',
    {'beta': 0.3, 'label_smoothing': 0.2},
    trl_dpo(PAIRS, 'robust', 0.3, 0.2),
  ),
  ('slic_norm', {'beta': 0.3}, trl_dpo(PAIRS, 'hinge', 0.3)),
  ('ipo', {'beta': 0.3}, dpo_repo(PAIRS, 0.3, ipo=True)),
  (
    'ipo',
    {'beta': 0.3, 'logp_reduction': 'mean'},
    trl_dpo(PAIRS, 'ipo', 0.3),
  ),
  ('simpo', {'beta': 2.5, 'gamma': 1.375}, simpo_repo(PAIRS, 2.5, 0.55)),
  ('cpl', {'alpha': 0.2, 'bias': 0.6}, cpl_repo(PAIRS, 0.2, 0.6)),
  ('xpo', {'beta': 0.3, 'alpha': 0.01}, trl_xpo(PAIRS, 0.3, 0.01)),
  (
    'bradley_terry',
    {'margin': 0.5, 'centring': 0.1},
    trl_reward(PAIRS, 0.5, 0.1),
  ),
  (
    'kto',
    {'beta': 0.3, 'desirable': 1.2, 'undesirable': 0.7},
    halos_kto(GROUPS, 0.3, 1.2, 0.7),
  ),
  (
    'dr_grpo',
    {'beta': 0.1, 'kl': 'loss_k3', 'length': float(T)},
    trl_grpo(GROUPS, 'dr_grpo', beta=0.1, scale=False),
  ),
  ('reinforce_pp', {'beta': 0.1}, openrlhf_reinforce_pp(GROUPS, 0.1, 0.2)),
  (
    'reinforce_pp_baseline',
    {'beta': 0.0},
    openrlhf_reinforce_pp_baseline(GROUPS, 0.2),
  ),
]
OF_GROUPS = ('kto', 'dr_grpo', 'reinforce_pp', 'reinforce_pp_baseline')


@pytest.mark.parametrize(
  'name, hparams, theirs', AGREEMENTS, ids=[case[0] for case in AGREEMENTS]
)
def test_agrees(name, hparams, theirs):
  assert name not in DEVIATIONS
  d = GROUPS if name in OF_GROUPS else PAIRS
  assert abs(theirs) > 1e-3
  close(ours(name, d, **hparams)[0], theirs)


# --- And what differs on purpose ----------------------------------------------


def nll_apart(d, weight):
  """Mean over rows of their means, less the mean over all tokens."""
  by_row = -halves(average(d.logps, d))[0].mean()
  return weight * (by_row - nll_of_all_tokens(d))


def check_nll(name, theirs, weight, **hparams):
  """Equal where lengths are, and else apart by the reduction alone."""
  even = make(2, full=True)
  close(ours(name, even, **hparams)[0], theirs(even))
  apart = nll_apart(PAIRS, weight)
  assert abs(apart) > 1e-2
  close(ours(name, PAIRS, **hparams)[0] - theirs(PAIRS), apart, atol=1e-5)


def rpo():
  check_nll('rpo', lambda d: trl_rpo(d, 0.3, 0.7), 0.7, beta=0.3, alpha=0.7)


def cpo():
  check_nll('cpo', lambda d: trl_cpo(d, 0.3, 0.7), 0.7, beta=0.3, alpha=0.7)


def orpo():
  check_nll('orpo', lambda d: trl_orpo(d, 0.3), 1.0, beta=0.3)


def slic():
  chosen = halves(seq(PAIRS.logps, PAIRS))[0]
  apart = 0.7 * (chosen - halves(average(PAIRS.logps, PAIRS))[0]).mean()
  loss, _ = ours('slic', PAIRS, margin=2.0, alpha=0.7)
  assert abs(apart) > 0.1
  close(loss - halos_slic(PAIRS, 2.0, 0.7), apart, atol=1e-5)


def nash_md():
  """By what tokens answer for of each other's log-ratios."""
  single = make(2)
  single.mask[:] = np.arange(T) == 0
  close(ours('nash_md', single, beta=0.3)[0], trl_nash_md(single, 0.3))
  ratios, logps = (
    halves(np.where(PAIRS.mask, x, 0))[0]
    for x in (PAIRS.logps - PAIRS.ref, PAIRS.logps)
  )
  of_others = ratios.sum(1, keepdims=True) - ratios
  apart = 0.3 * (of_others * logps).sum(1).mean()
  loss, _ = ours('nash_md', PAIRS, beta=0.3)
  assert abs(apart) > 1e-2
  close(loss - trl_nash_md(PAIRS, 0.3), apart, atol=1e-5)


def rloo():
  """Values are apart, gradients are not."""
  loss, gradient = ours('rloo', GROUPS, at=GROUPS.old, beta=0.3)
  theirs = trl_rloo(GROUPS, 0.3)
  close(gradient, theirs)
  close(loss, (theirs * GROUPS.old).sum())  # theirs is minus the mean of A: 0
  assert abs(loss) > 1e-2 and abs(theirs[:, 0].sum()) < 1e-6


def check_epsilon(name, loss_type, beta=0.0, **kwargs):
  """Apart by the epsilon in the deviation, and not at all without it."""
  loss, _ = ours(name, GROUPS, beta=beta, kl='loss_k3')
  theirs = lambda epsilon: trl_grpo(
    GROUPS, loss_type, epsilon, beta=beta, **kwargs
  )
  close(loss, theirs(0.0))
  smallest = GROUPS.rewards.reshape(P, -1).std(1, ddof=1).min()
  assert 0 < abs(theirs(0.0) - theirs(1e-4)) < 2e-4 / smallest


def grpo():
  check_epsilon('grpo', 'grpo', beta=0.1)


def dapo():
  check_epsilon('dapo', 'bnpo', beta=0.1, high=0.28)


def gspo():
  check_epsilon('gspo', 'grpo', low=3e-4, high=4e-4, level='sequence')


def cispo():
  loss, _ = ours('cispo', GROUPS, clip_high=0.2)
  theirs = lambda epsilon: trl_grpo(GROUPS, 'cispo', epsilon, high=1.2)
  close(loss, theirs(0.0))
  assert 0 < abs(theirs(0.0) - theirs(1e-4)) < 1e-3


def max_rl():
  solved = types.SimpleNamespace(**vars(GROUPS))
  solved.rewards = (GROUPS.rewards > 0).astype(float)
  assert set(solved.rewards) == {0, 1}
  _, gradient = ours('max_rl', solved)
  close(gradient, maxrl_gradient(solved))
  solved.rewards[:4] = 0  # all of a group: no success
  _, gradient = ours('max_rl', solved)
  close(gradient, maxrl_gradient(solved))
  assert (gradient[:4] == 0).all() and (gradient[4:] != 0).any()


def check_bound(name, kind, threshold):
  """Alike where no ratio is beyond the bound, else apart by it."""
  near, far = (types.SimpleNamespace(**vars(GROUPS)) for _ in range(2))
  near.logps = far.logps = np.minimum(GROUPS.logps, -0.01)
  far.old = GROUPS.old.copy()
  far.old[-1, 0] = far.logps[-1, 0] - 4  # a bad row's: back would be inwards
  for d, bounded in ((near, False), (far, True)):
    _, gradient = ours(name, d, threshold=threshold)
    theirs = lambda bound: verl_dppo(d, kind, threshold, threshold, bound)
    close(gradient, theirs(np.inf))
    assert (np.abs(theirs(np.inf) - theirs(20.0)).max() > 1e-2) == bounded


def dppo_tv():
  check_bound('dppo_tv', 'tv', 0.05)


def dppo_kl():
  check_bound('dppo_kl', 'kl', 0.01)


def ppo():
  """Alike up to whitening where rows are full, else by the slot behind."""
  names = 'beta lam clip value_clip value_coef'.split()
  hparams = dict(zip(names, (0.1, 0.9, 0.2, 0.2, 0.3)))
  full = make(4, full=True)
  # Their advantages are ours times sqrt((n - 1) / n), so is the policy's loss.
  theirs, value = (
    summarize_ppo(full, **{**hparams, 'value_coef': c}) for c in (0.0, 1.0)
  )
  value = value - theirs
  count = full.mask.sum()
  want = theirs * np.sqrt(count / (count - 1)) + 0.3 * value
  close(ours('ppo', full, **hparams)[0], want)
  assert abs(want - theirs - 0.3 * value) > 1e-5
  ours_is_apart_by_the_slot_behind(GROUPS)


def ours_is_apart_by_the_slot_behind(d):
  """(1 - lam) (r - value there), decaying backwards; nothing at lam = 1."""
  for lam in (0.9, 1.0):
    old = Outputs(jnp.float32(d.old), values=jnp.float32(d.old_values))
    hparams = {'beta': 0.1, 'lam': lam, 'whiten': 0.0}
    batch = losses.prepared('ppo', old, batch_of(d), hparams)
    theirs, _, _ = summarize_gae(d, 0.1, lam)
    apart = np.asarray(batch.prepared['advantages']) - np.where(
      d.mask, theirs, 0
    )
    for row, length in enumerate(d.mask.sum(1)):
      behind = 0.0
      if length < T:
        behind = (1 - lam) * (d.rewards[row] - d.old_values[row, length])
      decay = lam ** np.arange(length)[::-1]
      close(apart[row, :length], behind * decay, atol=1e-5)


DIFFERENCES = {
  f.__name__: f
  for f in (
    rpo,
    cpo,
    orpo,
    slic,
    nash_md,
    rloo,
    grpo,
    dapo,
    gspo,
    cispo,
    max_rl,
    dppo_tv,
    dppo_kl,
    ppo,
  )
}


@pytest.mark.parametrize('name', DEVIATIONS)
def test_differs_as_stated(name):
  DIFFERENCES[name]()
