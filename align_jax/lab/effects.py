"""Refuses overrides without effect, so none is silently shadowed."""

import dataclasses

from align_jax.lab import overrides
from align_jax.lab.config_file import PREFIX
from align_jax.lab.reads import PROXY_SOME, proxy_reads, reads
from align_jax.lab.sweep import VARIED, varied

RUNS = (*VARIED, 'methods')  # fields that define runs
OWN = 'report', 'variants'  # that an experiment may replace


@dataclasses.dataclass(frozen=True)
class Override:
  """One override of a command line.

  Attributes:
    path: dotted field.
    text: its value as typed.
    file: the config before overrides.
    given: all overrides, (path, text) each.
  """

  path: str
  text: str
  file: dict
  given: list

  def __str__(self):
    return f'{PREFIX}{self.path}={self.text}'

  @property
  def rest(self):
    """The override without its group: 'FIELD=VALUE'."""
    return f'{self.path.partition(".")[2]}={self.text}'

  @property
  def without(self):
    """The config without this override."""
    others = [x for x in self.given if x != (self.path, self.text)]
    return overrides.apply(self.file, others)

  @property
  def alone(self):
    """The file's config with this override only."""
    return overrides.apply(self.file, [(self.path, self.text)])

  @property
  def changes(self):
    """Whether the config differs from the one without it."""
    return self.without != overrides.apply(self.file, self.given)


def check(runs, cfg, given, made=None):
  """Refuses an override without effect.

  Args:
    runs: cfg -> a list of runs.
    cfg: the overridden config.
    given: list of Overrides.
    made: cfg -> the configs that an experiment makes of it. None: itself.
  Raises:
    ValueError: names the override and the fields that shadow it.
  """
  every = runs(cfg) if given else []
  for one in given:
    keys = one.path.split('.')
    if one.alone != one.file and not one.changes:
      raise ValueError(
        f'{one} has no effect: another override sets the same, expected one of '
        'them'
      )
    if made and keys[0] in OWN and one.changes:
      own = lambda x, group=keys[0]: [c[group] for c in made(x)]
      if _same(own, one.without, own(cfg)):
        raise ValueError(
          f'{one} has no effect: this experiment has a {keys[0]} of its own'
        )
    if keys[0] == 'arm' and len(keys) > 1:
      _check_arm(every, cfg, keys, one)
    if keys[0] in RUNS and one.changes and _same(runs, one.without, every):
      raise ValueError(
        f'{one}: no run of this experiment is made from config.{keys[0]}'
        f'{"." + keys[1] if len(keys) > 1 else ""} as it is'
      )
    if keys[0] == 'proxy' and len(keys) > 1 and one.changes:
      _check_proxy(cfg['proxy'], keys[1], one)
    if keys[0] in VARIED and keys[0] not in ('arm', 'arms') and one.changes:
      _check_variants(cfg, keys, one)


def _same(make, without, made):
  """Whether a function makes of another config what it made of this one."""
  try:
    return make(without) == made
  except (ValueError, KeyError):
    return False


def _check_arm(every, cfg, keys, one):
  """A field of `arm` must reach all runs, and one of them must read it."""
  field = keys[1]
  # `but` fills missing parts of groups, so that equal values compare equal.
  asked = lambda run: run.but(**{field: cfg['arm'][field]})
  value = lambda run: _found(run.flat, keys[1:])
  differ = lambda run: value(run) != value(asked(run))
  shadowing = {run.arm: None for run in every if differ(run)}
  if shadowing:
    paths = [_path(cfg, name) for name in shadowing]
    names, more = _listed(paths), 's' if len(paths) == 1 else ''
    raise ValueError(
      f'{one} is shadowed: {names} set{more} {field} in a field or a sweep, '
      f'expected --config.{paths[0]}.{one.rest} for one arm, '
      f'--config.{paths[0].split(".")[0]}.*.{one.rest} for all'
    )
  if one.changes and not any(field in reads(run) for run in every):
    raise ValueError(f'{one} has no effect: no run reads {field}')


def _check_variants(cfg, keys, one):
  """A part of what variants may set as a whole must reach all of them."""
  whole = next((k for k in keys[:-1] if k in overrides.OPEN), None)
  if whole is None:
    return
  wanted = _found(cfg, keys)
  own = [v for v in cfg['variants'] if _found(varied(cfg, v), keys) != wanted]
  if own:
    names = _listed([f'variants.{name}' for name in own])
    raise ValueError(
      f'{one} is shadowed: {names} set{"s" if len(own) == 1 else ""} all of '
      f'{whole}, expected {keys[-1]} there'
    )


def _path(cfg, arm):
  """The path of an arm in a config."""
  here = arm in cfg['arms'] or arm not in cfg['methods']
  return f'{"arms" if here else "methods"}.{arm}'


def _listed(names):
  """Lists at most four names."""
  more = [f'{len(names) - 3} more'] if len(names) > 4 else []
  return ', '.join(names[:3] + more if more else names)


def _found(tree, path):
  for key in path:
    tree = tree.get(key) if isinstance(tree, dict) else None
  return tree


def _check_proxy(proxy, field, one):
  if field in PROXY_SOME and field not in proxy_reads(proxy):
    raise ValueError(
      f'{one} has no effect: a proxy of verifier={proxy["verifier"]!r}, '
      f'loss={proxy["loss"]!r}, members={proxy["members"]} and '
      f'combine={proxy["combine"]!r} does not read {field}'
    )
