"""What scoring and sampling promise about each other and about padding."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EOS_ID
from scipy import stats

from align_jax import ops, sharding
from align_jax.models import bow, cpu, transformer
from align_jax.models.adapter import Adapter
from align_jax.policy import draw_tokens, programs, sampling, scoring
from align_jax.tools import fit_flops
from align_jax.types import Batch


def close(x, y, atol=1e-5):
  np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def pad(batch, left=0, right=0, fill=EOS_ID):
  """More left padding of prompts, more right padding of completions."""
  columns = lambda x, before, after, value: jnp.pad(
    x, ((0, 0), (before, after)), constant_values=value
  )
  return batch.replace(
    prompts=columns(batch.prompts, left, 0, fill),
    prompt_valid=columns(batch.prompt_valid, left, 0, False),
    completions=columns(batch.completions, 0, right, fill),
    valid=columns(batch.valid, 0, right, False),
    mask=columns(batch.mask, 0, right, False),
    sampler_logps=None,
  )


def with_garbage(batch, vocab_size, seed=0):
  """Random token ids in every padding slot."""
  rng = np.random.default_rng(seed)
  fill = lambda x, valid: jnp.where(
    valid, x, rng.integers(0, vocab_size, x.shape, np.int32)
  )
  return batch.replace(
    prompts=fill(batch.prompts, batch.prompt_valid),
    completions=fill(batch.completions, batch.valid),
  )


def oracle_logits(params, c, tokens):
  """A plain decoder over one row of tokens, float64: [n] -> [n, V]."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  size = c.num_heads // c.num_kv_heads
  n, half = len(tokens), c.head_dim // 2

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * scale

  def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)

  def rope(x):
    angles = np.arange(n)[:, None] * c.rope_theta ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], 1)

  x = params['embed'][tokens]
  for i in range(c.num_layers):
    layer = jax.tree.map(lambda a: a[i], params['layers'])
    h = norm(x, layer['attention_norm'])
    for head in range(c.num_heads):
      kv, r = divmod(head, size)
      weights = layer['qkv'][:, kv]
      q, k = rope(h @ weights[:, r]), rope(h @ weights[:, size])
      scores = q @ k.T / np.sqrt(c.head_dim)
      scores[np.triu_indices(n, 1)] = -np.inf
      attended = softmax(scores) @ (h @ weights[:, size + 1])
      x = x + attended @ layer['o'][kv, r]
    h = norm(x, layer['mlp_norm'])
    gate, up = h @ layer['gate_up'][:, 0], h @ layer['gate_up'][:, 1]
    x = x + (gate / (1 + np.exp(-gate)) * up) @ layer['down']
  return norm(x, params['norm']) @ params['embed'].T


def test_shared_prompt_equals_glued_rows(config, params, batch, token_logps):
  got = np.asarray(token_logps(params, batch, 1.0))
  for row in range(len(got)):
    p = row // batch.group_size
    prompt = np.asarray(batch.prompts[p][batch.prompt_valid[p]])
    completion = np.asarray(batch.completions[row][batch.valid[row]])
    glued = np.concatenate([prompt, completion])
    logits = oracle_logits(params, config, glued)[len(prompt) - 1 : -1]
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = logps[np.arange(len(completion)), completion]
    close(got[row, : len(completion)], want)
    assert (got[row, len(completion) :] == 0).all()


@pytest.mark.parametrize('left, right', [(0, 0), (3, 2)])
def test_scoring_ignores_padding(
  config, params, batch, token_logps, left, right
):
  padded = with_garbage(pad(batch, left, right), config.vocab_size)
  size = batch.valid.shape[1]
  assert (padded.prompts[:, left:] != batch.prompts).any()
  assert (padded.completions[:, :size] != batch.completions).any()
  got = token_logps(params, padded, 1.0)
  close(got[:, :size], token_logps(params, batch, 1.0))
  assert (got[:, size:] == 0).all()


