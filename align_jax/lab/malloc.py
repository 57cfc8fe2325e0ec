"""Lets a process keep its freed memory between steps."""

import ctypes

# Parameters of glibc's mallopt.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep():
  """Lets malloc keep freed memory in one heap. Call it before JAX starts.

  On a CPU, XLA allocates the temporaries of a step in every step. glibc maps
  and unmaps large ones, so the kernel zeroes all their pages each time. Keeping
  them has two costs. The process stays at its peak size. Compiling fragments
  the heap, so malloc searches longer for the temporaries of small programs.
  Does nothing if malloc is not glibc's.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except AttributeError:
    return
  for parameter, value in (ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1):
    mallopt(parameter, value)
