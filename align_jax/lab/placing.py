"""Places states and batches on the mesh, if there is one."""

import jax

from align_jax import sharding
from align_jax.learn import step


def start_state(params, tx, axes, anchors=None, stats=None):
  """A TrainState at step 0, on the mesh if there is one.

  Args:
    tx: the optimizer.
    axes: logical axes of the params. An anchor may hold a subset of them.
    anchors: {name: params}.
  """
  anchors, mesh = anchors or {}, sharding.current_mesh()
  place = lambda tree: sharding.place(tree, {k: axes[k] for k in tree}, mesh)
  params = place(params)
  anchors = {name: place(tree) for name, tree in anchors.items()}
  state = step.init_state(params, tx, anchors, stats)
  if mesh is None and sharding.on_host(anchors):
    # Arrays in a host's memory are committed to its device. So is what comes of
    # them, and a program would be compiled again for it.
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding), state)
  return sharding.on_mesh(state, mesh)


def on_mesh(source):
  """The source with its batches split over the mesh, if there is one."""
  mesh = sharding.current_mesh()
  if mesh is None:
    return source
  return lambda *args: sharding.place_batch(source(*args), mesh)


def replicated(params):
  """Logical axes of parameters of which every device has all."""
  return jax.tree.map(lambda x: (None,) * x.ndim, params)
