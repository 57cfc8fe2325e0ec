"""A task: the prompts of the policy, and the gold judge of its completions."""

import dataclasses
import importlib
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any

from align_jax.tasks import knobs as knob_lib
from align_jax.types import Batch, Prompts

OLD = 'old'  # the evaluation set of a second task, which no arm trains on


@dataclasses.dataclass(frozen=True)
class Task:
  """What is asked of the policy, and how it is really judged."""

  model: Any  # the policy: a ModelConfig or an Adapter
  max_new_tokens: int  # T
  eos_id: int | tuple[int, ...] | None  # what ends a completion
  train_prompts: Prompts
  eval_prompts: Prompts  # held out from golden pairs, proxy and arms
  demonstrations: Callable[[Any, Any, int], Batch]  # a source for SFT
  gold: Callable[[Batch], Any]  # the evaluation's judge: f32 [B]
  # Texts of the prompts and of the completions, one per row.
  decode: Callable[[Batch], tuple[list[str], list[str]]]
  # Pairs with labels that are not gold's: G = 2, rewards (1, 0).
  pairs: Batch | None = None
  # Answers with labels that are not gold's: G = 1, rewards 1 or 0.
  labelled: Batch | None = None
  # Gold reward that each token would add after its row's prefix: f32 [B, T, V].
  # Only for a gold reward that is a sum over tokens; it lowers the noise of
  # measurements.
  gold_steps: Callable[[Batch], Any] | None = None
  # Which completions golden pairs may hold: Batch -> bool [B]. None: all.
  covered: Callable[[Batch], Any] | None = None
  tokenizer: pathlib.Path | None = None  # folder of its files, for export
  # Demonstrations that SFT does not learn from: () -> Batch, G = 1.
  held_out_demonstrations: Callable[[], Batch] | None = None
  # Further prompts to measure policies on, by their names in `eval.sets`.
  eval_sets: dict[str, Prompts] = dataclasses.field(default_factory=dict)


def make_task(name, **knobs):
  """The task of that name. Its module documents its knobs.

  Args:
    name: a module of this package, or 'package.module' of your own, with
      `make_task(*, seed, workdir, model, sft_batch_size, ...) -> Task`.
    knobs: keyword arguments of `make_task`.
  Raises:
    ValueError: there is no such task, or a knob is unknown or missing.
  """
  module = _module(name)
  knob_lib.check(name, module.make_task, knobs)
  return module.make_task(**knobs)


def check_knobs(model, sets, name, **knobs):
  """Raises ValueError for a wrong field of a config's `task`.

  Args:
    model: the config's, as a dict.
    sets: names of evaluation sets, as `eval.sets` has them.
    name, **knobs: the config's `task`.
  """
  elsewhere = dict.fromkeys(knob_lib.ELSEWHERE)
  knob_lib.check(name, _module(name).make_task, {**elsewhere, **knobs})
  for taken in knob_lib.ELSEWHERE:
    if taken in knobs:
      raise ValueError(f'task.{taken}: no such field, it is given elsewhere')
  module = _module(name)
  if hasattr(module, 'check'):
    module.check(model, **knobs)
  known = getattr(module, 'EVAL_SETS', None if '.' in name else ())
  for one in sets:
    if known is not None and one not in known:
      raise ValueError(
        f'eval.sets={tuple(sets)}: {one!r} is none of the sets of task '
        f'{name!r}: {list(known)}'
      )


def check_sets(task, names):
  """Raises ValueError for evaluation sets that the task does not have."""
  for name in names:
    if name not in task.eval_sets:
      raise ValueError(
        f"eval.sets={tuple(names)}: {name!r} is none of the task's sets "
        f'{sorted(task.eval_sets)}'
      )


def check_demonstrations(task, metrics):
  """Raises ValueError where a metric needs what the task does not have."""
  if 'demonstration_logp' in metrics and task.held_out_demonstrations is None:
    raise ValueError(
      f"eval.metrics={tuple(metrics)}: 'demonstration_logp' needs the task's "
      'held_out_demonstrations, and it has none'
    )


def prepare(name, **knobs):
  """Trains or caches what all seeds of the task share.

  For a module without `prepare` it makes the task once, to check the knobs.
  """
  module = _module(name)
  knob_lib.check(name, module.make_task, {'seed': 0, **knobs})
  if hasattr(module, 'prepare'):
    module.prepare(**knobs)
  else:
    module.make_task(seed=0, **knobs)


def defaults(name):
  """{knob: default} of the task's optional knobs."""
  return knob_lib.defaults(_module(name).make_task)


def has_pairs(name):
  """Whether the task has rows of its own. A task of the user may have some."""
  return getattr(_module(name), 'PAIRS', '.' in name)


def shares_prompts(name):
  """Whether all seeds share the same eval prompts and the same judge."""
  return getattr(_module(name), 'SHARED_PROMPTS', True)


def names():
  """Names of this package's modules that make a task."""
  found = sorted(x.name for x in pkgutil.iter_modules(__path__))
  modules = {x: importlib.import_module(f'{__name__}.{x}') for x in found}
  return [name for name, x in modules.items() if hasattr(x, 'make_task')]


def _module(name):
  if not isinstance(name, str):
    raise ValueError(f'task.name={name!r}, expected text')
  path = name if '.' in name.strip('.') else f'{__name__}.{name}'
  try:
    module = importlib.import_module(path)
  except ModuleNotFoundError as error:
    # The module exists if something that it imports is what is missing.
    if not f'{path}.'.startswith(f'{error.name}.'):
      raise
    module = None
  if not hasattr(module, 'make_task'):
    raise ValueError(
      f'task.name={name!r} is none of {names()}, and no package.module of your '
      'own with make_task'
    )
  return module
