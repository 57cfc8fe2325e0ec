"""Reference log-probs are computed once per content, and read ever after."""

import concurrent.futures
import threading
import time

import numpy as np
import pytest

from align_jax.lab.reference_logps import annotated, content_hash
from align_jax.learn import batches


@pytest.fixture
def data(batch):
  return batches.take(batch.replace(ref_logps=None), np.arange(7) % 4)


@pytest.fixture
def annotate():
  """Counts its calls; the log-probs tell parameters and tokens."""

  def f(params, batch):
    f.calls += 1
    return batch.replace(ref_logps=params['w'] * batch.completions)

  f.calls = 0
  return f


def test_computed_once_and_in_order(data, annotate, tmp_path):
  settings = dict(config='c', folder=tmp_path, batch_size=3)
  first = annotated(data, {'w': 2.0}, annotate, **settings)
  assert annotate.calls == 3
  again = annotated(data, {'w': 2.0}, annotate, **settings)
  assert annotate.calls == 3
  for batch in (first, again):
    np.testing.assert_array_equal(batch.ref_logps, 2.0 * data.completions)
    np.testing.assert_array_equal(batch.prompts, data.prompts)
    assert batch.group_size == data.group_size


def test_who_asks_meanwhile_waits(data, annotate, tmp_path):
  both = threading.Barrier(2)

  def slow(params, batch):
    time.sleep(0.2)  # for the other to find nothing there
    return annotate(params, batch)

  def ask(_):
    both.wait()
    settings = dict(config='c', folder=tmp_path, batch_size=7)
    return annotated(data, {'w': 2.0}, slow, **settings)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first, second = pool.map(ask, range(2))
  assert annotate.calls == 1
  np.testing.assert_array_equal(first.ref_logps, second.ref_logps)


@pytest.mark.parametrize('what', ['params', 'data', 'config'])
def test_other_content_is_computed_anew(what, data, annotate, tmp_path):
  settings = dict(config='c', folder=tmp_path, batch_size=7)
  annotated(data, {'w': 2.0}, annotate, **settings)
  params = {'w': 3.0 if what == 'params' else 2.0}
  if what == 'data':
    data = data.replace(completions=data.completions.at[-1, -1].add(1))
  settings |= {'config': 'd'} if what == 'config' else {}
  found = annotated(data, params, annotate, **settings)
  assert annotate.calls == 2
  np.testing.assert_array_equal(found.ref_logps, params['w'] * data.completions)


def test_the_hash_tells_shapes_and_names_apart():
  zeros = np.zeros(4, np.float32)
  trees = [
    zeros,
    zeros.reshape(2, 2),
    zeros.astype(np.int32),
    {'a': zeros},
    {'b': zeros},
    [zeros[:2], zeros[2:]],
    np.float32(0),
    np.zeros(1, np.float32),
  ]
  assert len({content_hash('', tree) for tree in trees}) == len(trees)
