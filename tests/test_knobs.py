"""Knobs of tasks that are fields of records."""

import dataclasses

import pytest

from align_jax import tasks
from align_jax.tasks import knobs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  size: int
  kind: str = 'plain'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
  steps: int


@knobs.fields_of(Shape, Pace)
def make_task(*, seed, width=2, **made):
  """Its knobs are its own and those of two records."""


def test_fields_of_records_are_knobs():
  optional = {'kind': False, 'width': False}
  needed = dict.fromkeys(('size', 'steps', 'seed'), True)
  assert knobs.known(make_task) == needed | optional
  assert knobs.defaults(make_task) == {'kind': 'plain', 'width': 2}


def test_keywords_are_parted_into_their_records():
  shape, pace = knobs.parted(dict(steps=3, size=4), Shape, Pace)
  assert (shape, pace) == (Shape(size=4), Pace(steps=3))


@pytest.mark.parametrize(
  'given, named',
  [(dict(size=4, steps=3, sise=5), 'sise=5'), (dict(size=4), 'steps')],
)
def test_a_field_that_is_not_there_or_missing_is_named(given, named):
  with pytest.raises(TypeError, match=named):
    knobs.parted(given, Shape, Pace)


def test_an_optional_knob_of_a_task_has_a_default():
  assert tasks.defaults('preferences') == {'eos_token': ''}
  assert tasks.defaults('arithmetic')['wrong_share'] == 0
