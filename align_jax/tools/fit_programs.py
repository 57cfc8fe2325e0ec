"""The programs that a run of a config executes, and what each is given.

They are those of the lab, built by its functions. The arguments are shapes that
say where they lie, so nothing is allocated.
"""

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from align_jax import sharding, tasks
from align_jax.lab import protocol, setups, starts, steps
from align_jax.lab.arms import SOURCES, sources_of
from align_jax.lab.labels import published_judges
from align_jax.lab.settings import Run
from align_jax.lab.stages import Stage
from align_jax.learn import step
from align_jax.models import initial
from align_jax.models.interface import from_fields, of, shapes
from align_jax.policy import programs
from align_jax.policy.programs import Sampling
from align_jax.tools import fit_models
from align_jax.types import Batch, Params, Prompts

# Of a task of preferences, all that its programs read.
SIZES = 'prompt_len', 'completion_len', 'eval_prompts'


class Program(NamedTuple):
  """One compiled program of a run."""

  name: str
  f: Callable  # jitted
  arguments: tuple
  beside: int  # bytes on each device that it does not read, and that stay there
  host: int  # bytes in the memory of hosts, for each device
  copies: int  # bytes of what it certainly stores: gradients, weights to sample
  rows: int  # completions
  tokens: int  # drawn one after another; 0: it samples none
  table: tuple[int, ...] = ()  # see `fit_hlo.loops`
  plain: Any = None  # an update without `remat`, jitted
  unfused: Any = None  # the same without a kernel for attention


@dataclasses.dataclass(frozen=True)
class Abstract:
  """Shapes in place of arrays, on a mesh."""

  mesh: Mesh

  def place(self, tree, axes):
    """Shapes by their tuples of logical axes, as `sharding.place` does."""

    def put(path, x, names):
      label = jax.tree_util.keystr(path)
      sharding.check(x.shape, names, self.mesh.shape, label)
      return self._on(x, sharding.spec(names))

    return jax.tree_util.tree_map_with_path(put, tree, axes)

  def like(self, tree, params):
    """Places a tree whose leaves' paths end like those of `params`.

    An optimizer's moments lie as what they are moments of; the rest is
    replicated.
    """
    known = {path: x for path, x in jax.tree_util.tree_leaves_with_path(params)}

    def put(path, x):
      for n in range(len(path)):
        same = known.get(path[n:])
        if same is not None and same.shape == x.shape:
          return self._on(x, same.sharding.spec)
      return self._on(x, PartitionSpec())

    return jax.tree_util.tree_map_with_path(put, tree)

  def replicated(self, tree):
    """Every device has all of the tree."""
    return jax.tree.map(lambda x: self._on(x, PartitionSpec()), tree)

  def rows(self, tree):
    """Split by rows, as `sharding.place_batch` does."""
    return jax.tree.map(lambda x: self._on(x, sharding.spec(('batch',))), tree)

  def to_host(self, tree):
    """The same in the memory of hosts, as `sharding.to_host` does."""
    return jax.tree.map(
      lambda x: self._on(x, x.sharding.spec, sharding.HOST), tree
    )

  def _on(self, x, spec, kind='device'):
    place = NamedSharding(self.mesh, spec, memory_kind=kind)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def shape(*size, dtype=jnp.float32):
  """The shape of an array that is not there."""
  return jax.ShapeDtypeStruct(size, dtype)


def bytes_on_device(tree) -> int:
  """Of shapes on a mesh: what each device has. Numbers count nothing."""
  return _bytes(tree, away=False)


def bytes_on_host(tree) -> int:
  """The same of what is in the memory of hosts, for each device."""
  return _bytes(tree, away=True)


def _bytes(tree, away):
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
    if hasattr(x, 'sharding')
    and (x.sharding.memory_kind == sharding.HOST) == away
  )


def batch_of(prompts, group, prompt_len, length) -> Batch:
  """The shapes of a Batch."""
  rows = prompts * group
  return Batch(
    prompts=shape(prompts, prompt_len, dtype=jnp.int32),
    prompt_valid=shape(prompts, prompt_len, dtype=bool),
    completions=shape(rows, length, dtype=jnp.int32),
    valid=shape(rows, length, dtype=bool),
    mask=shape(rows, length, dtype=bool),
    rewards=shape(rows),
    group_size=group,
  )


def fields_of(model):
  """As `initial.model_fields`, without a download where they are known."""
  known = fit_models.fields(model)
  return initial.model_fields(model) if known is None else known


def model_of(settings):
  """The model of a config's `model`."""
  return from_fields(**fields_of(settings.model))


def scorer_of(fields, policy):
  """A proxy of its own size, without a download where it is known."""
  known = fit_models.fields(fields)
  if known is None:
    return initial.scorer(fields, policy, 'proxy.model')
  return from_fields(**{**known, 'head': 'scalar'})