def test_causality(config, params):
  """A token's log-prob has no gradient to its own or to later embeddings."""
  # Eleven different tokens, so a row of `embed` is the embedding of one slot;
  # an untied head, so that `embed` is read there only.
  tokens = np.random.default_rng(0).permutation(config.vocab_size)[None]
  full = np.ones((1, 11), bool)
  batch = Batch(
    prompts=tokens[:, :5],
    prompt_valid=full[:, :5],
    completions=tokens[:, 5:],
    valid=full[:, 5:],
    mask=full[:, 5:],
    rewards=np.zeros(1),
  )
  config = dataclasses.replace(config, tie_embeddings=False)
  head = params['embed'].T

  @jax.jit
  @jax.jacrev
  def jacobian(embed):
    untied = {**params, 'embed': embed, 'head': head}
    return scoring.token_logps(untied, batch, config=config)[0]

  size = jnp.abs(jacobian(params['embed'])[:, tokens[0]]).sum(-1)  # [T, S + T]
  earlier = np.arange(11) < 5 + np.arange(6)[:, None]
  assert (size[~earlier] == 0).all()
  assert (size[earlier] > 1e-4).all()


def test_grouped_heads_equal_repeated_heads(config, params, batch, token_logps):
  """Every kv head copied for each of its query heads changes nothing."""
  kv, heads = config.num_kv_heads, config.num_heads
  size = heads // kv
  qkv, o = params['layers']['qkv'], params['layers']['o']
  own = jnp.repeat(qkv[:, :, :, size:], size, axis=2)
  q = qkv[:, :, :, :size].reshape(*own.shape[:3], 1, -1)
  layers = {
    **params['layers'],
    'qkv': jnp.concatenate([q, own], 3),
    'o': o.reshape(o.shape[0], heads, 1, *o.shape[3:]),
  }
  repeated = {**params, 'layers': layers}
  config = dataclasses.replace(config, num_kv_heads=heads)
  got = jax.jit(functools.partial(scoring.token_logps, config=config))
  close(got(repeated, batch), token_logps(params, batch, 1.0))


def test_a_completion_of_one_token(params, ref_params, batch, config):
  """What is scored first does not look at what comes behind it."""
  one = {k: getattr(batch, k)[:, :1] for k in ('completions', 'valid', 'mask')}
  kls = jax.jit(functools.partial(scoring.token_kls, config=config))
  got, want = (
    kls(params, ref_params, batch.replace(**one)),
    kls(params, ref_params, batch),
  )
  jax.tree.map(lambda x, y: close(x, y[:, :1]), got, want)


@pytest.mark.parametrize('unrolled', [0, 8])
@pytest.mark.parametrize('windows', [(), (0, 3)])
def test_the_last_states_of_a_prompt_are_those_of_all(
  config, params, batch, monkeypatch, windows, unrolled
):
  """Values and gradients, whether or not the last layer leaves others out."""
  monkeypatch.setattr(cpu, 'MAX_UNROLLED', unrolled)
  c = dataclasses.replace(config, windows=windows)
  rows = [
    ops.by_group(x, batch.group_size) for x in (batch.completions, batch.valid)
  ]

  def f(params, last):
    prompt, own = transformer.hidden_states(
      params, c, batch.prompts, batch.prompt_valid, *rows, last
    )
    kept = jnp.where(batch.prompt_valid[:, -2:, None], prompt[:, -2:], 0)
    own = jnp.where(rows[1][..., None], own, 0)
    return jnp.square(kept).sum() + jnp.sin(own).sum(), (kept, own, prompt)

  program = jax.jit(jax.value_and_grad(f, has_aux=True), static_argnums=1)
  (_, (*few, states)), gradient = program(params, 2)
  (_, (*all_, _)), want = program(params, None)
  assert states.shape[1] == 2
  jax.tree.map(close, few, all_)
  jax.tree.map(functools.partial(close, atol=1e-4), gradient, want)


EXPERTS = {'num_experts': 3, 'experts_per_token': 2}


