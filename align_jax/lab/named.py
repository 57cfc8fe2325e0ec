"""Names of a seed's policies.

'reference'; 'ARM/CONFIGURATION', the last policy of a run; or
'ARM/CONFIGURATION@STEP', one that the run kept, see `keep.steps`.
"""

REFERENCE = 'reference'


def split(name):
  """'ARM/CONFIGURATION@STEP' -> its run and step; None: its last policy."""
  run, at, step = name.partition('@')
  return run, int(step) if at else None


def is_policy(name):
  """Whether a value has the form of a policy's name."""
  if not isinstance(name, str):
    return False
  run, at, step = name.partition('@')
  kept = not at or (step.isdigit() and int(step) > 0)
  return name == REFERENCE or ('/' in run and kept)
