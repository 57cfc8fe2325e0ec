"""Policies of several widths, as variants of a config."""

SCALED = 'dim', 'num_heads', 'num_kv_heads', 'mlp_dim'


def named(factor):
  return f'{factor}x'


def variants(cfg, factors):
  """{name: changes}: the config's model, and others several times as wide.

  Heads keep their size, and their number grows with the width.

  Args:
    factors: whole numbers.
  Raises:
    ValueError: the model has no sizes that could be multiplied.
  """
  model = cfg['model']
  for field in ('checkpoint', 'adapter'):
    if model.get(field):
      raise ValueError(
        f'model.{field}={model[field]!r}, and this study varies the width: '
        'expected sizes'
      )
  return {
    named(factor): {f'model.{name}': factor * model[name] for name in SCALED}
    for factor in factors
  }