@pytest.mark.parametrize('change', [{}, {'tie_embeddings': False}, EXPERTS])
def test_transposed_matrices_decode_the_same(
  config, prompts, change, monkeypatch
):
  c = dataclasses.replace(config, **change)
  params = transformer.init(jax.random.key(5), c)

  def decoded():
    draw = functools.partial(
      sampling.sample, config=c, group_size=2, max_new_tokens=5
    )
    return jax.jit(draw)(params, *prompts, jax.random.key(6))

  plain = decoded()
  monkeypatch.setattr(cpu, 'decodes_transposed', lambda params: True)
  layer = transformer.split_layers(params, c)['layers'][0]
  kinds = {name for name, x in layer.items() if isinstance(x, cpu.Transposed)}
  experts = {'gate_up', 'down'} if c.num_experts else set()
  assert kinds - {'router'} == {'qkv', 'o', 'gate_up', 'down'} - experts
  got = decoded()
  np.testing.assert_array_equal(got.completions, plain.completions)
  close(got.sampler_logps, plain.sampler_logps)


@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_a_tied_head_is_the_embedding_on_an_accelerator(
  config, platform, monkeypatch
):
  """No transposed copy of it, and the same logits."""
  c = dataclasses.replace(config, tie_embeddings=True)
  params = transformer.init(jax.random.key(5), c)
  states = jax.random.normal(jax.random.key(6), (3, 2, c.dim))
  logits = lambda: transformer.logits(
    states, transformer.decode_head(params, c), c
  )
  want = logits()
  monkeypatch.setattr(sharding, 'platform', lambda: platform)
  assert transformer.decode_head(params, c).weights is params['embed']
  close(logits(), want)
  own = dataclasses.replace(c, tie_embeddings=False)
  head = transformer.decode_head(transformer.init(jax.random.key(5), own), own)
  assert head.shape == (c.dim, c.vocab_size)


@pytest.mark.parametrize('temperature', [1.0, 0.6])
def test_sampler_logps_equal_scoring(
  params, prompts, sample, token_logps, temperature
):
  batch = sample(params, *prompts, jax.random.key(5), temperature)
  ended = jnp.any(batch.valid & (batch.completions == EOS_ID), axis=1)
  assert ended.any() and not ended.all()
  want = token_logps(params, batch, temperature)
  other = token_logps(params, batch, 1.6 - temperature)
  assert jnp.abs(other - want).max() > 0.1
  close(batch.sampler_logps, want)
  assert (batch.sampler_logps[~batch.valid] == 0).all()


def test_completions_end_at_eos(batch):
  for tokens, valid in zip(np.array(batch.completions), np.array(batch.valid)):
    ends = np.flatnonzero(tokens == EOS_ID)
    length = ends[0] + 1 if len(ends) else len(tokens)
    assert (valid == (np.arange(len(tokens)) < length)).all()
  assert (batch.mask == batch.valid).all()


def test_key_is_the_only_randomness(params, prompts, sample, batch):
  draw = lambda seed: sample(params, *prompts, jax.random.key(seed), 1.0)
  one, same, two = draw(5), draw(5), draw(6)
  assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), one, same))
  assert (one.completions != two.completions).any()
  # Rows of a group, and groups of a batch, are independent draws as well.
  rows = ops.by_group(one.completions, 3)
  assert (rows[:, 0] != rows[:, 1]).any()


def test_temperature_does_not_recompile(
  params, prompts, sample, batch, lowered
):
  sample(params, *prompts, jax.random.key(2), 1.0)
  lowered.clear()
  cold = sample(params, *prompts, jax.random.key(2), 0.1)
  assert not lowered
  assert cold.sampler_logps.sum(1).mean() > batch.sampler_logps.sum(1).mean()


def test_inverse_cdf_draws_the_distribution():
  """Chi-square over 100k draws; no token of probability zero among them."""
  logits = np.random.default_rng(0).normal(size=11).astype(np.float32)
  logits[[0, 4, 10]] = -np.inf
  uniforms = jax.random.uniform(jax.random.key(0), (100_000,))
  rows = jnp.broadcast_to(logits, (100_000, 11))
  tokens, logps = draw_tokens.inverse_cdf(uniforms, rows)
  counts = np.bincount(tokens, minlength=11)
  probs = np.exp(logits.astype(np.float64))
  assert counts[probs == 0].sum() == 0
  alive = probs > 0
  expected = 100_000 * probs[alive] / probs[alive].sum()
  assert stats.chisquare(counts[alive], expected).pvalue > 1e-3


