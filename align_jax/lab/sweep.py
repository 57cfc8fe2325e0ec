"""Turns a config into runs: variants, arms, their sweeps and seeds."""

import copy
import dataclasses
import re

from align_jax.lab import groups, overrides
from align_jax.lab.fields import build
from align_jax.lab.groups import PILOT_SEEDS
from align_jax.lab.settings import Run
from align_jax.values import nearest

# Groups of an arm whose parts stand by themselves.
PARTED = 'sampling', 'lora', 'keep'
# What a variant may change.
VARIED = 'task', 'model', 'sft', 'golden', 'proxy', 'eval', 'arm', 'arms'


def seeds_of(cfg):
  """The seeds of an experiment, from 100 up for a pilot, else from 0."""
  first = PILOT_SEEDS if cfg['pilot'] else 0
  return range(first, first + cfg['seeds'])


def varied(cfg, variant):
  """The config of one of its variants. '': the config itself.

  Raises:
    ValueError: the variant changes an unknown field.
  """
  if not variant:
    return cfg
  for path in groups.dict_of(cfg['variants'], variant, 'variants'):
    if path.split('.')[0] not in VARIED:
      raise ValueError(
        f'variants.{variant}: {path!r} is the same for the whole experiment, '
        f'expected fields of {", ".join(VARIED)}'
      )
  return overrides.changed(cfg, cfg['variants'][variant])


def sweep(cfg):
  """A list with one Run per variant, arm, entry of its `sweep` and seed.

  A variant has the differences from the config, an arm those from `cfg.arm`, an
  entry those from its arm.

  Raises:
    ValueError: names the field, its value and what was expected.
  """
  groups.check(cfg)
  runs = []
  for variant in cfg['variants'] or ('',):
    own = varied(cfg, variant)
    if variant:
      groups.check(own)
    _check_folder('variants', variant, RESERVED_VARIANTS)
    made = _first_seed(own, variant)
    _check_reached(cfg, variant, made)
    for run in made:
      runs += [dataclasses.replace(run, seed=n) for n in seeds_of(own)]
  _check_names(runs)
  logged = {(r.variant, r.source.log_of) for r in runs if r.source.log_of}
  keep = lambda r: (r.variant, r.name) in logged
  return [dataclasses.replace(r, keep_log=keep(r)) for r in runs]


def _first_seed(own, variant):
  """The runs of a variant's config with its first seed."""
  given = dict(variant=variant, shared=groups.shared(own))
  runs = []
  for arm in own['arms']:
    _check_arm(own['arms'], arm)
    for entry in own['arms'][arm].get('sweep', ({},)):
      runs.append(_run(own, arm, entry, seeds_of(own)[0], **given))
  return runs


def _check_reached(cfg, variant, made):
  """Refuses what a variant changes of arms, and what arms themselves set.

  Args:
    made: the runs of the variant.
  """
  changes = cfg['variants'].get(variant, {})
  fields = lambda own: {**own, 'variants': {}}
  for path in (x for x in changes if x.split('.')[0] in ('arm', 'arms')):
    rest = {k: v for k, v in changes.items() if k != path}
    without = {**cfg, 'variants': {**cfg['variants'], variant: rest}}
    own, other = (fields(varied(x, variant)) for x in (cfg, without))
    if own != other and _first_seed(other, variant) == made:
      raise ValueError(
        f'variants.{variant}: {path!r} has no effect: arms set it in a field '
        'or a sweep of their own'
      )


def _check_names(runs):
  """Two runs must not share a folder, nor two arms a name in a comparison."""
  folders, labels = set(), {}
  for run in runs:
    folder = run.variant, run.seed, run.name
    if folder in folders:
      raise ValueError(
        f'arms.{run.arm}.sweep: two entries are both {run.configuration!r}, '
        'expected entries that differ in their first six digits'
      )
    folders.add(folder)
    whose = run.variant, run.arm
    if labels.setdefault(run.label, whose) != whose:
      raise ValueError(
        f'variants.{run.variant}: its arm {run.arm!r} is {run.label!r} in '
        'comparisons, as another one is'
      )


