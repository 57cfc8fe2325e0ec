"""Which fields of `configs.base`'s `arm` a run reads."""

from align_jax.lab.arms import CORRECTION, SOURCES, TEACHER, sources_of
from align_jax.lab.fields import keys
from align_jax.lab.settings import KL, Critic, Run
from align_jax.lab.starts import needs_of
from align_jax.losses import LOSSES
from align_jax.losses.row import TEACHER as DISTILLED

ALL = frozenset(keys(Run))
CRITIC, BUDGET = keys(Critic), keys(KL)
POOLED = ('reweigh', 'pool', 'labels', 'judge', 'reward_scale', 'batch_size')
# Fields that not every source and loss reads.
SOME = {x for source in SOURCES.values() for x in source.reads}
SOME |= {*CRITIC, *TEACHER}


def reads(run):
  """Names of the fields that affect a run."""
  if run.pool.how:
    return set(POOLED) - _idle_labels(run)
  found = set(ALL - SOME) - {'pool'}
  found |= {x for source in sources_of(run) for x in source.reads}
  needs = needs_of(run.loss)
  if 'values' in needs:
    found |= set(CRITIC)
  if needs & DISTILLED:
    found |= set(TEACHER)
  found -= _idle_correction(run)
  if not run.kl.nats:
    found -= set(BUDGET[1:])
  if not run.teacher.context:
    found -= {'context_after'}
  return found - _idle_labels(run)


def _idle_correction(run):
  sampled = [s for s in sources_of(run) if 'parts' not in s.reads]
  known = all('correction' in s.reads for s in sampled)
  if not (known and LOSSES[run.loss.name].weighted):
    return set(CORRECTION)
  return {'correction_cap'} if run.correction.how in ('', 'ignore') else set()


def _idle_labels(run):
  labels, idle = run.labels, set()
  if labels.name != 'judge':
    idle |= {'judge'}
  if labels.truncated != 'penalise':
    idle |= {'truncation_penalty'}
  return idle


def idle(run):
  """Fields that the run's source and loss do not read."""
  return SOME - reads(run)


def unread(run):
  """Fields that the arm sets although the run does not read them.

  It may say what is so anyway: the labels of fixed data, and the policy that a
  pool is of. It may have fields of a budget that is switched off.
  """
  own = SOURCES[run.source.name].labels
  said = {'labels'} if own and run.labels.name == own else set()
  if not run.kl.nats and not run.pool.how:
    said |= set(BUDGET)
  if run.pool.how and run.source.name == 'reference':
    said |= {'source'}
  return sorted(run.set - reads(run) - said - {'reweigh'})


PROXY_SOME = {'opponents', 'combine', 'variance_weight'}


def proxy_reads(proxy):
  """Names in PROXY_SOME that a config's `proxy`, a dict, reads."""
  found = set()
  if LOSSES[proxy['loss']].rows == 'ordered':
    found |= {'opponents'}
  if proxy['members'] > 1:
    found |= {'combine'}
    if proxy['combine'] == 'uncertainty_weighted':
      found |= {'variance_weight'}
  return found