def test_inverse_cdf_skips_impossible_tokens_at_every_edge():
  """Uniforms on the steps of the running sum, where rounding could go over."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=1000).astype(np.float32)
  impossible = rng.random(1000) < 0.5
  impossible[[0, -1]] = True
  logits[impossible] = -np.inf
  cdf = np.asarray(jnp.cumsum(jax.nn.softmax(jnp.asarray(logits))))
  edges = np.minimum(cdf / cdf[-1], 1 - 2.0**-24).astype(np.float32)
  edges = np.concatenate([[0, 1 - 2.0**-24], edges]).astype(np.float32)
  tokens, _ = draw_tokens.inverse_cdf(
    jnp.asarray(edges), jnp.broadcast_to(logits, (len(edges), 1000))
  )
  assert tokens.max() < 1000
  assert not impossible[np.asarray(tokens)].any()


def test_token_kls(config, params, ref_params, batch, token_logps, monkeypatch):
  """Chunks change nothing; the same parameters are at no distance."""
  f = lambda *args: scoring.token_kls(*args, config=config)
  whole = jax.jit(f)
  kls, log_ratios = whole(params, ref_params, batch)
  assert (kls[batch.valid] > 1e-3).all()
  for x in (kls, log_ratios):
    assert (x[~batch.valid] == 0).all()
  logps = [token_logps(p, batch, 1.0) for p in (params, ref_params)]
  close(log_ratios, logps[0] - logps[1])
  for x in whole(params, params, batch):
    assert (x == 0).all()

  monkeypatch.setattr(scoring, '_chunk', lambda *sizes: 5)
  chunked = jax.jit(lambda *args: f(*args))
  unchunked = f'f32[{batch.valid.size},{config.vocab_size}]'
  assert unchunked in str(whole.trace(params, ref_params, batch).jaxpr)
  assert unchunked not in str(chunked.trace(params, ref_params, batch).jaxpr)
  for x, y in zip(chunked(params, ref_params, batch), (kls, log_ratios)):
    close(x, y)


@pytest.mark.parametrize('positions', [1, 7, 9, 17, 33, 60])
@pytest.mark.parametrize('meshed', [False, True])
def test_chunks_add_few_positions(
  config, params, batch, positions, meshed, monkeypatch
):
  """At most one to each but one of them; on a mesh, where slots are cut, to
  each row."""
  mesh = sharding.make_mesh(jax.devices()[:1])

  def cost(limit):
    monkeypatch.setattr(scoring, '_chunk', lambda *sizes: limit)
    f = lambda *args: scoring.token_logps(*args, config=config)
    with jax.set_mesh(mesh) if meshed else contextlib.nullcontext():
      return fit_flops.flops(jax.make_jaxpr(f)(params, batch).jaxpr)

  rows, slots = batch.valid.shape
  added = cost(positions) - cost(rows * slots)
  added /= 2 * config.dim * config.vocab_size
  each = max(1, positions // rows) if meshed else positions
  chunks = -(-(slots if meshed else rows * slots) // each)
  assert 0 <= added <= (chunks - 1) * (rows if meshed else 1)


def test_a_gpu_has_larger_chunks_and_no_scans(config, monkeypatch):
  deep = lambda layers: dataclasses.replace(config, num_layers=layers)
  found = {}
  for name in ('cpu', 'gpu', 'tpu'):
    monkeypatch.setattr(sharding, 'platform', lambda name=name: name)
    monkeypatch.setattr(sharding, 'memory', lambda: {'bytes_limit': 2**36})
    scans = [transformer._scans_decoding(deep(n)) for n in (8, 16, 80)]
    unrolled = [cpu.unrolls(n) for n in (8, 16, 80)]
    found[name] = scoring._chunk(2**17, 2), scans, unrolled
  none, some = [False] * 3, [True, False, False]
  assert found == {
    'cpu': (128, none, some),
    'gpu': (2**15, none, [True, True, False]),
    'tpu': (128, [False, True, True], some),
  }


LOWEST = [-jnp.inf, *(float(jnp.finfo(t).min) for t in ('float32', 'float16'))]


def by_rows(f):
  """f by `vmap` over a batch of one row."""
  first = lambda out: jax.tree.map(lambda x: x[0], out)
  return lambda *rows: first(jax.vmap(f)(*(x[None] for x in rows)))


JUST = {'plain': lambda f: f, 'jit': jax.jit, 'vmap': by_rows}


@pytest.mark.parametrize('low', LOWEST)
@pytest.mark.parametrize('way', JUST)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_forbidden_token_is_as_one_that_is_not_there(low, way, dtype):
  """In value and gradient, of the KL and of the entropy."""
  rng, off = np.random.default_rng(0), np.array([2, 5])
  p, q = jnp.asarray(rng.normal(size=(2, 7)), dtype)
  live = np.setdiff1d(np.arange(7), off)
  both = [x.at[off].set(low) for x in (p, q)]
  only_p = [both[0], q]  # the reference may have mass there
  f = lambda g: JUST[way](jax.value_and_grad(g, (0, 1)))
  want, slopes = f(ops.token_kl)(p[live], q[live])
  got, found = f(ops.token_kl)(*both)
  close(got, want)
  for x, y in zip(found, slopes):
    np.testing.assert_allclose(x[live], y, rtol=2e-2, atol=1e-5)
    assert (x[off] == 0).all()
  value, found = f(ops.token_kl)(*only_p)
  lost = jax.nn.logsumexp(q.astype('float32'))
  lost -= jax.nn.logsumexp(q[live].astype('float32'))
  close(value, want + lost)
  assert all(jnp.isfinite(x).all() for x in found)
  entropy = lambda x, _: ops.entropy(x.astype('float32'))
  want, got = f(entropy)(p[live], q), f(entropy)(*both)
  close(got[0], want[0])
  np.testing.assert_allclose(got[1][0][live], want[1][0], rtol=2e-2, atol=1e-5)
  assert (got[1][0][off] == 0).all()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bigrams(Adapter):
  """Logits of the next token are a row of a table [V, V]."""

  def apply(self, tree, tokens, positions, valid):
    return tree[tokens]


@pytest.mark.parametrize('low', LOWEST)
@pytest.mark.parametrize('token', [2, 10])
def test_a_token_that_only_the_reference_forbids_is_named(batch, low, token):
  """The KL is infinite; not where both or the policy alone forbid it."""
  c = Bigrams(vocab_size=11)
  table = jax.random.normal(jax.random.key(0), (11, 11))
  free, bound = ({'module': x} for x in (table, table.at[:, token].set(low)))
  kls = programs.policy_programs(c).kls
  for pair in ((free, free), (bound, bound), (bound, free)):
    assert jnp.isfinite(kls(*pair, batch)[0]).all()
  message = f'after 0 tokens of completion 0 the policy may draw token {token},'
  with pytest.raises(ValueError, match=message):
    kls(free, bound, batch)
  found = scoring.forbidden_draw(free, bound, batch, config=c)
  assert (found == jnp.where(batch.valid, token, -1)).all()


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_a_mixture_has_what_its_policies_have(share):
  """A policy without a share forbids nothing."""
  p = jnp.array([0.5, -jnp.inf, 0.2, 0.1])
  q = jnp.array([0.1, 0.4, 0.3, -jnp.inf])
  mix = jax.jit(draw_tokens.geometric_mixture)
  mixed = mix([p, q], jnp.array([1 - share, share]))
  assert not jnp.isnan(mixed).any()
  forbids = [(share < 1) & jnp.isinf(p), (share > 0) & jnp.isinf(q)]
  np.testing.assert_array_equal(jnp.isinf(mixed), forbids[0] | forbids[1])
  np.testing.assert_allclose(jnp.exp(mixed).sum(), 1, rtol=1e-6)


def test_chunks_keep_the_gradient(config, params, batch, monkeypatch):
  """Of the output matrix, which every chunk adds to."""
  config = dataclasses.replace(config, tie_embeddings=False)

  def objective(head):
    untied = {**params, 'head': head}
    return scoring.token_logps(untied, batch, config=config).sum()

  head = params['embed'].T
  want = jax.jit(jax.grad(objective))(head)
  monkeypatch.setattr(scoring, '_chunk', lambda *sizes: 5)
  got = jax.jit(jax.grad(lambda head: objective(head)))(head)
  assert jnp.abs(want).max() > 1
  close(got, want, atol=1e-4)


def test_log_prob_of_is_that_of_log_softmax():
  """Values and gradient, far from zero too."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(30 * rng.normal(size=(6, 9)), jnp.float32)
  tokens, weights = jnp.array([0, 8, 3, 3, 5, 1]), jnp.arange(-2.0, 4.0)

  def plain(logits):
    logps = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logps, tokens[:, None], axis=1)[:, 0]

  ours = lambda logits: scoring.log_prob_of(logits, tokens)
  close(ours(logits), plain(logits))
  grad = lambda f: jax.grad(lambda x: (f(x) * weights).sum())(logits)
  assert jnp.abs(grad(plain)).max() > 1
  close(grad(ours), grad(plain))


