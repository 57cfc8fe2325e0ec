"""What a decoder consists of: one record of switches, each off by default."""

import dataclasses

from align_jax.models import fused
from align_jax.models.parts import ACTIVATIONS
from align_jax.models.rope import SCALINGS


@dataclasses.dataclass(frozen=True)
class ModelConfig:
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
  attention: str = 'auto'  # 'plain' | a name in fused.KERNELS | 'auto'
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
  # Experts; mlp_dim is the size of one of them.
  num_experts: int = 0
  experts_per_token: int = 0
  renormalise_experts: bool = True  # the chosen ones' weights sum to one

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim % 2 and not self.num_positions:
      raise ValueError(f'head_dim={self.head_dim} is odd; RoPE rotates pairs')
    if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
      raise ValueError(
        f'rope_dim={self.rope_dim} is odd or beyond head_dim={self.head_dim}'
      )
    if self.windows and len(self.windows) != self.num_layers:
      raise ValueError(
        f'windows={self.windows}: expected num_layers={self.num_layers} of them'
      )
    if self.num_experts and (self.mlp_bias or not self.gated):
      raise ValueError(f'num_experts={self.num_experts}: only gated, no bias')
    self._one_of('head', ('lm', 'scalar'))
    self._one_of('norm', ('rms', 'layer'))
    self._one_of('activation', ACTIVATIONS)
    self._one_of('attention', ('auto', 'plain', *fused.KERNELS))
    kernel = fused.KERNELS.get(self.attention)
    if kernel and (why := fused.missing(kernel, self)):
      raise ValueError(f'attention={self.attention!r} needs {why}')
    if self.rope_scaling and self.rope_scaling[0] not in SCALINGS:
      raise ValueError(
        f'rope_scaling={self.rope_scaling[0]!r} is none of {list(SCALINGS)}'
      )

  def _one_of(self, name, allowed):
    value = getattr(self, name)
    if value not in allowed:
      names = ' nor '.join(repr(x) for x in allowed)
      raise ValueError(f'{name}={value!r} is neither {names}')

  @property
  def rotary_dim(self) -> int:
    """How many of a head's dimensions RoPE rotates."""
    if self.num_positions:
      return self.head_dim - self.head_dim % 2
    return self.head_dim if self.rope_dim is None else self.rope_dim
