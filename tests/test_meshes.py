"""A mesh computes what one device does, whatever it splits.

`python -m tests.meshes` does so for all of its meshes and methods.
"""

import meshes
from conftest import python

NEW = """
import json
import meshes

asked = dict(fsdp=2, rollout=2, context=2)
print(json.dumps(meshes.compare([asked], ['rloo'])))
"""


def test_rows_tokens_and_layers_may_be_split():
  """A loss with exact KLs, its gradient, and samples, in both forms."""
  gather, ring = python(NEW).values()
  for found in gather, ring:
    assert found.pop('tokens') == 0
    assert len(found) == 2 and max(found.values()) < 1e-4


def test_a_difference_would_be_seen():
  assert meshes.distance(1.0, 1.001) > meshes.TOLERANCE