@pytest.mark.parametrize('trained', [False, True])
def test_logits_of_all_positions_are_never_held(trained):
  """By the compiled program's figures, at a size of 110 million parameters.

  Measuring holds less than two f32 [B, T, V], those of both policies; a
  gradient of the log-probs less than the logits and their cotangent beside
  what the layers keep, which a vocabulary of 2 shows.
  """
  sizes = dict(dim=768, num_layers=12, num_heads=12, num_kv_heads=12)
  full = 4 * 32 * 128 * 32_000

  def memory(vocab_size):
    c = transformer.ModelConfig(
      vocab_size=vocab_size, head_dim=64, mlp_dim=2048, **sizes
    )
    like = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype)
    rows = like(32, 128, dtype=bool)
    batch = Batch(
      prompts=like(16, 64),
      prompt_valid=like(16, 64, dtype=bool),
      completions=like(32, 128),
      valid=rows,
      mask=rows,
      rewards=like(32, dtype=jnp.float32),
      group_size=2,
    )
    params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), c))
    if trained:
      f = jax.grad(lambda p, b: scoring.token_logps(p, b, config=c).sum())
      lowered = jax.jit(f).lower(params, batch)
    else:
      f = functools.partial(scoring.token_kls, config=c)
      lowered = jax.jit(f).lower(params, params, batch)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  if trained:
    assert memory(32_000) - memory(2) < full
  else:
    assert memory(32_000) < 2 * full


