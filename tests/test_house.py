"""Who may import whom, read off the syntax trees."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [*ROOT.glob('align_jax/**/*.py'), *ROOT.glob('configs/*.py')]
# Of align_jax; what is not named here may import all of it.
NOTHING = 'types ops sharding checkpoint intervals metrics readings reweigh'
NOTHING = NOTHING.split()
MODEL = 'types ops sharding models'
MAY = dict.fromkeys(NOTHING, '')
MAY |= dict.fromkeys(['models', 'scoring'], MODEL)
MAY |= dict(drawing='ops', sampling=f'{MODEL} drawing')
MAY |= dict.fromkeys(['rewards', 'batches', 'step'], 'types ops')
MAY |= dict(losses='types ops losses', sources='types ops batches')
MAY |= dict(budget='types', buckets='batches', data='types data')
MAY |= dict(judges=f'{MODEL} data judges programs rewards scoring')
MAY |= dict(agreement='data judges')
MAY |= dict(frontier='intervals readings', verdict='intervals')
# What reads points needs no JAX.
NUMBERS = 'frontier', 'intervals', 'readings', 'verdict'
NUMERIC = {'align_jax', 'numpy', 'scipy', *sys.stdlib_module_names}
ALONE = {'orbax': 'checkpoint', 'ml_collections': 'configs', 'flax': 'types'}
HUGE = 'datasets huggingface_hub jinja2 pyarrow tokenizers torch transformers'
LAZY = set(HUGE.split())  # inside functions only


def imports(nodes):
  for node in nodes:
    if isinstance(node, ast.Import | ast.ImportFrom):
      prefix = f'{node.module}.' if isinstance(node, ast.ImportFrom) else ''
      yield from ((prefix + x.name).split('.') for x in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
  package, *rest = path.relative_to(ROOT).with_suffix('').parts
  name = rest[0] if package == 'align_jax' else package
  tree = ast.parse(path.read_text())
  for first, second, *_ in (x + [''] for x in imports(ast.walk(tree))):
    assert first not in {'experiments', 'configs', 'align_jax'} - {package}
    assert ALONE.get(first, name) == name, f'{name} imports {first}'
    if first == 'align_jax' and name in MAY:
      assert second in MAY[name].split(), f'{name} imports {second}'
    assert name not in NUMBERS or first in NUMERIC
  assert not LAZY & {x[0] for x in imports(tree.body)}
