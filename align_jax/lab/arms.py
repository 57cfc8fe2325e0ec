"""Sources of a run's batches, by the names in `configs.base`'s `arm`."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from align_jax import ops
from align_jax.lab import reference_logps, written
from align_jax.lab.labels import labelled_by
from align_jax.lab.placing import on_mesh
from align_jax.lab.streams import ARM
from align_jax.learn import buckets, sources, truncated
from align_jax.learn.step import PREVIOUS
from align_jax.learn.train import read_log
from align_jax.losses import LOSSES
from align_jax.policy.programs import (
  mixture_sampler,
  policy_in,
  policy_programs,
  sampler,
)


def _uniform_prompts(stage, run):
  prompts, size = stage.task.train_prompts, run.updates.batch_size

  def draw(step):
    rng = np.random.default_rng([stage.seed, ARM, step])
    return prompts[rng.integers(0, len(prompts), size)]

  return draw


def sampler_of(stage, sampling, group_size=None):
  """A run's sampler: (params, prompts, valid, key) -> Batch.

  Args:
    sampling: settings.Sampling.
    group_size: completions per prompt. None: those of `sampling`.
  """
  size = group_size or sampling.group_size
  return sampler(stage.task, size, sampling.rows_at_once, sampling.how)


def _mixture_sampler_of(stage, run, group_size=None):
  """A sampler of the geometric mixture: ((policy, reference), ...) -> Batch."""
  drawn = run.sampling
  size = group_size or drawn.group_size
  sample = mixture_sampler(stage.task, size, drawn.rows_at_once, drawn.how)
  return functools.partial(sample, share=run.source.mixture)


def _online(stage, run, sample, read, annotate=None):
  """A source that samples, labels and annotates."""
  task = stage.task
  annotate = annotate or policy_programs(task.model)[2]
  finish = functools.partial(
    truncated.TRUNCATED[run.labels.truncated],
    eos_id=run.sampling.how.ends(task.eos_id),
    penalty=run.labels.penalty,
  )
  prompts, reward = _uniform_prompts(stage, run), labelled_by(stage, run.labels)
  return sources.online(prompts, sample, reward, annotate, read, finish)


def policy_and_reference(state):
  """The two policies of a duel: (params, the reference's params)."""
  return policy_in(state), state.anchors['ref']


def _sampling(read):
  """A source of one policy's samples."""
  return lambda stage, run: _online(
    stage, run, sampler_of(stage, run.sampling), read
  )


def reference(stage, run):
  """Samples of the reference.

  The sampler's log-probs serve as `ref_logps` only in float32 and without
  truncation or temperature. At lower precision decoding and scoring differ by
  more than rounding.
  """
  draw, read = sampler_of(stage, run.sampling), sources.anchor('ref')

  def annotate(ref_params, batch):
    ops.require_own_samples(batch)
    return batch.replace(ref_logps=batch.sampler_logps)

  how = run.sampling.how
  exact = getattr(stage.task.model, 'dtype', '') == 'float32'
  exact = exact and how.own and not (how.dtype or how.cache_dtype)
  return _online(stage, run, draw, read, annotate if exact else None)


def teacher(stage, run):
  """Samples of the anchor 'teacher', the only one to see the run's context."""
  draw, told = sampler_of(stage, run.sampling), run.teacher

  def sample(params, prompts, valid, key):
    if not told.context:
      return draw(params, prompts, valid, key)
    longer = ops.insert(told.context, prompts, valid, told.after)
    batch = draw(params, *longer, key)
    return batch.replace(prompts=prompts, prompt_valid=valid)

  return _online(stage, run, sample, sources.anchor('teacher'))


def mixture(stage, run):
  """Samples of the geometric mixture of policy and reference (IPO-MD)."""
  sample = _mixture_sampler_of(stage, run)
  return _online(stage, run, sample, policy_and_reference)


def _duel(opponent):
  """A source of pairs: a completion of the policy, then one of an opponent."""

  def make(stage, run):
    draw = sampler_of(stage, run.sampling, 1)
    first = lambda both, *args: draw(both[0], *args)
    sample = sources.side_by_side(first, opponent(stage, run))
    return _online(stage, run, sample, policy_and_reference)

  return make


def _mixture_opponent(stage, run):
  return _mixture_sampler_of(stage, run, 1)


def _reference_opponent(stage, run):
  draw = sampler_of(stage, run.sampling, 1)
  return lambda both, *args: draw(both[1], *args)


def _fixed(stage, run, data, order):
  """Batches of fixed data. A reference that moves annotates each batch anew."""
  draw = buckets.offline(data, order, run.source.length_buckets)
  if 'ref' not in run.schedule.refresh_every:
    return draw
  _, _, annotate = policy_programs(stage.task.model)
  return lambda *args: annotate(args[0].anchors['ref'], draw(*args))


def _epochs(stage, run, pairs):
  return sources.epochs(pairs.num_prompts, run.updates.batch_size, stage.seed)


def golden_pairs(stage, run):
  """The fixed data set of golden-labelled pairs of the reference."""
  return _fixed(stage, run, stage.pairs, _epochs(stage, run, stage.pairs))


def written_pairs(stage, run):
  """As many golden pairs, with a completion of each of the run's `writers`."""
  size = run.updates.batch_size
  pairs = written.written_pairs(
    stage, run.source.writers, stage.pairs.num_prompts, size
  )
  return _fixed(stage, run, pairs, _epochs(stage, run, pairs))


def _of_file(name, field):
  """A source of what the task's own file holds, with the file's labels."""

  def make(stage, run):
    rows = getattr(stage.task, field)
    if rows is None:
      raise ValueError(f'{run.name}: source {name!r}: the task has none')
    order = _epochs(stage, run, rows)
    if 'ref' not in run.schedule.refresh_every:
      _, _, annotate = policy_programs(stage.task.model)
      rows = reference_logps.annotated(
        rows,
        stage.reference,
        annotate,
        config=stage.task.model,
        folder=stage.folder.parent / 'reference_logps',
        batch_size=run.updates.batch_size,
      )
    return _fixed(stage, run, rows, order)

  return make


def log_of_run(stage, run):
  """Batches that another run of this seed sampled, shuffled within windows."""
  order = sources.replay_order(
    run.schedule.steps,
    run.updates.batch_size,
    shuffle=run.source.shuffle or run.schedule.steps,
    seed=stage.seed,
  )
  log = read_log(stage.folder / run.source.log_of)
  steps, size = run.schedule.steps, run.updates.batch_size
  if log.num_prompts < steps * size:
    raise ValueError(
      f'{run.name}: steps={steps} of batch_size={size} replay more than '
      f'log_of={run.source.log_of!r} holds, {log.num_prompts} prompts'
    )
  return _fixed(stage, run, log, order)


def mixed(stage, run):
  """Batches of two sources, with half of the prompts each."""
  half = run.but(batch_size=run.updates.batch_size // 2)
  parts = (SOURCES[name].make(stage, half) for name in run.source.parts)
  return sources.mixed(*parts)


def hybrid(stage, run):
  """Pairs of the source `parts[0]`, and group_size fresh completions (HyPO)."""
  _, _, annotate = policy_programs(stage.task.model)
  pairs = SOURCES[run.source.parts[0]].make(stage, run.but(group_size=2))
  draw = sampler_of(stage, run.sampling)
  return sources.hybrid(pairs, draw, annotate, policy_in)


@dataclasses.dataclass(frozen=True)
class Source:
  """A row of SOURCES.

  Attributes:
    make: (stage, run) -> source.
    reads: fields of `configs.base`'s `arm` that it reads and others do not.
    rows: what a group contains, a name in `losses.row.ROWS`.
    anchor: the older copy of the params that it samples. '': none but 'ref'.
    labels: the only value of `labels`, where rows come with their own. '': they
      do not.
  """

  make: Callable
  reads: tuple
  rows: str = 'group'
  anchor: str = ''
  labels: str = ''


BUCKETS = ('length_buckets',)
CORRECTION = ('correction', 'correction_cap')
ONLINE = ('labels', 'judge', 'reward_scale', 'truncated', 'truncation_penalty')
ONLINE += CORRECTION
DUEL = (*ONLINE, 'rows_at_once', 'sampling')
GROUPS = (*DUEL, 'group_size')
TEACHER = ('teacher_of', 'context', 'context_after')

SOURCES = {
  'golden_pairs': Source(golden_pairs, BUCKETS, labels='golden'),
  'written_pairs': Source(
    written_pairs, (*BUCKETS, 'writers'), labels='golden'
  ),
  'file_pairs': Source(_of_file('file_pairs', 'pairs'), BUCKETS, labels='file'),
  'file_labels': Source(
    _of_file('file_labels', 'labelled'), BUCKETS, 'single', labels='file'
  ),
  'log': Source(log_of_run, (*BUCKETS, 'log_of', 'shuffle')),
  'policy': Source(_sampling(policy_in), GROUPS),
  'reference': Source(reference, GROUPS),
  'sampler': Source(
    _sampling(sources.anchor('sampler')), GROUPS, anchor='sampler'
  ),
  'one_step_stale': Source(
    _sampling(sources.anchor(PREVIOUS)), GROUPS, anchor=PREVIOUS
  ),
  'teacher': Source(teacher, (*GROUPS, *TEACHER), anchor='teacher'),
  'mixture': Source(mixture, (*GROUPS, 'mixture')),
  'policy_and_mixture': Source(
    _duel(_mixture_opponent), (*DUEL, 'mixture'), 'duel'
  ),
  'policy_and_reference': Source(_duel(_reference_opponent), DUEL, 'duel'),
  'mixed': Source(mixed, ('parts',)),
  'hybrid': Source(
    hybrid, ('parts', 'group_size', 'rows_at_once', 'sampling'), 'hybrid'
  ),
}


def sources_of(run):
  """The `SOURCES` entries of a run's source and of its parts."""
  name, parts = run.source.name, run.source.parts
  both = [name, *parts] if 'parts' in SOURCES[name].reads else [name]
  return [SOURCES[x] for x in both]


def make_source(stage, run):
  """The source of a run, with the rows that its loss needs in every group."""
  source = SOURCES[run.source.name].make(stage, run)
  if LOSSES[run.loss.name].rows == 'mismatched':
    _, _, annotate = policy_programs(stage.task.model)
    source = sources.mismatched(source, annotate)
  return on_mesh(source)
