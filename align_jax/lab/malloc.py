"""Memory that a process keeps from step to step."""

import ctypes

# Parameters of glibc's mallopt.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep():
  """Lets malloc keep what is freed, in one heap. Call it before JAX starts.

  On a CPU, XLA asks for the temporaries of a step in every step. glibc maps
  large ones and unmaps them again: all their pages are made and filled with
  zeros each time. The price is that the process stays as large as it has been,
  and that compiling leaves the heap full of holes: malloc takes long to find
  room for the temporaries of small programs, which it would not map anyway.
  Does nothing where malloc is another.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except AttributeError:
    return
  for parameter, value in (ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1):
    mallopt(parameter, value)
