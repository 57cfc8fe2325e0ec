"""What a model says of given completions: log-probs, exact KLs, scores.

Logits exist at completion positions only, a chunk of positions at a time. The
backward pass recomputes them, so [B, T, V] is never in memory.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from align_jax import ops, sharding
from align_jax.models.interface import of
from align_jax.sharding import shard
from align_jax.types import Batch, Model, Params

# Logits in memory at a time: 64 MiB in float32, and in a backward pass as much
# again for their cotangent. Chosen to bound memory, not measured for speed.
LOGITS_PER_CHUNK = 2**24
# The same on a GPU: a share of its memory, in the dtype of activations. Every
# chunk adds to the gradient of the whole head, and where there are several, the
# backward pass computes them anew.
SHARE_ON_GPU = 1 / 8
# Log-probs below are those of forbidden tokens: -inf, or a dtype's least number
# (float16's is the nearest to zero).
FORBIDDEN = -6e4


def predicting_states(params: Params, c: Model, batch: Batch) -> jax.Array:
  """Hidden states that predict each completion token: [B, T, D]."""
  completions = ops.by_group(batch.completions, batch.group_size)
  valid = ops.by_group(batch.valid, batch.group_size)
  prompt, completion = of(c).hidden_states(
    params,
    c,
    batch.prompts,
    batch.prompt_valid,
    completions[..., :-1],
    valid[..., :-1],
    last=1,  # Left padding puts every prompt's last token in the last slot.
  )
  first = jnp.broadcast_to(
    prompt[:, None], (*completions.shape[:2], 1, prompt.shape[-1])
  )
  states = jnp.concatenate([first, completion], 2)
  return states.reshape(-1, *states.shape[2:])


def _logits(states, weights, config):
  rows = ('replica',) if states.ndim == 2 else ('context', 'replica')
  logits = of(config).logits(shard(states, *rows), weights, config)
  return shard(logits, *rows, 'logits')


def _chunk(vocab_size, itemsize, ways=1):
  """Positions whose logits `ways` devices have at a time, at least 1."""
  each = LOGITS_PER_CHUNK
  if sharding.platform() == 'gpu':
    limit = sharding.memory().get('bytes_limit', 0)
    each = max(each, int(SHARE_ON_GPU * limit) // itemsize)
  return max(1, each * ways // vocab_size)


def _by_position(f, arrays, vocab_size):
  """f over the leading [B, T] of `arrays`, a chunk of positions at a time."""
  if not jax.sharding.get_abstract_mesh().empty:
    return _by_slot(f, arrays, vocab_size)
  batch_shape = arrays[0].shape[:2]
  flat = [a.reshape(-1, *a.shape[2:]) for a in arrays]
  num = flat[0].shape[0]
  count = -(-num // _chunk(vocab_size, arrays[0].dtype.itemsize))
  size = -(-num // max(count, 1))
  if count <= 1:
    out = f(*flat)
  else:
    f, more = jax.checkpoint(f), count * size - num
    pad = lambda a: jnp.pad(a, ((0, more),) + ((0, 0),) * (a.ndim - 1))
    chunks = [pad(a).reshape(-1, size, *a.shape[1:]) for a in flat]
    out = jax.lax.map(lambda chunk: f(*chunk), chunks)
  return jax.tree.map(lambda a: a.reshape(-1)[:num].reshape(batch_shape), out)


def _by_slot(f, arrays, vocab_size):
  """As `_by_position`, in chunks of slots, of which all devices have a part.

  f gets [slots, B, ...].
  """
  rows, slots = arrays[0].shape[:2]
  ways = sharding.ways
  own = -(-rows // ways('replica')), -(-slots // ways('context'))
  chunk = _chunk(vocab_size, arrays[0].dtype.itemsize, ways('logits'))
  together = max(1, chunk // own[0])
  num = -(-own[1] // together)
  more = -slots % (num * ways('context'))

  def chunks(a):
    a = jnp.pad(a.swapaxes(0, 1), [(0, more)] + [(0, 0)] * (a.ndim - 1))
    return sharding.parts(a, num, 'context')

  arrays = [chunks(a) for a in arrays]
  if num == 1:
    out = jax.tree.map(lambda a: a[None], f(*(a[0] for a in arrays)))
  else:
    out = jax.lax.map(lambda chunk: jax.checkpoint(f)(*chunk), arrays)
  joined = lambda a: sharding.joined(a, 'context')[:slots].swapaxes(0, 1)
  return jax.tree.map(lambda a: shard(joined(a), 'batch'), out)


@jax.custom_vjp
def log_prob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """log softmax(logits)[token]: f32 [..., V], int [...] -> f32 [...]."""
  return _log_prob_of(logits, tokens)[0]


def _log_prob_of(logits, tokens):
  """Keeps the logits alone, since the derivative is one pass over them."""
  total = jax.nn.logsumexp(logits, axis=-1)
  picked = ops.pick(logits, tokens)
  return picked - total, (logits, total, tokens)


def _log_prob_of_vjp(kept, cotangent):
  logits, total, tokens = kept
  chosen = jnp.arange(logits.shape[-1]) == tokens[..., None]
  probs = jnp.exp(logits - total[..., None])
  return (chosen - probs) * cotangent[..., None], None


log_prob_of.defvjp(_log_prob_of, _log_prob_of_vjp)


def token_logps(
  params: Params, batch: Batch, *, config: Model, temperature: float = 1.0
) -> jax.Array:
  """Log-probs of the completion tokens.

  Args:
    params: of a model with an 'lm' head.
    batch: a Batch. Its rewards are not read.
    temperature: divides the logits, as in the sampler.
  Returns:
    f32 [B, T], nats; 0 on padding.
  """
  weights = of(config).head_weights(params, config)

  def f(state, token):
    return log_prob_of(_logits(state, weights, config) / temperature, token)

  states = predicting_states(params, config, batch)
  logps = _by_position(f, [states, batch.completions], config.vocab_size)
  return jnp.where(batch.valid, logps, 0)


def compare(
  params: Params,
  ref_params: Params,
  batch: Batch,
  ref_batch: Batch | None = None,
  *,
  config: Model,
  ref_config: Model | None = None,
) -> tuple[jax.Array, ...]:
  """Both policies along given completions, from one pass of each.

  Args:
    params, ref_params: of the policy and of the reference.
    ref_batch: the completions of `batch` after other prompts, for the reference
      to read. None: `batch`.
    ref_config: of a reference of another architecture, with as many logits.
      None: `config`.
  Returns:
    exact KL(policy || reference) of the next token, log-probs of the token
    under the policy and under the reference. Each is f32 [B, T], nats, 0 on
    padding.
  """
  ref_config = ref_config or config
  weights = of(config).head_weights(params, config)
  ref_weights = of(ref_config).head_weights(ref_params, ref_config)

  def f(state, ref_state, token):
    logits, ref_logits = (
      _logits(state, weights, config),
      _logits(ref_state, ref_weights, ref_config),
    )
    logps = (log_prob_of(l, token) for l in (logits, ref_logits))
    return ops.token_kl(logits, ref_logits), *logps

  arrays = [
    predicting_states(params, config, batch),
    predicting_states(ref_params, ref_config, ref_batch or batch),
    batch.completions,
  ]
  out = _by_position(f, arrays, config.vocab_size)
  return tuple(jnp.where(batch.valid, x, 0) for x in out)


def token_kls(
  params: Params, ref_params: Params, batch: Batch, *, config: Model
) -> tuple[jax.Array, jax.Array]:
  """Exact per-token KL(policy || reference) along given completions.

  Args:
    params, ref_params: of the same architecture.
    batch: completions sampled from the policy, so that the sum of their KLs
      estimates the sequence KL.
  Returns:
    exact KL f32 [B, T], and the log-ratio of the token itself f32 [B, T] (the
    Monte-Carlo term). Nats, 0 on padding.
  Raises:
    ValueError: `batch` was tempered or truncated.
  """
  ops.require_own_samples(batch)
  kls, logps, ref_logps = compare(params, ref_params, batch, config=config)
  return kls, logps - ref_logps


def forbidden_draw(
  params: Params, ref_params: Params, batch: Batch, *, config: Model
) -> jax.Array:
  """Tokens that the policy may draw next and the reference never does.

  The KL is infinite there.

  Args:
    params, ref_params: of the same architecture.
  Returns:
    int32 [B, T], the likeliest such token; -1 where there is none, and on
    padding.
  """
  weights = of(config).head_weights(params, config)
  ref_weights = of(config).head_weights(ref_params, config)

  def f(state, ref_state):
    probs = jax.nn.softmax(_logits(state, weights, config))
    others = jax.nn.log_softmax(_logits(ref_state, ref_weights, config))
    alone = jnp.where(others < FORBIDDEN, probs, 0)
    return jnp.where(alone.max(-1) > 0, alone.argmax(-1), -1)

  arrays = [predicting_states(p, config, batch) for p in (params, ref_params)]
  tokens = _by_position(f, arrays, config.vocab_size)
  return jnp.where(batch.valid, tokens, -1)


def expected(
  params: Params, batch: Batch, worth: jax.Array, *, config: Model
) -> jax.Array:
  """The expected worth of the next token, along given completions.

  Its sum over a completion that the policy sampled has the same mean as the sum
  of the sampled tokens' worth, with less noise (Rao-Blackwell).

  Args:
    params: of a model with an 'lm' head.
    worth: f32 [B, T, V], of every token in each place.
  Returns:
    f32 [B, T], 0 on padding.
  Raises:
    ValueError: `batch` was tempered or truncated.
  """
  ops.require_own_samples(batch)
  weights = of(config).head_weights(params, config)

  def f(state, worth):
    return (jax.nn.softmax(_logits(state, weights, config)) * worth).sum(-1)

  states = predicting_states(params, config, batch)
  means = _by_position(f, [states, worth], config.vocab_size)
  return jnp.where(batch.valid, means, 0)


def token_entropies(
  params: Params, batch: Batch, *, config: Model
) -> jax.Array:
  """Exact entropy of the next token, along given completions.

  Returns:
    f32 [B, T], nats; 0 on padding.
  """
  weights = of(config).head_weights(params, config)

  def f(state):
    return ops.entropy(_logits(state, weights, config))

  states = predicting_states(params, config, batch)
  entropies = _by_position(f, [states], config.vocab_size)
  return jnp.where(batch.valid, entropies, 0)


def values(states: jax.Array, head: jax.Array) -> jax.Array:
  """Scores f32 [...] of states [..., D] under a scalar head f32 [D]."""
  return states.astype(jnp.float32) @ head


def _completion_states(params, config, batch):
  """Hidden states after each completion token: [B, T, D]."""
  group = lambda x: ops.by_group(x, batch.group_size)
  _, states = of(config).hidden_states(
    params,
    config,
    batch.prompts,
    batch.prompt_valid,
    group(batch.completions),
    group(batch.valid),
    last=1,
  )
  return states.reshape(-1, *states.shape[2:])


def token_scores(params: Params, batch: Batch, *, config: Model) -> jax.Array:
  """Scalar-head score after each completion token: f32 [B, T]."""
  return values(_completion_states(params, config, batch), params['head'])


def scores(params: Params, batch: Batch, *, config: Model) -> jax.Array:
  """Scalar-head score of each completion, read at its last token: f32 [B]."""
  states = _completion_states(params, config, batch)
  # The last valid slot, not the count: a pair's first half may end in padding.
  slots = jnp.arange(batch.valid.shape[1])
  last = jnp.where(batch.valid, slots, 0).max(1)
  state = jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
  return values(state, params['head'])


def make_annotate(
  forward: Callable[[Params, Batch], jax.Array],
) -> Callable[[Params, Batch], Batch]:
  """-> annotate(ref_params, batch) -> batch with `ref_logps`."""
  return lambda ref_params, batch: batch.replace(
    ref_logps=forward(ref_params, batch)
  )