def test_scalar_scores_ignore_padding(config, params, batch):
  config = dataclasses.replace(config, head='scalar')
  head = jnp.asarray(np.random.default_rng(0).normal(size=config.dim))
  params = {**params, 'head': head.astype(jnp.float32)}
  f = jax.jit(functools.partial(scoring.scores, config=config))
  want = f(params, batch)
  assert jnp.std(want) > 0.1
  close(f(params, with_garbage(batch, config.vocab_size)), want)
  padded = with_garbage(pad(batch, 3, 2), config.vocab_size)
  close(f(params, padded), want)


def test_bow_scores_ignore_padding(config, batch):
  size = batch.prompts.shape[1]
  init = functools.partial(
    bow.init, vocab_size=config.vocab_size, prompt_len=size, dim=4
  )
  key = jax.random.key(0, impl='unsafe_rbg')
  params = {**jax.jit(init)(key), 'head': jnp.arange(4.0)}
  scores = jax.jit(bow.scores)
  want = scores(params, batch)
  assert jnp.std(want) > 0.1
  for padded in (batch, pad(batch, right=2)):
    close(scores(params, with_garbage(padded, config.vocab_size)), want)


@pytest.mark.parametrize(
  'change, named',
  [
    ({'num_kv_heads': 3}, 'num_kv_heads=3'),
    ({'head_dim': 5}, 'head_dim=5'),
    ({'head': 'both'}, "head='both'"),
  ],
)
def test_impossible_configs_are_named(config, change, named):
  with pytest.raises(ValueError, match=named):
    dataclasses.replace(config, **change)
