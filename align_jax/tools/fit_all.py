"""The table of `align fit --all`: shipped configs on slices, as they fit."""

from collections.abc import Iterator

from align_jax.lab import config_file
from align_jax.tools import fit_hlo, fit_search, fit_slices
from align_jax.tools.cli import with_config
from align_jax.tools.fit_table import gib

CONFIGS = {
  '1B': 'configs/llama3_2_1b_ultrafeedback.py',
  '8B': 'configs/llama3_8b_ultrafeedback.py',
  '70B': 'configs/llama3_70b_ultrafeedback.py',
}
TOPOLOGIES = 'v5e-1 v5e-8 v5e-64 v5p-128 v6e-64 v6e-256'.split()
COLUMNS = (
  'model',
  'slice',
  'knobs',
  'DPO GiB',
  'step s',
  'MFU',
  'RLOO GiB',
  'step s',
  'sampling GiB',
  'MB per token: HBM',
  'links',
  'tokens/s',
)


def lines() -> Iterator[str]:
  """A row for each config and slice, printed when it is known."""
  yield f'| {" | ".join(COLUMNS)} |'
  yield f'|{" --- |" * len(COLUMNS)}'
  for size, path in CONFIGS.items():
    cfg = config_file.load(with_config([f'--config={path}'])[0][9:])
    for name in TOPOLOGIES:
      cells = _cells(cfg, fit_slices.find(name))
      yield f'| {size} | {name} | {" | ".join(cells)} |'


def _cells(cfg, found):
  """What is known of a config on a slice, or why it does not fit."""
  try:
    done, seen = fit_search.search(
      cfg, found, [('rloo', 'sample'), ('rloo', 'train'), ('offline', 'train')]
    )
  except fit_search.NoneFits as error:
    return [f'does not fit: {error}', *[''] * (len(COLUMNS) - 3)]
  sample, rloo, dpo = seen
  moved = fit_hlo.summary(sample.ops, sample.loops).values()
  link = sum(n.bytes for n in moved)
  rate = sample.rows * sample.tokens / sample.bound
  useful = dpo.useful / found.chips / found.chip.flops / dpo.bound
  return [
    fit_search.short(done),
    gib(dpo.total),
    f'{dpo.bound:.2g}',
    f'{useful:.0%}',
    gib(rloo.total),
    f'{rloo.bound:.2g}',
    gib(sample.total),
    f'{sample.per_token / 1e6:,.0f}',
    f'{link / 1e6:,.1f}',
    f'{rate:,.0f}',
  ]
