"""Models of the user's own, as docs/models.md writes them."""

import dataclasses
import functools
import importlib
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import train_arm

from align_jax.files import read_jsonl
from align_jax.lab import checks, groups, sweep
from align_jax.learn import checkpoint
from align_jax.models import interface
from align_jax.models.adapter import Adapter
from align_jax.policy import sampling, scoring
from configs import base, toy
from experiments import common

ROOT = pathlib.Path(__file__).parent.parent
V = 11


@pytest.fixture(scope='module')
def modules(tmp_path_factory):
  """The two files of docs/models.md, importable as a user's would be."""
  folder = tmp_path_factory.mktemp('own')
  page = (ROOT / 'docs' / 'models.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', page, re.S)
  blocks = [b for b in blocks if '(Adapter)' in b]
  assert len(blocks) == 2
  for name, block in zip(('my_linen', 'my_nnx'), blocks):
    (folder / f'{name}.py').write_text(block)
  sys.path.insert(0, str(folder))
  yield [importlib.import_module(n) for n in ('my_linen', 'my_nnx')]
  sys.path.remove(str(folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bigram(Adapter):
  """The next token's logits, by the last one and how many there were."""

  def init(self, key):
    table, drift = jax.random.normal(key, (2, self.vocab_size, V))
    return {'table': 2 * table, 'drift': 0.3 * drift[:1]}

  def apply(self, tree, tokens, positions, valid):
    return tree['table'][tokens] + positions[..., None] * tree['drift'][0]


@pytest.fixture(scope='module', params=['linen', 'nnx', 'bigram'])
def model(request, modules):
  return {
    'linen': modules[0].Linen(vocab_size=V, layers=1),
    'nnx': modules[1].Nnx(vocab_size=V),
    'bigram': Bigram(vocab_size=V),
  }[request.param]


def louder(params):
  """Far from uniform."""
  return jax.tree.map(lambda x: 2.0 * x, params)


@pytest.fixture(scope='module')
def policy(model):
  return louder(interface.of(model).init(jax.random.key(0), model))


@pytest.fixture(scope='module')
def token_logps(model):
  return jax.jit(functools.partial(scoring.token_logps, config=model))


def drawn(model, policy, prompts, **kwargs):
  draw = functools.partial(
    sampling.sample, config=model, group_size=3, max_new_tokens=5, **kwargs
  )
  return jax.jit(draw)(policy, *prompts, jax.random.key(1))


def test_samples_are_scored_as_drawn(model, policy, prompts, token_logps):
  """Decoding token by token is one pass over the whole rows."""
  batch = drawn(model, policy, prompts, eos_id=0)
  lengths = np.asarray(batch.valid.sum(1))
  assert len(np.unique(np.asarray(batch.completions))) > 3
  assert lengths.min() < 5 and np.asarray(batch.sampler_logps).std() > 0.1
  logps = token_logps(policy, batch)
  np.testing.assert_allclose(logps, batch.sampler_logps, atol=1e-4)


def test_log_probs_are_those_of_the_row_alone(
  model, policy, prompts, token_logps
):
  """Neither padding nor the other rows matter."""
  batch = drawn(model, policy, prompts)
  logps = np.asarray(token_logps(policy, batch))
  tokens, valid = map(np.asarray, prompts)
  for row in (0, 4, 11):
    own = valid[row // 3]
    prompt, new = tokens[row // 3][own], np.asarray(batch.completions)[row]
    whole = jnp.asarray(np.concatenate([prompt, new]))[None]
    positions = jnp.arange(whole.shape[1])[None]
    tree = policy['module']
    logits = model.apply(tree, whole, positions, positions >= 0)[0]
    weights = model.head_weights(tree)
    logits = logits if weights is None else logits @ weights
    want = jax.nn.log_softmax(logits)[len(prompt) - 1 : -1]
    want = want[np.arange(5), new]
    np.testing.assert_allclose(logps[row], want, atol=1e-4)


def test_the_exact_kl_is_zero_to_itself_and_not_to_another(
  model, policy, prompts
):
  batch = drawn(model, policy, prompts)
  other = louder(interface.of(model).init(jax.random.key(9), model))
  token_kls = jax.jit(functools.partial(scoring.token_kls, config=model))
  kls, ratios = token_kls(policy, other, batch)
  assert kls.min() > -1e-5 and kls.mean() > 0.01
  assert abs(kls.mean() - ratios.mean()) < 4 * ratios.std() / ratios.size**0.5
  np.testing.assert_allclose(token_kls(policy, policy, batch)[0], 0, atol=1e-5)


def test_a_scalar_head_reads_the_last_token(model, policy, prompts):
  config = dataclasses.replace(model, head='scalar')
  fresh = interface.of(config).init(jax.random.key(0), config)
  assert fresh.keys() == {'module', 'head'} and (fresh['head'] == 0).all()
  params = {**policy, 'head': jnp.arange(1.0, 1 + fresh['head'].size)}
  batch = drawn(model, policy, prompts, eos_id=0)
  jitted = lambda f: jax.jit(functools.partial(f, config=config))
  scores = jitted(scoring.scores)(params, batch)
  tokens = jitted(scoring.token_scores)(params, batch)
  last = np.asarray(batch.valid.sum(1)) - 1
  assert last.min() < 4 and np.ptp(scores) > 0.1
  np.testing.assert_allclose(
    scores, np.asarray(tokens)[np.arange(12), last], rtol=1e-5
  )


def test_axes_have_the_shape_of_the_parameters(model, policy):
  for head in ('lm', 'scalar'):
    config = dataclasses.replace(model, head=head)
    params = interface.of(config).init(jax.random.key(0), config)
    sizes = jax.tree.map(lambda x: (None,) * x.ndim, params)
    assert interface.of(config).axes(config) == sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat(Bigram):
  """Forgets the vocabulary's axis."""

  def apply(self, tree, tokens, positions, valid):
    return 1.0 * tokens


def test_errors_name_the_class_and_the_key(prompts):
  config = Flat(vocab_size=V)
  params = {'module': config.init(jax.random.key(0))}
  with pytest.raises(ValueError, match=r'Flat.apply returned shape \(4, 5\)'):
    interface.of(config).prefill(params, config, *prompts)
  with pytest.raises(TypeError, match="'gpt' is no model"):
    interface.of('gpt')
  for name in ('nowhere:Model', 'align_jax.ops:Model', 'align_jax.ops'):
    with pytest.raises(ValueError, match=f"model.adapter='{name}'.*Class"):
      interface.from_fields(adapter=name, vocab_size=V)


def smoke(adapter, **model):
  c = base.smoke(toy.get_config())
  c.seeds = 1
  c.task.update(prompts=64, eval_prompts=36, prompt_len=2, completion_len=4)
  c.model = dict(adapter=adapter, vocab_size=32, **model)
  return c


def run_of(cfg, arm):
  cfg = common.as_dict(cfg)
  return cfg, next(r for r in sweep.sweep(cfg) if r.arm == arm)


@pytest.mark.parametrize('key', ['dtype', 'cache_dtype'])
def test_a_coarser_sampler_of_it_is_refused(key):
  cfg, run = run_of(smoke('my_linen:Linen', width=16, layers=1), 'online')
  run = run.but(sampling={key: 'bfloat16'})
  with pytest.raises(ValueError, match=f"{key}='bfloat16', expected ''.*adapt"):
    checks.check_run(run, groups.shared(cfg))


def points(workdir, run):
  return read_jsonl(workdir / 'seed0' / run.name / 'points.jsonl')


@pytest.mark.parametrize(
  'adapter, verifier, fields',
  [
    ('my_linen:Linen', 'transformer', dict(width=16, layers=1)),
    ('my_nnx:Nnx', 'bow', dict(width=16)),
  ],
)
def test_the_whole_protocol_trains_it(
  adapter, verifier, fields, modules, tmp_path
):
  """SFT, pairs, a proxy, an online arm, points."""
  c = smoke(adapter, **fields)
  c.sft.update(steps=120, batch_size=32, learning_rate=1e-2)
  c.proxy.verifier = verifier
  cfg, run = run_of(c, 'online')
  common.check(cfg, [run])
  train_arm(cfg, run.but(learning_rate=1e-2), tmp_path)
  rows = points(tmp_path, run)
  assert abs(rows[0]['kl_seq_nats']) < 1e-4 < rows[-1]['kl_seq_nats']
  sft = read_jsonl(tmp_path / 'seed0' / 'sft' / 'metrics.jsonl')
  losses = np.array([row['loss'] for row in sft])
  assert losses[-4:].mean() < losses[0] - 0.05
  final = checkpoint.final_params(tmp_path / 'seed0' / run.name)
  assert final.keys() == {'module'}
