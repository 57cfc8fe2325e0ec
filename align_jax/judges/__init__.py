"""Judges from published checkpoints: texts in, scores or preferences out.

A reward model scores a completion. A language model, asked in words, says which
of two is better. Both read texts with their own tokenizer, so any checkpoint
can judge any policy. docs/judges.md explains the figures.
"""

import functools
import inspect
import json
import pathlib

from align_jax.judges.pairwise import (
  PAIRWISE_PROMPT,
  Pairwise,
  check_template,
  llm_judge,
)
from align_jax.judges.scalar import reward_model
from align_jax.learn import rewards

JUDGES = {  # by the name configs use: (folder, **knobs) -> judge
  'reward_model': reward_model,
  'llm_judge': llm_judge,
}


FIELDS = (
  {'kind', 'checkpoint'}
  | {  # of a config's `judge`, of any kind
    name
    for make in JUDGES.values()
    for name in list(inspect.signature(make).parameters)[1:]
  }
)


def as_reward(judge, decode):
  """Batch -> f32 [B]: scores, or mean chances to beat the rest of the group.

  Args:
    judge: of JUDGES.
    decode: Batch -> (prompts, completions), one text per row.
  """
  if isinstance(judge, Pairwise):
    return rewards.from_pairwise(judge, decode)
  return rewards.from_text(judge, decode)


def check_settings(settings, group_size):
  """Raises ValueError if a config's `judge` cannot be made.

  Args:
    settings: dict with `kind`, a name in JUDGES, `checkpoint`, and its knobs.
    group_size: completions per prompt that it labels.
  """
  kind, checkpoint = settings.get('kind'), settings.get('checkpoint')
  if kind not in JUDGES:
    raise ValueError(f'judge.kind={kind!r} is none of {sorted(JUDGES)}')
  if not checkpoint:
    raise ValueError('judge.checkpoint is empty: a folder, or a model on a hub')
  local = str(checkpoint)[0] in './~'
  if local and not pathlib.Path(checkpoint).expanduser().is_dir():
    raise ValueError(f'judge.checkpoint={checkpoint!r}: no such folder')
  known = set(inspect.signature(JUDGES[kind]).parameters) - {'folder'}
  for name in set(settings) - {'kind', 'checkpoint'} - known:
    raise ValueError(f'judge.{name}: {kind!r} has only {sorted(known)}')
  if kind == 'llm_judge':
    template = settings.get('template', PAIRWISE_PROMPT)
    check_template(template, settings.get('labels', ('A', 'B')))
    if group_size < 2:
      raise ValueError(
        f"judge.kind='llm_judge' compares completions and needs group_size "
        f'>= 2, got {group_size}'
      )


@functools.lru_cache(maxsize=1)
def _make(settings_json):
  settings = json.loads(settings_json)
  kind, checkpoint = settings.pop('kind'), settings.pop('checkpoint')
  checkpoint = pathlib.Path(checkpoint).expanduser()
  return JUDGES[kind](checkpoint, **settings)


def make(settings):
  """The judge of a config's `judge`. The last one is cached."""
  return _make(json.dumps(settings, sort_keys=True))
