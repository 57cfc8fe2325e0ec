"""What decides how much is forgotten: the KL, or whose samples one learns from?

  python -m experiments.suite.e18_forgetting --config=configs/toy.py \
    --workdir=runs/e18

Shenfeld et al. 2025 (RL's Razor, arXiv 2509.04259): RL forgets less than SFT at
equal new-task score, and the KL from the reference to the policy on the new
task says how much, whatever the algorithm. Chen et al. 2025 (Retaining by
Doing, arXiv 2510.18874): what protects is learning from one's own samples, not
the KL term. So policies are compared at equal KL, in both directions, and at
equal gold. The second task is one that the reference was taught with the first
and that no arm trains on.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from align_jax.compare import figures
from align_jax.compare.lines import lines_of
from align_jax.tasks import OLD
from experiments import claims, derived, measures, pages
from experiments.claims import Claim
from experiments.study import Study, main

BEST_OF = 32
FORWARD = 0.5, 1.5  # nats of forward KL at which arms are compared
ON = 'RLOO', 'on-policy DPO', 'distillation'
BEST = f'best-of-{BEST_OF} SFT'
OFF = 'expert SFT', 'oracle SFT', 'off-policy DPO'
EXPERT, ORACLE = 'expert', 'oracle'  # who writes for SFT
STRONG = 'RLOO', 'expert SFT'
# Times the config's SFT. With one the toy's reference knew little of the second
# task, so that there was little to forget. Chosen on a pilot seed.
TAUGHT = 4
AHEAD = 1.25  # the oracle is held at so many times the others' KL


def arms(cfg):
  """On-policy and off-policy arms under gold, and two teachers.

  The expert is trained without a budget, as far from the reference as another
  model may be. The oracle solves the task at little KL. SFT on the reference's
  own best samples is shown, and in no claim: on the toy it ends below a nat.
  """
  rloo, budget = derived.rloo(cfg), cfg['arm']['kl_budget']
  rate = rloo['learning_rate']
  dpo = {
    'labels': 'gold',
    'loss': 'dpo',
    'loss_kwargs': {'beta': 0.2},
    'learning_rate': 2 * rate,
  }
  best = {
    'labels': 'gold',
    'loss': 'raft',
    'loss_kwargs': {},
    'source': 'reference',
    'learning_rate': 2 * rate,
    'group_size': BEST_OF,
    'batch_size': max(1, cfg['arm']['batch_size'] // 8),
  }
  of = lambda teacher, loss, source: {
    'loss': loss,
    'loss_kwargs': {},
    'source': source,
    'labels': 'gold',
    'teacher_of': f'{teacher}/default',
    'learning_rate': rate,
  }
  return {
    'RLOO': rloo,
    'on-policy DPO': dpo,
    'off-policy DPO': {**dpo, 'source': 'reference'},
    BEST: best,
    EXPERT: derived.rloo(cfg, loss_kwargs={'beta': 0.0}, kl_budget=0.0),
    ORACLE: derived.rloo(cfg, kl_budget=AHEAD * budget),
    'expert SFT': of(EXPERT, 'sft', 'teacher'),
    'oracle SFT': of(ORACLE, 'sft', 'teacher'),
    'distillation': of(ORACLE, 'reverse_kl', 'policy'),
  }


def changes(cfg):
  """What is measured, and the second task where the task can have one."""
  asked = (*cfg['eval']['metrics'], 'forward_kl', 'demonstration_logp')
  changed = {'eval.metrics': tuple(dict.fromkeys(asked))}
  if 'old_prompts' in cfg['task']:
    changed['task.old_prompts'] = cfg['task']['eval_prompts']
    changed['eval.sets'] = (*cfg['eval']['sets'], OLD)
    changed['sft.steps'] = TAUGHT * cfg['sft']['steps']
  return changed


# --- What is kept, at equal KL or at equal gold -------------------------------


def second_task(evidence):
  """point -> gold on the second task above the reference's, per prompt.

  Raises:
    ValueError: it was not measured.
  """
  if not all(OLD in p.get('sets', ()) for p in evidence.points):
    raise ValueError(f'no gold reward on {OLD!r}, expected it in eval.sets')
  return measures.gain_on(evidence.points, OLD)


def reference_text(evidence):
  """point -> log-likelihood of demonstrations above the reference's."""
  del evidence
  return pages.metric('demonstration_logp')


def reverse(evidence, names):
  """The points as they are, and the config's window."""
  del names
  return evidence.points, evidence.cfg['report']['window']


def forward(evidence, names):
  """The points along the forward KL, and a window of it in nats."""
  del names
  return along(evidence.points, pages.metric('forward_kl')), FORWARD


def gold(evidence, names):
  """The points along the gold gained, and the upper half of what all gained.

  Raises:
    ValueError: an arm gained none.
  """
  gain = pages.gain(evidence.points)
  top = min(
    max(gain(p).mean() for p in run)
    for name in names
    for runs in evidence.runs_of(name).values()
    for run in runs
  )
  if not top > 0:
    raise ValueError(f'an arm of {", ".join(names)} gained no gold reward')
  return along(evidence.points, gain), (top / 2, top)


