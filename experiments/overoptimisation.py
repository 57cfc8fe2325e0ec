"""Gold reward under many proxies, as a law of the KL: what claims measure.

Arms are named by their proxy, a variant of the config, and by what optimises
it: best-of-n or a policy.
"""

import dataclasses
import functools

import numpy as np

from align_jax.compare import intervals, laws, readings
from align_jax.compare.points import last_points
from experiments import derived, pages
from experiments.claims import jackknife, number_of

BEST, POLICY = 'best_of_n', 'rloo'
KINDS = {BEST: 'best_of_n', POLICY: 'policy'}
PRICES = 0.5, 0.3, 0.2, 0.13, 0.08  # of a nat, in deviations of the reward
FEW_PRICES = PRICES[::2]
POOLS = 4  # pools of the config in one of best-of-n
# Nats below which the law of policies, whose slope is infinite at 0, is not
# fitted. Chosen, not measured.
LEAST_KL = 0.1
WITHIN = 0.1  # of the largest gain, of a prediction that holds
RULES = 'align_jax/compare/laws.py', 'experiments/overoptimisation.py'


@dataclasses.dataclass(frozen=True)
class Proxy:
  """A proxy of a grid: what differs from the config's own.

  Attributes:
    verifier: a name in `lab.proxies.VERIFIERS`. '': that of the config.
    share: of the config's number of golden pairs.
    noise: share of flipped labels.
    part: of a `sized` one: the gold judge is so many times as wide. Where the
      policy is a published checkpoint, so is the proxy: that of a variant of
      the config, such as `proxy 4x narrower`.
  """

  verifier: str = ''
  share: float = 1.0
  noise: float = 0.0
  part: int = 0

  def name(self, cfg):
    noise = f', noise {self.noise:g}' if self.noise else ''
    size = f' {self.size(cfg)}' if self.part else ''
    return f'{self.verifier_in(cfg)}{size} {self.pairs(cfg)}{noise}'

  def kind(self, cfg):
    """What it is but for its pairs."""
    wide = '' if cfg['model'].get('checkpoint') else ' wide'
    size = f', {self.size(cfg)}{wide}' if self.part else ''
    flipped = f', {self.noise:.0%} flipped' if self.noise else ''
    return f'{self.verifier_in(cfg)}{size}{flipped}'

  def verifier_in(self, cfg):
    return self.verifier or cfg['proxy']['verifier']

  def pairs(self, cfg):
    return int(self.share * cfg['golden']['pairs'])

  def size(self, cfg):
    """Its width, in a name: a number, or told by gold's."""
    if cfg['model'].get('checkpoint'):
      return f'{self.part}x narrower' if self.part > 1 else 'as wide'
    return str(judge_of(cfg)['dim'] // self.part)

  def changes(self, cfg):
    return {
      'golden.pairs': self.pairs(cfg),
      'golden.label_noise': self.noise,
      **derived.proxy_of(cfg, self.verifier_in(cfg)),
      **({'proxy.model': self.model(cfg)} if self.part else {}),
    }

  def model(self, cfg):
    """One layer of its width, with heads as the gold judge has them.

    Or a published checkpoint.

    Raises:
      ValueError: the config names none.
    """
    if cfg['model'].get('checkpoint'):
      return published(cfg, f'proxy {self.size(cfg)}')
    width = int(self.size(cfg))
    head = min(judge_of(cfg)['head_dim'], width)
    heads = width // head
    return dict(
      dim=width,
      num_layers=1,
      num_heads=heads,
      num_kv_heads=heads,
      head_dim=head,
      mlp_dim=2 * width,
    )


def judge_of(cfg):
  """The fields of a learned gold judge.

  Raises:
    ValueError: gold is not learned.
  """
  judge = cfg['task'].get('judge_model')
  if not judge:
    raise ValueError(
      'task.judge_model: expected a learned gold judge, of which proxies are '
      'parts, as in configs/toy_learned_gold.py'
    )
  return judge


def published(cfg, name):
  """The proxy.model of a variant of the config."""
  try:
    return cfg['variants'][name]['proxy']['model']
  except KeyError:
    raise ValueError(
      f'variants: expected {name!r} with a proxy.model, as in '
      'configs/gao_tldr.py'
    ) from None


def arms_of(cfg, prices):
  """Best-of-n, and the config's RLOO at several prices of KL."""
  rloo = {**derived.arm_of(cfg, POLICY, 'methods'), 'kl_budget': 0.0}
  first = rloo.pop('sweep', ({},))[0]
  rest = first.get('loss_kwargs', {})
  fixed = {k: v for k, v in first.items() if k != 'loss_kwargs'}
  rloo['loss_kwargs'] = {**rloo.get('loss_kwargs', {}), **rest}
  prices = [{'loss_kwargs': {**rloo['loss_kwargs'], 'beta': b}} for b in prices]
  pool = dict(reweigh='best_of_n', pool=POOLS * cfg['arm']['pool'])
  return {
    BEST: dict(source='reference', **pool),
    POLICY: {**rloo, **fixed, 'sweep': tuple(prices)},
  }


def changes(cfg):
  """What such a study changes of a config."""
  kls = 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0
  return {'report.budgets': kls}


class Seen:
  """The points of one arm under one proxy.

  Attributes:
    runs: {seed: points in order of KL}, the reference first: for each n, or the
      last of each policy.
    gain: point -> gold reward above the reference's, per prompt.
  """

  def __init__(self, evidence, proxy, arm):
    self.kind = KINDS[arm]
    self.arm = f'{proxy.name(evidence.cfg)} {arm}'
    found = [p for p in evidence.points if p['arm'] == self.arm]
    if not found:
      raise ValueError(f'no points of {self.arm!r}')
    self.gain = pages.gain(evidence.points)
    self.runs = {}
    for seed in sorted({p['seed'] for p in found}):
      own = [p for p in found if p['seed'] == seed]
      start = next(p for p in own if p['step'] == 0)
      ends = own if arm == BEST else last_points(own).values()
      rest = [p for p in ends if p['step']]
      kl = lambda p: p['kl_seq_nats']
      self.runs[seed] = [start, *sorted(rest, key=kl)]

  @functools.cached_property
  def fitted(self):
    """For each seed KLs, gains and their errors of the points of a fit."""
    rows = []
    for run in self.runs.values():
      gains = np.array([self.gain(p) for p in run])
      errors = gains.std(1, ddof=1) / gains.shape[1] ** 0.5
      kls = np.array([p['kl_seq_nats'] for p in run])
      far = kls > LEAST_KL
      rows.append((kls[far], gains.mean(1)[far], errors[far]))
    return rows

  def over_seeds(self, f):
    """Pseudo-values [S] of f(kind, KLs, gains, errors) of all seeds' points."""

    def pooled(seeds):
      rows = [self.fitted[seed] for seed in seeds]
      return f(self.kind, *map(np.concatenate, zip(*rows)))

    return jackknife(pooled, len(self.fitted))

  @property
  def means(self):
    """KLs and gains of each price or n, the means of seeds: [C] twice."""
    rows = [
      [(p['kl_seq_nats'], self.gain(p).mean()) for p in run[1:]]
      for run in self.runs.values()
    ]
    return np.mean(rows, 0).T

  @property
  def accuracy(self):
    """Of the proxy on the reference's own samples, the mean over seeds."""
    starts = [run[0] for run in self.runs.values()]
    return float(np.mean([number_of(p, 'proxy_accuracy') for p in starts]))

  @property
  def error(self):
    """See `laws.held_out_error`, of all seeds' points together."""
    data = map(np.concatenate, zip(*self.fitted))
    return laws.held_out_error(self.kind, *data)

  def estimate(self, name):
    """A coefficient with its interval."""
    return intervals.estimate(self.coefficient(name)[:, None], shared=False)

  def coefficient(self, name):
    return self.over_seeds(lambda *data: getattr(laws.fit(*data), name))

  def law(self):
    """The law of all seeds' points together."""
    return laws.fit(self.kind, *map(np.concatenate, zip(*self.fitted)))

  def peak(self):
    """Best gain, its KL and the fall after it, see `readings.Arm.peak`."""
    curves = [
      readings.Curve(
        self.arm,
        'default',
        seed,
        np.arange(len(run)),
        np.array([p['kl_by_prompt'] for p in run]),
        np.array([self.gain(p) for p in run]),
      )
      for seed, run in self.runs.items()
    ]
    return readings.Arm(self.arm, curves).peak()


@dataclasses.dataclass(frozen=True)
class Fall:
  """Gold reward lost between the best point and the last, [S, E].

  Attributes:
    rise: the smaller of what is won before and lost after, [S], instead.
  """

  proxy: Proxy
  arm: str
  rise: bool = False

  def __call__(self, evidence):
    top, _, fall = Seen(evidence, self.proxy, self.arm).peak()
    return np.minimum(top.mean(1), fall.mean(1)) if self.rise else fall


@dataclasses.dataclass(frozen=True)
class ProxyRise:
  """Proxy reward won between the point of best gold and the last, [S]."""

  proxy: Proxy
  arm: str

  def __call__(self, evidence):
    seen = Seen(evidence, self.proxy, self.arm)
    best = lambda run: max(run, key=lambda p: p['gold'])
    runs = seen.runs.values()
    return np.array([run[-1]['proxy'] - best(run)['proxy'] for run in runs])


@dataclasses.dataclass(frozen=True)
class Predicts:
  """What a law's error at the largest KLs is below WITHIN, [S]."""

  proxy: Proxy
  arm: str

  def __call__(self, evidence):
    seen = Seen(evidence, self.proxy, self.arm)
    return WITHIN - seen.over_seeds(laws.held_out_error)


@dataclasses.dataclass(frozen=True)
class Differs:
  """A coefficient under one proxy less that under another, [S]."""

  coefficient: str
  arm: str
  first: Proxy
  second: Proxy

  def __call__(self, evidence):
    of = lambda proxy: Seen(evidence, proxy, self.arm)
    first, second = (
      of(x).coefficient(self.coefficient) for x in (self.first, self.second)
    )
    return first - second


@dataclasses.dataclass(frozen=True)
class Gain:
  """The gain of best-of-n at a KL, [S, E].

  Attributes:
    less: what is gained under this proxy is taken away.
  """

  proxy: Proxy
  nats: float
  less: Proxy | None = None

  def __call__(self, evidence):
    gain = lambda x: evidence.at(f'{x.name(evidence.cfg)} {BEST}', self.nats)
    return gain(self.proxy) - (gain(self.less) if self.less else 0.0)
