"""Enumerable languages: every probability, gradient and optimum is exact.

A policy is one table of logits per prefix length, so it can be any law at all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.learn import optimizers, step
from align_jax.losses import LOSSES, prepared
from align_jax.losses.correction import corrected
from align_jax.types import Batch, Outputs


def forward(tables, batch):
  """f32 [B, T]; tables: one [V^t, V] for each t."""
  tokens = batch.completions
  prefix = jnp.zeros(len(tokens), jnp.int32)
  logps = []
  for t, table in enumerate(tables):
    logps.append(jax.nn.log_softmax(table)[prefix, tokens[:, t]])
    prefix = len(table[0]) * prefix + tokens[:, t]
  return jnp.stack(logps, 1)


class Language:
  """All N completions of `length` tokens; with `eos`, 0 ends one early."""

  def __init__(self, vocab, length, eos=False):
    tokens = np.indices((vocab,) * length).reshape(length, -1).T
    ends = (tokens == 0) & eos
    mask = np.cumsum(ends, 1) - ends == 0
    whole = (mask | (tokens == 0)).all(1)
    self.vocab, self.length = vocab, length
    self.tokens, self.mask = tokens[whole].astype(np.int32), mask[whole]
    self.size = len(self.tokens)
    powers = vocab ** np.arange(length)
    self.prefixes = np.stack(
      [self.tokens[:, :t] @ powers[:t][::-1] for t in range(length)], 1
    )

  def after(self, prompts):
    """A Batch of all completions after each of the prompts, int [P, S]."""
    index = np.tile(np.arange(self.size), len(prompts))
    return self.rows(index, self.size).replace(
      prompts=jnp.asarray(prompts),
      prompt_valid=jnp.ones(np.shape(prompts), bool),
    )

  def rows(self, index, group_size=1, **fields):
    """A Batch of the completions with these indices; fields are [N, ...]."""
    index = jnp.asarray(index)
    fields = {'rewards': np.zeros(self.size), **fields}
    mask = jnp.asarray(self.mask)[index]
    return Batch(
      prompts=jnp.zeros((len(index) // group_size, 1), jnp.int32),
      prompt_valid=jnp.ones((len(index) // group_size, 1), bool),
      completions=jnp.asarray(self.tokens)[index],
      valid=mask,
      mask=mask,
      group_size=group_size,
      **{k: jnp.asarray(x, jnp.float32)[index] for k, x in fields.items()},
    )

  def tables(self, seed):
    """A policy far from uniform."""
    rng = np.random.default_rng(seed)
    return tuple(
      jnp.asarray(rng.normal(size=(self.vocab**t, self.vocab)), jnp.float32)
      for t in range(self.length)
    )

  def fit(self, weights):
    """The policy under which completions have the law of `weights` [N]."""
    tables = []
    for t, prefix in enumerate(self.prefixes.T):
      mass = np.full((self.vocab**t, self.vocab), 1e-30)
      np.add.at(mass, (prefix, self.tokens[:, t]), weights * self.mask[:, t])
      tables.append(jnp.asarray(np.log(mass), jnp.float32))
    return tuple(tables)

  def logps(self, tables):
    """Of every completion's tokens: f32 [N, T]."""
    return forward(tables, self.rows(np.arange(self.size)))

  def seq_logps(self, tables):
    """f32 [N]."""
    return ops.masked_sum(self.logps(tables), self.mask)

  def probs(self, tables):
    """f64 [N]."""
    return np.exp(np.asarray(self.seq_logps(tables), np.float64))

  def kls(self, tables, reference):
    """Exact KL of every completion's steps: f32 [N, T]."""
    steps = [ops.token_kl(*x) for x in zip(tables, reference)]
    return jnp.stack([x[p] for x, p in zip(steps, self.prefixes.T)], 1)

  def gradient(self, f, tables):
    """Of f(logps [N, T]) -> scalar: f64, flat."""
    return flat(jax.jit(jax.grad(lambda x: f(self.logps(x))))(tables))

  def ascent(
    self,
    name,
    policy,
    reference,
    batches,
    *,
    group_size=1,
    weights=1.0,
    sampler=None,
    rewards=0.0,
    values=None,
    correction='',
    **hparams,
  ):
    """Minus the gradient of a loss, the mean over batches.

    Args:
      batches: int [M, B], the completions in each batch.
      weights: [M] or a number.
      sampler: the policy that wrote the rows; None is `policy`.
      rewards: [N]; values: [N, T], a critic.
      correction: a name in CORRECTIONS; its weights have no bound.
    Returns:
      f64, flat.
    """
    fields = {
      'rewards': np.broadcast_to(rewards, self.size),
      'ref_logps': self.logps(reference),
      'sampler_logps': self.logps(policy if sampler is None else sampler),
    }

    def loss(tables):
      outputs = Outputs(self.logps(tables), self.kls(tables, reference), values)

      def one(index):
        batch = self.rows(index, group_size, **fields)
        out = jax.tree.map(lambda x: jnp.asarray(x)[index], outputs)
        frozen = jax.lax.stop_gradient(out)
        if correction:
          batch = corrected(frozen, batch, correction, cap=jnp.inf)
        batch = prepared(name, frozen, batch, hparams)
        out = out if name != 'nash_md' else out.logps
        return LOSSES[name](out, batch, **hparams)[0]

      return (weights * jax.vmap(one)(jnp.asarray(batches))).sum()

    return -flat(jax.jit(jax.grad(loss))(policy))

  def all_batches(self, law, size):
    """All batches of `size` rows drawn from `law` [N], and their chances."""
    index = np.indices((self.size,) * size).reshape(size, -1).T
    return index, law[index].prod(1)


