"""Who may import whom, read off the syntax trees."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [*ROOT.glob('align_jax/**/*.py'), *ROOT.glob('configs/*.py')]
# Rooms of align_jax, each below those after it: an import goes down.
ROOMS = 'values hardware types paths files ops roll_call hosts sharding models'
ROOMS = f'{ROOMS} losses data compare policy learn judges tasks lab tools'
ROOMS = ROOMS.split()
# Within a room; what is not named here may import all of it.
NOTHING = 'policy.draw_tokens learn.logs compare.intervals'
NOTHING = f'{NOTHING} compare.points compare.readings compare.reweigh'
NOTHING = f'{NOTHING} compare.laws learn.diversity learn.finite learn.stopping'
NOTHING = NOTHING.split()
MAY = dict.fromkeys(NOTHING, ())
MAY |= {
  'policy.sampling': ['draw_tokens'],
  'policy.scoring': [],
  'learn.rewards': ['batches'],
  'learn.metrics': ['diversity', 'forgetting'],
  'learn.forgetting': ['batches', 'stopping'],
  'learn.checkpoint': ['stopping'],
  'learn.step': ['finite'],
  'learn.budget': ['finite', 'stopping'],
  'learn.sources': ['batches', 'speed'],
  'learn.buckets': ['batches'],
  'compare.frontier': ['intervals', 'readings'],
  'compare.verdict': ['intervals'],
}
# What reads points needs no JAX.
NUMBERS = 'frontier laws intervals points readings reweigh tempering verdict'
NUMBERS = NUMBERS.split()
NUMERIC = {'align_jax', 'numpy', 'scipy', *sys.stdlib_module_names}
ALONE = {
  'orbax': 'learn.checkpoint',
  'ml_collections': 'configs',
  'flax': 'types',
}
HUGE = 'datasets huggingface_hub jinja2 pyarrow tokenizers torch transformers'
LAZY = set(HUGE.split())  # inside functions only


def imports(tree, deep=True):
  """Yields the parts of the name of everything imported."""
  for node in ast.walk(tree) if deep else tree.body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      prefix = f'{node.module}.' if isinstance(node, ast.ImportFrom) else ''
      yield from ((prefix + x.name).split('.') for x in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
  package, *rest = path.relative_to(ROOT).with_suffix('').parts
  room = rest[0] if package == 'align_jax' else package
  name = '.'.join(rest) if package == 'align_jax' else package
  tree = ast.parse(path.read_text())
  for first, second, third, *_ in (x + ['', ''] for x in imports(tree)):
    assert first not in {'experiments', 'configs', 'align_jax'} - {package}
    assert ALONE.get(first, name) == name, f'{name} imports {first}'
    if first == 'align_jax' and not room.startswith('__'):
      assert ROOMS.index(second) <= ROOMS.index(room), f'{name}: {second}'
    if first == 'align_jax' and second == room and name in MAY:
      assert third in MAY[name], f'{name} imports {third}'
    if room == 'compare' and rest[-1] in NUMBERS:
      assert first in NUMERIC, f'{name} imports {first}'
  assert not LAZY & {x[0] for x in imports(tree, deep=False)}


def to_local_paths(path):
  """Lines of a file that make a local path of what it may be given."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      given = node.args and not isinstance(node.args[0], ast.Constant)
      if node.func.attr == 'Path' and given:
        yield ast.unparse(node)


# What is local wherever a workdir is: this code, a scratch folder, the hub's.
LOCAL = 'paths lab.protocol models.hf models.hf_export tasks.pair_folder'
LOCAL = f'{LOCAL} tools.cli tools.measure_import hardware tasks.folders'
LOCAL = f'{LOCAL} tools.fit_programs'.split()


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_paths_makes_paths(path):
  """pathlib.Path('gs://bucket/run') is a local folder named gs: ."""
  name = '.'.join(path.relative_to(ROOT).with_suffix('').parts[1:])
  assert name in LOCAL or not [*to_local_paths(path)]


BELOW_THE_LAB = ROOMS[: ROOMS.index('lab')]
WHOLE = {'run', 'runs', 'cfg', 'experiment', 'setup'}


def takes_all(path):
  """Functions of a file that are given a whole run or config, by a name."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef):
      names = [x.arg for x in (*node.args.args, *node.args.kwonlyargs)]
      if WHOLE & set(names):
        yield node.name


def test_below_the_lab_no_function_takes_a_whole_run_or_config():
  """Runs in `compare` are curves of points, which know no config."""
  found = [
    f'{path.relative_to(ROOT)}: {name}'
    for path in ROOT.glob('align_jax/**/*.py')
    if path.relative_to(ROOT / 'align_jax').parts[0] in BELOW_THE_LAB
    and 'compare' not in path.parts
    for name in takes_all(path)
  ]
  assert not found
  lab = ROOT / 'align_jax' / 'lab' / 'protocol.py'
  assert 'run_arm' in takes_all(lab)  # or nothing would be found at all
