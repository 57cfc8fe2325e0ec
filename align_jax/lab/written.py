"""Policies of a seed by name, and golden pairs of two that they wrote."""

from align_jax import tasks
from align_jax.lab import pairs
from align_jax.lab.named import REFERENCE, split
from align_jax.lab.streams import WRITTEN
from align_jax.learn import sources
from align_jax.learn.checkpoint import final_params, params_of
from align_jax.models import lora
from align_jax.policy.programs import policy_of, sampler


def params_named(stage, name):
  """The parameters of a policy of a seed.

  Args:
    name: see `named`.
  Raises:
    ValueError: the run trained adapters.
  """
  if name == REFERENCE:
    return stage.reference
  run, step = split(name)
  folder = stage.folder / run
  params = final_params(folder) if step is None else params_of(folder, step)
  if lora.KEY in params:
    raise ValueError(
      f'{name!r} trained adapters (lora.rank > 0), expected a run of all '
      'parameters'
    )
  return policy_of(params)


def written_pairs(stage, writers, num, size):
  """Pairs with a completion of each of two policies, labelled by gold.

  They are of the training prompts, and annotated by the reference.

  Args:
    writers: two names, see `named`.
    num: pairs.
    size: prompts sampled at once.
  Returns:
    Batch of `num` prompts with G = 2, on the host.
  """
  draw = sampler(stage.task, 1)
  of = lambda i: lambda both, *args: draw(both[i], *args)
  both = tuple(params_named(stage, name) for name in writers)
  prompts = tasks.Prompts(*stage.task.train_prompts[:])
  return pairs.sample_pairs(
    stage.task,
    stage.reference,
    prompts,
    stage.seed,
    WRITTEN,
    size,
    num,
    writers=(sources.side_by_side(of(0), of(1)), both),
  )
