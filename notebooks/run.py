"""Executes notebooks on a clean kernel and keeps their outputs.

python -m notebooks.run [NOTEBOOK.ipynb ...]
"""

import os
import pathlib
import sys

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent


def execute(path, *, small=False, timeout=1800):
  """The notebook with fresh outputs.

  Args:
    small: with the small sizes, which the metadata of a cell tagged 'sizes'
      hold. A notebook whose metadata say so keeps outputs of small sizes.
    timeout: seconds for a cell.
  Raises:
    nbclient.exceptions.CellExecutionError: a cell fails.
  """
  book = nbformat.read(path, as_version=4)
  sizes = [c for c in book.cells if 'sizes' in c.metadata.get('tags', ())]
  told = [cell.source for cell in sizes]
  for cell in sizes:
    if small or book.metadata.get('outputs') == 'small':
      cell.source = cell.metadata['small']
  resources = {'metadata': {'path': str(FOLDER)}}
  client = nbclient.NotebookClient(book, timeout=timeout, resources=resources)
  # The kernel imports this checkout.
  client.execute(env={**os.environ, 'PYTHONPATH': str(FOLDER.parent)})
  for cell, source in zip(sizes, told):
    cell.source = source
  for cell in book.cells:  # neither when it ran is a result, nor a warning
    cell.metadata.pop('execution', None)
    if cell.cell_type == 'code':
      kept = [x for x in cell.outputs if x.get('name') != 'stderr']
      cell.outputs = kept
  return book


def main():
  for path in sys.argv[1:] or sorted(FOLDER.glob('*.ipynb')):
    nbformat.write(execute(path), path)
    print(path)


if __name__ == '__main__':
  main()