RESERVED_ARMS = r'sft|proxy.*|opponents.*|pairs.*|held_out.*|\.+'
RESERVED_VARIANTS = r'task|seed\d*|figures|reference_logps|\.+'


def _check_folder(table, name, reserved):
  """Refuses a name that is no folder of its own; '': there is none."""
  if '/' in name or '\\' in name or re.fullmatch(reserved, name):
    raise ValueError(
      f'{table}.{name}: expected a name that can be a folder of its own, other '
      f'than {reserved.replace("|", ", ")}'
    )


def _check_arm(arms, name):
  """Names that can be folders, fields, and entries to sweep over."""
  if not name:
    raise ValueError("arms: the name '' of an arm, expected some letters")
  _check_folder('arms', name, RESERVED_ARMS)
  if not isinstance(arms[name], dict):
    raise ValueError(f'arms.{name}={arms[name]!r}, expected fields of an arm')
  swept = arms[name].get('sweep', ({},))
  listed = isinstance(swept, tuple | list) and swept
  if not (listed and all(isinstance(x, dict) for x in swept)):
    raise ValueError(
      f'arms.{name}.sweep={swept!r}, expected a tuple of one entry or more, '
      'each fields of the arm'
    )


def _run(cfg, arm, entry, seed, **given):
  fields = {k: v for k, v in cfg['arms'][arm].items() if k != 'sweep'}
  own = {**fields, **entry}
  for name in own:
    if name not in cfg['arm']:
      raise ValueError(
        f'arms.{arm}.{name}: no such field, {nearest(name, cfg["arm"])}'
      )
  given |= dict(
    arm=arm,
    configuration=label(entry),
    seed=seed,
    keep_log=False,
    set=frozenset(own),
  )
  where = lambda key: f'arms.{arm}.{key}' if key in own else f'arm.{key}'
  make = lambda own: build(
    Run, copy.deepcopy({**cfg['arm'], **own}), where, **given
  )
  run = make(own)
  for name, outer in _replaced(cfg['arm'], fields, entry).items():
    if make({**own, name: {**outer, **own[name]}}) != run:
      left = ', '.join(sorted(outer.keys() - own[name].keys()))
      raise ValueError(
        f'arms.{arm}: {name}={own[name]!r} takes the place of {outer!r}, '
        f'expected {left} in it, too'
      )
  return run


def _replaced(defaults, fields, entry):
  """{name of a group: the one whose place it takes, and whose parts are lost}.

  Args:
    defaults: the config's `arm`.
    fields: of an arm.
    entry: of its sweep.
  """
  # An entry may hide what is no group.
  within = lambda name: groups.dict_of({name: {}, **fields}, name)
  found = {}
  for name in PARTED:
    if name in fields:
      found[name] = defaults[name]
    if name in entry:
      found[name] = {**defaults[name], **within(name)}
  if 'loss_kwargs' in entry and 'loss' not in entry:
    found['loss_kwargs'] = within('loss_kwargs')
  return found


def shared_of(runs):
  """{variant: settings.Shared} of runs, in order."""
  return {run.variant: run.shared for run in runs}


def sizes(arms):
  """{arm: number of configurations} of the arms that train."""
  return {
    name: len(arm.get('sweep', ({},)))
    for name, arm in arms.items()
    if not arm.get('reweigh')
  }


def label(entry):
  """{'learning_rate': .1, 'loss_kwargs': {'beta': .2}} -> lr0.1-beta0.2."""
  parts = []
  for name, value in entry.items():
    if hasattr(value, 'items'):
      parts += [label(value)] if value else []
    else:
      name = {'learning_rate': 'lr'}.get(name, name)
      parts.append(
        f'{name}{value:g}' if isinstance(value, float) else f'{name}{value}'
      )
  return '-'.join(parts) or 'default'
