"""Setups: the settings of a variant's stages, and the folders that hold them.

Variants of an experiment share each part of a stage that has equal settings.
The part belongs to the first of them.
"""

import dataclasses

from align_jax import paths, tasks
from align_jax.files import read_record, write_record
from align_jax.lab import groups
from align_jax.lab.fields import with_absent
from align_jax.lab.groups import GROUPS
from align_jax.lab.settings import SHARED, Shared
from align_jax.models import initial
from align_jax.models.vocabulary import all_ends

OWNERS = 'owners.json'  # in a variant's folder


@dataclasses.dataclass(frozen=True)
class Telemetry:
  """What is recorded of runs, and changes none of their numbers.

  Attributes:
    trackers: names in `trackers.TRACKERS`.
    profile: (first, last) updates of a run that are traced. (): none.
  """

  trackers: tuple = ()
  profile: tuple = ()


@dataclasses.dataclass(frozen=True)
class Setup:
  """Settings and folders of one variant's stages.

  Attributes:
    variant: its name. '': the experiment has none.
    owners: {part of a stage: the variant it belongs to}.
    reference_memory: where the reference lies, 'device' or 'host'.
    lender: the Setup of the variant whose proxy it uses. None: it has its own.
  """

  shared: Shared
  workdir: paths.Path
  variant: str
  owners: dict
  telemetry: Telemetry = Telemetry()
  reference_memory: str = 'device'
  lender: 'Setup | None' = None

  def folder(self, part, number):
    """The folder with one part of a seed's stage."""
    return self.workdir / self.owners[part] / f'seed{number}'

  @property
  def task_folder(self):
    """The folder of the variant's task."""
    return self.workdir / self.owners['task'] / 'task'


def depends_on(shared):
  """{part of a stage: settings that it depends on, beside the seed}."""
  task = shared.task, shared.model, shared.sft.batch_size
  sft = task, shared.sft
  sampled = sft, shared.batch_size
  pairs, held_out = (sampled, shared.golden), (sampled, shared.eval.pairs)
  return dict(
    task=task,
    sft=sft,
    pairs=pairs,
    held_out=held_out,
    proxy=(pairs, held_out, shared.proxy),
  )


def setups_of(
  shared, workdir, telemetry=Telemetry(), reference_memory='device'
):
  """{variant: Setup} of an experiment.

  Args:
    shared: {variant: settings.Shared}, in order. The only key is '' if there
      are no variants.
  """
  parts = {name: depends_on(one) for name, one in shared.items()}

  def owner(name, part):
    if part == 'proxy':
      name = shared[name].proxy.variant or name
    return next(n for n in shared if parts[n][part] == parts[name][part])

  def setup(name):
    lender = shared[name].proxy.variant
    return Setup(
      shared[name],
      paths.path(workdir),
      name,
      {part: owner(name, part) for part in parts[name]},
      telemetry,
      reference_memory,
      setup(lender) if lender else None,
    )

  return {name: setup(name) for name in shared}


def write_owners(setups):
  """Writes to each variant's folder who owns its parts."""
  for name, setup in setups.items():
    path = setup.workdir / name / OWNERS
    write_record(path, setup.owners)


def opened(folder):
  """The Setup whose settings are in a folder.

  Raises:
    FileNotFoundError: there are no settings.
    ValueError: the settings are wrong.
  """
  cfg = read_record(folder / 'settings.json')
  for name in SHARED:
    cfg[name] = with_absent(GROUPS[name], cfg[name])
  shared = groups.shared({'arm': {'batch_size': 1}, **cfg})  # it may lack it
  path = folder / OWNERS
  if not path.exists():
    return Setup(shared, folder, '', dict.fromkeys(depends_on(shared), ''))
  owners, lender = read_record(path), shared.proxy.variant
  lent = {'lender': opened(folder.parent / lender)} if lender else {}
  return Setup(shared, folder.parent, folder.name, owners, **lent)


def make_task(setup, seed):
  """The task of a seed; a checkpoint's own ends of texts end completions."""
  task = tasks.make_task(seed=seed, **task_knobs(setup))
  ends = all_ends(task.eos_id, initial.ends(setup.shared.model))
  return dataclasses.replace(task, eos_id=ends)


def task_knobs(setup):
  """The arguments of `tasks.make_task`, except the seed."""
  shared = setup.shared
  model, knobs = shared.model, dict(shared.task)
  if model.get('checkpoint') and knobs.get('tokenizer') == '':
    knobs['tokenizer'] = initial.tokenizer_of(model)
  # Some kinds of RoPE are scaled for this length.
  length = knobs.get('prompt_len', 0) + knobs.get('completion_len', 0)
  return dict(
    workdir=setup.task_folder,
    model=initial.model_fields(model, length),
    sft_batch_size=shared.sft.batch_size,
    **knobs,
  )
