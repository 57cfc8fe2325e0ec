"""Judges from published checkpoints: texts in, scores or preferences out.

A reward model scores a completion. A language model, asked in words, says which
of two is better. Both read texts with their own tokenizer, so any checkpoint
can judge any policy. docs/judges.md explains the figures.
"""

import datetime
import functools
import inspect
import json

from align_jax import paths, values
from align_jax.files import looks_like_path
from align_jax.judges.pairwise import (
  PAIRWISE_PROMPT,
  Pairwise,
  check_template,
  llm_judge,
)
from align_jax.judges.scalar import reward_model
from align_jax.learn import rewards
from align_jax.models import config

JUDGES = {  # by the name configs use: (folder, **knobs) -> judge
  'reward_model': reward_model,
  'llm_judge': llm_judge,
}


def _is_date(x):
  try:
    return isinstance(x, str) and bool(datetime.date.fromisoformat(x))
  except ValueError:
    return False


ALLOWED = {  # what fields of a config's `judge` may be
  'kind': values.one_of(JUDGES),
  'checkpoint': values.text(),
  'dtype': values.one_of(config.DTYPES),
  'max_length': values.count(2),
  'batch_size': values.count(),
  'template': values.optional(values.text()),
  'date': values.optional(values.Allowed('a day such as 2026-01-31', _is_date)),
  'chat_template': values.optional(values.text()),
  'labels': values.items('two or three texts', lambda x: isinstance(x, str), 2),
}


def knobs(kind):
  """Names of the fields of a judge of that kind, beside those of all."""
  return list(inspect.signature(JUDGES[kind]).parameters)[1:]


def rows_at_once(settings):
  """Rows that a config's `judge` reads at a time."""
  known = inspect.signature(JUDGES[settings['kind']]).parameters
  return settings.get('batch_size', known['batch_size'].default)


def as_reward(judge, decode):
  """Batch -> f32 [B]: scores, or mean chances to beat the rest of the group.

  Args:
    judge: of JUDGES.
    decode: Batch -> (prompts, completions), one text per row.
  """
  if isinstance(judge, Pairwise):
    return rewards.from_pairwise(judge, decode)
  return rewards.from_text(judge, decode)


def check_fields(settings, where='judge'):
  """Raises ValueError for fields that no judge has, or their values."""
  known = {'kind', 'checkpoint'}.union(*map(knobs, JUDGES))
  for name, value in settings.items():
    if name not in known:
      raise ValueError(
        f'{where}.{name}={value!r}: no such field, '
        f'{values.nearest(name, known)}'
      )
    if name in ALLOWED:
      ALLOWED[name].checked(f'{where}.{name}', value)


def check_settings(settings, where='judge'):
  """Raises ValueError if a config's `judge` cannot be made.

  Args:
    settings: dict with `kind`, a name in JUDGES, `checkpoint`, and its knobs.
    where: name of the settings, for errors.
  """
  check_fields(settings, where)
  kind, checkpoint = settings.get('kind'), settings.get('checkpoint')
  if not checkpoint:
    raise ValueError(
      f"{where}.checkpoint='', expected a folder, or a model on a hub"
    )
  folder = paths.path(checkpoint).expanduser()
  if looks_like_path(checkpoint) and not folder.is_dir():
    raise ValueError(f'{where}.checkpoint={checkpoint!r}: no such folder')
  for name, value in settings.items():
    if name not in ('kind', 'checkpoint', *knobs(kind)):
      raise ValueError(
        f'{where}.{name}={value!r}: {kind!r} has only {sorted(knobs(kind))}'
      )
  if kind == 'llm_judge':
    template = settings.get('template', PAIRWISE_PROMPT)
    try:
      check_template(template, settings.get('labels', ('A', 'B')))
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from None


@functools.lru_cache(maxsize=1)
def _make(settings_json):
  settings = json.loads(settings_json)
  kind, checkpoint = settings.pop('kind'), settings.pop('checkpoint')
  checkpoint = paths.path(checkpoint).expanduser()
  return JUDGES[kind](checkpoint, **settings)


def make(settings):
  """The judge of a config's `judge`. The last one is cached."""
  return _make(json.dumps(settings, sort_keys=True))
