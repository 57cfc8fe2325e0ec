"""Every loss keeps the laws; a row in LOSSES is enough to be held to them.

The laws stand in loss_laws.py and batch_laws.py. test_planted.py plants errors
in copies of the losses and shows that the laws see them.
"""

import batch_laws
import loss_laws
import oracles
import pytest
from loss_cases import (
  BATCHES,
  CASES,
  Case,
  example,
)

from align_jax import losses
from align_jax.losses import LOSSES
from align_jax.losses.row import SCORES

LAWS = [*loss_laws.laws_in(loss_laws), *loss_laws.laws_in(batch_laws)]


def held():
  """Every law with every case that it is about."""
  for check in LAWS:
    for case in filter(check.is_about, CASES):
      yield pytest.param(check, case, id=f'{check.__name__[6:]}-{case}')


@pytest.mark.parametrize(('check', 'case'), [*held()])
def test_law(check, case):
  check(case)


# --- The suite itself ---------------------------------------------------------


def test_the_batches_have_rows_on_both_sides_of_the_reference():
  signs = set()
  for which in BATCHES:
    x, b = loss_laws.in_float64(*example(Case('dpo'), which))
    above = lambda row: oracles.log_ratio(x, b, row) > 0
    for best, worst in oracles.pairs(b):
      signs |= {('best', above(best)), ('worst', above(worst))}
  assert len(signs) == 4


def test_oracles_are_of_losses():
  assert set(oracles.ORACLES) <= set(LOSSES)


@pytest.mark.parametrize(
  'field', [dict(needs={'kl'}), dict(rows='pair'), dict(off={'alpha': 0.0})]
)
def test_a_row_with_an_unknown_name_is_refused(field):
  ((name, _),) = field.items()
  with pytest.raises(ValueError, match=f'^dpo: {name}=.*expected'):
    losses.Loss(LOSSES['dpo'].function, 'none', **field)


def test_a_loss_of_several_needs_is_given_what_outputs_hold():
  for case in CASES:
    assert len(case.needs) == 1 or case.needs <= {'logps', 'kls', 'values'}
    assert not case.needs & SCORES or len(case.needs) == 1
