"""Questions whose answer is a number, scored by a rule instead of a judge.

The data have the format of GSM8K (Cobbe et al. 2021, arXiv 2110.14168): a
question, and a worked solution whose last line is '#### NUMBER'. A prompt is
BOS, the question and a line break. The gold reward of a completion is 1 if the
number after its last '####' is correct, else 0. Without a data set the
questions are the 8100 sums of two two-digit numbers. A small policy learns part
of them. A second task may be taught with the first, such as their differences.
"""

import itertools

import numpy as np

from align_jax import data as data_lib
from align_jax import paths
from align_jax.files import line, write_atomically
from align_jax.tasks import OLD, texts
from align_jax.tasks.knobs import passes_to, whole

FIELDS = ('prompt', 'completion', 'answer')  # of a row
EVAL_SETS = (OLD,)  # names of further prompts to measure on


def sums():
  """Yields every sum of two two-digit numbers, in a fixed random order."""
  return _pairs('+', lambda a, b: a + b)


def differences():
  """Yields every difference of them, in the same order."""
  return _pairs('-', lambda a, b: a - b)


def _pairs(sign, result):
  numbers = range(10, 100)
  order = np.random.default_rng(0).permutation(len(numbers) ** 2)
  for a, b in zip(*np.divmod(order, len(numbers))):
    a, b = numbers[a], numbers[b]
    made = result(a, b)
    yield dict(
      question=f'What is {a} {sign} {b}?',
      answer=f'{a} {sign} {b} = {made}\n#### {made}',
    )


def generated(workdir, made=sums):
  """The file of some rows under `workdir`, written if it is not there."""
  path = paths.path(workdir) / f'{made.__name__}.jsonl'
  text = ''.join(map(line, made()))
  if not path.exists() or path.read_bytes() != text.encode():
    write_atomically(path, text)
  return path


def right(prompt, completion, row):
  """Whether the completion ends in the row's number."""
  return data_lib.correct(completion, row['answer'])


def check(model, *, old_data='', old_prompts=0, **knobs):
  """Raises ValueError for knobs that do not go together, before any row."""
  if old_data and not old_prompts:
    raise ValueError(
      f'task.old_data={old_data!r}: expected task.old_prompts above 0, the '
      'number of its rows that are read'
    )
  texts.check(model, **knobs)


def prepare(**knobs):
  """Generates the data if there are none, and checks them; see `make_task`."""
  make_task(seed=0, **knobs)


@passes_to(texts.text_task)
def make_task(
  *, seed, workdir, data, dataset, old_data='', old_prompts=0, **knobs
):
  """The task, the same for every seed.

  Args:
    workdir: folder for the generated sums.
    data: a local file or a hub data set, see `data.rows`. '': generated sums.
    dataset: a name in `data.DATASETS`: how to read its rows.
    old_data: a file of the same format, for `old_prompts`. '': generated
      differences.
    old_prompts: number of the first rows of `old_data` that are a second task:
      demonstrations show them too, no arm trains on them, and they are the
      evaluation set 'old'. 0: there is none.
    knobs: keyword arguments of `texts.text_task`.
  Raises:
    ValueError: `old_data` has fewer rows.
  """
  del seed
  old = ()
  if old_prompts:
    rows = data_lib.task_rows(
      old_data or generated(workdir, differences), dataset, FIELDS
    )
    old = list(itertools.islice(rows, old_prompts))
    whole(1, len(old), of='of task.old_data: ', old_prompts=old_prompts)
  path = data or generated(workdir)
  return texts.text_task(
    (), right, FIELDS, old, data=path, dataset=dataset, **knobs
  )
