"""A task: what is asked of the policy, and how it is really judged."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

from align_jax.types import Batch, Prompts


@dataclasses.dataclass(frozen=True)
class Task:
  model: Any  # the policy: a ModelConfig or an Adapter
  max_new_tokens: int  # T
  eos_id: int | None
  train_prompts: Prompts
  eval_prompts: Prompts  # held out from golden pairs, proxy and arms
  demonstrations: Callable[[Any, Any, int], Batch]  # a source for SFT
  gold: Callable[[Batch], Any]  # the judge that no training run sees: f32 [B]
  decode: Callable[[Batch], tuple[list[str], list[str]]]  # a text per row
  pairs: Batch | None = None  # labelled by others than gold: G = 2, (1, 0)
  # What each token would add to gold after its row's prefix, f32 [B, T, V]; for
  # a gold that adds up over tokens, and then measured with less noise.
  gold_steps: Callable[[Batch], Any] | None = None
  tokenizer: pathlib.Path | None = None  # the folder of its files, to export


def make_task(name, **knobs):
  """The task of that name; see its module for the knobs it takes."""
  return _module(name).make_task(**knobs)


def prepare(name, **knobs):
  """What the task trains or caches once, before any seed."""
  return _module(name).prepare(**knobs)


def shares_prompts(name):
  """Whether all seeds are measured on the same prompts by the same judge."""
  return getattr(_module(name), 'SHARED_PROMPTS', True)


def _module(name):
  if name not in TASKS:
    raise ValueError(f'task.name={name!r} is none of {sorted(TASKS)}')
  return importlib.import_module(f'align_jax.tasks.{name}')


# Modules with `prepare` and `make_task`.
TASKS = ('arithmetic', 'preferences', 'sentiment', 'toy')
