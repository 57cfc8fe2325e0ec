"""Where do offline losses move the mass that no pair says anything about?

  python -m experiments.suite.e13_coverage --config=configs/toy.py \
    --workdir=runs/e13

Xu et al. 2024 (arXiv 2404.10719): DPO may raise responses that no pair covers,
a policy gradient with a KL does not. Song et al. 2024 (arXiv 2406.01462): a KL
on fresh samples is enough to hold them. Twice here: on eight prompts with eight
responses, and on the task, where golden pairs lack some tokens.
"""

import dataclasses

import numpy as np

from align_jax.compare.intervals import estimate
from align_jax.compare.report import show
from align_jax.files import read_record, write_record
from experiments import derived, tables
from experiments.claims import Claim, Gap
from experiments.study import Study, main

UNCOVERED = 2  # tokens that no golden pair contains
LEAKS, HOLDS = 1.3, 1.1  # mass that no pair covers, over the reference's
OFFLINE, HELD = ('dpo', 'ipo'), ('rloo', 'hypo')
METHODS = *OFFLINE, *HELD
# Of a nat on fresh samples, in HyPO. Chosen so that it moves at all, on a pilot
# seed.
KL_PRICE = 1e-3
WINDOW = 0.5, 1.5  # nats, which all arms pass
SEEDS = 6  # of the tables
TABLES = 'tables.json'


def arms(cfg):
  """DPO and IPO on the golden pairs, HyPO on the same, and RLOO.

  None but RLOO is held at a KL: what holds a run turns its beta, and a smaller
  beta leaves HyPO with its KL term alone, which returns it to the reference.
  """
  rloo = derived.arm_of(cfg, 'rloo', 'methods')
  ipo = {**derived.single(derived.arm_of(cfg, 'offline')), 'kl_budget': 0.0}
  [strength] = ipo['sweep']
  rate, beta = strength['learning_rate'], strength['loss_kwargs']['beta']
  like = lambda **hparams: dict(learning_rate=rate, loss_kwargs=hparams)
  dpo = {**ipo, 'loss': 'dpo', 'sweep': (like(beta=beta),)}
  hypo = {
    **dpo,
    'loss': 'hypo',
    'source': 'hybrid',
    'parts': ('golden_pairs',),
    'sweep': (like(beta=beta, kl_coef=KL_PRICE),),
  }
  return {
    'dpo': dpo,
    'ipo': ipo,
    'hypo': hypo,
    'rloo': derived.single(rloo, 1),
  }


def changes(cfg):
  return {'task.uncovered': UNCOVERED, 'report.window': WINDOW}


def tabled(workdir):
  """{method: mass of uncovered responses over the reference's, of each seed}.

  Trained once, and kept in the workdir.
  """
  path = workdir / TABLES
  if path.exists():
    return read_record(path)
  found = {name: [] for name in METHODS}
  for seed in range(SEEDS):
    task = tables.Tables(seed, tables.mlp, tables.init(seed, width=3))
    for name, ratios in found.items():
      ratios.append(float(task.uncovered(getattr(task, name)())))
  write_record(path, found)
  return found


def on_task(evidence, name):
  """The same of completions that contain an uncovered token, [S]."""

  def ratio(run):
    first, last = run[0], run[-1]
    if 'uncovered' not in first:
      raise ValueError(f'points of {name!r} have no number: uncovered')
    if not first['uncovered']:
      raise ValueError(f'the reference of {name!r} has no uncovered mass')
    return last['uncovered'] / first['uncovered']

  return evidence.each_run(name, ratio)


@dataclasses.dataclass(frozen=True)
class Mass:
  """What the uncovered mass of all methods is above a bound, or below: [S].

  Attributes:
    tables: whether it is that of the tables.
    sign: 1 above, of the method with the least; -1 below, of the other.
  """

  methods: tuple
  bound: float
  sign: int
  tables: bool

  def __call__(self, evidence):
    of = tabled(evidence.workdir) if self.tables else {}
    ratios = [
      np.array(of[name]) if self.tables else on_task(evidence, name)
      for name in self.methods
    ]
    return np.min([self.sign * (x - self.bound) for x in ratios], axis=0)


def add_masses(page, evidence, folder):
  """Adds each method's uncovered mass over the reference's."""
  page.heading('Mass that no pair covers, over the reference')
  of, rows = tabled(evidence.workdir), []
  shown = lambda x: show(estimate(np.reshape(x, (-1, 1)), False))
  for name in METHODS:
    row = [name, shown(of[name])]
    try:
      row.append(shown(on_task(evidence, name)))
    except ValueError as error:
      row.append(f'({error})')
    rows.append(row)
  page.table(['method', 'tables', 'task, at the end'], rows)
  page.note(
    f'Tables: {SEEDS} seeds of eight prompts and responses; the policy is an '
    'MLP, the reward a table fitted to the pairs. Task: completions with any '
    f'of {UNCOVERED} tokens that golden pairs lack. 95% intervals over seeds.'
  )


XU = 'Xu et al. 2024 (2404.10719), sec. 4.2'
SONG = 'Song et al. 2024 (2406.01462)'
OVER, UNDER = f'over {LEAKS:g}', f'under {HOLDS:g}'
RATIO = "Uncovered mass over the reference's"

STUDY = Study(
  __file__,
  'E13',
  'Where do offline losses move what no pair covers?',
  (
    Claim(
      'leak in tables',
      'DPO and IPO raise responses that no pair covers, in an MLP.',
      XU,
      f'{RATIO}, {OVER}, of the one that has less',
      Mass(OFFLINE, LEAKS, 1, tables=True),
    ),
    Claim(
      'hold in tables',
      'RLOO with a KL and HyPO do not, there.',
      f'{XU}; {SONG}',
      f'{RATIO}, {UNDER}, of the one that has more',
      Mass(HELD, HOLDS, -1, tables=True),
    ),
    Claim(
      'leak',
      'DPO and IPO raise completions with tokens that no pair contains.',
      XU,
      f'{RATIO}, {OVER}, of the one that has less',
      Mass(OFFLINE, LEAKS, 1, tables=False),
    ),
    Claim(
      'hold',
      'RLOO with a KL and HyPO do not.',
      f'{XU}; {SONG}',
      f'{RATIO}, {UNDER}, of the one that has more',
      Mass(HELD, HOLDS, -1, tables=False),
    ),
    Claim(
      'hypo',
      'A KL on fresh samples makes DPO better at equal KL.',
      SONG,
      'Difference in gold reward at equal KL, hypo - dpo',
      Gap('hypo', 'dpo'),
    ),
  ),
  'In a table what no pair holds can only lose: the leak is through parameters '
  'that responses share, and on the task two tokens share all but their '
  'embeddings with the others. The reference draws them often, and what moves '
  'towards the completions of pairs leaves them. What an uncovered token is '
  'worth is drawn like that of all others. HyPO has one price of KL: far below '
  'it is DPO, and far above it stays at the reference.',
  arms=arms,
  changes=changes,
  strong=('dpo', 'hypo'),
  decides=('experiments/tables.py',),
  sections=(add_masses,),
)
runs, report = STUDY.runs, STUDY.report

if __name__ == '__main__':
  main(STUDY)
