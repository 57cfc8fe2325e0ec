"""Online and offline alignment methods, compared at the same KL budget.

The names below are the ones to start from. Each is imported when it is first
asked for, so that `import align_jax` costs nothing. docs/README.md lists the
rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from align_jax.compare.frontier import Comparison
  from align_jax.compare.readings import Curve, curves
  from align_jax.learn import sources
  from align_jax.learn.step import init_state, make_train_step
  from align_jax.losses import LOSSES
  from align_jax.models.config import ModelConfig
  from align_jax.policy.sampling import sample
  from align_jax.policy.scoring import make_annotate, token_kls, token_logps
  from align_jax.types import Batch, Outputs, Prompts, TrainState

_HOMES = {  # name: its module, below align_jax
  'Batch': 'types',
  'Comparison': 'compare.frontier',
  'Curve': 'compare.readings',
  'LOSSES': 'losses',
  'ModelConfig': 'models.config',
  'Outputs': 'types',
  'Prompts': 'types',
  'TrainState': 'types',
  'curves': 'compare.readings',
  'init_state': 'learn.step',
  'make_annotate': 'policy.scoring',
  'make_train_step': 'learn.step',
  'sample': 'policy.sampling',
  'sources': 'learn.sources',  # itself
  'token_kls': 'policy.scoring',
  'token_logps': 'policy.scoring',
}

__all__ = [
  'Batch',
  'Comparison',
  'Curve',
  'LOSSES',
  'ModelConfig',
  'Outputs',
  'Prompts',
  'TrainState',
  'curves',
  'init_state',
  'make_annotate',
  'make_train_step',
  'sample',
  'sources',
  'token_kls',
  'token_logps',
]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  home = importlib.import_module(f'{__name__}.{_HOMES[name]}')
  return home if _HOMES[name].endswith(f'.{name}') else getattr(home, name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
