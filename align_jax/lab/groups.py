"""Checks a whole config: its groups, and the fields outside groups."""

import dataclasses

from align_jax.lab.fields import (
  added,
  build,
  count,
  field,
  flag,
  names,
  number,
  one_of,
  table,
  text,
)
from align_jax.lab.settings import (
  SHARED,
  Eval,
  Golden,
  Proxy,
  Sft,
  Shared,
  nats,
)
from align_jax.learn.trackers import TRACKERS
from align_jax.values import as_tuple, is_whole, nearest

PILOT_SEEDS = 100  # the first pilot seed; lower seeds are for the results


def _ascending(x):
  return all(a < b for a, b in zip(x, x[1:]))


def _budgets(x):
  return bool(x) and _shown(x)


def _shown(x):
  return all(map(nats, x)) and _ascending(x)


def _looks(x):
  return all(is_whole(n) and n > 0 for n in x) and _ascending(x)


def _updates(x):
  return not x or (len(x) == 2 and all(map(is_whole, x)) and 1 <= x[0] <= x[1])


def _window(x):
  return len(x) == 2 and all(map(nats, x)) and x[0] <= x[1]


@dataclasses.dataclass(frozen=True)
class Report:
  """The comparison, fixed in advance."""

  budgets: tuple = field(
    'ascending numbers of nats above 0, 1 or more', _budgets, convert=as_tuple
  )
  treatment: str = text()
  control: str = text()
  window: tuple = field('(low, high) nats, 0 < low <= high', _window)
  margin: float = number(least=0)
  half_width: float = number(above=0)
  deviation: float = number(least=0)
  schedule: tuple = field(
    'ascending numbers of seeds', _looks, convert=as_tuple
  )
  shown: tuple = field(
    'ascending numbers of nats above 0', _shown, convert=as_tuple
  )
  golden_policy: str = text()


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Sizes of the mesh's axes, as `sharding.make_mesh` takes them."""

  data: int = count()
  fsdp: int = count()
  rollout: int = added(count(), 1)
  context: int = added(count(), 1)
  tensor: int = count()


GROUPS = dict(
  sft=Sft, golden=Golden, proxy=Proxy, eval=Eval, report=Report, mesh=Mesh
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The fields of a config outside groups."""

  seeds: int = count(most=PILOT_SEEDS)
  pilot: bool = flag()
  reference_memory: str = one_of(('device', 'host'))
  workers: int = count(0)
  together: bool = flag()
  trackers: tuple = names(lambda: TRACKERS)
  profile: tuple = field(
    '() or (first, last) updates, at least 1', _updates, convert=as_tuple
  )
  task: dict = table()
  model: dict = table()
  arm: dict = table()
  arms: dict = table()
  methods: dict = table()
  families: dict = table()
  variants: dict = table()


def check(cfg):
  """Refuses unknown fields and values that are not allowed.

  Args:
    cfg: a config as plain dicts.
  Raises:
    ValueError: names the field, its value and what was expected.
  """
  known = [f.name for f in dataclasses.fields(Experiment)] + list(GROUPS)
  for name in cfg:
    if name not in known:
      raise ValueError(f'config.{name}: no such field, {nearest(name, known)}')
  group(cfg, Experiment)
  for name in cfg['variants']:
    if not isinstance(name, str) or not name:
      raise ValueError(f'variants: the name {name!r}, expected some letters')
  for name in GROUPS:
    group(cfg, GROUPS[name], name)


def check_families(cfg):
  """Refuses a family with a method that the config's file does not have.

  Overrides may drop methods from families.
  """
  for title, members in cfg.get('families', {}).items():
    if not isinstance(members, tuple | list):
      raise ValueError(
        f'families.{title}={members!r}, expected a tuple of names of methods'
      )
    for name in members:
      if name not in cfg['methods']:
        raise ValueError(
          f'families.{title}: {name!r} is none of config.methods, '
          f'{nearest(name, cfg["methods"])}'
        )


def dict_of(tree, name, where=''):
  """The group of fields of that name. Raises ValueError if it is no group."""
  found = tree.get(name)
  if not isinstance(found, dict):
    path = f'{where}.{name}' if where else name
    raise ValueError(f'{path}={found!r}, expected a group of fields')
  return found


def group(cfg, cls, name=''):
  """The record of a config's group, or of the fields outside groups for ''."""
  if name:
    return build(cls, dict_of(cfg, name), lambda key: f'{name}.{key}')
  return build(
    cls, {k: v for k, v in cfg.items() if k not in GROUPS}, lambda key: key
  )


def shared(cfg):
  """The Shared of a config of plain dicts."""
  groups = {name: group(cfg, GROUPS[name], name) for name in SHARED}
  return Shared(
    task=cfg['task'],
    model=cfg['model'],
    batch_size=cfg['arm']['batch_size'],
    **groups,
  )
