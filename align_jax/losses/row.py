"""A loss as a row of `LOSSES`: the function, and what it needs."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from align_jax.types import Batch, Scored

NEEDS = {
  'logps': 'f32 [B, T], log-probs of the tokens under the policy',
  'kls': 'f32 [B, T], exact KL(policy || reference) of each token, nats',
  'values': "f32 [B, T], the critic's before each token",
  'kls_from_teacher': 'f32 [B, T], exact KL(teacher || policy), nats',
  'kls_to_teacher': 'f32 [B, T], exact KL(policy || teacher), nats',
  'scores': 'f32 [B], a scalar head on the completion',
  'token_scores': 'f32 [B, T], a scalar head after each token',
}
TEACHER = {'kls_from_teacher', 'kls_to_teacher'}
SCORES = {'scores', 'token_scores'}  # of reward models

ROWS = {
  'single': 'any: a row is compared with none of its prompt',
  'group': 'two or more of a prompt, compared by reward',
  'duel': "two of a prompt: the policy's, then its opponent's",
  'mismatched': 'labelled rows of a prompt, then one of another prompt',
  'hybrid': 'a pair, then fresh samples of the policy',
  'ordered': 'pairs in both orders, laid out by `pair_model.ordered_pairs`',
}

REWARDS = {
  'compared': 'only differences count: equal rewards have no gradient',
  'absolute': 'equal rewards have a gradient too',
  'chances': 'probabilities of winning: 1/2 has no gradient',
  'successes': 'at least 0, and compared: divided by their mean in the group',
  'unread': 'not read',
}


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
  """A loss, and what training with it requires.

  Calling the row calls `function`.

  Args:
    function: (outputs, batch, **hparams) -> (scalar, metrics). Its keyword-only
      parameters are its hyper-parameters.
    paper: citation of the formula. '': common knowledge.
    needs: names in NEEDS, or a function of the hyper-parameters (a dict) that
      returns them. A loss with one need gets that array, any other `Outputs`.
    rows: a name in ROWS: the completions it expects per prompt.
    rewards: a name in REWARDS: how it reads `batch.rewards`.
    reference: whether it reads the reference, as `ref_logps` or `kls`.
    weighted: whether its tokens count by `batch.weights`, see `correction`.
    prepare: (outputs, batch, **hparams) -> {name: [B, ...]}. It runs on the
      whole batch before the split; the loss reads `batch.prepared`.
    choices: {hyper-parameter: possible values}, for those that are names.
    off: {hyper-parameter: value} that switches off all terms without rewards.
    carries: hyper-parameters that a run carries between steps. The metric of
      that name is the value at the next step.
  Raises:
    ValueError: a field holds an unknown name.
  """

  function: Callable
  paper: str
  needs: Collection[str] | Callable[[Mapping], Collection[str]] = ('logps',)
  rows: str = 'group'
  rewards: str = 'compared'
  reference: bool = True
  weighted: bool = False
  prepare: Callable | None = None
  choices: Mapping[str, Collection[str]] = dataclasses.field(
    default_factory=dict
  )
  off: Mapping[str, float] = dataclasses.field(default_factory=dict)
  carries: Collection[str] = ()

  def __post_init__(self) -> None:
    hparams = hparams_of(self)
    for field, names, known in (
      ('needs', self.needs_of(), NEEDS),
      ('rows', {self.rows}, ROWS),
      ('rewards', {self.rewards}, REWARDS),
      ('choices', self.choices, hparams),
      ('off', self.off, hparams),
      ('carries', self.carries, hparams),
    ):
      if not set(names) <= set(known):
        raise ValueError(
          f'{self.function.__name__}: {field}={sorted(names)}, expected names '
          f'in {sorted(known)}'
        )

  def __call__(self, outputs: Any, batch: Batch, **hparams: Any) -> Scored:
    return self.function(outputs, batch, **hparams)

  @property
  def __signature__(self) -> inspect.Signature:
    return inspect.signature(self.function)

  def needs_of(self, hparams: Mapping | None = None) -> frozenset[str]:
    """Names in NEEDS, with these hyper-parameters and defaults for the rest."""
    needs = self.needs
    if callable(needs):
      needs = needs({**hparams_of(self), **(hparams or {})})
    return frozenset(needs)


def hparams_of(loss: Callable) -> dict[str, Any]:
  """{name: default} of a loss's hyper-parameters."""
  parameters = inspect.signature(loss).parameters.values()
  keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
  return {p.name: p.default for p in keywords}
