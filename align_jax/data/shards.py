"""Which local files a name stands for: one, or those of a folder or pattern."""

import ast
import glob
import json
import re

from align_jax import paths as path_lib
from align_jax.files import looks_like_path

BINARY = ('.parquet', '.arrow')
ENDINGS = ('.jsonl', '.json', '.csv', '.txt', *BINARY)  # most may end in .gz
# What lies beside data in folders and holds none.
ASIDE = ('', '.md', '.py', '.yaml', '.yml', '.lock', '.crc', '.digest')
NO_DATA = ('dataset_info.json', 'dataset_infos.json', 'state.json')
SPLITS = 'train training validation valid val dev test testing eval'.split()
SHARD = re.compile(r'(.+)-(\d{5})-of-(\d{5})')  # as the hub names them


def ending(path):
  """The ending in ENDINGS by which a file is read, None if there is none."""
  name = path.name.removesuffix('.gz')
  found = next((end for end in ENDINGS if name.endswith(end)), None)
  return None if path.suffix == '.gz' and found in BINARY else found


def local_paths(source, split='train', config=None):
  """The files that `source` names, sorted; None if it is a hub id.

  Args:
    source: a file, a folder, or a text with *, ? or [] for the names of files;
      or a tuple or list of these, or its text, in whose order their files are.
    split: of a folder, where names of files or folders tell splits.
    config: a folder within a folder.
  Raises:
    FileNotFoundError: it looks like a path, and nothing is there.
    ValueError: something is there that `files.rows` cannot read, a file twice,
      a shard missing, or a folder without the split.
  """
  found = _named(_several(source), split, config)
  return found and [path_lib.local(path) for path in found]


def _named(source, split, config):
  if not isinstance(source, tuple | list):
    return _paths(str(source), split, config)
  found = []
  for name in source:
    paths = _paths(str(name), split, config)
    if paths is None:
      raise FileNotFoundError(f'{name}: no such file, one of several')
    found += paths
  if not found:
    raise ValueError('data: an empty list of files')
  twice = [x for i, x in enumerate(found) if x in found[:i]]
  if twice:
    raise ValueError(f'{twice[0]}: is named twice')
  return found


def _several(source):
  """The tuple or list that a text such as "('a.jsonl', 'b.jsonl')" holds."""
  text = str(source).strip()
  if not isinstance(source, str) or text[:1] + text[-1:] not in ('()', '[]'):
    return source
  try:
    found = ast.literal_eval(text)
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return source
  several = isinstance(found, tuple | list)
  return found if several and all(isinstance(x, str) for x in found) else source


def _paths(text, split, config):
  if not text.strip():
    raise ValueError(f'data={text!r}, expected a file, a folder or an id')
  path = path_lib.path(text).expanduser()
  if path.is_file():
    return [_readable(path)]
  if path.is_dir():
    return _of_folder(path, split, config)
  if path.exists():
    raise ValueError(f'{path}: is no regular file, expected a file')
  if glob.has_magic(text):
    return _matching(path)
  if path.suffix in (*ENDINGS, '.gz') or looks_like_path(text):
    raise FileNotFoundError(f'{path}: no such file')
  return None


def _readable(path):
  if ending(path) is None:
    raise ValueError(
      f'{path}: reads only {", ".join(ENDINGS)}; all but {" and ".join(BINARY)}'
      ' also as .gz'
    )
  return path


def _matching(pattern):
  found = path_lib.matching(pattern)
  if not found:
    raise FileNotFoundError(f'{pattern}: no such files')
  for path in found:
    if not path.is_file():
      raise ValueError(f'{path}: is no file, of those that {pattern} names')
  return [_readable(path) for path in found]


# --- Folders -----------------------------------------------------------------


def _of_folder(folder, split, config):
  if config:
    if not (folder / config).is_dir():
      raise FileNotFoundError(f'{folder / config}: no such folder')
    folder = folder / config
  if (folder / 'dataset_dict.json').is_file():
    known = _json(folder / 'dataset_dict.json', 'splits', str)
    if split not in known:
      raise ValueError(f'{folder}: no split {split!r}, it has {known}')
    folder = folder / split
  if (folder / 'state.json').is_file():
    return _saved(folder)
  return _complete(_of_split(folder, _data_files(folder), split))


def _json(path, name, kind):
  """The list of `kind` that a JSON file holds under `name`."""
  try:
    found = json.loads(path.read_text(encoding='utf-8'))[name]
    if isinstance(found, list) and all(isinstance(x, kind) for x in found):
      return found
  except (ValueError, KeyError, TypeError, OSError, RecursionError):
    pass
  raise ValueError(f'{path}: expected a JSON object with a list {name!r}')


def _saved(folder):
  """The files of a data set that `datasets` saved to disk."""
  told = folder / 'state.json'
  names = [x.get('filename') for x in _json(told, '_data_files', dict)]
  if not names or not all(isinstance(x, str) for x in names):
    raise ValueError(f'{told}: names no data files')
  for name in names:
    if not (folder / name).is_file():
      raise FileNotFoundError(f'{folder / name}: no such file, of {told}')
  return [_readable(folder / name) for name in names]


def _data_files(folder):
  """Files with rows, at any depth. Another file that may hold rows is told."""
  found = []
  for path in path_lib.tree(folder):
    parts = path.relative_to(folder).parts
    if any(x.startswith(('.', '_')) for x in parts) or path.name in NO_DATA:
      continue
    if path.is_dir() or path.suffix in ASIDE:
      continue
    if ending(path) is None or not path.is_file():
      raise ValueError(
        f'{folder}: holds {path.relative_to(folder)}, which is none of '
        f'{", ".join(ENDINGS)}: name the files to read, with * for some'
      )
    found.append(path)
  if not found:
    raise ValueError(f'{folder}: a folder without data files')
  return found


def _names(folder, path):
  """The names of splits that a file within a folder may be of."""
  relative = path.relative_to(folder)
  stem = relative.name.split('.')[0]
  shard = SHARD.match(stem)
  own = [shard[1]] if shard else re.split(r'[-_ ]', stem)
  return {*own, *relative.parts[:-1]}


def _is_split(name):
  return re.split(r'[-_ ]', name.lower())[0] in SPLITS


def _of_split(folder, paths, split):
  names = {path: _names(folder, path) for path in paths}
  kept = [path for path in paths if split in names[path]]
  known = {x for path in paths for x in names[path] if _is_split(x)}
  if known and not kept:
    raise ValueError(f'{folder}: no split {split!r}, it has {sorted(known)}')
  other = [x for x in paths if not any(map(_is_split, names[x]))]
  if kept and other:
    raise ValueError(
      f'{other[0]}: is of no split, beside files of {sorted(known)}'
    )
  kept = kept or paths
  for what, found in (
    ('endings', {ending(x) for x in kept}),
    ('folders', {str(x.parent) for x in kept}),
  ):
    if len(found) > 1:
      raise ValueError(
        f'{folder}: files of several {what}, {sorted(found)}: name those to '
        'read, with * for some'
      )
  return kept


def _complete(paths):
  """The paths, checked that no shard of a number of them is missing."""
  found = [(path, SHARD.match(path.name)) for path in paths]
  sets = {}
  for path, shard in found:
    if shard:
      key = path.parent, shard[1], shard[3]
      sets.setdefault(key, set()).add(int(shard[2]))
  for (folder, name, count), have in sets.items():
    missing = min(set(range(int(count))) - have, default=None)
    if missing is not None:
      path = folder / f'{name}-{missing:05d}-of-{count}'
      raise FileNotFoundError(f'{path}: no such shard, beside the others')
  return paths