def judges_on_device(run, mesh) -> dict[str, int]:
  """{field: bytes on each device} of the published judges that a run asks.

  Each host has all of a judge, split over its own devices. One of unknown size
  has 0.
  """
  devices = mesh.devices.ravel()
  local = [x for x in devices if x.process_index == devices[0].process_index]
  return {
    field: (fit_models.judge_bytes(judge) or 0) // len(local)
    for field, judge in published_judges(run).items()
  }


def task_of(shared, seed=0) -> tasks.Task:
  """The task of a config, as far as its sizes go."""
  knobs = shared.task
  if not knobs.keys() >= set(SIZES):
    with tempfile.TemporaryDirectory() as folder:
      owners = dict.fromkeys(setups.depends_on(shared), '')
      setup = setups.Setup(shared, pathlib.Path(folder), '', owners)
      return setups.make_task(setup, seed)
  size = knobs['eval_prompts'], knobs['prompt_len']
  prompts = Prompts(
    np.broadcast_to(np.int32(0), size), np.broadcast_to(True, size)
  )
  return tasks.Task(
    model=model_of(shared),
    max_new_tokens=knobs['completion_len'],
    eos_id=0,
    train_prompts=prompts,
    eval_prompts=prompts,
    demonstrations=None,
    gold=None,
    decode=None,
  )


def params_of(shared, model) -> Params:
  """Shapes of the reference, in the dtype that they are loaded with."""
  dtype = shared.model.get('param_dtype') or 'float32'
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes(model)
  )


