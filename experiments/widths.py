"""Policies of several widths, as variants of a config."""

SCALED = 'dim', 'num_heads', 'num_kv_heads', 'mlp_dim'


def named(factor):
  return f'{factor}x'


def variants(cfg, factors):
  """{name: changes}: the config's model, and others several times as wide.

  Heads keep their size, and their number grows with the width. A config of a
  checkpoint has variants of these names, with larger checkpoints.

  Args:
    factors: whole numbers.
  Raises:
    ValueError: the model has no sizes that could be multiplied.
  """
  model, known = cfg['model'], cfg.get('variants', {})
  names = list(map(named, factors))
  if set(names) <= known.keys():
    return {name: known[name] for name in names}
  for field in ('checkpoint', 'adapter'):
    if model.get(field):
      raise ValueError(
        f'model.{field}={model[field]!r}, and this study varies the width: '
        f'expected sizes, or variants named {", ".join(names)}'
      )
  return {
    named(factor): {f'model.{name}': factor * model[name] for name in SCALED}
    for factor in factors
  }
