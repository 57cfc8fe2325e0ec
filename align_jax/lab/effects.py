"""Refuses overrides without effect, so none is silently shadowed."""

import dataclasses

from align_jax.lab import overrides
from align_jax.lab.config_file import PREFIX
from align_jax.lab.reads import PROXY_SOME, proxy_reads, reads
from align_jax.lab.sweep import VARIED

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
      if _tried(own, one.without) == own(cfg):
        raise ValueError(
          f'{one} has no effect: this experiment has a {keys[0]} of its own'
        )
    if keys[0] not in RUNS:
      continue
    before = _tried(runs, one.without) if one.changes else every
    if keys[0] == 'arm' and len(keys) > 1:
      _check_arm(_unmoved(every, before), every, cfg, keys, one)
    if one.changes and before == every:
      raise ValueError(
        f'{one}: no run of this experiment is made from config.'
        f'{".".join(keys[:2])} as it is'
      )
    if one.changes and len(keys) > 1:
      if keys[0] != 'arm' and before is not None:
        _check_others(_unmoved(every, before), cfg, keys, one)
      if keys[0] == 'proxy':
        _check_proxy(cfg['proxy'], keys[1], one)
      if keys[0] == 'sft':
        _check_sft(cfg['sft'], keys[1], one)


def _tried(make, cfg):
  """What a function makes of a config; None where it refuses it."""
  try:
    return make(cfg)
  except (ValueError, KeyError):
    return None


def _unmoved(every, before):
  """Whether a field of a run is as it was without the override.

  Args:
    every: the runs.
    before: those without it. None: not known, all fields count as unmoved.
  Returns:
    value -> the runs whose `value(run)` is what it was.
  """
  if before is None:
    return lambda value: every
  known = {}
  for run in before:
    known.setdefault(_key(run), []).append(run)
  pairs = []
  for run in every:  # studies may have runs of one name
    same = known.get(_key(run))
    if same:
      pairs.append((run, same.pop(0)))
  return lambda value: [run for run, old in pairs if value(run) == value(old)]


def _key(run):
  return run.variant, run.name, run.seed


def _check_arm(unmoved, every, cfg, keys, one):
  """A field of `arm` must reach all runs, and one of them must read it."""
  field = keys[1]
  # `but` fills missing parts of groups, so that equal values compare equal.
  asked = lambda run: run.but(**{field: cfg['arm'][field]})
  value = lambda run: _found(run.flat, keys[1:])
  differ = lambda run: value(run) != value(asked(run))
  shadowing = {run.arm: None for run in unmoved(value) if differ(run)}
  if shadowing:
    known = [x for x in shadowing if x in {**cfg['arms'], **cfg['methods']}]
    if not known:
      raise ValueError(
        f'{one} is shadowed: {_listed(list(shadowing))} of this experiment '
        f'have a {field} of their own'
      )
    paths = [_path(cfg, name) for name in known]
    names, more = _listed(paths), 's' if len(paths) == 1 else ''
    raise ValueError(
      f'{one} is shadowed: {names} set{more} {field} in a field or a sweep, '
      f'expected --config.{paths[0]}.{one.rest} for one arm, '
      f'--config.{paths[0].split(".")[0]}.*.{one.rest} for all'
    )
  if one.changes and not any(field in reads(run) for run in every):
    raise ValueError(f'{one} has no effect: no run reads {field}')


def _check_others(unmoved, cfg, keys, one):
  """No run may keep another value, of a variant or of a study."""
  if keys[0] in overrides.TABLES:
    if len(keys) == 2:  # a whole arm
      return
    named = overrides.matching(cfg[keys[0]], keys[1], str(one))
    value = lambda run: _found(run.flat, keys[2:])
    wanted = lambda run: _found(cfg[keys[0]][run.arm], keys[2:])
    asked = lambda run: run.arm in named and wanted(run) is not None
  else:
    value = lambda run: _found(run.shared.settings, keys)
    wanted = lambda run: _found(cfg, keys)
    asked = lambda run: True
  own = {
    run.label: value(run)
    for run in unmoved(value)
    if asked(run) and value(run) != wanted(run)
  }
  if own:
    raise ValueError(
      f'{one} is shadowed: {keys[-1]}={next(iter(own.values()))!r} of '
      f'{_listed(list(own))} is set by a variant or the experiment'
    )


def _path(cfg, arm):
  """The path of an arm in a config."""
  return f'{"arms" if arm in cfg["arms"] else "methods"}.{arm}'


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


def _check_sft(sft, field, one):
  if not sft['steps'] and field not in ('steps', 'batch_size'):
    raise ValueError(f'{one} has no effect: there is no SFT by sft.steps=0')
