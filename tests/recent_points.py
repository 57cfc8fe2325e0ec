"""Points for the claims of 2025 and 2026 that are no Gaps."""

import numpy as np

from experiments.suite import e18_forgetting
from experiments.suite.e19_prefixes import LOSSES, SOURCES, named
from tests.suite_points import SEEDS, runs_of

ALIKE = np.ones(SEEDS)
OLD = e18_forgetting.OLD


def with_metrics(point, kept=0.0, entropy=0.0, logp=0.0):
  """The point with what forgetting and distillation are measured by.

  Args:
    kept: gold on the second task per nat, above that of other arms.
    entropy, logp: the same of these metrics.
  """
  level = lambda slope: [slope * x for x in point['kl_by_prompt']]
  return {
    **point,
    'forward_kl_by_prompt': level(1.1),
    'entropy_by_prompt': level(entropy),
    'demonstration_logp_by_prompt': level(logp),
    'sets': {
      OLD: {
        'gold_by_prompt': level(kept - 0.5),
        'kl_by_prompt': level(0.5),
      }
    },
  }


def kept(study, claim, effects, folder):
  """Some arms keep more than the others, by the effect of the seed."""
  del study, folder
  first = claim.measure.first
  names = *first, *claim.measure.second
  points = runs_of(dict.fromkeys(names, ALIKE))
  more = lambda p: effects[p['seed']] * (p['arm'] in first)
  if claim.name == 'reference text':
    return [with_metrics(p, logp=more(p)) for p in points]
  return [with_metrics(p, kept=more(p)) for p in points]


def lost(study, claim, effects, folder):
  """All arms lose gold of the second task, by the effect of the seed."""
  del study, claim, folder
  names = *e18_forgetting.ON, *e18_forgetting.OFF
  points = runs_of(dict.fromkeys(names, ALIKE))
  return [with_metrics(p, kept=0.5 - effects[p['seed']]) for p in points]


def entropies(study, claim, effects, folder):
  """Students by the forward KL have more entropy, by the effect."""
  del study, claim, folder
  students = [named(x, y) for x in LOSSES for y in SOURCES]
  points = runs_of(dict.fromkeys(students, ALIKE))
  more = lambda p: effects[p['seed']] * p['arm'].startswith('forward') / 2
  return [with_metrics(p, entropy=more(p)) for p in points]


MADE = {
  **{('E18', claim.name): kept for claim in e18_forgetting.STUDY.claims},
  ('E18', 'something is forgotten'): lost,
  ('E19', 'entropy of the forward KL'): entropies,
}
