"""What the machine can do at most, asked of a process of its own."""

import sys

from experiments.peers import contest


class Machine:
  """Its limits: the best that was seen in any of the measurements."""

  def __init__(self, cfg, working_sets, scratch):
    spec = contest.spec_of(cfg, None, None, 'limits', scratch)
    self._sets = sorted(set(working_sets))
    self._contestant = contest.worker(
      'machine',
      sys.executable,
      'machine',
      {**spec, 'working_sets': self._sets},
      scratch / 'machine.log',
    )
    self._answers = [self._contestant.answer()]

  def look(self):
    self._answers.append(self._contestant.ask())

  @property
  def platform(self):
    return self._answers[0]['platform']

  @property
  def flops(self):
    return max(a['flops'] for a in self._answers)

  def bandwidth(self, moved):
    return max(a['bandwidth'][self._sets.index(moved)] for a in self._answers)

  def close(self):
    self._contestant.close()

  def describe(self):
    told = self._answers[0]
    how = 'measured in this run' if told['measured'] else 'of its data sheet'
    return (
      f'Limits, {how}: {self.flops / 1e9:,.0f} GFLOP/s in matrix products '
      f'({told["device"]}).'
    )
