"""What a decoder consists of: one record of switches, each off by default."""

import dataclasses
import inspect

from align_jax.models import fused
from align_jax.models.layers import ACTIVATIONS
from align_jax.models.rope import SCALINGS
from align_jax.values import (
  Allowed,
  count,
  flag,
  is_whole,
  items,
  nearest,
  number,
  one_of,
  optional,
)

DTYPES = 'float32', 'bfloat16', 'float16'  # JAX makes float32 of float64


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """All switches of the transformer."""

  vocab_size: int
  dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tie_embeddings: bool = True
  head: str = 'lm'  # 'lm': logits [V] per token | 'scalar': one score
  dtype: str = 'float32'  # of activations; the parameters have their own
  # Whether a backward pass computes each layer anew, and stores its input only.
  remat: bool = dataclasses.field(default=False, repr=False)
  # Positions.
  rope_dim: int | None = None  # dimensions of a head to rotate. None: all
  rope_scaling: tuple = ()  # (name in rope.SCALINGS, ((option, value), ...))
  local_rope_theta: float | None = None  # of layers with a window; unscaled
  num_positions: int = 0  # learned positions; 0: RoPE
  windows: tuple[int, ...] = ()  # per layer, tokens in sight; 0: all
  # Norms.
  norm: str = 'rms'  # 'rms' | 'layer': centred, with a bias
  norm_offset: float = 0.0  # added to the scale of every norm
  post_norms: bool = False  # attention and MLP are normed on the way out too
  qk_norm: bool = False  # each query and key head is normed before RoPE
  # Attention.
  # 'plain' | 'ring': plain, but keys travel where a mesh splits rows | a name
  # in fused.KERNELS | 'auto'.
  attention: str = 'auto'
  qkv_bias: bool = False
  o_bias: bool = False
  attention_scale: float | None = None  # of the scores; None: head_dim**-0.5
  attention_softcap: float | None = None
  # The MLP, and how attention and MLP are combined.
  activation: str = 'silu'
  gated: bool = True
  mlp_bias: bool = False
  parallel: bool = False  # attention and MLP read the same residual stream
  embed_scale: float | None = None
  logit_softcap: float | None = None
  # Ids that are no tokens and never drawn, as (first, after) in order.
  no_tokens: tuple[tuple[int, int], ...] = ()
  # Experts; mlp_dim is the size of one of them.
  num_experts: int = 0
  experts_per_token: int = 0
  renormalise_experts: bool = True  # the chosen ones' weights sum to one

  def __post_init__(self):
    for name, allowed in ALLOWED.items():
      allowed.checked(name, getattr(self, name))
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads}, expected a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim % 2 and not self.num_positions:
      raise ValueError(
        f'head_dim={self.head_dim}, expected an even number: RoPE rotates pairs'
      )
    if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
      raise ValueError(
        f'rope_dim={self.rope_dim}, expected an even number of at most '
        f'head_dim={self.head_dim}'
      )
    if self.windows and len(self.windows) != self.num_layers:
      raise ValueError(
        f'windows={self.windows}, expected num_layers={self.num_layers} of them'
      )
    if any(after > self.vocab_size for _, after in self.no_tokens):
      raise ValueError(
        f'no_tokens={self.no_tokens}, expected ids below vocab_size='
        f'{self.vocab_size}'
      )
    self._check_experts()
    kernel = fused.KERNELS.get(self.attention)
    if kernel and (why := fused.missing(kernel, self)):
      raise ValueError(f'attention={self.attention!r} needs {why}')

  def _check_experts(self):
    if self.num_experts and (self.mlp_bias or not self.gated):
      raise ValueError(
        f'num_experts={self.num_experts}, expected gated=True and '
        'mlp_bias=False beside it'
      )
    used, least = self.experts_per_token, min(1, self.num_experts)
    if not least <= used <= self.num_experts:
      raise ValueError(
        f'experts_per_token={used}, expected a whole number from {least} to '
        f'num_experts={self.num_experts}'
      )

  @property
  def rotary_dim(self) -> int:
    """How many of a head's dimensions RoPE rotates."""
    if self.num_positions:
      return self.head_dim - self.head_dim % 2
    return self.head_dim if self.rope_dim is None else self.rope_dim


def _scaled(x):
  """Whether a `rope_scaling` names a scaling with its options."""
  if not x:
    return True
  name, options = x
  known = list(inspect.signature(SCALINGS[name]).parameters.values())[2:]
  needed = {p.name for p in known if p.default is p.empty}
  given = dict(options)
  return needed <= given.keys() <= {p.name for p in known}


def _rope_scaling(x):
  """The value, unless it names no scaling."""
  x = tuple(x)
  if x and (len(x) != 2 or x[0] not in SCALINGS):
    raise ValueError(f'a name out of {", ".join(SCALINGS)}')
  return x


def _is_range(x):
  return len(x) == 2 and all(map(is_whole, x)) and 0 <= x[0] < x[1]


_positive = number(above=0)
ALLOWED = {  # what each field may be
  **dict.fromkeys(
    (
      'vocab_size',
      'dim',
      'num_layers',
      'num_heads',
      'num_kv_heads',
      'head_dim',
      'mlp_dim',
    ),
    count(),
  ),
  **dict.fromkeys(
    (
      'remat',
      'tie_embeddings',
      'post_norms',
      'qk_norm',
      'qkv_bias',
      'o_bias',
      'gated',
      'mlp_bias',
      'parallel',
      'renormalise_experts',
    ),
    flag(),
  ),
  **dict.fromkeys(
    (
      'local_rope_theta',
      'attention_scale',
      'attention_softcap',
      'embed_scale',
      'logit_softcap',
    ),
    optional(_positive),
  ),
  'rope_theta': _positive,
  'norm_eps': _positive,
  'head': one_of(('lm', 'scalar')),
  'dtype': one_of(DTYPES),
  'rope_dim': optional(count()),
  'rope_scaling': Allowed(
    '(name, ((option, number), ...)), all options of that name',
    _scaled,
    _rope_scaling,
  ),
  'num_positions': count(0),
  'windows': items('tokens in sight', lambda x: is_whole(x) and x >= 0),
  'no_tokens': items('(first, after) of ids', _is_range),
  'norm': one_of(('rms', 'layer')),
  'norm_offset': number(),
  'attention': one_of(('auto', 'plain', 'ring', *fused.KERNELS)),
  'activation': one_of(ACTIVATIONS),
  'num_experts': count(0),
  'experts_per_token': count(0),
}


def check_positions(fields, length, where):
  """Refuses learned positions that end before a completion does.

  Args:
    fields: of a ModelConfig.
    length: most tokens of a prompt and its completion.
    where: the config's name for the fields.
  """
  known = fields.get('num_positions') or 0
  if known and length > known:
    raise ValueError(
      f'{where}.num_positions={known}, expected at least {length}: a prompt '
      'with its completion has so many tokens'
    )


def scorer_config(fields, vocab_size, where):
  """The ModelConfig of a transformer that scores completions.

  Args:
    fields: {field of ModelConfig: value}, without vocab_size and head.
    where: the config's name for them.
  Raises:
    ValueError: names the wrong field.
  """
  known = {f.name for f in dataclasses.fields(ModelConfig)}
  known -= {'vocab_size', 'head'}
  for name, value in fields.items():
    if name not in known:
      raise ValueError(
        f'{where}.{name}={value!r}: no such field, {nearest(name, known)}'
      )
  try:
    return ModelConfig(vocab_size=vocab_size, head='scalar', **fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}') from None
