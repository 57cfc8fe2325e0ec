"""What is kept of a step's memory."""

import platform
import resource

import pytest
from conftest import python

STEPS = """
import resource
import jax
from align_jax.lab import malloc

if {keep}:
  malloc.keep()
x = jax.numpy.ones(2**24)
count = lambda i, y: y.at[i].add(1)  # in place, hence of a copy
f = jax.jit(lambda x: jax.lax.fori_loop(0, 9, count, x + 1).sum())
faults = []
for _ in range(70):
  f(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[9])
"""


def faults(keep):
  """Pages made anew by 60 runs of a program with 64 MiB of temporaries."""
  return python(STEPS.format(keep=keep), XLA_FLAGS='')


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_steps_reuse_the_memory_of_those_before():
  pages = 60 * 2**26 // resource.getpagesize()
  assert faults(keep=True) < pages / 3 < pages / 2 < faults(keep=False)
