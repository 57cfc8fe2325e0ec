"""Losses with hyper-parameters, and inputs made to what their rows say."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import losses
from align_jax.losses import LOSSES
from align_jax.losses.kl import EXACT
from align_jax.types import Batch, Outputs

P, T, V = 4, 5, 7
# In the second, best rows are above and below the reference, and tokens have
# importance weights.
BATCHES = (0, 1)


class Case(NamedTuple):
  """A loss and its hyper-parameters, those left out at their defaults."""

  name: str
  hparams: dict[str, Any] = {}

  def __str__(self):
    return '-'.join([self.name, *(f'{k}={v}' for k, v in self.hparams.items())])

  def but(self, **hparams):
    return Case(self.name, {**self.hparams, **hparams})

  @property
  def row(self):
    return LOSSES[self.name]

  @property
  def settings(self):
    return {**losses.hparams_of(self.row), **self.hparams}

  @property
  def needs(self):
    return self.row.needs_of(self.hparams)


def cases_of(name):
  """Defaults; and what they hide of the KL, which acts where beta is not 0."""
  settings = Case(name).settings
  yield Case(name)
  if 'kl' in settings:
    yield Case(name, {'beta': 0.05, 'kl': 'exact'})
    if not settings['beta']:
      yield Case(name, {'beta': 0.05})


def variants(name):
  """-> hparam, (case, the same with another value of it), for each value."""
  choices = LOSSES[name].choices
  for hparam, default in Case(name).settings.items():
    # The KL term shows where its weight is not zero.
    plain = Case(name, {'beta': 0.3} if hparam == 'kl' else {})
    others = [x for x in choices.get(hparam, ()) if x != default]
    for other in others or [default * 1.3 + 0.05]:
      yield hparam, (plain, plain.but(**{hparam: other}))


NAMES = list(LOSSES)
CASES = [case for name in NAMES for case in cases_of(name)]


# --- Inputs -------------------------------------------------------------------


class Example(NamedTuple):
  outputs: Any  # of the policy as it is now
  old: Any  # of the policy that wrote the rows, for which they were prepared
  batch: Batch  # not prepared


def outputs_of(needs, table):
  """What a loss of these needs is given: one array bare, several `Outputs`."""
  arrays = {need: table[need] for need in needs}
  return Outputs(**arrays) if len(arrays) > 1 else [*arrays.values()][0]


def noise(needs, batch_size, seed):
  """Outputs of those needs: KLs positive, log-probs negative."""
  rng = np.random.default_rng(seed)
  f = lambda x: jnp.asarray(x, jnp.float32)
  normal = rng.normal(size=(batch_size, T))
  size = rng.exponential(size=(3, batch_size, T))
  table = dict(logps=-size[0], kls=size[1], values=normal)
  table |= dict.fromkeys(('kls_from_teacher', 'kls_to_teacher'), size[0])
  table |= dict(scores=normal[:, 0], token_scores=normal)
  return outputs_of(needs, {k: f(x) for k, x in table.items()})


def blend(x, y, share):
  return jax.tree.map(lambda a, b: (1 - share) * a + share * b, x, y)


def make_batch(group_size, which=0):
  """Unequal lengths, masks with holes, fractional rewards, one tie."""
  rng = np.random.default_rng(which)
  B = P * group_size
  # The groups' lengths differ, so that their weights do.
  shorter = (np.arange(group_size) == group_size - 1).astype(int)
  lengths = np.repeat([1, 2, 3, 5], group_size) - np.tile(shorter, P)
  valid = np.arange(T) < np.maximum(lengths, 1)[:, None]
  mask = valid.copy()
  mask[-1, 0] = mask[-2, 2] = False
  rewards = rng.permutation(B) / B + 0.03
  rewards[group_size : 2 * group_size] = 0.5
  spread = (2.5, 1.0)[which]
  batch = Batch(
    prompts=rng.integers(0, V, (P, 2)),
    prompt_valid=np.ones((P, 2), bool),
    completions=rng.integers(0, V, (B, T)),
    valid=valid,
    mask=mask,
    rewards=rewards.astype(np.float32),
    ref_logps=-spread * rng.exponential(size=(B, T)).astype(np.float32),
    group_size=group_size,
  )
  return jax.tree.map(jnp.asarray, batch)


def logps_of(outputs):
  return outputs.logps if isinstance(outputs, Outputs) else outputs


@functools.cache
def _example(needs, group_size, which):
  batch = make_batch(group_size, which)
  B = len(batch.rewards)
  old = noise(needs, B, 1)
  outputs = blend(old, noise(needs, B, 2), 0.3)
  if 'scores' not in needs:
    batch = batch.replace(sampler_logps=logps_of(old))
  if which == 1:
    weights = np.random.default_rng(6).integers(0, 4, batch.mask.shape) / 2
    batch = batch.replace(weights=jnp.asarray(weights, jnp.float32))
  return Example(outputs, old, batch)


def example(case, which=0, group_size=None):
  size = group_size or (2 if case.row.rows == 'duel' else 3)
  return _example(case.needs, size, which)


def tabular(case):
  """(params, batch) -> outputs, of a table with numbers per token."""

  def forward(params, batch):
    raw = params['policy'][batch.completions]
    logps = jax.nn.log_softmax(params['policy'])[batch.completions]
    table = dict(logps=logps, values=params['values'][batch.completions])
    kls = 'kls', 'kls_from_teacher', 'kls_to_teacher'
    table |= dict.fromkeys(kls, jnp.square(raw))
    scores = jnp.where(batch.valid, logps, 0).sum(1)
    return outputs_of(case.needs, table | dict(scores=scores, token_scores=raw))

  return forward


def tables(seed):
  rng = np.random.default_rng(seed)
  draw = lambda: jnp.asarray(rng.normal(size=V), jnp.float32)
  return {'policy': draw(), 'values': draw()}


# --- Running a loss -----------------------------------------------------------


def prepare(case, old, batch):
  return losses.prepared(case.name, old, batch, case.settings)


def value(case, outputs, old, batch):
  """-> loss, metrics; `case.hparams` alone are given to the loss."""
  batch = prepare(case, old, batch)
  return case.row(outputs, batch, **case.hparams)


def everything(case, outputs, old, batch):
  """-> (loss, metrics), gradient by the outputs; the prepared is constant."""
  batch = prepare(case, old, batch)
  f = lambda x: case.row(x, batch, **case.hparams)
  return jax.value_and_grad(f, has_aux=True)(outputs)


def gradient(case, outputs, old, batch):
  return everything(case, outputs, old, batch)[1]


def over_tokens(f, outputs, batch, *more):
  """f(array, *more) of all arrays [B, T] of the outputs and of the batch."""
  grid = batch.mask.shape
  names = 'ref_logps', 'sampler_logps', 'weights'
  fields = {k: getattr(batch, k) for k in names}
  g = lambda x: f(x, *more) if x.shape == grid else x
  return jax.tree.map(g, outputs), batch.replace(**jax.tree.map(g, fields))


def largest(tree):
  return max(jnp.abs(x).max() for x in jax.tree.leaves(tree))


def close(x, y, rtol=1e-5, atol=2e-6, what=''):
  np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=what)


def all_close(x, y, **tolerance):
  jax.tree.map(functools.partial(close, **tolerance), x, y)


def all_equal(x, y):
  jax.tree.map(np.testing.assert_array_equal, x, y)


def same(x, y):
  leaves = zip(*map(jax.tree.leaves, (x, y)))
  return all((np.asarray(a) == np.asarray(b)).all() for a, b in leaves)


def kl_example(kl):
  """Outputs and batch; the outputs have `kls` where the term needs them."""
  needs = {'logps', 'values', *(['kls'] if kl in EXACT else [])}
  outputs, _, batch = _example(frozenset(needs), 3, 0)
  return outputs, batch