def along(points, axis):
  """The points with another number in the place of their KL."""
  return [
    {**p, 'kl_by_prompt': list(axis(p)), 'kl_budget': 0.0} for p in points
  ]


@dataclasses.dataclass(frozen=True)
class Kept:
  """Measures what some arms keep more than others where they are equal.

  Attributes:
    first, second: names of arms, whose means are compared.
    equal: `reverse`, `forward` or `gold`: in what they are equal.
    what: `second_task` or `reference_text`.
  """

  first: tuple
  second: tuple
  equal: Callable
  what: Callable = second_task

  def __call__(self, evidence):
    names = *self.first, *self.second
    evidence.require(*names)
    values = self.what(evidence)
    points, window = self.equal(evidence, names)
    compared = pages.compare(points, evidence.cfg, values)
    pairs = [(a, b) for a in self.first for b in self.second]
    measured = claims.at_common(compared, pairs, window)
    return measured.of(lambda matrix: matrix.mean(0))


def lost(evidence):
  """Gold of the second task below the reference's, mean of all arms: [S, E].

  At the KL where the config's window begins.
  """
  names = *ON, *OFF
  evidence.require(*names)
  compared = pages.compare(evidence.points, evidence.cfg, second_task(evidence))
  low, _ = evidence.cfg['report']['window']
  kept = [compared.arms[name].at([low]).values[:, :, 0] for name in names]
  return -np.mean(kept, 0)


# --- The page -----------------------------------------------------------------


def add_forgetting(page, evidence, folder):
  """Adds what is kept of the second task against the forward KL."""
  if not evidence.points:
    return
  cfg, names = evidence.cfg, [*ON, *OFF, BEST]
  budgets = cfg['report']['budgets']
  page.heading('What is kept of the second task')
  try:
    kept = second_task(evidence)
  except ValueError as error:
    page.note(f'{error}.')
  else:
    shown = [p for p in evidence.points if p['arm'] in names]
    points = along(shown, pages.metric('forward_kl'))
    compared = pages.compare(points, cfg, kept, budgets)
    lines = lines_of(compared, STRONG)
    page.figure(
      lambda width: figures.frontier_figure(
        width,
        lines,
        'forward KL on the new task (nats)',
        'gold of the second task, above the reference',
        FORWARD,
      ),
      folder / 'kept_vs_forward_kl.png',
      'gold kept of the second task against the forward KL, by arm',
      'One line for all arms would mean that the KL alone decides.',
    )


PAPERS = 'Shenfeld et al. 2025 (2509.04259)', 'Chen et al. 2025 (2510.18874)'
RAZOR, DOING = PAPERS
NUMBER = 'Difference in gold reward kept of the second task'

STUDY = Study(
  __file__,
  'E18',
  'What decides how much is forgotten?',
  (
    Claim(
      'something is forgotten',
      'What is learned on one task costs gold reward on another.',
      '; '.join(PAPERS),
      'Gold reward lost of the second task, mean of all arms',
      lost,
    ),
    Claim(
      'less at equal gold',
      'At equal new-task gold, arms that learn from their own samples forget '
      'less.',
      '; '.join(PAPERS),
      f'{NUMBER} at equal gold, mean of {", ".join(ON)} - mean of '
      f'{", ".join(OFF)}',
      Kept(ON, OFF, gold),
    ),
    Claim(
      'the KL alone',
      'At equal forward KL on the new task it does not matter whose samples '
      'they are.',
      RAZOR,
      f'{NUMBER} at equal forward KL, the same means',
      Kept(ON, OFF, forward),
      equal=True,
    ),
    Claim(
      'samples at equal KL',
      'At equal KL, the same loss forgets less on samples of the policy than '
      'of the reference.',
      DOING,
      f'{NUMBER} at equal reverse KL, on-policy DPO - off-policy DPO',
      Kept(('on-policy DPO',), ('off-policy DPO',), reverse),
    ),
    Claim(
      'reference text',
      'At equal KL, arms that learn from their own samples find demonstrations '
      'of the reference likelier.',
      DOING,
      'Difference in log-likelihood of demonstrations at equal reverse KL, '
      'nats per token, the same means',
      Kept(ON, OFF, reverse, reference_text),
      margin=0.02,
    ),
  ),
  'The second task shares all parameters and tokens with the first and has the '
  'same form, so that what is learned may carry over: where nothing is '
  'forgotten, gold on it cannot say who forgets less, and "the KL alone" is '
  "reproduced for want of forgetting. RL's Razor has SFT on answers of other "
  'models; the expert here is the same model, trained without a budget. An '
  'arm that is held at a KL gains gold there without more of it, so that equal '
  'gold is read in passing.',
  arms=arms,
  changes=changes,
  strong=STRONG,
  decides=('experiments/measures.py',),
  figure='kept_vs_forward_kl.png',
  sections=(add_forgetting,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
