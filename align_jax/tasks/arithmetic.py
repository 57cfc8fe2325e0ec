"""Questions whose answer is a number, scored by a rule instead of a judge.

The data have the format of GSM8K (Cobbe et al. 2021, arXiv 2110.14168): a
question, and a worked solution whose last line is '#### NUMBER'. A prompt is
BOS, the question and a line break. The gold reward of a completion is 1 if the
number after its last '####' is correct, else 0. Without a data set the
questions are the 8100 sums of two two-digit numbers. A small policy learns part
of them.
"""

import numpy as np

from align_jax import data as data_lib
from align_jax import paths
from align_jax.files import line, write_atomically
from align_jax.tasks.knobs import passes_to
from align_jax.tasks.texts import check, text_task

__all__ = 'check', 'make_task', 'prepare', 'sums'
FIELDS = ('prompt', 'completion', 'answer')  # of a row


def sums():
  """Yields every sum of two two-digit numbers, in a fixed random order."""
  numbers = range(10, 100)
  order = np.random.default_rng(0).permutation(len(numbers) ** 2)
  for a, b in zip(*np.divmod(order, len(numbers))):
    a, b = numbers[a], numbers[b]
    yield dict(
      question=f'What is {a} + {b}?',
      answer=f'{a} + {b} = {a + b}\n#### {a + b}',
    )


def generated(workdir):
  """The file of `sums` under `workdir`, written if it is not there as it is."""
  path = paths.path(workdir) / 'sums.jsonl'
  text = ''.join(map(line, sums()))
  if not path.exists() or path.read_bytes() != text.encode():
    write_atomically(path, text)
  return path


def right(prompt, completion, row):
  """Whether the completion ends in the row's number."""
  return data_lib.correct(completion, row['answer'])


def prepare(**knobs):
  """Generates the data if there are none, and checks them; see `make_task`."""
  make_task(seed=0, **knobs)


@passes_to(text_task)
def make_task(*, seed, workdir, data, dataset, **knobs):
  """The task, the same for every seed.

  Args:
    workdir: folder for the generated sums.
    data: a local file or a hub data set, see `data.rows`. '': generated sums.
    dataset: a name in `data.DATASETS`: how to read its rows.
    knobs: keyword arguments of `text_task`.
  """
  del seed
  path = data or generated(workdir)
  return text_task((), right, FIELDS, data=path, dataset=dataset, **knobs)
