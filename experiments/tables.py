"""Eight prompts, eight responses, and pairs that cover two of each eight.

As in Xu et al. 2024 (arXiv 2404.10719, sec. 4.2): a policy small enough that
the mass of what no pair covers is known. Response x is the best one to prompt
x.
"""

import jax
import jax.numpy as jnp
import numpy as np

from align_jax.types import Batch
from experiments.enumerable import systematic, train

K = 8


def mlp(params):
  """log pi of every response to every prompt: f32 [K, K]."""
  hidden = jax.nn.tanh(params['inner'] + params['inner_bias'])
  return jax.nn.log_softmax(hidden @ params['outer'] + params['outer_bias'])


def init(seed, width):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    'inner': draw(K, width),
    'inner_bias': jnp.zeros(width),
    'outer': draw(width, K) / width**0.5,
    'outer_bias': jnp.zeros(K),
  }


def rows(prompts, responses, rewards=None, logps=None):
  """Groups of one-token rows: int [P], int [P, G], [P, G]; logps [K, K]."""
  mask = jnp.ones((responses.size, 1), bool)
  rewards = jnp.zeros(responses.shape) if rewards is None else rewards
  if logps is not None:
    logps = logps[prompts[:, None], responses].reshape(-1, 1)
  return Batch(
    prompts=jnp.asarray(prompts, jnp.int32)[:, None],
    prompt_valid=jnp.ones((len(prompts), 1), bool),
    completions=jnp.asarray(responses, jnp.int32).reshape(-1, 1),
    valid=mask,
    mask=mask,
    rewards=jnp.asarray(rewards, jnp.float32).reshape(-1),
    ref_logps=logps,
    group_size=responses.shape[1],
  )


def looked_up(table):
  """A forward: (params, batch) -> the rows' entries of table(params) [K, K]."""

  def forward(params, batch):
    prompts = jnp.repeat(batch.prompts[:, 0], batch.group_size)
    return table(params)[prompts, batch.completions[:, 0]]

  return forward


class Tables:
  """Two of eight responses are covered per prompt, the best one of them.

  Args:
    logps: params -> log pi of every response to every prompt, f32 [K, K].
    start: params.
  """

  def __init__(self, seed, logps, start):
    shift = np.random.default_rng(seed).integers(1, K, K)
    self.prompts = np.arange(K)
    self.pairs = np.stack([self.prompts, (self.prompts + shift) % K], 1)
    self.covered = np.zeros((K, K), bool)
    self.covered[self.prompts[:, None], self.pairs] = True
    self.logps, self.trace = logps, []
    # Covered nine times out of ten: the reference is where the pairs are.
    index = np.repeat(np.arange(K * K), np.where(self.covered, 27, 1).ravel())
    data = rows(index // K, index[:, None] % K)
    self.reference = self.train('sft', lambda *_: data, start, 0.05)
    self.ref_logps = logps(self.reference)
    win = np.tile([1, 0], (K, 1))
    self.data = rows(self.prompts, self.pairs, win, self.ref_logps)
    # A table, which says nothing of what no pair holds.
    self.scores = self.reward_model(lambda table: table, jnp.zeros((K, K)))

  def reward_model(self, scores, start):
    """Scores f32 [K, K] fitted to the pairs."""
    fit = lambda *_: self.data
    forward = looked_up(scores)
    return scores(train('bradley_terry', fit, start, 200, forward=forward))

  def train(self, loss, batches, start=None, learning_rate=0.02, **hparams):
    return train(
      loss,
      batches,
      self.reference if start is None else start,
      300,
      forward=lambda params, b: looked_up(self.logps)(params, b)[:, None],
      learning_rate=learning_rate,
      final=0.1,
      **hparams,
    )

  def fresh(self, params, num=64):
    """The policy's law as rows: int [K, num]."""
    return jax.vmap(lambda x: systematic(x, num))(self.logps(params))

  def dpo(self):
    """Also keeps what it passed on its way."""

    def watched(params, i):
      if i % 5 == 0:
        self.trace.append((self.kl(params), self.uncovered(params)))
      return self.data

    return self.train('dpo', watched, beta=0.1)

  def ipo(self):
    return self.train('ipo', lambda *_: self.data, beta=0.1)

  def dpo_at(self, kl):
    """Uncovered mass of DPO where it first is that far from the reference."""
    kls, mass = np.array(self.trace).T
    last = (kls > kl).argmax()
    assert last > 0
    return np.interp(kl, kls[: last + 1], mass[: last + 1])

  def rloo(self, scores=None):
    scores = self.scores if scores is None else scores

    def draw(params, i):
      responses = self.fresh(params)
      rewards = scores[self.prompts[:, None], responses]
      return rows(self.prompts, responses, rewards, self.ref_logps)

    return self.train('rloo', jax.jit(draw), beta=0.5)

  def hypo(self):
    def draw(params, i):
      responses = jnp.concatenate([self.pairs, self.fresh(params)], 1)
      rewards = jnp.zeros(responses.shape).at[:, 0].set(1)
      return rows(self.prompts, responses, rewards, self.ref_logps)

    return self.train('hypo', jax.jit(draw), beta=0.1, kl_coef=0.3)

  def uncovered(self, params):
    """Mass of responses in no pair, over what the reference gives them."""
    p, ref = np.exp(self.logps(params)), np.exp(self.ref_logps)
    return (p * ~self.covered).sum() / (ref * ~self.covered).sum()

  def best(self, params):
    return np.exp(np.diag(self.logps(params))).mean()

  def kl(self, params):
    logps = np.asarray(self.logps(params), np.float64)
    return (np.exp(logps) * (logps - self.ref_logps)).sum() / K