class Programs:
  """The programs of a run on a mesh."""

  def __init__(self, run: Run, mesh: Mesh, reference_memory: str):
    steps.forget()  # those of another mesh
    self.run, self.on = run, Abstract(mesh)
    self.task = task = task_of(run.shared)
    axes = of(task.model).axes(task.model)
    self.near = self.on.place(params_of(run.shared, task.model), axes)
    self.reference, self.axes = self.near, axes
    self.judges = judges_on_device(run, mesh)
    if reference_memory == 'host':
      self.reference = self.on.to_host(self.near)
    self.sizes = task.eval_prompts.tokens.shape[1], task.max_new_tokens
    self.stage: Any = Stage(
      None, run.seed, task, self.reference, None, None, None, None, None
    )
    self.state, self.tx = self._state()

  def _state(self):
    tx = protocol.optimizer_for(self.stage, self.run)
    axes = {}

    def trained(reference):
      stage = dataclasses.replace(self.stage, reference=reference)
      params, found = starts.trained_of(stage, self.run)
      axes.update(found)
      return params

    bare = lambda x: shape(*x.shape, dtype=x.dtype)
    shapes = jax.eval_shape(trained, jax.tree.map(bare, self.near))
    params = self.on.place(shapes, {name: axes[name] for name in shapes})
    anchors = starts.anchors_of(self.stage, self.run, params, self.near)
    state = jax.eval_shape(
      lambda p, a: step.init_state(p, tx, a, starts.stats_of(self.run)),
      params,
      anchors,
    )
    return state.replace(
      step=self.on.replicated(state.step),
      stats=self.on.replicated(state.stats),
      params=params,
      anchors=anchors,
      opt_state=self.on.like(state.opt_state, params),
    ), tx

  @property
  def sampled(self) -> bool:
    """Whether the run draws the completions that it learns from."""
    return any('labels' in s.reads for s in sources_of(self.run))

  def _batch(self, prompts, group):
    return batch_of(prompts, group, *self.sizes)

  def _resident(self) -> dict[int, int]:
    """{id of a shape: its bytes} of all that stays on a device."""
    proxy = self.run.shared.proxy
    models = [self.state, self.reference]
    if proxy.verifier == 'transformer':
      models += [self._copy() for _ in range(proxy.members)]
    if proxy.verifier == 'sized':
      config = scorer_of(proxy.model, self.task.model)
      place = lambda: self.on.place(shapes(config), of(config).axes(config))
      models += [place() for _ in range(proxy.members)]
    leaves = jax.tree.leaves(models)
    return {id(x): bytes_on_device(x) for x in leaves}

  def _program(self, name, f, arguments, batch, copies=0, tokens=0):
    kept = self._resident()
    read = {id(x) for x in jax.tree.leaves(arguments)}
    beside = sum(size for key, size in kept.items() if key not in read)
    beside += sum(self.judges.values())
    rows = len(batch.rewards)
    away = bytes_on_host(self.reference)
    return Program(name, f, arguments, beside, away, copies, rows, tokens)

  def train(self) -> Program:
    """The update of the run."""
    run, model = self.run, self.task.model
    update, reads_anchors = self._update(model)
    group = run.sampling.group_size if self.sampled else self._offline_group()
    batch = self._batch(run.updates.batch_size, group)
    logps = shape(*batch.valid.shape)
    batch = self.on.rows(batch.replace(ref_logps=logps, sampler_logps=logps))
    anchors = self.state.anchors if reads_anchors else {}
    numbers = steps.numbers(run.loss, run.optimizer)
    arguments = self.state.replace(anchors={}), anchors, batch, numbers
    gradients = bytes_on_device(self.state.params)
    program = self._program('train', update, arguments, batch, gradients)
    return program._replace(
      plain=self._form(remat=False),
      unfused=self._form(remat=False, attention='plain'),
    )

  def _form(self, **changed):
    """The update of the model with other fields, of those that it has."""
    model = self.task.model
    own = {x.name for x in dataclasses.fields(model)} & changed.keys()
    changed = {name: changed[name] for name in own}
    return self._update(dataclasses.replace(model, **changed))[0]

  def _update(self, model):
    """The jitted update of a model, and whether it reads the anchors."""
    task = dataclasses.replace(self.task, model=model)
    stage = dataclasses.replace(self.stage, task=task)
    forward, reads_anchors = protocol.forward_for(stage, self.run)
    train_step = protocol.train_step_for(
      stage, self.run, forward, reads_anchors, self.state
    )
    return train_step.program, reads_anchors

  def _offline_group(self):
    return 1 if SOURCES[self.run.source.name].rows == 'single' else 2

  def _sampler(self, name, params, prompts, group, how):
    f = programs.sampler(self.task, group, self.run.sampling.rows_at_once, how)
    given = self._batch(prompts, group)
    host = self.on.replicated((given.prompts, given.prompt_valid))
    key = self.on.replicated(jax.eval_shape(lambda: jax.random.key(0)))
    arguments = params, *host, key
    tokens = self.task.max_new_tokens
    copies = self._weights(how.dtype)
    program = self._program(name, f, arguments, given, copies, tokens)
    return program._replace(table=self._table())

  def _table(self):
    """The shape of the embedding on a device; () if it is the head too."""
    if getattr(self.task.model, 'tie_embeddings', True):
      return ()
    with sharding.sampling():
      lies = NamedSharding(self.on.mesh, sharding.spec(('vocab', 'embed')))
    return lies.shard_shape(self.near['embed'].shape)

  def _policy(self):
    """The parameters of the policy; merged ones are as large as a base."""
    if self.run.lora.rank:
      return self._copy()
    return programs.policy_of(self.state.params)

  def _copy(self):
    """Of the reference, on the devices."""
    return jax.tree.map(lambda x: self.on._on(x, x.sharding.spec), self.near)

  def _weights(self, dtype=''):
    """Bytes on each device of the weights as sampling lays them out."""
    dtype = dtype or getattr(self.task.model, 'dtype', 'float32')
    cast = lambda x: shape(*x.shape, dtype=dtype)
    with sharding.sampling():
      placed = self.on.place(jax.tree.map(cast, self.near), self.axes)
    return bytes_on_device(placed)

  def sample(self) -> Program:
    """Rollouts, or the golden pairs of a run that samples none."""
    drawn, size = self.run.sampling, self.run.updates.batch_size
    if not self.sampled:
      return self._sampler('sample', self.reference, size, 2, Sampling())
    own = self.run.source.name != 'reference'
    params = self._policy() if own else self.reference
    return self._sampler('sample', params, size, drawn.group_size, drawn.how)

  def score(self) -> Program:
    """Log-probs of a batch under the reference."""
    run = self.run
    group = run.sampling.group_size if self.sampled else 2
    batch = self.on.rows(self._batch(run.updates.batch_size, group))
    f = jax.jit(programs.policy_programs(self.task.model).logps)
    return self._program('score', f, (self.reference, batch), batch)

  def evaluate(self) -> Program:
    """Exact KLs of the eval prompts' samples."""
    prompts = len(self.task.eval_prompts)
    batch = self._batch(prompts, self.run.shared.eval.samples)
    batch = self.on.rows(batch)
    f = programs.exact_kls(self.task.model)
    arguments = self._policy(), self.reference, batch
    return self._program('evaluate', f, arguments, batch)

  def evaluate_sample(self) -> Program:
    """Samples of the eval prompts."""
    prompts, size = len(self.task.eval_prompts), self.run.shared.eval.samples
    name, how = 'sample to evaluate', Sampling()
    return self._sampler(name, self._policy(), prompts, size, how)


PROGRAMS = {  # what --programs may name
  'train': Programs.train,
  'sample': Programs.sample,
  'score': Programs.score,
  'evaluate': Programs.evaluate,
  'evaluate_sample': Programs.evaluate_sample,
}