def flat(tree):
  leaves = [
    np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves(tree)
  ]
  return np.concatenate(leaves)


def systematic(logps, size):
  """[N] -> indices [size] whose counts are within one of size * exp(logps)."""
  cumulative = jnp.cumsum(jnp.exp(logps))
  at = (jnp.arange(size) + 0.5) / size * cumulative[-1]
  return jnp.searchsorted(cumulative, at)


def total_variation(p, q):
  return 0.5 * np.abs(p - q).sum()


def kl(p, q):
  """KL(p || q) of laws f64 [N], nats."""
  on = p > 0
  return float((p[on] * np.log(p[on] / q[on])).sum())


def best_of_n(law, scores, n):
  """The law of the best of n draws from a law; ties share what they have.

  F(y)^n - F^-(y)^n for levels of equal score, F their distribution function
  (Beirami et al. 2024, lemma 1).

  Args:
    law, scores: [N].
  Returns:
    f64 [N].
  """
  _, level = np.unique(scores, return_inverse=True)
  mass = np.bincount(level, law)
  up_to = np.cumsum(mass)
  up_to /= up_to[-1]  # what rounding leaves would be raised to the power of n
  below = np.concatenate([[0], up_to[:-1]])
  return law / mass[level] * (up_to**n - below**n)[level]


def optimum(law, exponent):
  """ref exp(exponent) / Z, of f64 [N]."""
  p = law * np.exp(exponent - np.max(exponent))
  return p / p.sum()


def train(
  loss,
  batches,
  params,
  num_steps,
  *,
  forward=forward,
  learning_rate=0.1,
  final=1e-3,
  num_epochs=1,
  static={},
  **hparams,
):
  """Adam, the learning rate falling to `final` of what it was; -> params.

  Args:
    loss: a name in LOSSES, or a loss.
    batches: (params, step) -> Batch.
    static: hyper-parameters that are no numbers.
  """
  tx = optimizers.make_optimizer()
  prepare = None
  if isinstance(loss, str):
    name, loss = loss, functools.partial(LOSSES[loss], **static)
    prepare = lambda out, batch, h: prepared(name, out, batch, {**h, **static})
  train_step = step.make_train_step(
    forward, loss, tx, prepare=prepare, num_epochs=num_epochs
  )
  state = step.init_state(params, tx)
  for i in range(num_steps):
    hparams['learning_rate'] = learning_rate * final ** (i / num_steps)
    state, _ = train_step(state, batches(state.params, i), hparams)
  return state.params
